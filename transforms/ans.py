"""``ans``: order-0 entropy coding of integers with asymmetric numeral systems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from stackc.core.packer import Packer
from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy

from .shared.bits import (
    alphabet,
    from_offsets,
    has_alphabet,
    offsets,
    pack_bits,
    packed_bytes,
    unpack_bits,
    unsigned_dtype,
)
from .shared.frequency_table import Table, read_table, write_table

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_LARGEST_ALPHABET = 1 << 16
_CODED, _RAW, _ONE_SYMBOL = 0, 0x20, 0x40

#: Symbols that are widened to int32 at a time.
_CHUNK = 1 << 20


class Ans(Packer, frozen=True):
    """Code each integer in about as many bits as its share of the plane calls for: ``-log2`` of its frequency.

    Static order-0 model: right for codes and masks whose values are as good as independent, which is what quantisers
    leave. Within about 1 % of the order-0 entropy plus the table, and never more than one byte above ``raw``.

    **Format, version 1.** Elements are coded in C order as symbols ``s[i] = x[i] - lo`` of the alphabet ``0 .. hi - lo``
    (bool: 0 and 1), at most 65,536 symbols. A plane with no elements or with ``lo == hi`` has no bytes. Otherwise bits 5 to
    7 of byte 0 say how:

    * ``0x20``: the ``raw`` form of the plane follows (see there). Byte 0 is exactly ``0x20``.
    * ``0x40``: every symbol is the same one, which follows as an unsigned little-endian integer in as many bytes as the
      bits of ``hi - lo`` need. Byte 0 is exactly ``0x40``.
    * ``0x00``: byte 0 begins a frequency table (see `stackc.transforms.shared.frequency_table.read_table`), which gives ``n >= 2``
      symbols in ascending order and their integer frequencies ``f``, summing to ``2**20``. The rest is the ANS stack.

    *The ANS stack.* With ``c[j]`` the sum of the frequencies before symbol ``j``, and ``c[n] = 2**20``, the coder works with
    24 bits of precision and the cumulative frequencies ``b[j] = floor(c[j] * (2**24 - n) / 2**20) + j`` for ``j < n`` and
    ``b[n] = 2**24``. The stack is a sequence of 32-bit words, each stored little-endian, the top of the stack last; zero
    bytes at the very end are cut off, and put back until the length divides by 4. To decode::

        state = 0
        while state < 2**32 and the stack is not empty:
            state = state << 32 | pop()
        for i in range(numel):
            q = state % 2**24
            j = the symbol with b[j] <= q < b[j + 1]
            s[i] = j-th symbol that occurs
            state = (state >> 24) * (b[j + 1] - b[j]) + q - b[j]
            if state < 2**32 and the stack is not empty:
                state = state << 32 | pop()

    In the end state is 0 and the stack is empty. The stack is never empty in the file, because at least two symbols occur.
    A reader refuses anything else. This is ``AnsCoder`` of the library
    constriction (Bamler 2022, "Understanding Entropy Coding With Asymmetric Numeral Systems") with the model
    ``Categorical(f, perfect=False)``; the coder is that of Duda (2013).

    *Why this is exact everywhere.* constriction takes float64 probabilities and computes
    ``b[j] = floor(c * ((2**24 - n) / sum)) + j`` in float64. Here ``c`` and ``sum`` are integers up to ``2**20``
    and ``sum`` is a power of two, so the quotient is a dyadic number of 24 bits and the product has at most 44: every
    operation is exact in IEEE 754 double precision, and no rounding mode, fused multiplication or vector unit can change
    it. Nothing else in the model is real-valued.

    Examples
    --------
    >>> import torch
    >>> x = (torch.arange(8192) % 10 == 3).to(torch.int8)
    >>> spec = PlaneSpec((8192,), "int8", lo=-1, hi=1)
    >>> data = Ans().pack(x, spec)
    >>> round(8 * len(data) / 8192, 2), torch.equal(Ans().unpack(data, spec), x)
    (0.48, True)
    """

    name: ClassVar[str] = "ans"
    version: ClassVar[int] = 1

    def refusal(self, spec: PlaneSpec) -> str | None:
        """Why this packer cannot take a plane: it needs a known alphabet of at most 65,536 symbols."""
        if spec.is_real:
            return f"ans codes integers, not {spec.dtype}; put int before it, or use zstd"
        if not has_alphabet(spec):
            return (
                f"ans needs to know the smallest and largest value of an integer plane, {spec} has no bounds; use zstd"
            )
        if alphabet(spec)[1] >= _LARGEST_ALPHABET:
            return f"ans takes at most {_LARGEST_ALPHABET:,} symbols, {spec} has {alphabet(spec)[1] + 1:,}; use zstd"
        return None

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        span = alphabet(spec)[1]
        values = offsets(x, spec)
        counts = _counts(values, span + 1)
        if numpy.count_nonzero(counts) == 1:
            return bytes([_ONE_SYMBOL]) + int(values[0]).to_bytes(_symbol_bytes(span), "little")
        raw_bytes = packed_bytes(spec.numel, span.bit_length())
        table, model, bits = write_table(counts)
        if len(table) + bits / 8 < raw_bytes + 8:
            coded = table + _encode(values, model, span)
            if len(coded) <= raw_bytes:
                return coded
        return bytes([_RAW]) + pack_bits(values, span.bit_length())

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        span = alphabet(spec)[1]
        if not data:
            raise ArtifactError(f"a plane of {spec} has no bytes in the file; it is damaged")
        if data[0] == _RAW:
            return from_offsets(unpack_bits(data[1:], span.bit_length(), spec.numel), spec)
        if data[0] == _ONE_SYMBOL:
            if len(data) != 1 + _symbol_bytes(span):
                raise ArtifactError(
                    f"a plane of one repeated symbol takes {len(data)} bytes in the file; it is damaged"
                )
            symbol = int.from_bytes(data[1:], "little")
            return from_offsets(numpy.full(spec.numel, symbol, unsigned_dtype(8 * _symbol_bytes(span))), spec)
        model, length = read_table(data, span + 1)
        return from_offsets(_decode(data[length:], model, span, spec.numel), spec)

    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        """Bytes of the frequency table, or the byte that says that there is none."""
        if not data or data[0] == _RAW:
            return min(1, len(data))
        if data[0] == _ONE_SYMBOL:
            return len(data)
        return read_table(data, alphabet(spec)[1] + 1)[1]


def _symbol_bytes(span: int) -> int:
    return packed_bytes(1, span.bit_length())


def _counts(values: np.ndarray, alphabet_size: int) -> np.ndarray:
    counts = numpy.zeros(alphabet_size, numpy.int64)
    for start in range(0, values.size, _CHUNK):  # bincount widens to int64
        counts += numpy.bincount(values[start : start + _CHUNK], minlength=alphabet_size)
    return counts


def _categorical(model: Table) -> Any:
    import constriction

    return constriction.stream.model.Categorical(model.frequencies.astype(numpy.float64), perfect=False)


def _encode(values: np.ndarray, model: Table, span: int) -> bytes:
    """The stack, last chunk first, so that the first symbol ends on top."""
    import constriction

    index = numpy.zeros(span + 1, numpy.int32)
    index[model.symbols] = numpy.arange(model.symbols.size, dtype=numpy.int32)
    categorical = _categorical(model)
    coder = constriction.stream.stack.AnsCoder()
    for start in reversed(range(0, values.size, _CHUNK)):
        coder.encode_reverse(index[values[start : start + _CHUNK]], categorical)
    words: np.ndarray = coder.get_compressed()
    return words.astype("<u4").tobytes().rstrip(b"\0")


def _decode(stack: bytes, model: Table, span: int, count: int) -> np.ndarray:
    import constriction

    if not stack or not stack[-1]:
        raise ArtifactError("the ANS stack of a plane is empty or ends in a zero byte; the file is damaged")
    words = numpy.frombuffer(stack + b"\0" * (-len(stack) % 4), "<u4").astype(numpy.uint32)
    values = numpy.empty(count, unsigned_dtype(span.bit_length()))
    symbols = model.symbols.astype(values.dtype)
    categorical = _categorical(model)
    coder = constriction.stream.stack.AnsCoder(words)
    for start in range(0, count, _CHUNK):
        chunk = values[start : start + _CHUNK]
        chunk[:] = symbols[coder.decode(categorical, chunk.size)]
    if not coder.is_empty():
        raise ArtifactError("the ANS stack of a plane does not end where its symbols do; the file is damaged")
    return values
