"""Integer frequency tables for entropy coders: a few bytes that give the same model on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy

from .bits import pack_bits, packed_bytes, unpack_bits

if TYPE_CHECKING:
    import numpy as np

#: The frequencies of a model add up to 2 to this power.
PRECISION = 20
_TOTAL = 1 << PRECISION

_LOG2_BITS = 12  # binary digits after the point when the encoder compares costs

_MOST_MANTISSA_BITS = 7
_MOST_RICE_BITS = 15
_MOST_EXPONENT = 16
_DELTA, _GAPS = 8, 16


class Table(NamedTuple):
    """The symbols that occur, in ascending order, and their frequencies; shapes ``(n,)``, int64, frequencies add up to 2**20."""

    symbols: np.ndarray
    frequencies: np.ndarray


class _Numbers(NamedTuple):
    """Rice-coded numbers: quotients in unary, then remainders."""

    values: np.ndarray
    bits: int


def frequencies(levels: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Frequencies that levels stand for, in integer arithmetic.

    Level ``q >= 1`` is the weight ``(2**m + (q - 1) % 2**m) << ((q - 1) >> m)``, a number with ``m`` mantissa bits. With
    ``C[i]`` the sum of the weights before ``i``, ``T`` the sum of all and ``n`` their number, the frequency of ``i`` is
    ``floor(C[i + 1] * (2**20 - n) / T) - floor(C[i] * (2**20 - n) / T) + 1``.

    Parameters
    ----------
    levels : ndarray
        Shape ``(n,)``, int64, each 1 to ``16 * 2**m + 1``; ``n`` is at most 65,536.
    mantissa_bits : int
        ``m``, 0 to 7.

    Returns
    -------
    ndarray
        Shape ``(n,)``, int64, each at least 1; they add up to 2**20.

    Examples
    --------
    >>> import numpy
    >>> frequencies(numpy.array([3, 2, 1]), 0).tolist()
    [599185, 299593, 149798]
    """
    exponents = (levels - 1) >> mantissa_bits
    mantissas = (levels - 1) & ((1 << mantissa_bits) - 1)
    weights = ((1 << mantissa_bits) + mantissas) << exponents
    sums = numpy.cumsum(weights)  # at most 2**16 * 2**23, and 2**20 times that is below 2**63
    ends = sums * (_TOTAL - levels.size) // sums[-1]
    result: np.ndarray = numpy.diff(ends, prepend=0) + 1
    return result


def nearest_levels(counts: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Levels whose weights are nearest to being proportional to counts; the inverse of `frequencies` up to rounding.

    Counts below 2**-16 of the largest get level 1. IEEE division and `frexp` are exact or correctly rounded, so levels do
    not depend on the machine.

    Examples
    --------
    >>> import numpy
    >>> nearest_levels(numpy.array([400, 210, 100]), 0).tolist()
    [3, 2, 1]
    """
    unit = max(float(counts.min()), float(counts.max()) * 2.0**-16)
    fractions, exponents = numpy.frexp(numpy.maximum(counts / unit, 1.0))
    mantissas = numpy.rint((2 * fractions - 1) * (1 << mantissa_bits)).astype(numpy.int64)
    levels: np.ndarray = ((exponents.astype(numpy.int64) - 1) << mantissa_bits) + mantissas + 1
    return levels


def write_table(counts: np.ndarray) -> tuple[bytes, Table, float]:
    """The cheapest table for these counts: table and coded symbols together take the fewest bits.

    Parameters
    ----------
    counts : ndarray
        Shape ``(alphabet,)``, int64: how often each symbol occurs; at least two occur. The alphabet is at most 65,536.

    Returns
    -------
    data : bytes
        The table, as `read_table` describes it.
    table : Table
        What `read_table` makes of it.
    bits : float
        Bits of the symbols under this model, table not included.

    Examples
    --------
    >>> import numpy
    >>> data, table, bits = write_table(numpy.array([900, 50, 0, 50]))
    >>> len(data), table.symbols.tolist(), int(table.frequencies.sum())
    (4, [0, 1, 3], 1048576)
    """
    symbols = numpy.flatnonzero(counts)
    present = counts[symbols]
    best: tuple[int, bytes, Table, int] | None = None
    for mantissa_bits in range(_MOST_MANTISSA_BITS + 1):
        levels = nearest_levels(present, mantissa_bits)
        table = Table(symbols, frequencies(levels, mantissa_bits))
        cost = int((present * ((PRECISION << _LOG2_BITS) - _log2(table.frequencies))).sum())
        for data in _forms(symbols, levels, counts.size, mantissa_bits):
            total = (8 * len(data) << _LOG2_BITS) + cost
            if best is None or total < best[0]:
                best = (total, data, table, cost)
    if best is None:
        raise AssertionError("unreachable: mantissa bits start at 0")
    return best[1], best[2], best[3] / (1 << _LOG2_BITS)


def _log2(values: np.ndarray) -> np.ndarray:
    """Binary logarithms of positive integers up to 2**20, in units of 2**-12, rounded down.

    In integers, by repeated squaring: the logarithms of two C libraries may differ in the last bit, and then the same
    plane could get another table, though an equally good one.
    """
    exponents = numpy.frexp(values.astype(numpy.float64))[1].astype(numpy.int64) - 1
    mantissas = values.astype(numpy.int64) << (30 - exponents)  # 2**30 stands for 1
    logarithms = exponents
    for _ in range(_LOG2_BITS):
        mantissas = (mantissas * mantissas) >> 30
        carries = mantissas >> 31
        mantissas >>= carries
        logarithms = 2 * logarithms + carries
    return logarithms


def _forms(symbols: np.ndarray, levels: np.ndarray, alphabet: int, mantissa_bits: int) -> list[bytes]:
    everywhere = numpy.zeros(alphabet, numpy.int64)
    everywhere[symbols] = levels
    gaps = _rice(numpy.diff(symbols, prepend=-1) - 1)
    forms = []
    for delta in (0, _DELTA):
        dense = _rice(_zigzag(everywhere) if delta else everywhere)
        forms.append(bytes([mantissa_bits | delta, dense.bits]) + _write_numbers([dense]))
        sparse = _rice(_zigzag(levels - 1) if delta else levels - 1)
        header = bytes([mantissa_bits | delta | _GAPS, sparse.bits | gaps.bits << 4]) + (symbols.size - 1).to_bytes(
            2, "little"
        )
        forms.append(header + _write_numbers([gaps, sparse]))
    return forms


def read_table(data: bytes, alphabet: int) -> tuple[Table, int]:
    """Read a table from the beginning of ``data``.

    Byte 0: bits 0 to 2 are the mantissa bits ``m`` of the levels (see `frequencies`), bit 3 is set if levels are coded as
    differences, bit 4 if the symbols that occur are listed by their gaps; bits 5 to 7 are 0. Byte 1: the low four bits are
    the Rice parameter of the levels, the high four that of the gaps (0 without gaps).

    Without gaps there is a number for every symbol of the alphabet: its level, 0 if it does not occur. With gaps, bytes 2
    and 3 hold the number of symbols that occur less one, little-endian; for each such symbol there is a gap, how many
    symbols that do not occur lie between it and the one before (or the start), and a number, its level less one.

    If differences are coded, number ``i`` is replaced by its difference ``d`` to number ``i - 1`` (to 0 for the first),
    written as ``2 * d`` if ``d >= 0`` and as ``-2 * d - 1`` else.

    Then follows one stream of bits, bit ``k`` being bit ``k % 8`` of byte ``k // 8``: in unary (so many 0, then a 1) the
    quotients by ``2**r`` of the gaps if there are any, then those of the numbers, each with its Rice parameter ``r``;
    after all of these the ``r``-bit remainders of the gaps and of the numbers, least significant bit first; 0 to the next
    byte.

    Parameters
    ----------
    data : bytes
        Starts with the table; what follows it is not read.
    alphabet : int
        Number of symbols, 2 to 65,536.

    Returns
    -------
    table : Table
        At least two symbols.
    length : int
        How many bytes the table takes.

    Raises
    ------
    ArtifactError
        If no table reads like this. Never allocates more than about 500 bytes per symbol of the alphabet, nor eight times the bytes given.
    """
    if len(data) < 2 or data[0] >= 32 or (data[1] >> 4 and not data[0] & _GAPS):
        raise ArtifactError("the header of a frequency table is cut off or unknown; the file is damaged")
    mantissa_bits, level_bits, gap_bits = data[0] & 7, data[1] & 15, data[1] >> 4
    if data[0] & _GAPS:
        count = int.from_bytes(data[2:4], "little") + 1
        if len(data) < 4 or not 2 <= count <= alphabet:
            raise ArtifactError(f"a frequency table lists {count} of {alphabet} symbols; the file is damaged")
        (gaps, numbers), length = _read_numbers(data, 4, count, [gap_bits, level_bits])
        symbols = numpy.cumsum(gaps + 1) - 1
        if int(symbols[-1]) >= alphabet:
            raise ArtifactError(
                f"a frequency table lists the symbol {int(symbols[-1])} of {alphabet}; the file is damaged"
            )
        levels = (_unzigzag(numbers) if data[0] & _DELTA else numbers) + 1
    else:
        (numbers,), length = _read_numbers(data, 2, alphabet, [level_bits])
        everywhere = _unzigzag(numbers) if data[0] & _DELTA else numbers
        symbols = numpy.flatnonzero(everywhere)
        levels = everywhere[symbols]
    if levels.size < 2 or int(levels.min()) < 1 or int(levels.max()) > (_MOST_EXPONENT << mantissa_bits) + 1:
        raise ArtifactError("the levels of a frequency table are out of range; the file is damaged")
    return Table(symbols, frequencies(levels, mantissa_bits)), length


def _zigzag(values: np.ndarray) -> np.ndarray:
    differences = numpy.diff(values, prepend=0)
    return numpy.where(differences >= 0, 2 * differences, -2 * differences - 1)


def _unzigzag(numbers: np.ndarray) -> np.ndarray:
    return numpy.cumsum(numpy.where(numbers & 1, -((numbers + 1) >> 1), numbers >> 1))


def _rice(values: np.ndarray) -> _Numbers:
    """Values with the Rice parameter that codes them in the fewest bits."""
    costs = [int((values >> bits).sum()) + values.size * (1 + bits) for bits in range(_MOST_RICE_BITS + 1)]
    return _Numbers(values, costs.index(min(costs)))


def _write_numbers(sequences: list[_Numbers]) -> bytes:
    quotients = numpy.concatenate([values >> bits for values, bits in sequences])
    ends = numpy.cumsum(quotients + 1)
    unary = numpy.zeros(int(ends[-1]), numpy.uint8)
    unary[ends - 1] = 1
    remainders = [_as_bits(values & ((1 << bits) - 1), bits) for values, bits in sequences]
    return numpy.packbits(numpy.concatenate([unary, *remainders]), bitorder="little").tobytes()


def _as_bits(values: np.ndarray, width: int) -> np.ndarray:
    packed = numpy.frombuffer(pack_bits(values, width), numpy.uint8)
    return numpy.unpackbits(packed, count=values.size * width, bitorder="little")


def _read_numbers(data: bytes, start: int, count: int, widths: list[int]) -> tuple[list[np.ndarray], int]:
    """``count`` numbers for each Rice parameter, and where the bytes after them begin."""
    needed = count * len(widths)
    tail = count * sum(widths)
    # With 15 remainder bits every quotient is 0 or 1, so the choice of `_rice` never takes more than 17 bits a number.
    most = packed_bytes(17 * needed + tail, 1)
    bits = numpy.unpackbits(numpy.frombuffer(data, numpy.uint8, offset=start)[:most], bitorder="little")
    ones = numpy.flatnonzero(bits)[:needed]
    if ones.size < needed or int(ones[-1]) + 1 + tail > bits.size:
        raise ArtifactError("a frequency table is cut off; the file is damaged")
    quotients = numpy.diff(ones, prepend=-1).astype(numpy.int64) - 1
    position = int(ones[-1]) + 1
    sequences = []
    for index, width in enumerate(widths):
        part = bits[position : position + count * width]
        position += count * width
        remainders = unpack_bits(numpy.packbits(part, bitorder="little").tobytes(), width, count).astype(numpy.int64)
        sequences.append((quotients[index * count : (index + 1) * count] << width) + remainders)
    length = packed_bytes(position, 1)
    if bits[position : 8 * length].any():
        raise ArtifactError("the padding after a frequency table is not zero; the file is damaged")
    return sequences, start + length
