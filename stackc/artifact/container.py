"""The bytes around the planes: header, compressed manifest, payload in checked blocks. See ``docs/format.md``.

======  =====  ==============================================================
offset  bytes  content
======  =====  ==============================================================
0       7      magic ``93 53 54 41 43 4B 43`` (``\\x93STACKC``)
7       1      format version: 1, or 2 if tensors refer to shared planes
8       4      C, bytes of the compressed manifest, unsigned little-endian
12      4      M, bytes of the manifest, unsigned little-endian
16      4      CRC-32 of bytes 0 to 15 and of the compressed manifest
20      C      the manifest, MessagePack in one zstd frame
20 + C  ...    payload: planes of tensors end to end, shared planes, bundled files, to the end
======  =====  ==============================================================

The manifest holds the CRC-32 of every payload block of 64 KiB, so everything in the file is covered by a checksum and one
tensor can still be read and checked without the others.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from stackc.artifact.limits import manifest_limit
from stackc.util.errors import ArtifactError, OutputError
from stackc.util.frames import largest_window

MAGIC = b"\x93STACKC"
#: Versions of the format, the first and the last that are read. A file is written in the first that can say it.
PLAIN_VERSION = 1
SHARING_VERSION = 2
BLOCK_BYTES = 1 << 16
#: A manifest may not be larger than this, compressed or not.
MAX_MANIFEST_BYTES = 64 << 20

#: RFC 8878 recommends that every decoder supports a window of 8 MiB.
_LEAST_WINDOW = 8 << 20

_LENGTHS = struct.Struct("<II")
_CRC = struct.Struct("<I")
HEADER_BYTES = len(MAGIC) + 1 + _LENGTHS.size + _CRC.size


@functools.lru_cache(maxsize=8)  # every file of a run holds the same companions
def compress(content: bytes) -> bytes:
    """One zstd frame that states neither its content's size nor a checksum: the manifest holds both."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(content), write_content_size=False, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def decompress(frame: bytes, size: int) -> bytes:
    """Content of one zstd frame of known content size.

    Raises
    ------
    ArtifactError
        If it does not decode to so many bytes; never allocates much more than those.
    """
    try:
        stated = zstandard.get_frame_parameters(frame).content_size
        # For a frame that states its size, python-zstandard allocates that and ignores max_output_size.
        if stated not in (size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ArtifactError(f"its frame states {stated} bytes instead of {size}")
        decompressor = zstandard.ZstdDecompressor(max_window_size=largest_window(size, _LEAST_WINDOW))
        content = decompressor.decompress(frame, max_output_size=max(size, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtifactError(str(error)) from error
    if len(content) != size:
        raise ArtifactError(f"it has {len(content)} bytes instead of {size}")
    return content


def frame_manifest(manifest: bytes, payload_bytes: int = 0, version: int = PLAIN_VERSION) -> bytes:
    """Header and compressed manifest: the start of a file of this version with so many bytes after it.

    Raises
    ------
    OutputError
        If the manifest is larger than any reader takes, or than it takes for a file of that size.
    """
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise OutputError(
            f"the manifest takes {len(manifest)} bytes, more than {MAX_MANIFEST_BYTES}: the model has too many tensors"
        )
    compressed = compress(manifest)
    limit = manifest_limit(HEADER_BYTES + len(compressed) + payload_bytes)
    if len(manifest) > limit:
        raise OutputError(
            f"the manifest takes {len(manifest)} bytes, more than the {limit} that readers allow a file of this size: "
            "its config repeats itself too often; shorten it"
        )
    start = MAGIC + bytes([version]) + _LENGTHS.pack(len(compressed), len(manifest))
    return start + _CRC.pack(zlib.crc32(compressed, zlib.crc32(start))) + compressed


class Start(NamedTuple):
    """What a file begins with: its format version, the manifest's bytes, and where the payload starts."""

    version: int
    manifest: bytes
    offset: int


def read_manifest(file: BinaryIO, name: str) -> Start:
    """Read the start of a file.

    Raises
    ------
    ArtifactError
        If the file is no artifact, of a newer format, truncated or damaged.
    """
    header = file.read(HEADER_BYTES)
    if header[: len(MAGIC)] != MAGIC[: len(header)] or not header:
        raise ArtifactError(f"{name} is not a stackc artifact: it does not start with the magic bytes")
    if len(header) < HEADER_BYTES:
        raise ArtifactError(f"{name} is truncated: it ends inside the header, after {len(header)} bytes")
    version = header[len(MAGIC)]
    compressed_bytes, manifest_bytes = _LENGTHS.unpack_from(header, len(MAGIC) + 1)
    if not PLAIN_VERSION <= version <= SHARING_VERSION:
        raise ArtifactError(
            f"{name} has format version {version}, this release reads versions {PLAIN_VERSION} to {SHARING_VERSION}; "
            "it is damaged or needs a newer stackc"
        )
    if max(compressed_bytes, manifest_bytes) > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"{name} is damaged: its header announces a manifest of {max(compressed_bytes, manifest_bytes)} bytes"
        )
    file_bytes = os.fstat(file.fileno()).st_size
    available = file_bytes - HEADER_BYTES
    if compressed_bytes > available:
        raise ArtifactError(
            f"{name} is truncated or damaged: its manifest needs {compressed_bytes} bytes, {available} follow"
        )
    if manifest_bytes > manifest_limit(file_bytes):
        raise ArtifactError(
            f"{name} is damaged: its manifest of {manifest_bytes} bytes is larger than the {manifest_limit(file_bytes)} that "
            f"a file of {file_bytes} bytes may have"
        )
    compressed = file.read(compressed_bytes)
    start = header[: HEADER_BYTES - _CRC.size]
    if zlib.crc32(compressed, zlib.crc32(start)) != _CRC.unpack_from(header, HEADER_BYTES - _CRC.size)[0]:
        raise ArtifactError(f"{name} is damaged: the checksum of its header and manifest does not match")
    try:
        return Start(version, decompress(compressed, manifest_bytes), HEADER_BYTES + compressed_bytes)
    except ArtifactError as error:
        raise ArtifactError(f"{name} is damaged: its manifest does not decompress: {error}") from error


class BlockChecksums:
    """CRC-32 of every block of a payload that is written piece by piece."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, data: bytes) -> None:
        """Take the next piece."""
        view = memoryview(data)
        while view:
            piece = view[: BLOCK_BYTES - self._filled]
            self._crc = zlib.crc32(piece, self._crc)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == BLOCK_BYTES:
                self._done.append(self._crc)
                self._crc = self._filled = 0

    def digest(self) -> bytes:
        """All checksums so far, four little-endian bytes each; the last block may be short."""
        blocks = [*self._done, self._crc] if self._filled else self._done
        return b"".join(_CRC.pack(crc) for crc in blocks)


class CheckedPayload:
    """Random access to a payload: every block is checked before any of it is used. Safe to use from several threads."""

    def __init__(self, file: BinaryIO, offset: int, length: int, checksums: bytes, path: Path) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._name = path.name
        blocks = -(-length // BLOCK_BYTES)
        if len(checksums) != blocks * _CRC.size:
            raise ArtifactError(
                f"{self._name} is damaged: it has {len(checksums)} bytes of checksums for {blocks} blocks"
            )
        self._checksums = checksums
        # Number and content of a block that was read and checked: small planes lie many to a block. One value, so that
        # threads see a block of another thread or their own, and never a mixture.
        self._recent: tuple[int, bytes] = (-1, b"")

    def read(self, start: int, length: int) -> bytes:
        """Bytes ``start`` to ``start + length`` of the payload.

        Raises
        ------
        ArtifactError
            If a block that holds them is damaged, or the file has become shorter.
        """
        if not length:
            return b""
        if start < 0 or start + length > self._length:
            raise ArtifactError(f"{self._name} is damaged: a plane lies outside the payload of {self._length} bytes")
        first = start // BLOCK_BYTES
        begin = first * BLOCK_BYTES
        known, block = self._recent
        if known == first and start + length <= begin + len(block):
            return block[start - begin : start - begin + length]
        end = min(-(-(start + length) // BLOCK_BYTES) * BLOCK_BYTES, self._length)
        data = self._read_file(self._offset + begin, end - begin)
        view = memoryview(data)
        for index, at in enumerate(range(0, len(data), BLOCK_BYTES), start=first):
            if zlib.crc32(view[at : at + BLOCK_BYTES]) != _CRC.unpack_from(self._checksums, index * _CRC.size)[0]:
                low = self._offset + index * BLOCK_BYTES
                high = min(low + BLOCK_BYTES, self._offset + self._length)
                raise ArtifactError(
                    f"{self._name} is damaged between bytes {low} and {high}: the checksum of this block does "
                    "not match; restore the file from a copy"
                )
        if len(data) <= BLOCK_BYTES:
            self._recent = (first, data)
        return data[start - begin : start - begin + length]

    def _read_file(self, offset: int, length: int) -> bytes:
        pieces = []
        try:
            while length:
                # One call reads at most 2 GiB; a position of its own keeps threads apart.
                piece = os.pread(self._file.fileno(), length, offset)
                if not piece:
                    raise ArtifactError(f"{self._name} is truncated: {length} bytes are missing at byte {offset}")
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        except OSError as error:
            raise ArtifactError(f"{self._name} cannot be read: {error.strerror}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
