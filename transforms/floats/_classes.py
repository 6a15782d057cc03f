"""Classes of rows and columns by the size of their numbers, as contexts for exponents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stackc.util.lazy import numpy

from ..shared.kernels import kernel
from ._stream import write_stream

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
    height, last = divmod(symbols.size, width)
    rows, columns = numpy.empty(height + (last > 0), numpy.uint8), numpy.empty(width, numpy.uint8)
    kernels = kernel("floats._kernel")
    kernels.classify(sizes, rows, columns, CLASSES, _UNITS, _FINEST_STEP, _FEW)
    row_bits, column_bits = 8 * len(write_stream(rows, CLASSES)), 8 * len(write_stream(columns, CLASSES))
    every = -(-symbols.size // _SAMPLE)
    shown = -(-height // every) * width

    best, least = Classes(width, None, None), None
    no_rows, no_columns = numpy.zeros_like(rows), numpy.zeros_like(columns)
    for choice, side_bits in (
        (best, 0),
        (Classes(width, rows, None), row_bits),
        (Classes(width, None, columns), column_bits),
        (Classes(width, rows, columns), row_bits + column_bits),
    ):
        if least is not None and side_bits >= least:
            continue
        entropy, cells, totals = kernels.model_cost(
            symbols,
            (no_rows if choice.rows is None else rows)[:height],
            no_columns if choice.columns is None else columns,
            every,
            CONTEXTS,
            alphabet,
        )
        # Integers of Python's, since the product may have more than 64 bits.
        cost = (int(entropy) * symbols.size // shown >> 12) + _LEARNING_BITS * int(cells - totals) + side_bits
        if least is None or cost < least:
            best, least = choice, cost
    return best
