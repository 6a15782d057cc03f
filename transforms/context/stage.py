"""``context``: adaptive binary arithmetic coding of integers, in the context of their row, column and neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from stackc.core.packer import Packer
from stackc.core.spec import PlaneSpec, integer_range
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy, torch

from ..shared.bits import pack_bits, packed_bytes, unpack_bits
from ..shared.kernels import kernel
from ._choice import Cost, candidates, compact, is_small, masked, sample
from ._settings import SHORT_PEAKS, SHORT_SETTINGS, STATES, Settings, code, kernel_arguments

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Widest range of values: magnitudes fit int32.
_WIDEST = 1 << 31

#: What decoding an element takes, in multiplications of a matrix product: 20 to 200 ns.
_ELEMENT_WORK = 512


class Context(Packer, frozen=True):
    """Code each integer in the context of the magnitudes around it, with probabilities that adapt as the plane goes by.

    A value is a zero flag, a sign and a magnitude in unary with an escape, each a binary decision whose probability is
    learned for the activity that row, column and neighbours lead to expect (as in DeepCABAC of ISO/IEC 15938-17, which
    knows the two values before; Wiedemann et al. 2020). No table is stored, and everything is integer arithmetic. Rows
    and columns without a value cost a bit or less. For codes of `int` and `tcq`, masks and sparse planes.

    **Format, version 1.** A plane with no elements, or with one possible value, has no bytes. The elements form a matrix
    of ``shape[0]`` rows (one row for planes of fewer than two axes). Byte 0 is ``1`` if the ``raw`` form follows: values
    less their lowest possible one (``lo``, or the least number of the dtype), least significant bit first, in as many
    bits as the highest possible one needs. If it is another odd number it is a short header, see below. Otherwise:

    * byte 0: bit 1 the matrix is coded transposed; bit 2 *carry*; bit 3 a mask of used rows is there, bit 4 one of used
      columns; bits 5 and 6 *signs*: 0 both, 1 none is negative, 2 none is positive; bit 7 a *centre* is there. Bit 0 is 0.
    * byte 1: bits 0-1 *mixture*, bits 2-3 *resolution*, bits 4-5 *memory*, bits 6-7 *trellis*: 0 none, 1 4 states,
      2 8 states.
    * the centre, if there is one: a varint (7 bits per byte, lowest first, high bit: more follows) of ``2c`` for ``c >= 0``
      and ``-2c - 1`` for ``c < 0``.
    * *peak*: a varint, the largest magnitude of a value less the centre. If it is 0 nothing follows: all values are the
      centre.
    * the words of the range coder, 4 bytes each, most significant first; zero bytes at the end are cut off.

    *Short header.* Byte 0 is ``2 * (20 * p + s) + 3``, and words follow. The peak is ``(1, 2, 3, 5, 7, 15)[p]``, there are no
    masks and no centre, signs is 0, trellis is 0. For ``s < 18`` memory is 2, resolution ``s % 2``, mixture
    ``(0, 1, 3)[s // 6]``, and transposed and carry are (no, no), (no, yes) or (yes, yes) for ``s // 2 % 3 = 0, 1, 2``. For
    ``s = 18`` and ``19`` the shares of the mixture are ``(0, 0, 0)``, resolution is 0, memory 2 and 3, transposed and carry no.

    *Range coder.* 64-bit unsigned numbers: ``width = 2**64 - 1``, ``code`` the first two words; words beyond the end
    are 0. A bit with context ``(p, n)``, ``p`` of ``2**22`` being the chance of 1::

        bound = (width >> 16) * (p >> 6)
        bit 1 if code < bound: width = bound
        bit 0 otherwise: code -= bound, width -= bound
        if width < 2**32: code = code << 32 | next word; width <<= 32
        p += ((2**22 * bit - p) * RATE[n]) >> 16, then limited to 2**10 .. 65520 * 64;  n = min(n + 1, limit)

    with ``RATE[n] = 655360 // (10 * n + 16)`` and shifts that round down. ``k`` *plain* bits: ``width >>= k``, the value is
    ``min(code // width, 2**k - 1)``, ``code -= value * width``, and the same two lines of refilling. A context starts as
    ``(2**21, 0)`` unless said otherwise.

    *Masks*, rows first: one bit per row or column, 1 if used, with the context of the bit before it (1 before the first;
    two contexts for rows, two for columns), limit 60. Rows and columns here are those of the matrix as it is coded. What
    follows codes the matrix of the used ones only; if it has no elements nothing follows.

    *Values*, row by row, with ``limit = (60, 127, 255, 1000)[memory]``. The activity of a magnitude ``m`` is
    ``A(m) = (16 * e + ((y << 4) >> e) - 16) << 8`` with ``y = 2 * min(m, 1023) + 1`` and ``e = floor(log2(y))``. The decoder
    keeps ``level = 0``, ``row_average = seen = state = 0``, and for each column ``column_average = 0`` and the sign above.
    At the beginning of a row ``near = 0``, and if carry is off, or it is row 0, ``row_average = level, seen = 0``. With the
    shares ``(a, b, c) = ((4, 4, 0), (8, 8, 0), (3, 3, 4), (4, 0, 4))[mixture]``::

        expected = level + ((a * (row_average - level) + b * (column_average - level) + c * (near - level)) >> 3)
        step = limited to 0 .. 1407 (expected >> 5)
        shift = max((step >> 7) - 1, 0)

    and with ``r = resolution`` the class ``g`` is ``((8 - r) << r) + ((32 * step - 4096) >> (12 - r))`` if ``step >= 128``,
    ``step`` if ``step < 2**r``, and else ``((e - r + 1) << r) + ((step >> (e - r)) & (2**r - 1))`` with
    ``e = floor(log2(step))``. The quantiser ``q`` is that of the trellis state (see `tcq`), 0 without a trellis. Then:

    1. The zero flag, context ``(q, g)``: 1 if the value is not the centre. A centre needs no more.
    2. If signs is 0, the sign, 1 if negative, with the context of the signs to the left and above (each 0: zero or
       outside, 1: positive, 2: negative); it starts as ``(2**21, 16)``.
    3. ``high`` in unary: bits ``j = 0, 1, ...``, 1 while ``high > j``, until a 0 or until ``j = min((peak - 1) >> shift, 16)``,
       with context ``(j, g)``, for ``j = 0`` ``(q, g)``. If ``j`` reached 16: bits with contexts ``i = 0, 1, ...``, 1 for each
       ``i`` below a length (at most 31), then as many plain bits ``x``, and ``high = 15 + x + 2**length``.
    4. If ``shift > 0``: a bit with context ``min(high, 15)``, which starts as ``(30800 * 64, 24)``, then ``shift - 1`` plain
       bits; with ``high`` above them they are the magnitude less one.

    A context of step 1 or 3 that is used for the first time takes ``p`` from the same context of the nearest class that
    was used (the lower one first), with ``n = 6``; if there is none, for ``j > 0``, from that of ``j - 1`` in the same class
    (and quantiser, if that is 0), with ``n = 3``; else it starts even. After each value of magnitude ``m``, with rows
    numbered from 0 and ``x = A(m)``::

        state = next state for the parity of m
        row_average += ((x - row_average) * RATE[seen]) >> 16;  seen = min(seen + 1, 255)
        column_average = x >> 1 in row 0, else += ((x - column_average) * RATE[min(row + 1, 255)]) >> 16
        near = (near + x) >> 1

    and after each row, with ``mean`` the mean of its activities, rounded down: after row 0 ``level = mean`` and every
    ``column_average += mean >> 1``; after others ``level += ((mean - level) * RATE[min(row + 1, 255)]) >> 16``.

    Examples
    --------
    >>> import torch
    >>> rows = torch.tensor([0, 0, 1, 0, 9, 0, 0, 30])[:, None]
    >>> x = (torch.arange(8 * 64).reshape(8, 64) * 7919 % 61 * rows // 60).to(torch.int8)
    >>> spec = PlaneSpec((8, 64), "int8", lo=0, hi=31)
    >>> data = Context().pack(x, spec)
    >>> torch.equal(Context().unpack(data, spec), x), len(data) < 5 * 8 * 64 / 8 / 3
    (True, True)
    """

    name: ClassVar[str] = "context"
    version: ClassVar[int] = 1

    def refusal(self, spec: PlaneSpec) -> str | None:
        """Why this packer cannot take a plane: it needs integers within ``2**31``."""
        if spec.is_real:
            return f"context codes integers, not {spec.dtype}; put int or tcq before it, or use floats or zstd"
        lo, hi = _range(spec)
        if lo < -_WIDEST or hi >= _WIDEST or hi - lo >= _WIDEST:
            return f"context takes integers of 32 bits within a range of 2**31, {spec} may hold others; use zstd"
        return None

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        lo, hi = _range(spec)
        values = _matrix(x, spec)
        least, most = int(values.min()), int(values.max())
        centre = _centre(values, least, most)
        values = values - numpy.int32(centre)
        peak = max(most - centre, centre - least)
        signs = 1 if least >= centre else 2 if most <= centre else 0
        raw_bytes = packed_bytes(spec.numel, (hi - lo).bit_length())
        if not peak:
            coded = bytes([0x20 | (0x80 if centre else 0), 0]) + _centre_bytes(centre) + _varint(0)
        else:
            coded = _coded(values, centre, peak, signs, raw_bytes)
            shortly = None if centre else _coded_shortly(values, peak)
            if shortly is not None and len(shortly) < len(coded):
                coded = shortly
        if len(coded) <= raw_bytes:
            return coded
        flat = (values.reshape(-1).astype(numpy.int64) + (centre - lo)).astype(numpy.uint64)
        return b"\1" + pack_bits(flat, (hi - lo).bit_length())

    def work(self, spec: PlaneSpec) -> int:
        """Several binary decisions for each element, one after another."""
        return _ELEMENT_WORK * spec.numel

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        lo, hi = _range(spec)
        if data[:1] == b"\1":
            flat = unpack_bits(data[1:], (hi - lo).bit_length(), spec.numel).astype(numpy.int64) + lo
        else:
            flat = _decoded(data, spec)
        if int(flat.min()) < lo or int(flat.max()) > hi:
            raise ArtifactError(f"a plane of {spec} holds a value out of its range; the file is damaged")
        return torch.from_numpy(flat.astype(numpy.dtype(spec.dtype))).reshape(spec.shape)

    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        """Bytes of the settings before the range coder's words."""
        if not data or data[0] == 1:
            return min(1, len(data))
        return _Header.read(data, spec).size


class _Header(NamedTuple):
    """The settings as bytes."""

    settings: Settings
    row_mask: bool
    column_mask: bool
    signs: int
    centre: int
    peak: int
    size: int = 0

    def write(self) -> bytes:
        settings = self.settings
        if self.size == 1:
            index = len(SHORT_SETTINGS) * SHORT_PEAKS.index(self.peak) + SHORT_SETTINGS.index(settings)
            return bytes([2 * index + 3])
        first = (
            settings.columns_first << 1
            | settings.carry << 2
            | self.row_mask << 3
            | self.column_mask << 4
            | self.signs << 5
            | bool(self.centre) << 7
        )
        second = settings.mixture | settings.resolution << 2 | settings.memory << 4 | settings.trellis << 6
        return bytes([first, second]) + _centre_bytes(self.centre) + _varint(self.peak)

    @classmethod
    def read(cls, data: bytes, spec: PlaneSpec) -> _Header:
        if data and data[0] & 1:
            peak, chosen = divmod(data[0] - 3 >> 1, len(SHORT_SETTINGS))
            if peak >= len(SHORT_PEAKS):
                raise _no_settings(spec)
            return cls(SHORT_SETTINGS[chosen], False, False, 0, 0, SHORT_PEAKS[peak], 1)
        if len(data) < 3:
            raise ArtifactError(f"a plane of {spec} has {len(data)} bytes in the file, too few; it is damaged")
        first, second = data[0], data[1]
        settings = Settings(bool(first & 2), bool(first & 4), second & 3, second >> 2 & 3, second >> 4 & 3, second >> 6)
        centre, size = _read_varint(data, 2) if first & 0x80 else (0, 2)
        peak, size = _read_varint(data, size)
        signs = first >> 5 & 3
        if settings.trellis >= len(STATES) or signs > 2 or peak >= _WIDEST:
            raise _no_settings(spec)
        centre = -(centre >> 1) - 1 if centre & 1 else centre >> 1
        lo, hi = _range(spec)
        if not lo <= centre <= hi:
            raise ArtifactError(f"the centre of a plane of {spec} is {centre}, out of its range; the file is damaged")
        return cls(settings, bool(first & 8), bool(first & 16), signs, centre, peak, size)


def _no_settings(spec: PlaneSpec) -> ArtifactError:
    return ArtifactError(f"the settings of a plane of {spec} are none that stackc writes; the file is damaged")


def _range(spec: PlaneSpec) -> tuple[int, int]:
    """Smallest and largest value that a plane may hold."""
    if spec.lo is not None and spec.hi is not None:
        return spec.lo, spec.hi
    return integer_range(spec.dtype)


def _dimensions(spec: PlaneSpec) -> tuple[int, int]:
    rows = spec.shape[0] if len(spec.shape) > 1 else 1
    return rows, spec.numel // rows


def _matrix(x: Tensor, spec: PlaneSpec) -> np.ndarray:
    """Values as a matrix of int32."""
    array: np.ndarray = x.detach().cpu().contiguous().numpy().reshape(_dimensions(spec))
    return array.astype(numpy.int32)


def _centre(values: np.ndarray, least: int, most: int) -> int:
    """What counts as zero: zero itself if values lie on both sides, else the most frequent value or an end."""
    if least < 0 < most or least == most == 0:
        return 0
    if most - least >= 1 << 16:
        return least if least >= 0 else most
    counts = numpy.zeros(most - least + 1, numpy.int64)
    flat = values.reshape(-1)
    for start in range(0, flat.size, 1 << 20):  # bincount widens to int64
        counts += numpy.bincount(flat[start : start + (1 << 20)] - numpy.int32(least), minlength=counts.size)
    frequent = least + int(counts.argmax())
    part = sample(values)

    def bits(centre: int) -> float:
        signs = 1 if centre == least else 2 if centre == most else 0
        return Cost(part - numpy.int32(centre), max(most - centre, centre - least), signs)(Settings())

    return frequent if frequent in (least, most) else min((frequent, least, most), key=bits)


def _coded(values: np.ndarray, centre: int, peak: int, signs: int, most_bytes: int) -> bytes:
    """Header and words with the best settings found; may be cut short when longer than ``most_bytes``."""
    found = candidates(values, peak, signs)
    return min((_coded_with(settings, values, centre, peak, signs, most_bytes) for settings in found), key=len)


def _coded_with(settings: Settings, values: np.ndarray, centre: int, peak: int, signs: int, most_bytes: int) -> bytes:
    matrix = masked(values, settings, peak, signs)
    words = numpy.zeros(most_bytes // 4 + 4, numpy.uint32)
    count = code(matrix, settings, words, peak, signs)
    header = _Header(settings, bool(matrix.rows_used.size), bool(matrix.columns_used.size), signs, centre, peak)
    if count > words.size:
        return bytes(most_bytes + 1)
    return header.write() + _stream(words[:count])


def _coded_shortly(values: np.ndarray, peak: int) -> bytes | None:
    """A header of one byte and words, where the plane is small and so are its values."""
    fitting = [short for short in SHORT_PEAKS if short >= peak]
    if not fitting or not is_small(values):
        return None
    cost = Cost(values, fitting[0], 0, masks=False)
    settings = min((short for short in SHORT_SETTINGS if values.shape[0] > 1 or not short.columns_first), key=cost)
    words = numpy.zeros(int(cost(settings)) // 32 + 4, numpy.uint32)
    count = code(compact(values, settings, False, False), settings, words, fitting[0], 0)
    return _Header(settings, False, False, 0, 0, fitting[0], 1).write() + _stream(words[:count])


def _stream(words: np.ndarray) -> bytes:
    return words.astype(">u4").tobytes().rstrip(b"\0")


def _decoded(data: bytes, spec: PlaneSpec) -> np.ndarray:
    header = _Header.read(data, spec)
    settings, stream = header.settings, data[header.size :]
    shape = _dimensions(spec)
    if not header.peak:
        if stream:
            raise ArtifactError(f"a plane of {spec} has bytes that nothing needs; the file is damaged")
        return numpy.full(spec.numel, header.centre, numpy.int64)
    if not stream or not stream[-1]:
        raise ArtifactError(f"the words of a plane of {spec} are missing or end in a zero byte; the file is damaged")
    rows, columns = shape[::-1] if settings.columns_first else shape
    # the kernel reads a zero where the words are at an end
    words = numpy.frombuffer(stream + b"\0" * (-len(stream) % 4 + 4), ">u4").astype(numpy.uint32)
    row_mask = numpy.zeros(rows if header.row_mask else 0, numpy.uint8)
    column_mask = numpy.zeros(columns if header.column_mask else 0, numpy.uint8)
    values = numpy.zeros(spec.numel, numpy.int32)
    read = kernel("context._decode_kernel").decode(
        values, rows, columns, row_mask, column_mask, words, header.peak, header.signs, *kernel_arguments(settings)
    )
    if words.size - 1 > read:
        raise ArtifactError(f"the words of a plane of {spec} go on after its values; the file is damaged")
    if max(int(values.max()), -int(values.min())) > header.peak:
        raise ArtifactError(f"a plane of {spec} holds a value above its peak; the file is damaged")
    matrix = values.reshape(rows, columns)
    if header.row_mask or header.column_mask:
        used_rows = numpy.flatnonzero(row_mask) if header.row_mask else numpy.arange(rows)
        used_columns = numpy.flatnonzero(column_mask) if header.column_mask else numpy.arange(columns)
        used = values[: used_rows.size * used_columns.size].reshape(used_rows.size, used_columns.size)
        matrix = numpy.zeros((rows, columns), numpy.int32)
        matrix[numpy.ix_(used_rows, used_columns)] = used
    flat = (matrix.T if settings.columns_first else matrix).reshape(-1)
    # what wraps around lands outside of the range, because neither it nor the peak reaches 2**31
    flat += numpy.int32(header.centre)
    return flat


def _centre_bytes(centre: int) -> bytes:
    return _varint(-2 * centre - 1 if centre < 0 else 2 * centre) if centre else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place and the place after it."""
    number = 0
    for index in range(5):
        if at + index >= len(data):
            break
        number |= (data[at + index] & 127) << (7 * index)
        if data[at + index] < 128:
            return number, at + index + 1
    raise ArtifactError("the settings of a plane are cut off; the file is damaged")
