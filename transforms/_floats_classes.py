"""Classes of rows and columns by the size of their numbers, as contexts for exponents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stackc.lazy import numpy

from ._floats_stream import write_stream
from ._kernels import kernel

if TYPE_CHECKING:
    import numpy as np

#: Rows and columns have classes below this; the context of an element is the sum of the two.
CLASSES = 16
CONTEXTS = 2 * CLASSES - 1

#: Elements that costs are estimated from.
_SAMPLE = 1 << 15

#: Means of sizes are integers in this fraction of a size's unit, so that they are 64 to the octave. The finest step
#: between classes is a quarter of an octave; it is doubled until no more than one in so many is out of range.
_UNITS = 8
_FINEST_STEP = 16
_FEW = 16

#: Bits that it takes to learn how often one symbol occurs in one context.
_LEARNING_BITS = 5


class Classes(NamedTuple):
    """Classes of rows and columns, uint8; None where they do not pay."""

    width: int
    rows: np.ndarray | None
    columns: np.ndarray | None


def contexts_of(classes: Classes, count: int) -> np.ndarray:
    """Context of each of ``count`` elements, shape ``(count,)``: the class of its row plus that of its column.

    Examples
    --------
    >>> import numpy
    >>> rows, columns = numpy.array([0, 8], numpy.uint8), numpy.array([1, 2, 3], numpy.uint8)
    >>> contexts_of(Classes(3, rows, columns), 5).tolist()
    [1, 2, 3, 9, 10]
    """
    height = -(-count // classes.width)
    contexts = numpy.zeros((height, classes.width), numpy.uint8)
    if classes.rows is not None:
        contexts += classes.rows[:, None]
    if classes.columns is not None:
        contexts += classes.columns
    return contexts.reshape(-1)[:count]


def choose_classes(symbols: np.ndarray, alphabet: int, sizes: np.ndarray, width: int) -> Classes:
    """The classes that make exponents and classes together smallest, as estimated on a sample of rows.

    A class is a mean size relative to the plane's, in steps of a quarter of an octave or more. Bell-shaped rows that
    differ in scale have exponents that differ in their mean alone, so the sum of the classes of a row and a column says
    all that the two tell about an exponent.

    Parameters
    ----------
    symbols : ndarray
        Shape ``(n,)``, uint8, below ``alphabet``: the exponents as they are coded.
    alphabet : int
        Number of symbols.
    sizes : ndarray
        Shape ``(n,)``, uint16: about eight times the binary logarithm of each element plus a constant, above 0; 0 for
        elements without one.
    width : int
        Elements per row, 1 to ``n``.
    """
    height = symbols.size // width
    whole = sizes[: height * width].reshape(height, width)
    rest = sizes[height * width :]
    row_sums = numpy.append(whole.sum(1, dtype=numpy.int64), rest.sum(dtype=numpy.int64))
    row_counts = numpy.append(numpy.count_nonzero(whole, 1), numpy.count_nonzero(rest))
    column_sums, column_counts = whole.sum(0, dtype=numpy.int64), numpy.count_nonzero(whole, 0)
    column_sums[: rest.size] += rest
    column_counts[: rest.size] += rest != 0
    mean = _UNITS * int(row_sums.sum()) // max(int(row_counts.sum()), 1)
    row_means = _means(row_sums, row_counts, mean)[: -(-symbols.size // width)]
    column_means = _means(column_sums, column_counts, mean)
    step = max(_step(row_means), _step(column_means))
    rows, columns = _classes(row_means, step), _classes(column_means, step)

    sample = slice(None, None, -(-symbols.size // _SAMPLE))
    shown = symbols[: height * width].reshape(height, width)[sample].reshape(-1)
    best = Classes(width, None, None)
    least = None
    for choice in (best, Classes(width, rows, None), Classes(width, None, columns), Classes(width, rows, columns)):
        part = Classes(width, None if choice.rows is None else choice.rows[:height][sample], choice.columns)
        cost = _cost(shown, alphabet, contexts_of(part, shown.size), symbols.size)
        cost += sum(8 * len(write_stream(side, CLASSES)) for side in choice[1:] if side is not None)
        if least is None or cost < least:
            best, least = choice, cost
    return best


def _means(sums: np.ndarray, counts: np.ndarray, mean: int) -> np.ndarray:
    """Mean sizes less that of the plane; 0 where there is nothing to count."""
    means: np.ndarray = numpy.where(counts > 0, _UNITS * sums // numpy.maximum(counts, 1) - mean, 0)
    return means


def _step(means: np.ndarray) -> int:
    """The finest step with which nearly all classes are in range."""
    step = _FINEST_STEP
    while numpy.count_nonzero(abs(means) > CLASSES // 2 * step) * _FEW > means.size:
        step *= 2
    return step


def _classes(means: np.ndarray, step: int) -> np.ndarray:
    middle: np.ndarray = (means + step // 2) // step + CLASSES // 2
    return middle.clip(0, CLASSES - 1).astype(numpy.uint8)


def _cost(symbols: np.ndarray, alphabet: int, contexts: np.ndarray, count: int) -> int:
    """About how many bits ``count`` symbols take, of which some are shown."""
    entropy, cells, totals = map(int, kernel("floats").model_cost(symbols, contexts, CONTEXTS, alphabet))
    return (entropy * count // int(symbols.size) >> 12) + _LEARNING_BITS * (cells - totals)
