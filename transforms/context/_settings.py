"""What an encoder chooses for a plane of ``context``, and how its kernels are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.util.lazy import numpy

from ..shared.kernels import kernel
from ..shared.trellis import NEXT_STATE, QUANTISER

if TYPE_CHECKING:
    import numpy as np

#: Shares, in eighths, of the averages of the row, of the column and of the values just before, by ``mixture``. The last one,
#: that knows nothing but the values themselves, is for short headers only.
WEIGHTS = ((4, 4, 0), (8, 8, 0), (3, 3, 4), (4, 0, 4), (0, 0, 0))
MIXTURES = 4

#: Counts at which contexts stop slowing down, by ``memory``.
LIMITS = (60, 127, 255, 1000)

#: Numbers of states of a trellis, by ``trellis``.
STATES = (0, 4, 8)


class Settings(NamedTuple):
    """What the encoder chooses for a plane."""

    columns_first: bool = False
    carry: bool = False
    mixture: int = 0
    resolution: int = 2
    memory: int = 2
    trellis: int = 0


#: What a header of one byte can say: largest magnitudes, and settings that suit small planes.
SHORT_PEAKS = (1, 2, 3, 5, 7, 15)
SHORT_SETTINGS = (
    *(
        Settings(columns_first, carry, mixture, resolution)
        for mixture in (0, 1, 3)
        for columns_first, carry in ((False, False), (False, True), (True, True))
        for resolution in (0, 1)
    ),
    Settings(mixture=MIXTURES, resolution=0),
    Settings(mixture=MIXTURES, resolution=0, memory=3),
)


class Matrix(NamedTuple):
    """A plane on its way to the coder: used rows and columns only, the centre taken off, in the order of coding."""

    values: np.ndarray
    rows_used: np.ndarray
    columns_used: np.ndarray


def code(matrix: Matrix, settings: Settings, words: np.ndarray, peak: int, signs: int) -> int:
    """Write the words of a matrix, as far as there is room; returns how many there are."""
    return _encode(matrix, settings, words, False, peak, signs)[0]


def price(matrix: Matrix, settings: Settings, peak: int, signs: int) -> float:
    """Bits that the words of a matrix hold, which takes half as long to find out as to write them."""
    return _encode(matrix, settings, numpy.zeros(0, numpy.uint32), True, peak, signs)[1] / 4096


def _encode(
    matrix: Matrix, settings: Settings, words: np.ndarray, only_price: bool, peak: int, signs: int
) -> tuple[int, int]:
    if not matrix.values.size:
        return 0, 0
    values, rows_used, columns_used = matrix
    result: tuple[int, int] = kernel("context._encode_kernel").encode(
        values, rows_used, columns_used, words, only_price, peak, signs, *kernel_arguments(settings)
    )
    return result


def kernel_arguments(settings: Settings) -> tuple[Any, ...]:
    """The settings as both kernels take them."""
    states = STATES[settings.trellis]
    next_state = NEXT_STATE[states] if states else ((0, 0),)
    quantiser = QUANTISER[states] if states else (0,)
    return (
        numpy.array(WEIGHTS[settings.mixture], numpy.int64),
        settings.resolution,
        LIMITS[settings.memory],
        int(settings.carry),
        numpy.array(next_state, numpy.int64),
        numpy.array(quantiser, numpy.int64),
    )
