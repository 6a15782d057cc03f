"""The adaptive model of `context`, compiled: what its encoder, its decoder and rate-aware rounding have in common."""

from __future__ import annotations

import numpy as np

from stackc.util.compiled import compiled

from ..shared._range_coder_kernel import EVEN, RATE

#: Classes of activity, at the finest resolution.
CLASSES = 144

#: Unary bits of a magnitude before its escape code.
UNARY = 16

# Where the contexts of each kind begin. Zero flags and first unary bits have one set per quantiser of a trellis.
ZERO = 0
UNARY_FIRST = ZERO + 2 * CLASSES
UNARY_REST = UNARY_FIRST + 2 * CLASSES - CLASSES  # that of unary bit 1 begins one set further on
LOW = UNARY_REST + UNARY * CLASSES
SIGN = LOW + UNARY
ESCAPE = SIGN + 9
MASK = ESCAPE + 32
CONTEXTS = MASK + 4

#: Counts that contexts begin with: borrowed from another class or from the unary bit before, and those of low and sign bits.
_FROM_CLASS, _FROM_BIT = 6, 3
LOW_START = (30800 << 16) | 24
SIGN_START = (32768 << 16) | 16

#: Rows after which a row or a column average changes no faster.
SLOWEST = 255

#: How fast contexts of the masks of empty rows and columns change.
MASK_LIMIT = 60

#: Largest magnitude that has an activity of its own, and largest step of activity that has a class.
MOST_ACTIVE, LAST_STEP = 1023, 1407


def _activities() -> np.ndarray:
    """``ACTIVITY[m]``: about ``4096 * log2(2 * m + 1)``, linear between powers of two."""
    table = np.zeros(MOST_ACTIVE + 1, np.int64)
    for magnitude in range(MOST_ACTIVE + 1):
        odd = 2 * magnitude + 1
        exponent = odd.bit_length() - 1
        table[magnitude] = (16 * exponent + ((odd << 4) >> exponent) - 16) << 8
    return table


def _classes(resolution: int) -> np.ndarray:
    """``CLASS[activity >> 5]``: steps of ``4096 >> resolution``, below 4096 finer ones in proportion to the activity."""
    table = np.zeros(LAST_STEP + 1, np.int64)
    for step in range(LAST_STEP + 1):
        if step >= 128:
            table[step] = ((8 - resolution) << resolution) + ((32 * step - 4096) >> (12 - resolution))
        elif step < 1 << resolution:
            table[step] = step
        else:
            exponent = step.bit_length() - 1
            table[step] = ((exponent - resolution + 1) << resolution) + (
                (step >> (exponent - resolution)) & ((1 << resolution) - 1)
            )
    return table


ACTIVITY = _activities()
CLASS = np.stack([_classes(resolution) for resolution in range(4)])


@compiled
def borrowed(contexts: np.ndarray, place: int, group: int, unary_before: int) -> int:
    """First state of a context: that of the nearest class that was used, else that of the unary bit before."""
    for distance in range(1, CLASSES):
        if group - distance >= 0 and contexts[place - distance] != 0:
            return (np.int64(contexts[place - distance]) & ~1023) | _FROM_CLASS
        if group + distance < CLASSES and contexts[place + distance] != 0:
            return (np.int64(contexts[place + distance]) & ~1023) | _FROM_CLASS
    if unary_before >= 0 and contexts[unary_before] != 0:
        return (np.int64(contexts[unary_before]) & ~1023) | _FROM_BIT
    return EVEN


@compiled(inline="always")
def expected_step(base: int, row: int, column: int, near: int, of_row: int, of_column: int, of_near: int) -> int:
    """Expected activity in steps of 32, from the averages of everything, of the row, of the column and nearby.

    ``base`` is what `level_share` makes of the average of everything.
    """
    return min(max((base + of_row * row + of_column * column + of_near * near) >> 8, 0), LAST_STEP)


@compiled(inline="always")
def level_share(level: int, of_row: int, of_column: int, of_near: int) -> int:
    """What is left for the average of everything, in eighths."""
    return (8 - of_row - of_column - of_near) * level


@compiled(inline="always")
def averaged(before: int, activity: int, rate: int) -> int:
    """An average after one more activity."""
    return before + (((activity - before) * rate) >> 16)


@compiled
def row_ended(column_activity: np.ndarray, level: int, total: int, row: int) -> int:
    """The average of everything after a row whose activities sum up to ``total``."""
    mean = total // column_activity.size
    if row > 0:
        return averaged(level, mean, RATE[min(row + 1, SLOWEST)])
    for column in range(column_activity.size):
        column_activity[column] += mean >> 1
    return mean
