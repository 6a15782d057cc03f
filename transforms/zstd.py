"""``zstd``: Zstandard over whichever byte layout of the plane compresses best."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import msgspec

from stackc.core.packer import Packer
from stackc.core.planes import byte_view, from_bytes
from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError
from stackc.util.frames import largest_window
from stackc.util.lazy import numpy

from .shared.bits import (
    alphabet,
    from_offsets,
    has_alphabet,
    offsets,
    pack_bits,
    packed_bytes,
    unpack_bits,
    unpack_integers,
    unsigned_dtype,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from zstandard import ZstdCompressionParameters, ZstdCompressor, ZstdDecompressor

_STORED, _PACKED, _ELEMENTS, _SHUFFLED = range(4)

#: Above this level and size, layouts are compared at `_TRIAL_LEVEL`: which one wins hardly depends on the level.
_FAST_LEVELS = 9
_SMALL_BYTES = 1 << 18
_TRIAL_LEVEL = 3

#: Compressors and decompressors of contents up to this are kept, and so many of the former, each of some hundreds of KiB.
_KEPT_BYTES = 1 << 12
_KEPT = 16

#: The frame header descriptor of every frame that `Zstd` writes: no sizes, no checksum, no dictionary.
_DESCRIPTOR = b"\0"
_LEAST_WINDOW = 1 << 10


class Zstd(Packer, frozen=True):
    """Compress a plane with Zstandard, as bit-packed integers, whole elements or byte planes, whichever is smallest.

    **Format, version 1.** A plane whose ``raw`` form (see there) has no bytes has none here either. Otherwise byte 0 is
    the layout and the rest is the body.

    ====== ======== =====================================================================================
    layout body     holds
    ====== ======== =====================================================================================
    0      as it is the ``raw`` form
    1      a frame  the ``raw`` form
    2      a frame  the elements in C order, each a little-endian number of ``e`` bytes
    3      a frame  the same bytes shuffled: byte 0 of every element, then byte 1 of every element, and so on
    ====== ======== =====================================================================================

    In layouts 2 and 3 the elements of a plane with bounds (and of a bool plane, as 0 and 1) are ``x[i] - lo`` and ``e`` is
    the least of 1, 2, 4 and 8 such that ``hi - lo`` fits; all other planes have their own elements and their item size,
    as in ``raw``.

    A *frame* is one Zstandard frame (RFC 8878) without its first five bytes: the magic number ``28 B5 2F FD`` and the
    frame header descriptor ``00``. So it begins with the window descriptor; there is no content size, checksum or
    dictionary. To read it, put those five bytes before it. The window is at most 1 KiB or the least power of two that
    holds the content, whichever is more, and at most 2 GiB. A reader refuses a frame that decodes to another length than the plane's, bytes
    after the frame, and other layouts.

    Bytes depend on the version of the Zstandard library that compresses, as they do for every Zstandard file; what they
    decode to does not.

    Parameters
    ----------
    level : int
        Zstandard's compression level, 1 (fast) to 22 (small).

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(4096) % 7
    >>> spec = PlaneSpec((4096,), "int64", lo=0, hi=6)
    >>> data = Zstd(level=5).pack(x, spec)
    >>> len(data) < 40, torch.equal(Zstd().unpack(data, spec), x)
    (True, True)
    """

    name: ClassVar[str] = "zstd"
    version: ClassVar[int] = 1

    level: Annotated[int, msgspec.Meta(ge=1, le=22, description="Zstandard level: 1 is fast, 22 is small")] = 19

    def refusal(self, spec: PlaneSpec) -> str | None:
        """Return None: this packer takes every plane."""
        return None

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        form = _form(spec)
        tried = layouts = _layouts(x, spec)
        if self.level > _FAST_LEVELS and form.item_bytes * spec.numel > _SMALL_BYTES:
            layout, _ = _smallest(layouts, _TRIAL_LEVEL)
            tried = {layout: layouts[layout]}
        layout, body = _smallest(tried, self.level)
        if len(body) >= form.packed_bytes:
            return bytes([_STORED]) + layouts[_PACKED]()
        return bytes([layout]) + body

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        form = _form(spec)
        layout, body = (data[0], data[1:]) if data else (-1, b"")
        if layout in (_STORED, _PACKED):
            content = body if layout == _STORED else _decompress(body, form.packed_bytes)
            return unpack_integers(content, spec) if has_alphabet(spec) else from_bytes(content, spec)
        if layout not in (_ELEMENTS, _SHUFFLED):
            raise ArtifactError(
                f"the file names the zstd layout {layout if data else 'of no bytes'}, known are 0 to 3; it is damaged"
            )
        content = _decompress(body, spec.numel * form.item_bytes)
        if layout == _SHUFFLED:
            content = unshuffle(content, form.item_bytes)
        if has_alphabet(spec):
            return from_offsets(unpack_bits(content, 8 * form.item_bytes, spec.numel), spec)
        return from_bytes(content, spec)

    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        """The layout byte."""
        return min(1, len(data))


class _Form(NamedTuple):
    packed_bytes: int
    item_bytes: int


@functools.lru_cache(maxsize=1024)
def _form(spec: PlaneSpec) -> _Form:
    if not has_alphabet(spec):
        return _Form(spec.nbytes, spec.item_bytes)
    width = alphabet(spec)[1].bit_length()
    return _Form(packed_bytes(spec.numel, width), unsigned_dtype(width).itemsize)


def _layouts(x: Tensor, spec: PlaneSpec) -> dict[int, Callable[[], bytes | memoryview]]:
    """Contents to choose from, best guess first where sizes tie; made one at a time, since planes can be large."""
    form = _form(spec)
    if has_alphabet(spec):
        width = alphabet(spec)[1].bit_length()
        values = offsets(x, spec)
        elements = values.view(numpy.uint8).data
        layouts: dict[int, Callable[[], bytes | memoryview]] = {_PACKED: lambda: pack_bits(values, width)}
        if width != 8 * form.item_bytes:
            layouts[_ELEMENTS] = lambda: elements
    else:
        elements = byte_view(x).data
        layouts = {_PACKED: lambda: elements}
    if form.item_bytes > 1:
        layouts[_SHUFFLED] = lambda: shuffle(elements, form.item_bytes)
    return layouts


def _smallest(layouts: Mapping[int, Callable[[], bytes | memoryview]], level: int) -> tuple[int, bytes]:
    """The layout that compresses best, and its frame; of equal ones the first."""
    best = (-1, b"")
    for layout, content in layouts.items():
        frame = _compress(content(), level)
        if best[0] < 0 or len(frame) < len(best[1]):
            best = layout, frame
    return best


def shuffle(data: bytes | memoryview, item_bytes: int) -> bytes:
    """Byte 0 of every element, then byte 1, and so on: exponents of real numbers end up side by side.

    Source: the shuffle filter of HDF5 and Blosc.

    Examples
    --------
    >>> shuffle(b"a1b2c3", 2)
    b'abc123'
    """
    return _turn(data, (-1, item_bytes))


def unshuffle(data: bytes, item_bytes: int) -> bytes:
    """Inverse of `shuffle`.

    Examples
    --------
    >>> unshuffle(b"abc123", 2)
    b'a1b2c3'
    """
    return _turn(data, (item_bytes, -1))


def _turn(data: bytes | memoryview, shape: tuple[int, int]) -> bytes:
    array: np.ndarray = numpy.frombuffer(data, numpy.uint8).reshape(shape)
    return array.T.tobytes()


def _compress(content: bytes | memoryview, level: int) -> bytes:
    frame = _compressor(level, len(content)).compress(content)
    if frame[:1] != _DESCRIPTOR:
        raise RuntimeError(f"zstandard wrote the frame header descriptor {frame[:1].hex()} where 00 was asked for")
    return frame[1:]


class _Kept(threading.local):
    """What a thread keeps for small contents, since no two threads may use it at once: to make it takes ten times as long."""

    def __init__(self) -> None:
        self.compressors: dict[tuple[int, int], ZstdCompressor] = {}
        self.decompressors: dict[int, ZstdDecompressor] = {}


_kept = _Kept()


def _compressor(level: int, size: int) -> ZstdCompressor:
    import zstandard

    found = _kept.compressors.get((level, size))
    if found is None:
        found = zstandard.ZstdCompressor(compression_params=_parameters(level, size))
        if size <= _KEPT_BYTES:
            if len(_kept.compressors) == _KEPT:
                _kept.compressors.clear()
            _kept.compressors[level, size] = found
    return found


def _decompressor(size: int) -> ZstdDecompressor:
    import zstandard

    window = largest_window(size, _LEAST_WINDOW)
    found = _kept.decompressors.get(window)
    if found is None:
        found = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=window)
        if window <= _KEPT_BYTES:
            _kept.decompressors[window] = found
    return found


@functools.lru_cache(maxsize=1024)
def _parameters(level: int, size: int) -> ZstdCompressionParameters:
    """How frames are written; kept, since small planes of a model are often of the same size."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=size,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
        threads=0,  # several threads would cut the content into jobs, and the bytes would depend on their number
    )
    if 1 << parameters.window_log > largest_window(size, _LEAST_WINDOW):
        raise RuntimeError(f"zstandard chose a window of 2**{parameters.window_log} for {size} bytes")
    return parameters


def _decompress(frame: bytes, size: int) -> bytes:
    """Content of a frame of known content size.

    The descriptor that is put before it says that the frame states no content size: python-zstandard ignores
    ``max_output_size`` for frames that do. The window is bounded too, since the decoder allocates it.
    """
    import zstandard

    try:
        content = _decompressor(size).decompress(_DESCRIPTOR + frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtifactError(
            f"a zstd frame in the file does not decode to {size} bytes: {error}; it is damaged"
        ) from error
    if len(content) != size:
        raise ArtifactError(
            f"a zstd frame in the file decodes to {len(content)} bytes instead of {size}; it is damaged"
        )
    return content
