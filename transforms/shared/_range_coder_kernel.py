"""An adaptive binary range coder: compiled, and exact on every machine because all of it is integer arithmetic.

The interval is ``[low, low + width)`` of 64-bit numbers; whenever ``width`` falls below ``2**32``, 32 bits leave it. A
context is one integer ``probability << 10 | count``: the probability of bit 1 in units of ``2**-22``, and how many bits it
has seen, up to a limit; the coder uses the upper 16 bits of the probability. A context that was never used is 0.

A model turns what it codes into *decisions*, one integer each (see `decision` and `plain`), in a buffer; `put_all` codes
them and `price_all` only counts what they would take. So neither waits for the other.

Sources: Martin (1979), "Range encoding"; the count-dependent rate is that of Howard and Vitter (1994) and of lpaq.
"""

# Every 64-bit quantity stays unsigned: numba turns a mixture with signed integers into floating-point numbers.
# No function that is inlined takes an array: numba would count references to it each time, which takes as long as coding.

from __future__ import annotations

import math

import numpy as np

from stackc.util.compiled import compiled

_WORD = np.uint64(32)
_PROBABILITY_BITS = np.uint64(16)
_LEAST_WIDTH = np.uint64(1 << 32)
_LOW_WORD = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)
_NOTHING = np.uint64(0)

#: Width of the interval at the beginning.
WHOLE = np.uint64(0xFFFFFFFFFFFFFFFF)

#: A context starts with an even chance.
EVEN = 32768 << 16

#: Largest count of a context.
LARGEST_COUNT = 1000

#: Share of the way to the bit that was seen, in units of ``2**-16``, by count: about ``1 / (count + 1.6)``.
RATE = np.array([655360 // (10 * count + 16) for count in range(LARGEST_COUNT + 1)], np.int64)

#: Bits of a decision in units of ``2**-12``, by the probability of what was decided in units of ``2**-16``.
_PRICE = np.array([16 << 12] + [round((16 - math.log2(share)) * 4096) for share in range(1, 65536)], np.int32)


@compiled(inline="always")
def learned(context: int, bit: int, limit: int) -> int:
    """The context after it has seen a bit."""
    count = context & 1023
    probability = context >> 10
    # with fewer bits, rounding down would pull small probabilities to zero where contexts change slowly
    probability += (((bit << 22) - probability) * RATE[count]) >> 16
    probability = min(max(probability, 16 << 6), 65520 << 6)
    return (probability << 10) | min(count + 1, limit)


@compiled(inline="always")
def decision(context: int, bit: int) -> int:
    """A bit in a context, for a buffer."""
    return np.uint64((context >> 16) << 1 | bit)


@compiled(inline="always")
def plain(value: int, bits: int) -> int:
    """From 1 to 31 bits at one bit each, for a buffer."""
    return np.uint64(bits << 32 | value)


@compiled
def _carry(words: np.ndarray, written: int) -> None:
    place = min(written, words.size) - 1
    while place >= 0:
        words[place] += np.uint32(1)
        if words[place] != 0:
            break
        place -= 1


@compiled
def put_all(
    decisions: np.ndarray, count: int, words: np.ndarray, low: int, width: int, written: int
) -> tuple[int, int, int]:
    """Code the first decisions of a buffer; what does not fit into ``words`` is counted only."""
    for index in range(count):
        entry = decisions[index]
        if entry < _LEAST_WIDTH:
            bound = (width >> _PROBABILITY_BITS) * (entry >> _ONE)
            # both without a branch, which would be mispredicted half of the time
            below = bound if entry & _ONE == 0 else _NOTHING
            width = bound if entry & _ONE else width - bound
        else:
            width >>= entry >> _WORD
            below = width * (entry & _LOW_WORD)
        low += below
        if low < below:
            _carry(words, written)
        if width < _LEAST_WIDTH:
            if written < words.size:
                words[written] = np.uint32(low >> _WORD)
            written += 1
            low <<= _WORD
            width <<= _WORD
    return low, width, written


@compiled
def price_all(decisions: np.ndarray, count: int) -> int:
    """Bits of the first decisions of a buffer, in units of ``2**-12``."""
    total = 0
    for index in range(count):
        entry = decisions[index]
        if entry < _LEAST_WIDTH:
            share = np.int64(entry >> _ONE)
            total += _PRICE[share if entry & _ONE else 65536 - share]
        else:
            total += np.int64(entry >> _WORD) << 12
    return total


@compiled
def finish(words: np.ndarray, low: int, width: int, written: int) -> int:
    """Write the number of the interval that ends in most zero bits, as two more words; returns how many there are."""
    if written + 2 <= words.size:
        high = low + (width - _ONE)
        value = low
        if high < low:  # 2**64 lies inside: a carry, then zeros
            _carry(words, written)
            value = np.uint64(0)
        else:
            zeros = np.uint64(63)
            while zeros > 0:
                mask = (_ONE << zeros) - _ONE
                rounded = (low + mask) & ~mask
                if low <= rounded <= high:
                    value = rounded
                    break
                zeros -= _ONE
        words[written] = np.uint32(value >> _WORD)
        words[written + 1] = np.uint32(value & _LOW_WORD)
    return written + 2


@compiled
def begin(words: np.ndarray) -> int:
    """The number that a decoder starts with: the first two words; words that are not there are zero."""
    code = np.uint64(0)
    if words.size > 0:
        code = np.uint64(words[0]) << _WORD
    if words.size > 1:
        code |= np.uint64(words[1])
    return code


@compiled(inline="always")
def get(code: int, width: int, read: int, word: int, context: int) -> tuple[int, int, int, int]:
    """Decode a bit; ``word`` is the one to be read next, ``words[read]``."""
    bound = (width >> _PROBABILITY_BITS) * np.uint64(context >> 16)
    if code < bound:
        bit, width = 1, bound
    else:
        bit, code, width = 0, code - bound, width - bound
    if width < _LEAST_WIDTH:
        code, width, read = code << _WORD | np.uint64(word), width << _WORD, read + 1
    return bit, code, width, read


@compiled(inline="always")
def get_plain(code: int, width: int, read: int, word: int, bits: int) -> tuple[int, int, int, int]:
    """Decode up to 31 bits that were coded at one bit each; ``word`` is the one to be read next."""
    width >>= np.uint64(bits)
    value = min(code // width, (_ONE << np.uint64(bits)) - _ONE)
    code -= value * width
    if width < _LEAST_WIDTH:
        code, width, read = code << _WORD | np.uint64(word), width << _WORD, read + 1
    return np.int64(value), code, width, read
