"""Rate-aware rounding, compiled: each value is rounded with the adaptive model of `context` in the state it then has.

Source: rate-distortion optimised quantisation of DeepCABAC (Wiedemann et al. 2020), with this model's contexts. Greedy:
what a choice does to the contexts of later values is not weighed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ._context_kernel import (
    _SLOWEST,
    ACTIVITY,
    CLASS,
    CONTEXTS,
    UNARY,
    _borrowed,
    _expected,
    unary_place,
)
from ._range_coder_kernel import RATE, learned

#: Bits of an event by its probability in units of ``2**-16``.
_BITS = np.array([16.0] + [16 - math.log2(probability) for probability in range(1, 65537)], np.float32)


@njit(nogil=True, cache=True, inline="always")
def _state(contexts: np.ndarray, place: int, group: int, before: int) -> int:
    context = contexts[place]
    return context if context != 0 else _borrowed(contexts, place, group, before)


@njit(nogil=True, cache=True, inline="always")
def _magnitude_bits(contexts: np.ndarray, magnitude: int, group: int, shift: int, last: int) -> float:
    """Bits of a magnitude of 1 or more, without zero flag and sign."""
    high = (magnitude - 1) >> shift
    bits = np.float32(shift)  # the low bit is nearly even
    index = 0
    while index < last:
        before = unary_place(index - 1, group, 0) if index else -1
        probability = _state(contexts, unary_place(index, group, 0), group, before) >> 16
        if high <= index:
            return bits + _BITS[65536 - probability]
        bits += _BITS[probability]
        index += 1
    excess = high - UNARY + 1
    while excess > 0:  # about two bits for each doubling
        bits += np.float32(2)
        excess >>= 1
    return bits


@njit(nogil=True, cache=True, inline="always")
def _learn_magnitude(contexts: np.ndarray, magnitude: int, group: int, shift: int, last: int, limit: int) -> None:
    high = (magnitude - 1) >> shift
    index = 0
    while index < last:
        place = unary_place(index, group, 0)
        before = unary_place(index - 1, group, 0) if index else -1
        bit = 1 if high > index else 0
        contexts[place] = learned(_state(contexts, place, group, before), bit, limit)
        if bit == 0:
            break
        index += 1


@njit(nogil=True, cache=True)
def rate_aware_matrix(
    scaled: np.ndarray, rdo: float, peak: int, weights: np.ndarray, resolution: int, limit: int, carry: int
) -> np.ndarray:
    """Codes of a matrix in the order of its rows.

    Parameters
    ----------
    scaled : ndarray
        float32, shape ``(rows, columns)``: values in units of the step.
    rdo : float
        Price of a bit.
    peak : int
        Largest magnitude of a code.
    weights, resolution, limit, carry
        Settings of the model; see `Context`.

    Returns
    -------
    ndarray
        int32, of the same shape.
    """
    rows, columns = scaled.shape
    codes = np.zeros((rows, columns), np.int32)
    classes = CLASS[resolution]
    of_row, of_column, of_near = weights[0], weights[1], weights[2]
    contexts = np.zeros(CONTEXTS, np.int64)
    column_activity = np.zeros(columns, np.int64)
    level, row_activity, seen = 0, 0, 0
    for row in range(rows):
        if row == 0 or carry == 0:
            row_activity, seen = level, 0
        near, total = 0, 0
        column_rate = RATE[min(row + 1, _SLOWEST)]
        for column in range(columns):
            step = _expected(level, row_activity, column_activity[column], near, of_row, of_column, of_near)
            group = classes[step]
            shift = max((step >> 7) - 1, 0)
            last = min((peak - 1) >> shift, UNARY)
            value = scaled[row, column]
            distance = abs(value)
            nearest = min(np.int64(distance + np.float32(0.5)), peak)
            zero = _state(contexts, group, group, -1)
            best = 0
            if nearest > 0:
                least = distance * distance + rdo * _BITS[65536 - (zero >> 16)]
                used = _BITS[zero >> 16] + np.float32(1)
                for magnitude in (nearest, nearest - 1):
                    if magnitude > 0:
                        error = distance - np.float32(magnitude)
                        bits = used + _magnitude_bits(contexts, magnitude, group, shift, last)
                        if error * error + rdo * bits < least:
                            least = error * error + rdo * bits
                            best = magnitude
            contexts[group] = learned(zero, 1 if best else 0, limit)
            if best:
                _learn_magnitude(contexts, best, group, shift, last, limit)
                codes[row, column] = -best if value < 0 else best
            activity = ACTIVITY[min(best, 1023)]
            row_activity += ((activity - row_activity) * RATE[seen]) >> 16
            seen = min(seen + 1, _SLOWEST)
            if row == 0:
                column_activity[column] = activity >> 1
            else:
                column_activity[column] += ((activity - column_activity[column]) * column_rate) >> 16
            total += activity
            near = (near + activity) >> 1
        mean = total // columns
        if row == 0:
            level = mean
            for column in range(columns):
                column_activity[column] += mean >> 1
        else:
            level += ((mean - level) * column_rate) >> 16
    return codes
