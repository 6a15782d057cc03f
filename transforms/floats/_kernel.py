"""Compiled loops of the packer ``floats``: taking elements apart, and adaptive streams.

All arithmetic of streams is on int64, and every value stays between 0 and 2**62.
"""

# mypy: disallow-untyped-decorators=False
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from stackc.util.compiled import compiled

if TYPE_CHECKING:
    import numpy as np

#: The frequencies of a context add up to 2 to this power.
_PRECISION = 14
_TOTAL = 1 << _PRECISION

#: Between symbols a state is at least this, and below 2**32.
_LEAST_STATE = 1 << 16

#: Streams of at least so many symbols take turns with four states, which keeps a processor busy.
_FOUR_STATES = 1 << 12

#: One symbol counts this much against a prior that counts 2**14.
_INCREMENT = 1 << 9
_MOST_COUNTED = 1 << 14
_LEAST_WAIT, _MOST_WAIT = 8, 1024

#: Binary digits after the point of logarithms.
_LOG2_BITS = 12

#: The decoder looks a symbol up by its slot without so many low bits, and goes on from there.
_BUCKET = 5


@compiled
def find_exponents(words: np.ndarray, shift: int, occurs: np.ndarray) -> bool:
    """Mark the exponents of all elements whose bits are not all 0, and say whether there are others.

    Parameters
    ----------
    words : ndarray
        Shape ``(n,)``, the elements' bits as unsigned integers.
    shift : int
        Bits below the exponent.
    occurs : ndarray
        bool, one for each exponent that there can be; the result.
    """
    zeros = False
    for element in words:
        word = numpy.uint64(element)
        if word:
            occurs[numpy.int64(word >> numpy.uint64(shift)) & (occurs.size - 1)] = True
        else:
            zeros = True
    return zeros


@compiled
def take_apart(
    words: np.ndarray,
    index: np.ndarray,
    top_bits: int,
    symbols: np.ndarray,
    sizes: np.ndarray,
    tops: np.ndarray,
    nibbles: np.ndarray,
    lows: np.ndarray,
) -> None:
    """Fill in the parts of elements; all but symbols and sizes leave out those whose bits are all 0.

    Parameters
    ----------
    words : ndarray
        Shape ``(n,)``, the elements' bits as unsigned integers: sign, exponent, top, a nibble or none, low bytes.
    index : ndarray
        Symbol of each exponent that there can be.
    top_bits : int
        Bits of the top.
    symbols, sizes : ndarray
        uint8 and uint16, shape ``(n,)``: numbers of exponents, and eight times the binary logarithms plus a constant; both
        are 0 if the bits are.
    tops, nibbles, lows : ndarray
        uint8, shapes ``(m,)``, ``(m,)`` or ``(0,)`` without nibbles, and ``(low bytes, m)``, for ``m`` elements with a bit
        that is not 0. A sign is above its top.
    """
    low_bits = 8 * lows.shape[0]
    top_shift = low_bits + 4 * (nibbles.size > 0)
    place = 0
    for i in range(words.size):
        word = numpy.uint64(words[i])
        if not word:
            symbols[i] = 0
            sizes[i] = 0
            continue
        upper = numpy.int64(word >> numpy.uint64(top_shift))  # sign, exponent and top: at most 16 bits
        power = (upper >> top_bits) & (index.size - 1)
        symbols[i] = index[power]
        # one octave is eight, and no element has size 0
        sizes[i] = (power + 1) << 3 | (upper << 3 >> top_bits) & 7
        tops[place] = upper // index.size & (1 << top_bits) | upper & ((1 << top_bits) - 1)
        if nibbles.size:
            nibbles[place] = (word >> numpy.uint64(low_bits)) & numpy.uint64(15)
        for byte in range(lows.shape[0]):
            lows[byte, place] = (word >> numpy.uint64(8 * byte)) & numpy.uint64(255)
        place += 1


@compiled
def _spread(weights: np.ndarray, ends: np.ndarray) -> None:
    """Cumulative frequencies ``ends`` from 0 to 2**14, in proportion to weights and at least one apart."""
    total = 0
    for symbol in range(weights.size):
        total += weights[symbol]
    room = _TOTAL - weights.size
    before = 0
    ends[0] = 0
    for symbol in range(weights.size):
        before += weights[symbol]
        ends[symbol + 1] = before * room // total + symbol + 1


@compiled
def _learn(
    recent: np.ndarray,
    counts: np.ndarray,
    everywhere: np.ndarray,
    weights: np.ndarray,
    prior: np.ndarray,
    ends: np.ndarray,
) -> int:
    """New cumulative frequencies of one context, and for how many of its symbols they hold."""
    total = 0
    for symbol in range(counts.size):
        everywhere[symbol] += 2 * recent[symbol]
        counts[symbol] += recent[symbol]
        recent[symbol] = 0
        total += counts[symbol]
    _spread(everywhere, prior)
    for symbol in range(counts.size):
        weights[symbol] = counts[symbol] * _INCREMENT + prior[symbol + 1] - prior[symbol]
    _spread(weights, ends)
    if total >= _MOST_COUNTED:
        for symbol in range(counts.size):
            counts[symbol] >>= 1
    return min(max(total // 8, _LEAST_WAIT), _MOST_WAIT)


@compiled
def encode(symbols: np.ndarray, contexts: np.ndarray, context_count: int, alphabet: int, out: np.ndarray) -> int:
    """Write an adaptive stream to the end of ``out``, last byte first.

    Parameters
    ----------
    symbols, contexts : ndarray
        Shape ``(n,)``, uint8, below ``alphabet`` and ``context_count``.
    context_count, alphabet : int
        1 to 256.
    out : ndarray
        uint8, at least ``2 * n + 16`` long.

    Returns
    -------
    int
        Where the stream begins in ``out``.
    """
    recent = numpy.zeros((context_count, alphabet), numpy.int64)
    counts = numpy.zeros((context_count, alphabet), numpy.int64)
    ends = numpy.zeros((context_count, alphabet + 1), numpy.int64)
    wait = numpy.zeros(context_count, numpy.int64)
    everywhere = numpy.ones(alphabet, numpy.int64)
    weights, prior = numpy.empty(alphabet, numpy.int64), numpy.empty(alphabet + 1, numpy.int64)
    # The coder is last in, first out: what the model says is noted in order and used in reverse.
    firsts = numpy.empty(symbols.size, numpy.uint16)
    frequencies = numpy.empty(symbols.size, numpy.uint16)
    for i in range(symbols.size):
        context, symbol = contexts[i], symbols[i]
        if wait[context] == 0:
            wait[context] = _learn(recent[context], counts[context], everywhere, weights, prior, ends[context])
        wait[context] -= 1
        firsts[i] = ends[context, symbol]
        frequencies[i] = ends[context, symbol + 1] - ends[context, symbol]
        recent[context, symbol] += 1
    states = numpy.full(4 if symbols.size >= _FOUR_STATES else 1, _LEAST_STATE, numpy.int64)
    mask = states.size - 1
    position = out.size
    for i in range(symbols.size - 1, -1, -1):
        state = states[i & mask]
        frequency = numpy.int64(frequencies[i])
        if state >= frequency << (32 - _PRECISION):
            position -= 2
            out[position] = state & 0xFF
            out[position + 1] = (state >> 8) & 0xFF
            state >>= 16
        quotient = state // frequency
        states[i & mask] = (quotient << _PRECISION) + state - quotient * frequency + numpy.int64(firsts[i])
    for lane in range(states.size - 1, -1, -1):
        position -= 4
        for byte in range(4):
            out[position + byte] = (states[lane] >> (8 * byte)) & 0xFF
    return position


@compiled
def decode(
    data: np.ndarray, position: int, contexts: np.ndarray, context_count: int, alphabet: int, symbols: np.ndarray
) -> int:
    """Inverse of `encode`: fill ``symbols`` from the bytes at ``position``.

    Parameters
    ----------
    data : ndarray
        uint8; any bytes.
    position : int
        0 to ``data.size``.
    contexts : ndarray
        Shape ``(n,)``, uint8. Must be below ``context_count``, which is not checked.
    context_count, alphabet : int
        1 to 256.
    symbols : ndarray
        Shape ``(n,)``, uint8; the result.

    Returns
    -------
    int
        Where the stream ends, or -1 if the bytes are not those of any symbols.
    """
    states = numpy.empty(4 if symbols.size >= _FOUR_STATES else 1, numpy.int64)
    mask = states.size - 1
    if data.size - position < 4 * states.size:
        return -1
    for lane in range(states.size):
        state = numpy.int64(0)
        for byte in range(4):
            state |= numpy.int64(data[position + byte]) << (8 * byte)
        if state < _LEAST_STATE:
            return -1
        states[lane] = state
        position += 4
    recent = numpy.zeros((context_count, alphabet), numpy.int64)
    counts = numpy.zeros((context_count, alphabet), numpy.int64)
    ends = numpy.zeros((context_count, alphabet + 1), numpy.int64)
    wait = numpy.zeros(context_count, numpy.int64)
    everywhere = numpy.ones(alphabet, numpy.int64)
    weights, prior = numpy.empty(alphabet, numpy.int64), numpy.empty(alphabet + 1, numpy.int64)
    buckets = numpy.zeros((context_count, _TOTAL >> _BUCKET), numpy.uint8)
    for i in range(symbols.size):
        context = contexts[i]
        if wait[context] == 0:
            wait[context] = _learn(recent[context], counts[context], everywhere, weights, prior, ends[context])
            symbol = numpy.int64(0)
            for bucket in range(_TOTAL >> _BUCKET):
                while ends[context, symbol + 1] <= bucket << _BUCKET:
                    symbol += 1
                buckets[context, bucket] = symbol
        wait[context] -= 1
        state = states[i & mask]
        slot = state & (_TOTAL - 1)
        symbol = numpy.int64(buckets[context, slot >> _BUCKET])
        while ends[context, symbol + 1] <= slot:
            symbol += 1
        first = ends[context, symbol]
        state = (ends[context, symbol + 1] - first) * (state >> _PRECISION) + slot - first
        if state < _LEAST_STATE:
            if data.size - position < 2:
                return -1
            state = state << 16 | numpy.int64(data[position]) | numpy.int64(data[position + 1]) << 8
            position += 2
        states[i & mask] = state
        symbols[i] = symbol
        recent[context, symbol] += 1
    for lane in range(states.size):
        if states[lane] != _LEAST_STATE:
            return -1
    return position


@compiled
def _log2(value: int) -> int:
    """Binary logarithm of a positive integer up to 2**30, in units of 2**-12, rounded down: see `_frequency_table`."""
    logarithm = 0
    while value >> (logarithm + 1):
        logarithm += 1
    mantissa = value << (30 - logarithm)
    for _ in range(_LOG2_BITS):
        mantissa = (mantissa * mantissa) >> 30
        carry = mantissa >> 31
        mantissa >>= carry
        logarithm = 2 * logarithm + carry
    return logarithm


@compiled
def _means(sums: np.ndarray, counts: np.ndarray, mean: int, units: int) -> np.ndarray:
    """Mean sizes less that of the plane; 0 where there is nothing to count."""
    means = numpy.zeros(sums.size, numpy.int64)
    for place in range(sums.size):
        if counts[place]:
            means[place] = units * sums[place] // counts[place] - mean
    return means


@compiled
def _step(means: np.ndarray, classes: int, finest: int, few: int) -> int:
    """The finest step with which nearly all classes are in range."""
    step = finest
    while True:
        outside = 0
        for mean in means:
            outside += abs(mean) > classes // 2 * step
        if outside * few <= means.size:
            return step
        step *= 2


@compiled
def _fill_classes(means: np.ndarray, step: int, classes: int, out: np.ndarray) -> None:
    for place in range(means.size):
        out[place] = min(max((means[place] + step // 2) // step + classes // 2, 0), classes - 1)


@compiled
def classify(
    sizes: np.ndarray, rows: np.ndarray, columns: np.ndarray, classes: int, units: int, finest: int, few: int
) -> None:
    """Fill in the classes of rows and columns by the mean size of their elements.

    Parameters
    ----------
    sizes : ndarray
        Shape ``(n,)``; 0 for elements that do not count.
    rows, columns : ndarray
        uint8, one for each row, the last of which may be short, and for each column.
    classes, units, finest, few : int
        How many classes there are, means per unit of a size, the least step between classes in such, and the share of
        classes that may be out of range as one in so many.
    """
    width = columns.size
    row_sums, row_counts = numpy.zeros(rows.size, numpy.int64), numpy.zeros(rows.size, numpy.int64)
    column_sums, column_counts = numpy.zeros(width, numpy.int64), numpy.zeros(width, numpy.int64)
    for row in range(rows.size):
        for column in range(min(width, sizes.size - row * width)):
            size = numpy.int64(sizes[row * width + column])
            if size:
                row_sums[row] += size
                row_counts[row] += 1
                column_sums[column] += size
                column_counts[column] += 1
    mean = units * row_sums.sum() // max(row_counts.sum(), 1)
    row_means = _means(row_sums, row_counts, mean, units)
    column_means = _means(column_sums, column_counts, mean, units)
    step = max(_step(row_means, classes, finest, few), _step(column_means, classes, finest, few))
    _fill_classes(row_means, step, classes, rows)
    _fill_classes(column_means, step, classes, columns)


@compiled
def model_cost(
    symbols: np.ndarray, rows: np.ndarray, columns: np.ndarray, every: int, context_count: int, alphabet: int
) -> tuple[int, int, int]:
    """Entropy of the symbols of some rows given their contexts, and what a model of them has to learn.

    Parameters
    ----------
    symbols : ndarray
        Shape ``(n,)``, uint8, below ``alphabet``.
    rows, columns : ndarray
        uint8, the classes of whole rows, one or more, and of columns; a context is the sum of the two.
    every : int
        Every so many rows are looked at, from the first.
    context_count, alphabet : int
        1 to 256.

    Returns
    -------
    entropy : int
        In units of 2**-12 bits.
    cells : int
        How many pairs of a context and a symbol occur.
    totals : int
        How many contexts occur.
    """
    counts = numpy.zeros((context_count, alphabet), numpy.int64)
    for row in range(0, rows.size, every):
        for column in range(columns.size):
            counts[rows[row] + columns[column], symbols[row * columns.size + column]] += 1
    entropy = cells = totals = 0
    for context in range(context_count):
        total = 0
        for symbol in range(alphabet):
            count = counts[context, symbol]
            if count:
                total += count
                cells += 1
                entropy -= count * _log2(count)
        if total:
            totals += 1
            entropy += total * _log2(total)
    return entropy, cells, totals
