"""Rate-aware rounding, compiled: each value is rounded with the adaptive model of `context` in the state it then has.

Source: rate-distortion optimised quantisation of DeepCABAC (Wiedemann et al. 2020), with this model's contexts. Greedy:
what a choice does to the contexts of later values is not weighed.
"""

from __future__ import annotations

import math

import numpy as np

from stackc.util.compiled import compiled

from ..context._model_kernel import (
    ACTIVITY,
    CLASS,
    CLASSES,
    CONTEXTS,
    MOST_ACTIVE,
    SLOWEST,
    UNARY,
    UNARY_FIRST,
    UNARY_REST,
    averaged,
    borrowed,
    expected_step,
    level_share,
    row_ended,
)
from ..shared._range_coder_kernel import RATE, learned

#: Bits of an event by its probability in units of ``2**-16``.
_BITS = np.array([16.0] + [16 - math.log2(probability) for probability in range(1, 65537)], np.float32)


@compiled(inline="always")
def _escape_bits(high: int) -> float:
    """Bits of what unary bits do not say: about two for each doubling."""
    bits, excess = np.float32(0), high - UNARY + 1
    while excess > 0:
        bits += np.float32(2)
        excess >>= 1
    return bits


@compiled
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
    contexts = np.zeros(CONTEXTS, np.uint32)
    column_activity = np.zeros(columns, np.int32)
    level, row_activity, seen = 0, 0, 0
    for row in range(rows):
        if row == 0 or carry == 0:
            row_activity, seen = level, 0
        near, total = 0, 0
        column_rate = RATE[min(row + 1, SLOWEST)]
        base = level_share(level, of_row, of_column, of_near)
        for column in range(columns):
            above = np.int64(column_activity[column])
            step = expected_step(base, row_activity, above, near, of_row, of_column, of_near)
            group = classes[step]
            shift = max((step >> 7) - 1, 0)
            last = min((peak - 1) >> shift, UNARY)
            value = scaled[row, column]
            distance = abs(value)
            nearest = min(np.int64(distance + np.float32(0.5)), peak)
            zero = np.int64(contexts[group])
            if zero == 0:
                zero = borrowed(contexts, group, group, -1)
            best = 0
            if nearest > 0:
                # prices of the nearest magnitude and of the one below it, in one walk along their unary bits
                bits = np.float32(shift)  # the low bit is nearly even
                high, lower = (nearest - 1) >> shift, (nearest - 2) >> shift
                of_high = of_lower = bits
                index, before = 0, -1
                place = UNARY_FIRST + group
                while index < last and index <= high:
                    context = np.int64(contexts[place])
                    if context == 0:
                        context = borrowed(contexts, place, group, before)
                    probability = context >> 16
                    if index == lower:
                        of_lower = bits + _BITS[65536 - probability]
                    if index == high:
                        of_high = bits + _BITS[65536 - probability]
                    bits += _BITS[probability]
                    index, before = index + 1, place
                    place = UNARY_REST + index * CLASSES + group
                if high >= last:
                    of_high = bits + _escape_bits(high)
                if lower >= last:
                    of_lower = bits + _escape_bits(lower)
                least = distance * distance + rdo * _BITS[65536 - (zero >> 16)]
                used = _BITS[zero >> 16] + np.float32(1)
                error = distance - np.float32(nearest)
                cost = error * error + rdo * (used + of_high)
                if cost < least:
                    least, best = cost, nearest
                if nearest > 1:
                    error = distance - np.float32(nearest - 1)
                    if error * error + rdo * (used + of_lower) < least:
                        best = nearest - 1
            contexts[group] = learned(zero, 1 if best else 0, limit)
            if best:
                high = (best - 1) >> shift
                index, before = 0, -1
                place = UNARY_FIRST + group
                while index < last:
                    context = np.int64(contexts[place])
                    if context == 0:
                        context = borrowed(contexts, place, group, before)
                    bit = 1 if high > index else 0
                    contexts[place] = learned(context, bit, limit)
                    if bit == 0:
                        break
                    index, before = index + 1, place
                    place = UNARY_REST + index * CLASSES + group
                codes[row, column] = -best if value < 0 else best
            activity = ACTIVITY[min(best, MOST_ACTIVE)]
            row_activity = averaged(row_activity, activity, RATE[seen])
            seen = min(seen + 1, SLOWEST)
            column_activity[column] = activity >> 1 if row == 0 else averaged(above, activity, column_rate)
            near = (near + activity) >> 1
            total += activity
        level = row_ended(column_activity, level, total, row)
    return codes
