"""The encoder of `context`, compiled: a matrix of integers to decisions, and those to words or to a number of bits."""

from __future__ import annotations

import numpy as np

from stackc.util.compiled import compiled

from ..shared._range_coder_kernel import EVEN, RATE, WHOLE, decision, finish, learned, plain, price_all, put_all
from ._model_kernel import (
    ACTIVITY,
    CLASS,
    CLASSES,
    CONTEXTS,
    ESCAPE,
    LOW,
    LOW_START,
    MASK,
    MASK_LIMIT,
    MOST_ACTIVE,
    SIGN,
    SIGN_START,
    SLOWEST,
    UNARY,
    UNARY_FIRST,
    UNARY_REST,
    ZERO,
    averaged,
    borrowed,
    expected_step,
    level_share,
    row_ended,
)

#: Decisions that are collected before they are coded; one value takes 53 at most.
_BUFFER, _MOST_PER_VALUE = 2048, 64


@compiled
def _expect_row(
    values: np.ndarray,
    steps: np.ndarray,
    column_activity: np.ndarray,
    row: int,
    level: int,
    row_activity: int,
    seen: int,
    column_rate: int,
    weights: np.ndarray,
) -> tuple[int, int, int]:
    """Steps of the activity expected of the values of a row, which all of the model follows from.

    Returns
    -------
    int, int, int
        The row's average afterwards, the values that it has seen, and the sum of their activities.
    """
    of_row, of_column, of_near = weights[0], weights[1], weights[2]
    base = level_share(level, of_row, of_column, of_near)
    near, total = 0, 0
    for column in range(values.size):
        above = np.int64(column_activity[column])
        steps[column] = expected_step(base, row_activity, above, near, of_row, of_column, of_near)
        activity = ACTIVITY[min(abs(np.int64(values[column])), MOST_ACTIVE)]
        row_activity = averaged(row_activity, activity, RATE[seen])
        seen = min(seen + 1, SLOWEST)
        column_activity[column] = activity >> 1 if row == 0 else averaged(above, activity, column_rate)
        near = (near + activity) >> 1
        total += activity
    return row_activity, seen, total


@compiled
def _mask_decisions(mask: np.ndarray, contexts: np.ndarray, first: int, decisions: np.ndarray, begin: int) -> int:
    """Decisions of a part of a mask; returns how many there are."""
    count = min(mask.size - begin, decisions.size)
    for index in range(count):
        before = np.int64(mask[begin + index - 1]) if begin + index else 1
        bit = np.int64(mask[begin + index])
        context = np.int64(contexts[first + before])
        if context == 0:
            context = EVEN
        decisions[index] = decision(context, bit)
        contexts[first + before] = learned(context, bit, MASK_LIMIT)
    return count


@compiled
def encode(
    values: np.ndarray,
    rows_used: np.ndarray,
    columns_used: np.ndarray,
    words: np.ndarray,
    only_price: bool,
    peak: int,
    signs: int,
    weights: np.ndarray,
    resolution: int,
    limit: int,
    carry: int,
    next_state: np.ndarray,
    quantiser_of: np.ndarray,
) -> tuple[int, int]:
    """Code a matrix of integers, or find out how many bits that would take.

    Parameters
    ----------
    values : ndarray
        int32, shape ``(rows, columns)``, at least one of each, magnitudes up to ``peak``.
    rows_used, columns_used : ndarray
        uint8 masks to store first; empty if all rows or columns are used.
    words : ndarray
        uint32, for the result; with too few only the length is right.
    only_price : bool
        Whether to count bits and leave the words alone.
    peak, signs, weights, resolution, limit, carry
        See `Context`.
    next_state, quantiser_of : ndarray
        Of the trellis: int64, shapes ``(states, 2)`` and ``(states,)``; a single state for none.

    Returns
    -------
    int, int
        Number of words, 0 if there are to be none, and if only they were asked for, of bits in units of ``2**-12``.
    """
    rows, columns = values.shape
    classes = CLASS[resolution]
    low, width, written, price = np.uint64(0), WHOLE, 0, 0
    contexts = np.zeros(CONTEXTS, np.uint32)
    decisions = np.zeros(_BUFFER, np.uint64)
    for which in range(2):
        mask = columns_used if which else rows_used
        for begin in range(0, mask.size, _BUFFER):
            count = _mask_decisions(mask, contexts, MASK + 2 * which, decisions, begin)
            if only_price:
                price += price_all(decisions, count)
            else:
                low, width, written = put_all(decisions, count, words, low, width, written)
    steps = np.zeros(columns, np.int32)
    column_activity = np.zeros(columns, np.int32)
    sign_above = np.zeros(columns, np.uint8)
    level, row_activity, seen, state, count = 0, 0, 0, 0, 0
    for row in range(rows):
        if row == 0 or carry == 0:
            row_activity, seen = level, 0
        column_rate = RATE[min(row + 1, SLOWEST)]
        row_activity, seen, total = _expect_row(
            values[row], steps, column_activity, row, level, row_activity, seen, column_rate, weights
        )
        level = row_ended(column_activity, level, total, row)
        sign_left = 0
        for column in range(columns):
            step = np.int64(steps[column])
            group = classes[np.uint64(step)]
            quantiser = quantiser_of[np.uint64(state)]
            value = np.int64(values[row, column])
            magnitude = abs(value)
            state = next_state[np.uint64(state), value & 1]

            place = ZERO + quantiser * CLASSES + group
            context = np.int64(contexts[np.uint64(place)])
            if context == 0:
                context = borrowed(contexts, place, group, -1)
            bit = 1 if magnitude != 0 else 0
            decisions[np.uint64(count)] = decision(context, bit)
            contexts[np.uint64(place)] = learned(context, bit, limit)
            count += 1
            sign = 0
            if bit:
                negative = 1 if value < 0 else 0
                sign = 1 + negative
                if signs == 0:
                    place = SIGN + 3 * sign_left + np.int64(sign_above[column])
                    context = np.int64(contexts[np.uint64(place)])
                    if context == 0:
                        context = SIGN_START
                    decisions[np.uint64(count)] = decision(context, negative)
                    contexts[np.uint64(place)] = learned(context, negative, limit)
                    count += 1
                shift = max((step >> 7) - 1, 0)
                high = (magnitude - 1) >> shift
                last = min((peak - 1) >> shift, UNARY)
                index, before = 0, -1
                place = UNARY_FIRST + quantiser * CLASSES + group
                while index < last:
                    context = np.int64(contexts[np.uint64(place)])
                    if context == 0:
                        context = borrowed(contexts, place, group, before)
                    bit = 1 if high > index else 0
                    decisions[np.uint64(count)] = decision(context, bit)
                    contexts[np.uint64(place)] = learned(context, bit, limit)
                    count += 1
                    if bit == 0:
                        break
                    index, before = index + 1, place
                    place = UNARY_REST + index * CLASSES + group
                if high >= UNARY:
                    excess = high - UNARY + 1
                    length = 0
                    while (excess >> (length + 1)) > 0:
                        length += 1
                    for index in range(length + 1):
                        place = ESCAPE + index
                        context = np.int64(contexts[np.uint64(place)])
                        if context == 0:
                            context = EVEN
                        bit = 1 if index < length else 0
                        decisions[np.uint64(count)] = decision(context, bit)
                        contexts[np.uint64(place)] = learned(context, bit, limit)
                        count += 1
                    if length > 0:
                        decisions[np.uint64(count)] = plain(excess - (1 << length), length)
                        count += 1
                if shift > 0:
                    rest = (magnitude - 1) & ((1 << shift) - 1)
                    place = LOW + min(high, UNARY - 1)
                    context = np.int64(contexts[np.uint64(place)])
                    if context == 0:
                        context = LOW_START
                    bit = rest >> (shift - 1)
                    decisions[np.uint64(count)] = decision(context, bit)
                    contexts[np.uint64(place)] = learned(context, bit, limit)
                    count += 1
                    if shift > 1:
                        decisions[np.uint64(count)] = plain(rest & ((1 << (shift - 1)) - 1), shift - 1)
                        count += 1
            sign_left = sign
            sign_above[column] = sign
            if count > _BUFFER - _MOST_PER_VALUE or (row == rows - 1 and column == columns - 1):
                if only_price:
                    price += price_all(decisions, count)
                else:
                    low, width, written = put_all(decisions, count, words, low, width, written)
                count = 0
    return (0, price) if only_price else (finish(words, low, width, written), 0)
