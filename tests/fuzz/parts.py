"""A file as its parts, and back: with checksums that match, whatever the parts say. Imports nothing of stackc."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any, NamedTuple

import msgspec
import zstandard

MAGIC = b"\x93STACKC"
BLOCK_BYTES = 1 << 16

#: Items of a manifest.
KIND, CONFIG, STACKS, NAMES, TENSORS, TIES, BUNDLE, CHECKSUMS, SHARED, BASES = range(10)

#: Items of a tensor.
STACK, DTYPE, SHAPE, LENGTHS = range(4)


def entries(manifest: list[Any]) -> list[list[Any]]:
    """Tensors and shared planes, which begin with the same items, in the order of the payload."""
    return [*manifest[TENSORS], *(manifest[SHARED] if len(manifest) > SHARED else [])]


class Parts(NamedTuple):
    """The manifest as plain lists, and the pieces of the payload: every plane, then every bundled file."""

    manifest: list[Any]
    pieces: list[bytes]


@functools.cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1, write_content_size=False, write_checksum=False)


def header(compressed: bytes, size: int, version: int = 1, announced: int | None = None) -> bytes:
    """The first 20 bytes, sealed."""
    length = len(compressed) if announced is None else announced
    start = MAGIC + struct.pack("<BII", version & 255, length & 0xFFFFFFFF, size & 0xFFFFFFFF)
    return start + struct.pack("<I", zlib.crc32(compressed, zlib.crc32(start)))


def seal_bytes(manifest: bytes, payload: bytes, version: int = 1) -> bytes:
    """A file with these bytes as its manifest."""
    compressed = _compressor().compress(manifest)
    return header(compressed, len(manifest), version) + compressed + payload


def checksums(payload: bytes) -> bytes:
    """CRC-32 of every block."""
    return b"".join(
        struct.pack("<I", zlib.crc32(payload[start : start + BLOCK_BYTES]))
        for start in range(0, len(payload), BLOCK_BYTES)
    )


def seal(manifest: Any, payload: bytes) -> bytes:
    """A file with this manifest and payload; the checksums are put in where the manifest has a place for them."""
    if isinstance(manifest, list) and len(manifest) > CHECKSUMS:
        manifest[CHECKSUMS] = checksums(payload)
    version = 2 if isinstance(manifest, list) and len(manifest) > SHARED else 1
    return seal_bytes(msgspec.msgpack.encode(manifest), payload, version)


def manifest_bytes(data: bytes) -> tuple[bytes, bytes]:
    """Manifest and payload of a good file."""
    compressed, size = struct.unpack_from("<II", data, 8)
    frame = data[20 : 20 + compressed]
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size), data[20 + compressed :]


def split(data: bytes) -> Parts:
    """Parts of a good file."""
    encoded, payload = manifest_bytes(data)
    manifest = msgspec.msgpack.decode(encoded)
    lengths = [length for entry in entries(manifest) for length in entry[LENGTHS]]
    lengths += [packed for packed, _ in manifest[BUNDLE].values()]
    pieces, at = [], 0
    for length in lengths:
        pieces.append(payload[at : at + length])
        at += length
    return Parts(manifest, pieces)


def join(parts: Parts) -> bytes:
    """The file of these parts, with lengths and checksums that match the pieces."""
    pieces = iter(parts.pieces)
    for entry in entries(parts.manifest):
        entry[LENGTHS] = [len(next(pieces)) for _ in entry[LENGTHS]]
    for sizes in parts.manifest[BUNDLE].values():
        sizes[0] = len(next(pieces))
    return seal(parts.manifest, b"".join(parts.pieces))
