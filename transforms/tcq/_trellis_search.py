"""Encoder of trellis-coded quantisation: the codes with the smallest error plus rate (Viterbi 1967)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.util.lazy import numpy

from ..shared.trellis import NEXT_STATE, QUANTISER

if TYPE_CHECKING:
    import numpy as np

#: No code counts as more bits than this, so that the error of a value is bounded.
MOST_BITS = 30.0

#: Values that the statistics of the codes are estimated from, cut from the plane in so many pieces.
_SAMPLE, _PIECES = 1 << 13, 16

#: How often the codes of the sample are chosen and counted before those of the whole plane are chosen.
_PASSES = 3

#: Magnitudes up to this one have a frequency each; beyond, two frequencies per octave are interpolated.
_SINGLE = 8


class Candidates(NamedTuple):
    """The best code of each class for every magnitude ``j <= a < j + 1`` in steps.

    A class is a quantiser times 2 plus a parity. Zero competes with the code given here in the even classes.

    Attributes
    ----------
    table : ndarray
        float32 ``(8, j)``: reconstruction in steps of the four classes, then their costs in bits times the multiplier.
    zero : ndarray
        float32 ``(2,)``: cost of a zero in each quantiser.
    magnitudes : ndarray
        int16 ``(4, j)``: magnitudes of the codes.
    largest : float
        Where the last column ends; larger values are taken for this one.
    """

    table: np.ndarray
    zero: np.ndarray
    magnitudes: np.ndarray
    largest: float


def largest_code(steps: float) -> int:
    """Largest magnitude of a code that values up to ``steps`` steps may get.

    Every class has a code within two steps of each value.
    """
    return int((steps + 3) // 2)


def search(
    x: np.ndarray, step: float, states: int, rdo: float, most: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Codes that minimise ``weight * (error / step)**2 + rdo * bits`` over all sequences of codes.

    The bits of a code follow from its quantiser and magnitude: the entropy of these in a sample of the plane, whose
    codes are chosen several times over, as in entropy-constrained trellis quantisation (Fischer and Wang 1992).

    Parameters
    ----------
    x : ndarray
        float32 values, 1-d and contiguous.
    step : float
        In the range of normal float32 numbers.
    states : int
        4 or 8.
    rdo : float
        Multiplier of the rate; 0 minimises the error alone.
    most : int
        Largest magnitude that a code may have, 1 to 32767.
    weights : ndarray, optional
        float32, one per value.

    Returns
    -------
    ndarray
        Codes of the shape of ``x``, int8 or, if ``most`` is above 127, int16.

    Examples
    --------
    >>> import numpy as np
    >>> search(np.array([0.9, -2.1, 0.2, 3.1], np.float32), 1.0, 8, 0.0, 7).tolist()
    [0, -1, 0, 2]
    """
    if not x.size:
        return numpy.zeros(0, numpy.int8)
    weights = numpy.ones(1, numpy.float32) if weights is None else weights
    bits = numpy.zeros((2, most + 1))
    if rdo:
        part, part_weights = _sample(x), weights if weights.size == 1 else _sample(weights)
        bits = _bits(_rounded_counts(part, step, most))
        for _ in range(_PASSES):
            codes = _viterbi(part, step, states, _candidates(bits, rdo), part_weights)
            bits = _bits(_counts(codes, states, most))
    return _viterbi(x, step, states, _candidates(bits, rdo), weights)


def _sample(x: np.ndarray) -> np.ndarray:
    """A few values, in pieces from all over."""
    if x.size <= _SAMPLE:
        return x
    size = _SAMPLE // _PIECES
    begins = [(x.size - size) * piece // (_PIECES - 1) for piece in range(_PIECES)]
    return numpy.concatenate([x[begin : begin + size] for begin in begins])


def _kernel() -> Any:
    """The compiled loops, always under this name: numba's cache, kept beside the file, remembers the module's name."""
    return importlib.import_module("stackc.transforms.tcq._trellis_kernel")


def _viterbi(x: np.ndarray, step: float, states: int, candidates: Candidates, weights: np.ndarray) -> np.ndarray:
    table, zero, magnitudes, largest = candidates
    given = (x, numpy.float32(step), numpy.float32(largest), weights, table, zero)
    decisions = numpy.empty(x.size, numpy.uint8)
    codes = numpy.empty(x.size, numpy.int8 if magnitudes.max() <= 127 else numpy.int16)
    kernel = _kernel()
    last = int((kernel.forward8 if states == 8 else kernel.forward4)(*given, decisions))
    kernel.backward(decisions, *_ways(states), last)
    kernel.codes_of(*given, magnitudes, decisions, codes)
    return codes


def _ways(states: int) -> tuple[np.ndarray, np.ndarray]:
    """The two ways into each state, ``predecessor * 2 + parity``, in ascending order; and the class of each way."""
    ways: list[list[int]] = [[] for _ in range(states)]
    for state, successors in enumerate(NEXT_STATE[states]):
        for parity, successor in enumerate(successors):
            ways[successor].append(2 * state + parity)
    classes = [2 * quantiser + parity for quantiser in QUANTISER[states] for parity in (0, 1)]
    return numpy.array(ways, numpy.int64).reshape(-1), numpy.array(classes, numpy.uint8)


def _candidates(bits: np.ndarray, rdo: float) -> Candidates:
    most = bits.shape[1] - 1
    largest = 2 * most - 1
    # the nearest code of a class changes at whole numbers of steps
    middle = numpy.arange(largest + 1)[:, None] + 0.5
    quantiser, parity = numpy.array([0, 0, 1, 1]), numpy.array([0, 1, 0, 1])
    magnitudes = 2 * numpy.rint((middle + quantiser - 2 * parity) / 4).astype(numpy.int64) + parity
    magnitudes = numpy.maximum(magnitudes, 2 * quantiser * (1 - parity))  # zero is weighed up on its own there
    magnitudes -= 2 * (magnitudes > most)
    reconstructions = 2 * magnitudes - quantiser * (magnitudes > 0)
    table = numpy.concatenate([reconstructions, rdo * bits[quantiser, magnitudes]], axis=1).T.astype(
        numpy.float32, order="C"
    )
    zero = (rdo * bits[:, 0]).astype(numpy.float32)
    return Candidates(table, zero, magnitudes.T.astype(numpy.int16, order="C"), float(largest))


def _rounded_counts(x: np.ndarray, step: float, most: int) -> np.ndarray:
    """Counts of magnitudes in each quantiser if all values were rounded to the nearest code of that quantiser."""
    steps = numpy.minimum(numpy.abs(x) / numpy.float32(step), 2 * most - 1).astype(numpy.float64)
    even = numpy.rint(steps / 2)
    odd = numpy.where(steps < 0.5, 0, numpy.maximum(numpy.rint((steps + 1) / 2), 1))
    return numpy.stack([numpy.bincount(k.astype(numpy.int64), minlength=most + 1)[: most + 1] for k in (even, odd)])


def _counts(codes: np.ndarray, states: int, most: int) -> np.ndarray:
    counts = numpy.zeros((2, most + 1), numpy.int64)
    _kernel().count(codes, numpy.array(NEXT_STATE[states], numpy.int64), counts)
    return counts


def _bits(counts: np.ndarray) -> np.ndarray:
    """Bits of each code in each quantiser, sign included, from counts of magnitudes; smooth where counts are small."""
    most = counts.shape[1] - 1
    edges = [*range(min(_SINGLE, most) + 1)]
    while edges[-1] < most + 1:
        width = max(1 << (edges[-1].bit_length() - 2), 1) if edges[-1] >= _SINGLE else 1
        edges.append(min(edges[-1] + width, most + 1))
    begins, ends = numpy.array(edges[:-1]), numpy.array(edges[1:])
    frequency = numpy.add.reduceat(counts, begins, axis=1) + 0.25
    density = numpy.log2(frequency / (ends - begins) / frequency.sum(axis=1, keepdims=True))
    magnitudes = numpy.arange(most + 1)
    smooth = numpy.stack([numpy.interp(magnitudes, (begins + ends - 1) / 2, row) for row in density])
    bits: np.ndarray = numpy.minimum((magnitudes > 0) - smooth, MOST_BITS)
    return bits
