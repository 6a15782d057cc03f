"""How the encoder of ``context`` finds settings: by coding a part of the plane, or all of a small one, with several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.util.lazy import numpy

from ._settings import LIMITS, MIXTURES, Matrix, Settings, price

if TYPE_CHECKING:
    import numpy as np

#: Share of the bits that are left with the state of a trellis: surely quantised with it below one, hardly above the other.
_SURELY, _HARDLY = 0.9, 0.99

#: What takes up to so many times the bits of the best on a part of a plane may be the best on all of it.
_ALIKE = 1.003

#: The same of the two orders: which one is better shows late, when the averages that it needs are known.
_ALIKE_ORDERS = 1.01

#: Values that a choice of settings is tried on: all of a small plane, of others a sixteenth, within limits.
_SMALL, _SAMPLE_LEAST, _SAMPLE_MOST = 1 << 15, 1 << 13, 1 << 17

#: Rows and columns that a part has at least: few columns may differ much, as scores of components do.
_LEAST_SIDE = 96

#: How often settings are gone through where all of a plane is tried: those of the first round were chosen beside defaults.
_ROUNDS = 2

#: Values other than zero that a part should have; where they are few, more values are tried, up to so many.
_SAMPLE_USED, _SAMPLE_SPARSE = 1 << 11, 1 << 20


def masked(values: np.ndarray, settings: Settings, peak: int, signs: int) -> Matrix:
    """The matrix in the order of coding; one that is small or next to empty only with masks that pay for themselves."""
    both = compact(values, settings)
    if not _is_tried_whole(values) or not both.values.size:
        return both
    offered = [(rows, columns) for rows in (False, True) for columns in (False, True)]
    tried = [compact(values, settings, *masks) for masks in offered] if both.values.size < values.size else [both]
    return min(tried, key=lambda matrix: price(matrix, settings, peak, signs))


def compact(values: np.ndarray, settings: Settings, rows: bool = True, columns: bool = True) -> Matrix:
    """The matrix in the order of coding, without empty rows and columns.

    A trellis runs through them all: its state depends on every code. In a single row or column masks are of no use:
    zero flags say the same.
    """
    matrix = numpy.ascontiguousarray(values.T) if settings.columns_first else values
    none = numpy.zeros(0, numpy.uint8)
    rows, columns = rows and matrix.shape[1] > 1, columns and matrix.shape[0] > 1
    used_rows = matrix.any(axis=1) if rows and not settings.trellis else none
    used_columns = matrix.any(axis=0) if columns and not settings.trellis else none
    if not used_rows.all():
        matrix = matrix[used_rows]
    if not used_columns.all():
        matrix = matrix[:, used_columns]
    masks = [none if used.all() else numpy.asarray(used, numpy.uint8) for used in (used_rows, used_columns)]
    return Matrix(numpy.ascontiguousarray(matrix), *masks)


def sample(values: np.ndarray) -> np.ndarray:
    """A block from the middle of the matrix, of about its proportions but not narrow, that says enough to choose."""
    rows, columns = values.shape
    wanted = _sample_size(values)
    if values.size <= wanted:
        return values
    tall = _within(round((wanted * rows / columns) ** 0.5), rows)
    wide = _within(wanted // tall, columns)
    tall = _within(wanted // wide, rows)
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return values[top : top + tall, left : left + wide]


def _within(side: int, most: int) -> int:
    return min(max(side, _LEAST_SIDE), most)


def _sample_size(values: np.ndarray) -> int:
    if values.size <= _SMALL:
        return max(values.size, 1)
    enough = min(max(values.size // 16, _SAMPLE_LEAST), _SAMPLE_MOST)
    used = max(int(numpy.count_nonzero(values)), 1)
    return max(enough, min(_SAMPLE_USED * values.size // used, _SAMPLE_SPARSE))


def is_small(values: np.ndarray) -> bool:
    """Whether a plane may have a short header."""
    return values.size <= _SMALL


def _is_tried_whole(values: np.ndarray) -> bool:
    """Whether settings are tried on all of a plane: it is small or nearly empty."""
    return values.size <= _sample_size(values)


def candidates(values: np.ndarray, peak: int, signs: int) -> list[Settings]:
    """Settings to code a matrix with, of which the best is known afterwards; one, where a part of it says enough.

    Knowing the trellis that values were quantised with saves a lot, most of the time. Where it seems to save little, the
    values may also be sparse ones that know no trellis, and masks save more.
    """
    whole = _is_tried_whole(values)
    head = Cost(_head(values), peak, signs)
    trellis, saved = _likely_trellis(head) if not signs else (0, 1.0)
    if saved >= _HARDLY:
        return _in_likely_orders(values, peak, signs)
    known = _chosen(head, whole, trellis)
    if saved < _SURELY:
        return [known]
    if not whole and values.any(axis=0).all() and values.any(axis=1).all():  # no masks, which a part says little about
        plain = known._replace(trellis=0)
        orders = [
            plain._replace(columns_first=order, carry=carry) for order in (False, True) for carry in (False, True)
        ]
        if min(map(head, orders)) > head(known) * _ALIKE:
            return [known]
    return [known, *_in_likely_orders(values, peak, signs)]


def choose(values: np.ndarray, peak: int, signs: int) -> Settings:
    """The settings without a trellis that code a part of a matrix, or all of a small one, in the fewest bits."""
    return _chosen(Cost(sample(values), peak, signs), _is_tried_whole(values), 0)


def _in_likely_orders(values: np.ndarray, peak: int, signs: int) -> list[Settings]:
    """What `choose` chooses, and beside it the best of the other order where that may be as good."""
    if _is_tried_whole(values) or len(values) == 1:
        return [choose(values, peak, signs)]
    cost = Cost(sample(values), peak, signs)
    found = sorted((_chosen(cost, False, 0, (order,)) for order in (False, True)), key=cost)
    return found if cost(found[1]) <= cost(found[0]) * _ALIKE_ORDERS else found[:1]


def model_settings(values: np.ndarray) -> Settings:
    """The settings that suit a matrix of int32 codes, for a quantiser that takes their price into account."""
    peak = int(numpy.abs(values).max(initial=0))
    return choose(values, peak, 0) if peak else Settings()


def _chosen(cost: Cost, whole: bool, trellis: int, orders: tuple[bool, ...] = (False, True)) -> Settings:
    """The cheapest settings, one after another from the most important."""
    orders = (False,) if trellis or cost.rows == 1 else orders
    carries = (False,) if trellis else (False, True)
    best = Settings(trellis=trellis)
    # The fewer classes, the less there is to learn: on a part of a plane that would count for more than on all of it.
    resolutions = range(0 if whole else 1, 4)
    for _ in range(_ROUNDS if whole else 1):
        best = min((best._replace(columns_first=order, carry=carry) for order in orders for carry in carries), key=cost)
        best = min((best._replace(mixture=mixture) for mixture in range(MIXTURES)), key=cost)
        best = _downhill([best._replace(resolution=resolution) for resolution in resolutions], best, cost)
        best = _downhill([best._replace(memory=memory) for memory in range(len(LIMITS))], best, cost)
    return best


def _downhill(ordered: list[Settings], begin: Settings, cost: Cost) -> Settings:
    """The cheapest of settings in an order in which costs fall and then rise."""
    place = ordered.index(begin)
    for step in (-1, 1):
        while 0 <= place + step < len(ordered) and cost(ordered[place + step]) < cost(ordered[place]):
            place += step
    return ordered[place]


def _likely_trellis(head: Cost) -> tuple[int, float]:
    """The one of the two trellises that saves more, and what it leaves of the bits."""
    best = min((1, 2), key=lambda trellis: head(Settings(trellis=trellis)))
    return best, head(Settings(trellis=best)) / max(head(Settings()), 1)


def _head(values: np.ndarray) -> np.ndarray:
    """The first rows: the states of a trellis follow from all values before."""
    wanted = _sample_size(values)
    return values[: max(1, wanted // values.shape[1]), :wanted]


class Cost:
    """Bits of a sample with given settings, each computed once."""

    def __init__(self, sample: np.ndarray, peak: int, signs: int, *, masks: bool = True) -> None:
        self._sample, self._peak, self._signs, self._masks = sample, peak, signs, masks
        self.rows = sample.shape[0]
        self._known: dict[Settings, float] = {}
        self._matrices: dict[tuple[bool, bool], Matrix] = {}

    def __call__(self, settings: Settings) -> float:
        if settings not in self._known:
            form = settings.columns_first, settings.trellis > 0
            if form not in self._matrices:
                self._matrices[form] = compact(self._sample, settings, self._masks, self._masks)
            matrix = self._matrices[form]
            self._known[settings] = price(matrix, settings, self._peak, self._signs)
        return self._known[settings]
