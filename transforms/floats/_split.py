"""The split form of real planes: exponents, signs with the top of mantissas, and the rest, each stored its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy

from ..shared.kernels import kernel
from ..zstd import _compress, _decompress
from ._classes import CLASSES, CONTEXTS, Classes, choose_classes, contexts_of
from ._stream import read_stream, write_stream

if TYPE_CHECKING:
    import numpy as np

_ROWS, _COLUMNS, _ZEROS, _NIBBLES_CODED = 1, 2, 4, 8

#: Alphabets and contexts are numbered in one byte.
_MOST_EXPONENTS = 256

#: Elements that are taken apart at a time, so that they stay in the processor's cache.
_CHUNK = 1 << 15

#: Byte planes that the first level shrinks by an eighth are worth the second.
_TRIAL_LEVEL, _ZSTD_LEVEL = 1, 9

#: Nibbles are as good as uniform if none of a sample is so many times as frequent as it should be.
_EVEN = 1.25
_SAMPLE = 1 << 14

_LONGEST_VARINT = 9


class Layout(NamedTuple):
    """Where the parts of an element lie: a sign bit, ``exponent_bits``, ``top_bits``, a nibble or none, whole bytes."""

    item_bytes: int
    exponent_bits: int
    top_bits: int
    has_nibble: bool
    low_bytes: int

    @property
    def top_shift(self) -> int:
        return 8 * self.low_bytes + 4 * self.has_nibble

    @property
    def exponent_shift(self) -> int:
        return self.top_shift + self.top_bits

    @property
    def sign_shift(self) -> int:
        return 8 * self.item_bytes - 1

    @property
    def word(self) -> np.dtype[np.unsignedinteger]:
        return numpy.dtype(f"<u{self.item_bytes}")

    @property
    def top_alphabet(self) -> int:
        return 2 << self.top_bits


#: By dtype of the plane. Three bits of the mantissa hold nearly all that its distribution has to give.
LAYOUTS = {
    "float32": Layout(4, 8, 3, True, 2),
    "bfloat16": Layout(2, 8, 3, True, 0),
    "float16": Layout(2, 5, 2, False, 1),
    "float64": Layout(8, 11, 4, False, 6),
}


class _Parts(NamedTuple):
    """Elements taken apart; all but ``symbols`` leave out elements whose bits are all 0."""

    symbols: np.ndarray
    indices: np.ndarray
    tops: np.ndarray
    nibbles: np.ndarray
    lows: np.ndarray


def write_split(words: np.ndarray, layout: Layout, width: int) -> bytes | None:
    """The split form of a plane.

    Parameters
    ----------
    words : ndarray
        Shape ``(n,)``, the elements' bits as unsigned integers; ``n`` is at least 1.
    layout : Layout
        That of the dtype.
    width : int
        Elements per row, 1 to ``n``.

    Returns
    -------
    bytes or None
        None for planes that have no split form: all zeros, or of too many exponents.

    Examples
    --------
    >>> import numpy
    >>> words = numpy.linspace(-1, 1, 3000, dtype=numpy.float32).view("<u4")
    >>> data = write_split(words, LAYOUTS["float32"], 100)
    >>> len(data) < 0.85 * words.nbytes, bool((read_split(data, 3000, LAYOUTS["float32"]) == words).all())
    (True, True)
    """
    exponents, zeros = _exponents(words, layout)
    if not 1 <= exponents.size <= _MOST_EXPONENTS - zeros:
        return None
    parts, sizes = _take_apart(words, layout, exponents, zeros)
    alphabet = exponents.size + zeros
    classes = choose_classes(parts.symbols, alphabet, sizes, width)
    flags = _ZEROS * zeros
    sections = []
    for flag, side in ((_ROWS, classes.rows), (_COLUMNS, classes.columns)):
        if side is not None:
            flags |= flag
            sections.append(write_stream(side, CLASSES))
    contexts = contexts_of(classes, words.size)
    sections.append(write_stream(parts.symbols, alphabet, contexts, CONTEXTS))
    del contexts
    sections.append(write_stream(parts.tops, layout.top_alphabet, parts.indices, exponents.size))
    if layout.has_nibble:
        coded, nibbles = _write_nibbles(parts.nibbles)
        flags |= _NIBBLES_CODED * coded
        sections.append(nibbles)
    for low in parts.lows:
        sections += _write_low(low.tobytes())
    header = bytes([flags]) + (_varint(width) if flags & (_ROWS | _COLUMNS) else b"")
    return b"".join([header, _write_exponents(exponents), *sections])


def read_split(data: bytes, count: int, layout: Layout) -> np.ndarray:
    """Inverse of `write_split` for ``count`` elements, at least 1.

    Raises
    ------
    ArtifactError
        If the bytes are not a split form of so many elements. Never allocates more than a small multiple of the plane.
    """
    source = numpy.frombuffer(data, numpy.uint8)
    if not data or data[0] > _ROWS | _COLUMNS | _ZEROS | _NIBBLES_CODED:
        raise ArtifactError("the flags of split floats are missing or unknown; the file is damaged")
    flags, position = data[0], 1
    if flags & _NIBBLES_CODED and not layout.has_nibble:
        raise ArtifactError("split floats without nibbles say how nibbles are stored; the file is damaged")
    zeros = bool(flags & _ZEROS)
    width = count
    if flags & (_ROWS | _COLUMNS):
        width, position = _read_varint(data, position)
        if not 1 <= width <= count:
            raise ArtifactError(f"split floats have rows of {width} of {count} elements; the file is damaged")
    exponents, position = _read_exponents(data, position, layout)
    if exponents.size + zeros > _MOST_EXPONENTS:
        raise ArtifactError(f"split floats have {exponents.size} exponents; the file is damaged")

    rows = columns = None
    if flags & _ROWS:
        rows, position = read_stream(source, position, -(-count // width), CLASSES)
    if flags & _COLUMNS:
        columns, position = read_stream(source, position, width, CLASSES)
    contexts = contexts_of(Classes(width, rows, columns), count)
    symbols, position = read_stream(source, position, count, exponents.size + zeros, contexts, CONTEXTS)
    del contexts
    indices = _without_zeros(symbols, zeros)
    if not indices.size:
        raise ArtifactError("split floats are all zero; the file is damaged")
    tops, position = read_stream(source, position, indices.size, layout.top_alphabet, indices, exponents.size)
    nibbles = numpy.zeros(0, numpy.uint8)
    if flags & _NIBBLES_CODED:
        nibbles, position = read_stream(source, position, indices.size, 16)
    elif layout.has_nibble:
        packed = source[position : position + (indices.size + 1) // 2]
        nibbles, position = _unpack_nibbles(packed, indices.size), position + packed.size
    lows = numpy.empty((layout.low_bytes, indices.size), numpy.uint8)
    for low in lows:
        low[:], position = _read_low(data, position, indices.size)
    if position != len(data):
        raise ArtifactError(f"{len(data) - position} bytes follow split floats; the file is damaged")
    return _put_together(layout, exponents, _Parts(symbols, indices, tops, nibbles, lows), zeros)


def _exponents(words: np.ndarray, layout: Layout) -> tuple[np.ndarray, int]:
    """The exponents of all elements that are not +0, in ascending order, and 1 if there are such elements, else 0."""
    occurs = numpy.zeros(1 << layout.exponent_bits, numpy.bool_)
    zeros = kernel("floats._kernel").find_exponents(words, layout.exponent_shift, occurs)
    return numpy.flatnonzero(occurs), int(zeros)


def _take_apart(words: np.ndarray, layout: Layout, exponents: np.ndarray, zeros: int) -> tuple[_Parts, np.ndarray]:
    """The parts, and of every element eight times the binary logarithm plus a constant; 0 if its bits are all 0."""
    index = numpy.zeros(1 << layout.exponent_bits, numpy.uint8)
    index[exponents] = numpy.arange(zeros, exponents.size + zeros)
    count = numpy.count_nonzero(words) if zeros else words.size
    symbols, sizes = numpy.empty(words.size, numpy.uint8), numpy.empty(words.size, numpy.uint16)
    tops = numpy.empty(count, numpy.uint8)
    nibbles = numpy.empty(count if layout.has_nibble else 0, numpy.uint8)
    lows = numpy.empty((layout.low_bytes, count), numpy.uint8)
    kernel("floats._kernel").take_apart(words, index, layout.top_bits, symbols, sizes, tops, nibbles, lows)
    return _Parts(symbols, _without_zeros(symbols, zeros), tops, nibbles, lows), sizes


def _put_together(layout: Layout, exponents: np.ndarray, parts: _Parts, zeros: bool) -> np.ndarray:
    powers = exponents.astype(layout.word) << layout.exponent_shift
    words = numpy.zeros(parts.symbols.size, layout.word)
    end = 0
    for start in range(0, words.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        kept = parts.symbols[part] != 0 if zeros else None
        begin, end = end, end + int(words[part].size if kept is None else numpy.count_nonzero(kept))
        chunk = powers[parts.indices[begin:end]]
        top = parts.tops[begin:end].astype(layout.word)
        chunk |= top >> layout.top_bits << layout.sign_shift
        chunk |= (top & ((1 << layout.top_bits) - 1)) << layout.top_shift
        if layout.has_nibble:
            chunk |= parts.nibbles[begin:end].astype(layout.word) << 8 * layout.low_bytes
        for byte, low in enumerate(parts.lows):
            chunk |= low[begin:end].astype(layout.word) << 8 * byte
        if kept is None:
            words[part] = chunk
        else:
            words[part][kept] = chunk
    return words


def _without_zeros(symbols: np.ndarray, zeros: int) -> np.ndarray:
    """Numbers of the exponents, from 0, of the elements that have one."""
    return symbols[symbols != 0] - numpy.uint8(1) if zeros else symbols


def _write_nibbles(nibbles: np.ndarray) -> tuple[bool, bytes]:
    """Whether coding nibbles makes them smaller, and the smaller form."""
    plain = _pack_nibbles(nibbles)
    sample = nibbles[:: -(-nibbles.size // _SAMPLE)]
    if numpy.bincount(sample).max() * 16 < sample.size * _EVEN:
        return False, plain
    coded = write_stream(nibbles, 16)
    return (True, coded) if len(coded) < len(plain) else (False, plain)


def _write_low(plain: bytes) -> list[bytes]:
    frame = _compress(plain, _TRIAL_LEVEL)
    if 8 * len(frame) < 7 * len(plain):
        frame = min(frame, _compress(plain, _ZSTD_LEVEL), key=len)
    return [_varint(len(frame)), frame] if len(frame) < len(plain) else [_varint(0), plain]


def _pack_nibbles(nibbles: np.ndarray) -> bytes:
    even = numpy.append(nibbles, numpy.uint8(0)) if nibbles.size % 2 else nibbles
    packed: bytes = (even[::2] | even[1::2] << 4).tobytes()
    return packed


def _unpack_nibbles(packed: np.ndarray, count: int) -> np.ndarray:
    if packed.size != (count + 1) // 2 or (count % 2 and packed[-1] >> 4):
        raise ArtifactError(f"{count} nibbles of split floats are cut off or badly padded; the file is damaged")
    nibbles = numpy.empty((packed.size, 2), numpy.uint8)
    numpy.bitwise_and(packed, 15, out=nibbles[:, 0])
    numpy.right_shift(packed, 4, out=nibbles[:, 1])
    return nibbles.reshape(-1)[:count]


def _read_low(data: bytes, position: int, count: int) -> tuple[np.ndarray, int]:
    length, position = _read_varint(data, position)
    plain = data[position : position + (length or count)]
    if length >= count or len(plain) != (length or count):
        raise ArtifactError(f"a byte plane of {count} split floats is cut off or too long; the file is damaged")
    content = _decompress(plain, count) if length else plain
    return numpy.frombuffer(content, numpy.uint8), position + len(plain)


def _write_exponents(exponents: np.ndarray) -> bytes:
    first, last = int(exponents[0]), int(exponents[-1])
    occurs = numpy.zeros(last - first + 1, numpy.uint8)
    occurs[exponents - first] = 1
    return _varint(first) + _varint(last - first) + numpy.packbits(occurs, bitorder="little").tobytes()


def _read_exponents(data: bytes, position: int, layout: Layout) -> tuple[np.ndarray, int]:
    first, position = _read_varint(data, position)
    span, position = _read_varint(data, position)
    packed = numpy.frombuffer(data, numpy.uint8)[position : position + span // 8 + 1]
    if first + span >= 1 << layout.exponent_bits or packed.size != span // 8 + 1:
        raise ArtifactError("the exponents of split floats are cut off or too large; the file is damaged")
    occurs = numpy.unpackbits(packed, bitorder="little")
    if not (occurs[0] and occurs[span]) or occurs[span + 1 :].any():
        raise ArtifactError("the list of exponents of split floats has the wrong ends; the file is damaged")
    return first + numpy.flatnonzero(occurs), position + packed.size


def _varint(number: int) -> bytes:
    """Seven bits a byte, least significant first; all but the last byte have bit 7 set."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for byte in range(_LONGEST_VARINT):
        if position + byte >= len(data):
            break
        number |= (data[position + byte] & 127) << 7 * byte
        if data[position + byte] < 128:
            return number, position + byte + 1
    raise ArtifactError("a number in split floats is cut off or too long; the file is damaged")
