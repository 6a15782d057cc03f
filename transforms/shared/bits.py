"""Integers of any width as bits, and planes as integers that count up from zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Elements that are widened to bits at a time: a multiple of 8, so that every chunk ends on a whole byte.
_CHUNK = 1 << 18


def has_alphabet(spec: PlaneSpec) -> bool:
    """Whether the smallest and largest value of a plane are known: bounded integers and bool."""
    return spec.lo is not None or spec.dtype == "bool"


def alphabet(spec: PlaneSpec) -> tuple[int, int]:
    """Smallest value of a plane that `has_alphabet`, and how far the largest lies above it.

    Examples
    --------
    >>> alphabet(PlaneSpec((5,), "int8", lo=-7, hi=7)), alphabet(PlaneSpec((5,), "bool"))
    ((-7, 14), (0, 1))
    """
    if spec.lo is None or spec.hi is None:
        return 0, 1
    return spec.lo, spec.hi - spec.lo


def packed_bytes(count: int, width: int) -> int:
    """Bytes of ``count`` integers of ``width`` bits."""
    return -(-count * width // 8)


def offsets(x: Tensor, spec: PlaneSpec) -> np.ndarray:
    """Elements in C order, less the lower bound, as unsigned integers.

    Returns
    -------
    ndarray
        Shape ``(spec.numel,)``, the narrowest of ``uint8``, ``uint16``, ``uint32`` and ``uint64`` (little-endian).
    """
    lo, span = alphabet(spec)
    flat = x.detach().cpu().contiguous().reshape(-1).numpy()
    same = _unsigned(spec)
    out = numpy.empty(flat.size, unsigned_dtype(span.bit_length()))
    # Differences wrap around, and come out right whatever the sign of the bound.
    numpy.subtract(flat.view(same), same.type(lo % (1 << 8 * same.itemsize)), out=out, casting="unsafe")
    return out


def from_offsets(values: np.ndarray, spec: PlaneSpec) -> Tensor:
    """Inverse of `offsets`.

    Raises
    ------
    ArtifactError
        If a value lies above the upper bound.
    """
    lo, span = alphabet(spec)
    if values.size and int(values.max()) > span:
        raise ArtifactError(
            f"a plane of {spec} holds the value {lo + int(values.max())}, above its upper bound; the file is damaged"
        )
    same = _unsigned(spec)
    out = numpy.add(values, same.type(lo % (1 << 8 * same.itemsize)), dtype=same)
    return torch.from_numpy(out.view(spec.dtype)).reshape(spec.shape)


def _unsigned(spec: PlaneSpec) -> np.dtype[np.unsignedinteger]:
    """The unsigned dtype of as many bytes as the elements of a plane of integers have."""
    return numpy.dtype(f"u{spec.item_bytes}")


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """Unsigned integers at ``width`` bits each, least significant bit first.

    Parameters
    ----------
    values : ndarray
        Shape ``(n,)``, unsigned, each below ``2 ** width``.
    width : int
        0 to 64.

    Examples
    --------
    >>> import numpy
    >>> pack_bits(numpy.array([1, 2, 3], numpy.uint8), 4).hex()
    '2103'
    """
    if width == 0:
        return b""
    dtype = unsigned_dtype(width)
    if width == 8 * dtype.itemsize:
        return values.astype(dtype).tobytes()
    parts = []
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK].astype(dtype)
        bits = numpy.unpackbits(chunk.view(numpy.uint8).reshape(chunk.size, dtype.itemsize), axis=1, bitorder="little")
        parts.append(numpy.packbits(bits[:, :width], bitorder="little").tobytes())
    return b"".join(parts)


def unpack_bits(data: bytes, width: int, count: int) -> np.ndarray:
    """Inverse of `pack_bits` for ``count`` integers.

    Returns
    -------
    ndarray
        Shape ``(count,)``, the narrowest unsigned little-endian dtype that holds ``width`` bits.

    Raises
    ------
    ArtifactError
        If the length is not that of ``count`` integers, or a bit after the last one is set.
    """
    if len(data) != packed_bytes(count, width):
        raise ArtifactError(
            f"{count} integers of {width} bits need {packed_bytes(count, width)} bytes, the file holds {len(data)}; it is damaged"
        )
    dtype = unsigned_dtype(width)
    if width == 0:
        return numpy.zeros(count, dtype)
    used = count * width % 8
    if used and data[-1] >> used:
        raise ArtifactError("a bit after the last packed integer is set; the file is damaged")
    packed = numpy.frombuffer(data, numpy.uint8)
    if width == 8 * dtype.itemsize:
        return packed.view(dtype)
    out = numpy.empty(count, dtype)
    for start in range(0, count, _CHUNK):
        chunk = out[start : start + _CHUNK]
        first = start * width // 8
        part = packed[first : first + packed_bytes(chunk.size, width)]
        bits = numpy.unpackbits(part, count=chunk.size * width, bitorder="little").reshape(chunk.size, width)
        if dtype.itemsize > 1:
            wide = numpy.zeros((chunk.size, 8 * dtype.itemsize), numpy.uint8)
            wide[:, :width] = bits
            bits = wide
        chunk[:] = numpy.packbits(bits, axis=1, bitorder="little").view(dtype).reshape(-1)
    return out


def pack_integers(x: Tensor, spec: PlaneSpec) -> bytes:
    """A plane that `has_alphabet`, bit-packed as the packer ``raw`` describes."""
    return pack_bits(offsets(x, spec), alphabet(spec)[1].bit_length())


def unpack_integers(data: bytes, spec: PlaneSpec) -> Tensor:
    """Inverse of `pack_integers`.

    Raises
    ------
    ArtifactError
        If the bytes are not what `pack_integers` makes of any plane with this spec.
    """
    return from_offsets(unpack_bits(data, alphabet(spec)[1].bit_length(), spec.numel), spec)


def unsigned_dtype(width: int) -> np.dtype[np.unsignedinteger]:
    """Narrowest unsigned little-endian dtype of at least so many bits."""
    return numpy.dtype("u1" if width <= 8 else "<u2" if width <= 16 else "<u4" if width <= 32 else "<u8")
