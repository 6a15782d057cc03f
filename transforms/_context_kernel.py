"""The adaptive model of `context`, compiled: coding, decoding, and the price of a value for rate-aware quantisation."""

from __future__ import annotations

import numpy as np
from numba import njit

from ._range_coder_kernel import (
    EVEN,
    RATE,
    WHOLE,
    begin,
    finish,
    get,
    get_plain,
    learned,
    put,
    put_plain,
)

#: Classes of activity, at the finest resolution.
CLASSES = 144

#: Unary bits of a magnitude before its escape code.
UNARY = 16

# Where the contexts of each kind begin. Zero flags and first unary bits have one set per quantiser of a trellis.
_ZERO = 0
_UNARY_FIRST = _ZERO + 2 * CLASSES
_UNARY = _UNARY_FIRST + 2 * CLASSES - CLASSES  # that of unary bit 1 begins one set further on
_LOW = _UNARY + UNARY * CLASSES
_SIGN = _LOW + UNARY
_ESCAPE = _SIGN + 9
_MASK = _ESCAPE + 32
CONTEXTS = _MASK + 4

#: Counts that contexts begin with: borrowed from another class or from the unary bit before, and those of low and sign bits.
_FROM_CLASS, _FROM_BIT = 6, 3
_LOW_START = (30800 << 16) | 24
_SIGN_START = (32768 << 16) | 16

#: Rows after which a row or a column average changes no faster.
_SLOWEST = 255

#: How fast contexts of the masks of empty rows and columns change.
_MASK_LIMIT = 60


def _activities() -> np.ndarray:
    """``ACTIVITY[m]``: about ``4096 * log2(2 * m + 1)``, linear between powers of two."""
    table = np.zeros(1024, np.int64)
    for magnitude in range(1024):
        odd = 2 * magnitude + 1
        exponent = odd.bit_length() - 1
        table[magnitude] = (16 * exponent + ((odd << 4) >> exponent) - 16) << 8
    return table


def _classes(resolution: int) -> np.ndarray:
    """``CLASS[activity >> 5]``: steps of ``4096 >> resolution``, below 4096 finer ones in proportion to the activity."""
    table = np.zeros(1408, np.int64)
    for step in range(1408):
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


@njit(nogil=True, cache=True)
def _borrowed(contexts: np.ndarray, place: int, group: int, unary_before: int) -> int:
    """First state of a context: that of the nearest class that was used, else that of the unary bit before."""
    for distance in range(1, CLASSES):
        if group - distance >= 0 and contexts[place - distance] != 0:
            return (contexts[place - distance] & ~1023) | _FROM_CLASS
        if group + distance < CLASSES and contexts[place + distance] != 0:
            return (contexts[place + distance] & ~1023) | _FROM_CLASS
    if unary_before >= 0 and contexts[unary_before] != 0:
        return (contexts[unary_before] & ~1023) | _FROM_BIT
    return EVEN


@njit(nogil=True, cache=True, inline="always")
def unary_place(index: int, group: int, quantiser: int) -> int:
    """Where the context of a unary bit is."""
    return _UNARY_FIRST + quantiser * CLASSES + group if index == 0 else _UNARY + index * CLASSES + group


@njit(nogil=True, cache=True, inline="always")
def _expected(level: int, row: int, column: int, near: int, of_row: int, of_column: int, of_near: int) -> int:
    """Expected activity in steps of 32, from the averages of everything, of the row, of the column and nearby."""
    expected = level + ((of_row * (row - level) + of_column * (column - level) + of_near * (near - level)) >> 3)
    return min(max(expected >> 5, 0), 1407)


@njit(nogil=True, cache=True)
def _put_mask(
    mask: np.ndarray, contexts: np.ndarray, first: int, words: np.ndarray, low: int, width: int, written: int
) -> tuple[int, int, int]:
    before = 1
    for index in range(mask.size):
        bit = np.int64(mask[index])
        context = contexts[first + before]
        if context == 0:
            context = EVEN
        low, width, written = put(words, low, width, written, context >> 16, bit)
        contexts[first + before] = learned(context, bit, _MASK_LIMIT)
        before = bit
    return low, width, written


@njit(nogil=True, cache=True)
def encode(
    values: np.ndarray,
    rows_used: np.ndarray,
    columns_used: np.ndarray,
    words: np.ndarray,
    peak: int,
    signs: int,
    weights: np.ndarray,
    resolution: int,
    limit: int,
    carry: int,
    next_state: np.ndarray,
    quantiser_of: np.ndarray,
) -> tuple[int, int]:
    """Code a matrix of integers.

    Parameters
    ----------
    values : ndarray
        int32, shape ``(rows, columns)``, at least one of each, magnitudes up to ``peak``.
    rows_used, columns_used : ndarray
        uint8 masks to store first; empty if all rows or columns are used.
    words : ndarray
        uint32, for the result; with too few only the length is right.
    peak, signs, weights, resolution, limit, carry
        See `Context`.
    next_state, quantiser_of : ndarray
        Of the trellis: int64, shapes ``(states, 2)`` and ``(states,)``; a single state for none.

    Returns
    -------
    int, int
        Number of words, and of bits.
    """
    rows, columns = values.shape
    classes = CLASS[resolution]
    of_row, of_column, of_near = weights[0], weights[1], weights[2]
    low, width, written = np.uint64(0), WHOLE, 0
    contexts = np.zeros(CONTEXTS, np.int64)
    low, width, written = _put_mask(rows_used, contexts, _MASK, words, low, width, written)
    low, width, written = _put_mask(columns_used, contexts, _MASK + 2, words, low, width, written)
    column_activity = np.zeros(columns, np.int32)
    sign_above = np.zeros(columns, np.int32)
    level, row_activity, seen, state = 0, 0, 0, 0
    for row in range(rows):
        if row == 0 or carry == 0:
            row_activity, seen = level, 0
        near, sign_left, total = 0, 0, 0
        column_rate = RATE[min(row + 1, _SLOWEST)]
        for column in range(columns):
            step = _expected(level, row_activity, column_activity[column], near, of_row, of_column, of_near)
            group = classes[step]
            quantiser = quantiser_of[state]
            value = np.int64(values[row, column])
            magnitude = abs(value)

            place = _ZERO + quantiser * CLASSES + group
            context = contexts[place]
            if context == 0:
                context = _borrowed(contexts, place, group, -1)
            bit = 1 if magnitude != 0 else 0
            low, width, written = put(words, low, width, written, context >> 16, bit)
            contexts[place] = learned(context, bit, limit)
            sign = 0
            if bit:
                negative = 1 if value < 0 else 0
                sign = 1 + negative
                if signs == 0:
                    place = _SIGN + 3 * sign_left + sign_above[column]
                    context = contexts[place]
                    if context == 0:
                        context = _SIGN_START
                    low, width, written = put(words, low, width, written, context >> 16, negative)
                    contexts[place] = learned(context, negative, limit)
                shift = max((step >> 7) - 1, 0)
                high = (magnitude - 1) >> shift
                last = min((peak - 1) >> shift, UNARY)
                index = 0
                while index < last:
                    place = unary_place(index, group, quantiser)
                    context = contexts[place]
                    if context == 0:
                        before = unary_place(index - 1, group, quantiser) if index else -1
                        context = _borrowed(contexts, place, group, before)
                    bit = 1 if high > index else 0
                    low, width, written = put(words, low, width, written, context >> 16, bit)
                    contexts[place] = learned(context, bit, limit)
                    if bit == 0:
                        break
                    index += 1
                if high >= UNARY:
                    excess = high - UNARY + 1
                    length = 0
                    while (excess >> (length + 1)) > 0:
                        length += 1
                    for index in range(length + 1):
                        place = _ESCAPE + index
                        context = contexts[place]
                        if context == 0:
                            context = EVEN
                        bit = 1 if index < length else 0
                        low, width, written = put(words, low, width, written, context >> 16, bit)
                        contexts[place] = learned(context, bit, limit)
                    low, width, written = put_plain(words, low, width, written, excess - (1 << length), length)
                if shift > 0:
                    rest = (magnitude - 1) & ((1 << shift) - 1)
                    place = _LOW + min(high, UNARY - 1)
                    context = contexts[place]
                    if context == 0:
                        context = _LOW_START
                    bit = rest >> (shift - 1)
                    low, width, written = put(words, low, width, written, context >> 16, bit)
                    contexts[place] = learned(context, bit, limit)
                    if shift > 1:
                        rest &= (1 << (shift - 1)) - 1
                        low, width, written = put_plain(words, low, width, written, rest, shift - 1)

            state = next_state[state, value & 1]
            activity = ACTIVITY[min(magnitude, 1023)]
            row_activity += ((activity - row_activity) * RATE[seen]) >> 16
            seen = min(seen + 1, _SLOWEST)
            if row == 0:
                column_activity[column] = activity >> 1
            else:
                column_activity[column] += ((activity - column_activity[column]) * column_rate) >> 16
            total += activity
            near = (near + activity) >> 1
            sign_left = sign
            sign_above[column] = sign
        mean = total // columns
        if row == 0:
            level = mean
            for column in range(columns):
                column_activity[column] += mean >> 1
        else:
            level += ((mean - level) * column_rate) >> 16
    bits = 32 * written
    left = width
    while left > 0:
        left >>= np.uint64(1)
        bits -= 1
    return finish(words, low, width, written), bits + 64


@njit(nogil=True, cache=True)
def _get_mask(
    mask: np.ndarray, contexts: np.ndarray, first: int, words: np.ndarray, code: int, width: int, read: int
) -> tuple[int, int, int]:
    before = 1
    for index in range(mask.size):
        context = contexts[first + before]
        if context == 0:
            context = EVEN
        bit, code, width, read = get(words, code, width, read, context >> 16)
        contexts[first + before] = learned(context, bit, _MASK_LIMIT)
        mask[index] = bit
        before = bit
    return code, width, read


@njit(nogil=True, cache=True)
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

    ``row_mask`` and ``column_mask`` are filled in; where they are empty all ``rows`` or ``columns`` are used. Any words
    decode to something, in bounded time, with magnitudes up to ``peak + 1``.

    Returns
    -------
    int
        Number of words that `encode` had written.
    """
    classes = CLASS[resolution]
    of_row, of_column, of_near = weights[0], weights[1], weights[2]
    code, width, read = begin(words), WHOLE, 2
    contexts = np.zeros(CONTEXTS, np.int64)
    code, width, read = _get_mask(row_mask, contexts, _MASK, words, code, width, read)
    code, width, read = _get_mask(column_mask, contexts, _MASK + 2, words, code, width, read)
    if row_mask.size:
        rows = np.int64(row_mask.sum())
    if column_mask.size:
        columns = np.int64(column_mask.sum())
    column_activity = np.zeros(columns, np.int32)
    sign_above = np.zeros(columns, np.int32)
    level, row_activity, seen, state = 0, 0, 0, 0
    for row in range(rows):
        if columns == 0:
            break
        if row == 0 or carry == 0:
            row_activity, seen = level, 0
        near, sign_left, total = 0, 0, 0
        column_rate = RATE[min(row + 1, _SLOWEST)]
        for column in range(columns):
            step = _expected(level, row_activity, column_activity[column], near, of_row, of_column, of_near)
            group = classes[step]
            quantiser = quantiser_of[state]

            place = _ZERO + quantiser * CLASSES + group
            context = contexts[place]
            if context == 0:
                context = _borrowed(contexts, place, group, -1)
            bit, code, width, read = get(words, code, width, read, context >> 16)
            contexts[place] = learned(context, bit, limit)
            sign, magnitude = 0, 0
            if bit:
                if signs == 0:
                    place = _SIGN + 3 * sign_left + sign_above[column]
                    context = contexts[place]
                    if context == 0:
                        context = _SIGN_START
                    negative, code, width, read = get(words, code, width, read, context >> 16)
                    contexts[place] = learned(context, negative, limit)
                else:
                    negative = signs - 1
                sign = 1 + negative
                shift = max((step >> 7) - 1, 0)
                last = min((peak - 1) >> shift, UNARY)
                high = 0
                while high < last:
                    place = unary_place(high, group, quantiser)
                    context = contexts[place]
                    if context == 0:
                        before = unary_place(high - 1, group, quantiser) if high else -1
                        context = _borrowed(contexts, place, group, before)
                    bit, code, width, read = get(words, code, width, read, context >> 16)
                    contexts[place] = learned(context, bit, limit)
                    if bit == 0:
                        break
                    high += 1
                if high >= UNARY:
                    length = 0
                    while length < 31:
                        place = _ESCAPE + length
                        context = contexts[place]
                        if context == 0:
                            context = EVEN
                        bit, code, width, read = get(words, code, width, read, context >> 16)
                        contexts[place] = learned(context, bit, limit)
                        if bit == 0:
                            break
                        length += 1
                    excess, code, width, read = get_plain(words, code, width, read, length)
                    high = UNARY - 1 + excess + (1 << length)
                magnitude = high
                if shift > 0:
                    place = _LOW + min(high, UNARY - 1)
                    context = contexts[place]
                    if context == 0:
                        context = _LOW_START
                    bit, code, width, read = get(words, code, width, read, context >> 16)
                    contexts[place] = learned(context, bit, limit)
                    magnitude = (high << 1) | bit
                    if shift > 1:
                        rest, code, width, read = get_plain(words, code, width, read, shift - 1)
                        magnitude = (magnitude << (shift - 1)) | rest
                magnitude += 1
                # a damaged file must not wrap around to a value that looks right
                magnitude = min(magnitude, peak + 1)
                values[row * columns + column] = -magnitude if negative else magnitude

            state = next_state[state, magnitude & 1]
            activity = ACTIVITY[min(magnitude, 1023)]
            row_activity += ((activity - row_activity) * RATE[seen]) >> 16
            seen = min(seen + 1, _SLOWEST)
            if row == 0:
                column_activity[column] = activity >> 1
            else:
                column_activity[column] += ((activity - column_activity[column]) * column_rate) >> 16
            total += activity
            near = (near + activity) >> 1
            sign_left = sign
            sign_above[column] = sign
        mean = total // columns
        if row == 0:
            level = mean
            for column in range(columns):
                column_activity[column] += mean >> 1
        else:
            level += ((mean - level) * column_rate) >> 16
    return read
