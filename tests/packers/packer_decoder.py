"""A second decoder of the packers' formats, from their description alone and without stackc, numpy or torch.

Each function gives the elements of a plane: integers, or bytes of a real or unbounded plane. It trusts its input; slow.
"""

from __future__ import annotations

import zstandard


def raw_integers(data: bytes, count: int, lo: int, hi: int) -> list[int]:
    width = (hi - lo).bit_length()
    stream = int.from_bytes(data, "little")  # bit k of the stream is bit k % 8 of byte k // 8
    return [lo + (stream >> i * width & (1 << width) - 1) for i in range(count)]


def zstd_content(data: bytes, packed_bytes: int, element_bytes: int, count: int) -> tuple[bool, bytes]:
    """Whether the content is in the ``raw`` form, and the content, unshuffled."""
    if not packed_bytes:
        return True, b""
    layout, body = data[0], data[1:]
    if layout == 0:
        return True, body
    size = packed_bytes if layout == 1 else count * element_bytes
    content = zstandard.ZstdDecompressor().decompress(b"\x28\xb5\x2f\xfd\x00" + body, max_output_size=size)
    if layout == 3:
        content = bytes(content[byte * count + element] for element in range(count) for byte in range(element_bytes))
    return layout == 1, content


def zstd_integers(data: bytes, count: int, lo: int, hi: int) -> list[int]:
    width = (hi - lo).bit_length()
    element_bytes = next(size for size in (1, 2, 4, 8) if 8 * size >= width)
    is_raw, content = zstd_content(data, -(-count * width // 8), element_bytes, count)
    if is_raw:
        return raw_integers(content, count, lo, hi)
    return (
        raw_integers(content, count, 0, (1 << 8 * element_bytes) - 1)
        if not lo
        else [lo + value for value in raw_integers(content, count, 0, (1 << 8 * element_bytes) - 1)]
    )


class Bits:
    """Bits of a byte string, bit k being bit k % 8 of byte k // 8."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.position = data, 8 * start

    def take(self, width: int) -> int:
        value = 0
        for bit in range(width):
            value |= (self.data[self.position // 8] >> self.position % 8 & 1) << bit
            self.position += 1
        return value

    def unary(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return zeros


def frequency_table(data: bytes, alphabet: int) -> tuple[list[int], list[int], int]:
    mantissa_bits, differences, has_gaps = data[0] & 7, data[0] >> 3 & 1, data[0] >> 4 & 1
    level_rice, gap_rice = data[1] & 15, data[1] >> 4
    count = int.from_bytes(data[2:4], "little") + 1 if has_gaps else alphabet
    bits = Bits(data, 4 if has_gaps else 2)
    gap_quotients = [bits.unary() for _ in range(count)] if has_gaps else []
    quotients = [bits.unary() for _ in range(count)]
    gaps = [quotient << gap_rice | bits.take(gap_rice) for quotient in gap_quotients]
    numbers = [quotient << level_rice | bits.take(level_rice) for quotient in quotients]
    if differences:
        before = 0
        for i, number in enumerate(numbers):
            before += -(number + 1) // 2 if number % 2 else number // 2
            numbers[i] = before
    if has_gaps:
        symbols, symbol = [], -1
        for gap in gaps:
            symbol += gap + 1
            symbols.append(symbol)
        levels = [number + 1 for number in numbers]
    else:
        symbols = [symbol for symbol, level in enumerate(numbers) if level]
        levels = [level for level in numbers if level]
    weights = [((1 << mantissa_bits) + (q - 1) % (1 << mantissa_bits)) << ((q - 1) >> mantissa_bits) for q in levels]
    total, n = sum(weights), len(weights)
    frequencies, before = [], 0
    for weight in weights:
        after = before + weight
        frequencies.append(after * (2**20 - n) // total - before * (2**20 - n) // total + 1)
        before = after
    return symbols, frequencies, -(-bits.position // 8)


def ans_integers(data: bytes, count: int, lo: int, hi: int) -> list[int]:
    if not count or lo == hi:
        return [lo] * count
    if data[0] == 0x20:
        return raw_integers(data[1:], count, lo, hi)
    if data[0] == 0x40:
        return [lo + int.from_bytes(data[1:], "little")] * count
    symbols, frequencies, length = frequency_table(data, hi - lo + 1)
    n = len(symbols)
    before, bounds = 0, []
    for j, frequency in enumerate(frequencies):
        bounds.append(before * (2**24 - n) // 2**20 + j)
        before += frequency
    bounds.append(2**24)
    stack = data[length:] + bytes(-len(data[length:]) % 4)
    words = [int.from_bytes(stack[i : i + 4], "little") for i in range(0, len(stack), 4)]
    state = 0
    while state < 2**32 and words:
        state = state << 32 | words.pop()
    elements = []
    for _ in range(count):
        q = state % 2**24
        j = next(j for j in range(n) if bounds[j] <= q < bounds[j + 1])
        elements.append(lo + symbols[j])
        state = (state >> 24) * (bounds[j + 1] - bounds[j]) + q - bounds[j]
        if state < 2**32 and words:
            state = state << 32 | words.pop()
    if state or words:
        raise ValueError("the stack does not end with the symbols")
    return elements
