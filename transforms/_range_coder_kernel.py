"""An adaptive binary range coder: compiled, and exact on every machine because all of it is integer arithmetic.

The interval is ``[low, low + width)`` of 64-bit numbers; whenever ``width`` falls below ``2**32``, 32 bits leave it. A
context is one integer ``probability << 10 | count``: the probability of bit 1 in units of ``2**-22``, and how many bits it
has seen, up to a limit; the coder uses the upper 16 bits of the probability. A context that was never used is 0.

Sources: Martin (1979), "Range encoding"; the count-dependent rate is that of Howard and Vitter (1994) and of lpaq.
"""

# Every 64-bit quantity stays unsigned: numba turns a mixture with signed integers into floating-point numbers.

from __future__ import annotations

import numpy as np
from numba import njit

_WORD = np.uint64(32)
_PROBABILITY_BITS = np.uint64(16)
_LEAST_WIDTH = np.uint64(1 << 32)
_ONE = np.uint64(1)

#: Width of the interval at the beginning.
WHOLE = np.uint64(0xFFFFFFFFFFFFFFFF)

#: A context starts with an even chance.
EVEN = 32768 << 16

#: Largest count of a context.
LARGEST_COUNT = 1000

#: Share of the way to the bit that was seen, in units of ``2**-16``, by count: about ``1 / (count + 1.6)``.
RATE = np.array([655360 // (10 * count + 16) for count in range(LARGEST_COUNT + 1)], np.int64)


@njit(nogil=True, cache=True, inline="always")
def learned(context: int, bit: int, limit: int) -> int:
    """The context after it has seen a bit."""
    count = context & 1023
    probability = context >> 10
    # with fewer bits, rounding down would pull small probabilities to zero where contexts change slowly
    probability += (((bit << 22) - probability) * RATE[count]) >> 16
    probability = min(max(probability, 16 << 6), 65520 << 6)
    return (probability << 10) | min(count + 1, limit)


@njit(nogil=True, cache=True)
def _carry(words: np.ndarray, written: int) -> None:
    place = min(written, words.size) - 1
    while place >= 0:
        words[place] += np.uint32(1)
        if words[place] != 0:
            break
        place -= 1


@njit(nogil=True, cache=True, inline="always")
def _emit(words: np.ndarray, low: int, width: int, written: int) -> tuple[int, int, int]:
    if width < _LEAST_WIDTH:
        if written < words.size:
            words[written] = np.uint32(low >> _WORD)
        written += 1
        low <<= _WORD
        width <<= _WORD
    return low, width, written


@njit(nogil=True, cache=True, inline="always")
def put(words: np.ndarray, low: int, width: int, written: int, probability: int, bit: int) -> tuple[int, int, int]:
    """Code a bit; what does not fit into ``words`` is counted only."""
    bound = (width >> _PROBABILITY_BITS) * np.uint64(probability)
    if bit:
        width = bound
    else:
        low += bound
        if low < bound:
            _carry(words, written)
        width -= bound
    return _emit(words, low, width, written)


@njit(nogil=True, cache=True, inline="always")
def put_plain(words: np.ndarray, low: int, width: int, written: int, value: int, bits: int) -> tuple[int, int, int]:
    """Code up to 31 bits at one bit each."""
    width >>= np.uint64(bits)
    step = width * np.uint64(value)
    low += step
    if low < step:
        _carry(words, written)
    return _emit(words, low, width, written)


@njit(nogil=True, cache=True)
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
        words[written + 1] = np.uint32(value & np.uint64(0xFFFFFFFF))
    return written + 2


@njit(nogil=True, cache=True)
def begin(words: np.ndarray) -> int:
    """The number that a decoder starts with: the first two words; words that are not there are zero."""
    code = np.uint64(0)
    if words.size > 0:
        code = np.uint64(words[0]) << _WORD
    if words.size > 1:
        code |= np.uint64(words[1])
    return code


@njit(nogil=True, cache=True, inline="always")
def _fetch(words: np.ndarray, code: int, width: int, read: int) -> tuple[int, int, int]:
    if width < _LEAST_WIDTH:
        word = np.uint64(0)
        if read < words.size:
            word = np.uint64(words[read])
        read += 1
        code = (code << _WORD) | word
        width <<= _WORD
    return code, width, read


@njit(nogil=True, cache=True, inline="always")
def get(words: np.ndarray, code: int, width: int, read: int, probability: int) -> tuple[int, int, int, int]:
    """Decode a bit."""
    bound = (width >> _PROBABILITY_BITS) * np.uint64(probability)
    bit = 1 if code < bound else 0
    # both without a branch, which would be mispredicted half of the time
    code -= np.uint64(0) if bit else bound
    width = bound if bit else width - bound
    code, width, read = _fetch(words, code, width, read)
    return bit, code, width, read


@njit(nogil=True, cache=True, inline="always")
def get_plain(words: np.ndarray, code: int, width: int, read: int, bits: int) -> tuple[int, int, int, int]:
    """Decode up to 31 bits that were coded at one bit each."""
    width >>= np.uint64(bits)
    value = min(code // width, (_ONE << np.uint64(bits)) - _ONE)
    code -= value * width
    code, width, read = _fetch(words, code, width, read)
    return np.int64(value), code, width, read
