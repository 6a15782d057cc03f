"""The decoder of `context`, compiled."""

from __future__ import annotations

import numpy as np

from stackc.util.compiled import compiled

from ..shared._range_coder_kernel import EVEN, RATE, WHOLE, begin, get, get_plain, learned
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


@compiled
def _get_mask(
    mask: np.ndarray, contexts: np.ndarray, first: int, words: np.ndarray, code: int, width: int, read: int
) -> tuple[int, int, int]:
    before, end = 1, words.size - 1
    for index in range(mask.size):
        context = np.int64(contexts[first + before])
        if context == 0:
            context = EVEN
        bit, code, width, read = get(code, width, read, words[min(read, end)], context)
        contexts[first + before] = learned(context, bit, MASK_LIMIT)
        mask[index] = bit
        before = bit
    return code, width, read


@compiled
def decode(
    values: np.ndarray,
    rows: int,
    columns: int,
    row_mask: np.ndarray,
    column_mask: np.ndarray,
    words: np.ndarray,
    peak: int,
    signs: int,
    weights: np.ndarray,
    resolution: int,
    limit: int,
    carry: int,
    next_state: np.ndarray,
    quantiser_of: np.ndarray,
) -> int:
    """Inverse of `encode`: the used rows and columns, densely, at the beginning of ``values``.

    ``words`` ends in a zero that `encode` did not write. ``row_mask`` and ``column_mask`` are filled in; where they are
    empty all ``rows`` or ``columns`` are used. Any words decode to something, in bounded time, with magnitudes up to
    ``peak + 1``.

    Returns
    -------
    int
        Number of words that `encode` had written.
    """
    classes = CLASS[resolution]
    of_row, of_column, of_near = weights[0], weights[1], weights[2]
    code, width, read, end = begin(words), WHOLE, 2, words.size - 1
    contexts = np.zeros(CONTEXTS, np.uint32)
    code, width, read = _get_mask(row_mask, contexts, MASK, words, code, width, read)
    code, width, read = _get_mask(column_mask, contexts, MASK + 2, words, code, width, read)
    if row_mask.size:
        rows = np.int64(row_mask.sum())
    if column_mask.size:
        columns = np.int64(column_mask.sum())
    column_activity = np.zeros(columns, np.int32)
    sign_above = np.zeros(columns, np.uint8)
    level, row_activity, seen, state = 0, 0, 0, 0
    for row in range(rows):
        if columns == 0:
            break
        if row == 0 or carry == 0:
            row_activity, seen = level, 0
        near, sign_left, total = 0, 0, 0
        column_rate = RATE[min(row + 1, SLOWEST)]
        base = level_share(level, of_row, of_column, of_near)
        for column in range(columns):
            above = np.int64(column_activity[column])
            step = expected_step(base, row_activity, above, near, of_row, of_column, of_near)
            group = classes[np.uint64(step)]
            quantiser = quantiser_of[np.uint64(state)]

            place = ZERO + quantiser * CLASSES + group
            context = np.int64(contexts[np.uint64(place)])
            if context == 0:
                context = borrowed(contexts, place, group, -1)
            bit, code, width, read = get(code, width, read, words[min(read, end)], context)
            contexts[np.uint64(place)] = learned(context, bit, limit)
            sign, magnitude = 0, 0
            if bit:
                negative = signs - 1
                if signs == 0:
                    place = SIGN + 3 * sign_left + np.int64(sign_above[column])
                    context = np.int64(contexts[np.uint64(place)])
                    if context == 0:
                        context = SIGN_START
                    negative, code, width, read = get(code, width, read, words[min(read, end)], context)
                    contexts[np.uint64(place)] = learned(context, negative, limit)
                sign = 1 + negative
                shift = max((step >> 7) - 1, 0)
                last = min((peak - 1) >> shift, UNARY)
                high, before = 0, -1
                place = UNARY_FIRST + quantiser * CLASSES + group
                while high < last:
                    context = np.int64(contexts[np.uint64(place)])
                    if context == 0:
                        context = borrowed(contexts, place, group, before)
                    bit, code, width, read = get(code, width, read, words[min(read, end)], context)
                    contexts[np.uint64(place)] = learned(context, bit, limit)
                    if bit == 0:
                        break
                    high, before = high + 1, place
                    place = UNARY_REST + high * CLASSES + group
                if high >= UNARY:
                    length = 0
                    while length < 31:
                        place = ESCAPE + length
                        context = np.int64(contexts[np.uint64(place)])
                        if context == 0:
                            context = EVEN
                        bit, code, width, read = get(code, width, read, words[min(read, end)], context)
                        contexts[np.uint64(place)] = learned(context, bit, limit)
                        if bit == 0:
                            break
                        length += 1
                    excess, code, width, read = get_plain(code, width, read, words[min(read, end)], length)
                    high = UNARY - 1 + excess + (1 << length)
                magnitude = high
                if shift > 0:
                    place = LOW + min(high, UNARY - 1)
                    context = np.int64(contexts[np.uint64(place)])
                    if context == 0:
                        context = LOW_START
                    bit, code, width, read = get(code, width, read, words[min(read, end)], context)
                    contexts[np.uint64(place)] = learned(context, bit, limit)
                    magnitude = (high << 1) | bit
                    if shift > 1:
                        rest, code, width, read = get_plain(code, width, read, words[min(read, end)], shift - 1)
                        magnitude = (magnitude << (shift - 1)) | rest
                # a damaged file must not wrap around to a value that looks right
                magnitude = min(magnitude + 1, peak + 1)
                values[row * columns + column] = -magnitude if negative else magnitude

            state = next_state[np.uint64(state), magnitude & 1]
            activity = ACTIVITY[min(magnitude, MOST_ACTIVE)]
            row_activity = averaged(row_activity, activity, RATE[seen])
            seen = min(seen + 1, SLOWEST)
            column_activity[column] = activity >> 1 if row == 0 else averaged(above, activity, column_rate)
            near = (near + activity) >> 1
            total += activity
            sign_left = sign
            sign_above[column] = sign
        level = row_ended(column_activity, level, total, row)
    return read
