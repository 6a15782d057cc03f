"""How the encoder of ``context`` finds settings: by coding a part of the plane, or all of a small one, with several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.lazy import numpy

from ._context_settings import MIXTURES, Matrix, Settings, price

if TYPE_CHECKING:
    import numpy as np

#: Share of the bits that are left with the state of a trellis: surely quantised with it below one, hardly above the other.
_SURELY, _HARDLY = 0.9, 0.99

#: Values that a choice of settings is tried on: all of a small plane, of others a sixteenth, within limits.
_SMALL, _SAMPLE_LEAST, _SAMPLE_MOST = 1 << 15, 1 << 13, 1 << 16

#: How often all settings of a small plane are gone through: those of the first round were chosen beside defaults.
_SMALL_ROUNDS = 2

#: Where no more than one value in so many is not zero, so many values are tried: fewer might hold next to none.
_SPARSE, _SAMPLE_SPARSE = 64, 1 << 20


def masked(values: np.ndarray, settings: Settings, peak: int, signs: int) -> Matrix:
    """The matrix in the order of coding; a small one only with masks that pay for themselves."""
    both = compact(values, settings)
    if not is_small(values) or not both.values.size:
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
    """A block from the middle of the matrix, of about its proportions, that is representative enough to choose on."""
    rows, columns = values.shape
    wanted = _sample_size(values)
    if values.size <= wanted:
        return values
    tall = max(1, min(rows, round((wanted * rows / columns) ** 0.5)))
    wide = max(1, min(columns, wanted // tall))
    tall = max(1, min(rows, wanted // wide))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return values[top : top + tall, left : left + wide]


def _sample_size(values: np.ndarray) -> int:
    if values.size <= _SMALL:
        return max(values.size, 1)
    if int(numpy.count_nonzero(values)) * _SPARSE <= values.size:
        return _SAMPLE_SPARSE
    return min(max(values.size // 16, _SAMPLE_LEAST), _SAMPLE_MOST)


def is_small(values: np.ndarray) -> bool:
    """Whether settings are tried on all of a plane."""
    return values.size <= _sample_size(values)


def choose(values: np.ndarray, peak: int, signs: int, trellis: int) -> Settings:
    """The settings that code a sample in the fewest bits, one after another from the most important."""
    cost = Cost(_head(values) if trellis else sample(values), peak, signs)
    orders = (False,) if trellis or values.shape[0] == 1 else (False, True)
    carries = (False,) if trellis else (False, True)
    best, small = Settings(trellis=trellis), is_small(values)
    # The fewer classes, the less there is to learn: on a part of a plane that would count for more than on all of it.
    resolutions = (2, 1, 3, 0) if small else (2, 1, 3)
    for _ in range(_SMALL_ROUNDS if small else 1):
        best = min((best._replace(columns_first=order, carry=carry) for order in orders for carry in carries), key=cost)
        best = min((best._replace(mixture=mixture) for mixture in range(MIXTURES)), key=cost)
        best = min((best._replace(resolution=resolution) for resolution in resolutions), key=cost)
        best = min((best._replace(memory=memory) for memory in (2, 3, 1, 0)), key=cost)
    return best


def model_settings(values: np.ndarray) -> Settings:
    """The settings that suit a matrix of int32 codes, for a quantiser that takes their price into account."""
    peak = int(numpy.abs(values).max(initial=0))
    return choose(values, peak, 0, 0) if peak else Settings()


def trellises(values: np.ndarray, peak: int, signs: int) -> tuple[int, ...]:
    """Which trellises to try: knowing the state of the one that values were quantised with saves a lot, most of the time.

    Where it seems to save little, the values may also be sparse ones that know no trellis, and masks save more.
    """
    if signs:
        return (0,)
    cost = Cost(_head(values), peak, signs)
    best = min((1, 2), key=lambda trellis: cost(Settings(trellis=trellis)))
    saved = cost(Settings(trellis=best)) / max(cost(Settings()), 1)
    return (best,) if saved < _SURELY else (best, 0) if saved < _HARDLY else (0,)


def _head(values: np.ndarray) -> np.ndarray:
    """The first rows: the states of a trellis follow from all values before."""
    wanted = _sample_size(values)
    return values[: max(1, wanted // values.shape[1]), :wanted]


class Cost:
    """Bits of a sample with given settings, each computed once."""

    def __init__(self, sample: np.ndarray, peak: int, signs: int, *, masks: bool = True) -> None:
        self._sample, self._peak, self._signs, self._masks = sample, peak, signs, masks
        self._known: dict[Settings, float] = {}

    def __call__(self, settings: Settings) -> float:
        if settings not in self._known:
            matrix = compact(self._sample, settings, self._masks, self._masks)
            self._known[settings] = price(matrix, settings, self._peak, self._signs)
        return self._known[settings]
