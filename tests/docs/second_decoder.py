"""A second decoder of the artifact format, written from ``docs/format.md`` alone: it imports nothing of stackc.

Slow and small. bfloat16 arrays, which numpy does not have, are kept as float32 arrays that hold bfloat16 numbers.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

MAGIC = bytes.fromhex("93535441434B43")
BLOCK = 65536
LARGEST_MANIFEST = 64 << 20
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
REAL = ("float32", "float16", "bfloat16", "float64")
ITEM_BYTES = dict(zip(DTYPES, (4, 2, 2, 8, 8, 4, 2, 1, 1, 1), strict=True))
LARGEST = {"bfloat16": 2.0**127 * (2 - 2**-7)} | {
    name: float(np.finfo(name).max) for name in REAL if name != "bfloat16"
}


class Refused(Exception):
    """The file breaks a rule of the format."""


class Spec(NamedTuple):
    """Shape, dtype and bounds of a plane."""

    shape: tuple[int, ...]
    dtype: str
    lo: int | None = None
    hi: int | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> int | None:
        return None if self.lo is None or self.hi is None else self.hi - self.lo

    @property
    def wide(self) -> str:
        return "float64" if self.dtype == "float64" else "float32"


def need(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


class SecondDecoder:
    """An opened file: ``names``, ``tensor(name)``, ``bundled(file name)``."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        need(data[:7] == MAGIC and len(data) >= 20, "magic")
        need(data[7] == 1, "version")
        compressed, size, checksum = struct.unpack_from("<III", data, 8)
        need(max(compressed, size) <= LARGEST_MANIFEST and 20 + compressed <= len(data), "manifest size")
        frame = data[20 : 20 + compressed]
        need(zlib.crc32(data[:16] + frame) == checksum, "header checksum")
        manifest = msgspec.msgpack.decode(unzstd(frame, size))
        need(isinstance(manifest, list) and len(manifest) == 8, "manifest")
        self.kind, self.config, self.stacks, first_names, self.tensors, ties, self.bundle, checksums = manifest
        need(self.kind in (0, 1, 2) and len(first_names) == len(self.tensors), "manifest")
        self.names: dict[str, int] = {**{name: number for number, name in enumerate(first_names)}, **ties}
        need(len(self.names) == len(first_names) + len(ties), "names")
        self.payload = data[20 + compressed :]
        need(not any(set(name) & set("/\\\0") or name in ("", ".", "..") for name in self.bundle), "bundled name")
        lengths = [length for entry in self.tensors for length in entry[3]]
        lengths += [packed for packed, _ in self.bundle.values()]
        need(min(lengths, default=0) >= 0 and sum(lengths) == len(self.payload), "file size")
        blocks = [self.payload[start : start + BLOCK] for start in range(0, len(self.payload), BLOCK)]
        need(b"".join(struct.pack("<I", zlib.crc32(block)) for block in blocks) == checksums, "block checksums")

    def tensor(self, name: str) -> np.ndarray:
        number = self.names[name]
        stack, dtype, shape, lengths = self.tensors[number]
        start = sum(sum(entry[3]) for entry in self.tensors[:number])
        spec = Spec(tuple(shape), DTYPES[dtype], *((0, 1) if DTYPES[dtype] == "bool" else ()))

        def planes() -> Iterator[bytes]:
            at = start
            for length in lengths:
                yield self.payload[at : at + length]
                at += length

        stored = planes()
        decoded = decode(self.stacks[stack], spec, lambda: next(stored), 0)
        need(next(stored, None) is None, "more planes than leaves")
        return decoded

    def bundled(self, file: str) -> bytes:
        start = sum(sum(entry[3]) for entry in self.tensors)
        for name, (packed, size) in self.bundle.items():
            if name == file:
                return unzstd(self.payload[start : start + packed], size)
            start += packed
        raise KeyError(file)


def decode(node: list[Any], spec: Spec, next_bytes: Callable[[], bytes], depth: int) -> np.ndarray:
    need(depth < 32, "depth")
    name, version, config, *rest = node
    if not rest:
        need((name, version) in PACKERS, f"packer {name}@{version}")
        plane = PACKERS[name, version](next_bytes(), spec, **config)
    else:
        need((name, version) in TRANSFORMS, f"transform {name}@{version}")
        plan, rebuild = TRANSFORMS[name, version]
        specs = plan(spec, **config)
        need(len(specs) == len(rest[0]), "children")
        children = [decode(child, below, next_bytes, depth + 1) for child, below in zip(rest[0], specs, strict=True)]
        plane = rebuild(children, spec, **config)
    need(plane.shape == spec.shape, "shape")
    if spec.span is not None and spec.numel:
        need(spec.lo <= int(plane.min()) and int(plane.max()) <= spec.hi, "bounds")
    return plane


# Real numbers


def convert(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return x.astype(dtype)
    words = x.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (words + 0x7FFF + ((words >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16) << np.uint64(16)
    return rounded.astype("<u4").view("<f4")


def limit(x: np.ndarray, dtype: str) -> np.ndarray:
    largest = x.dtype.type(LARGEST[dtype])
    return convert(np.clip(x, -largest, largest), dtype)


# Transforms: plan(spec, **config) gives the specs of the planes, rebuild(planes, spec, **config) the plane


def plan_prune(spec: Spec, sparsity: Any, rows: Any, columns: Any, scope: str, keep: int | None) -> list[Spec]:
    need(spec.dtype in REAL, "prune of integers")
    need(sum(share is not None for share in (sparsity, rows, columns)) == 1, "prune shares")
    need((keep is not None) == (scope == "global") and (keep is None or sparsity is not None), "prune keep")

    def kept(share: float, length: int) -> int:
        return length - round(float(share) * length)

    if sparsity is not None:
        count = kept(sparsity, spec.numel) if keep is None else keep
        need(0 <= count <= spec.numel, "prune keep")
        return [Spec(spec.shape, "bool", 0, 1), Spec((count,), spec.dtype)]
    need(len(spec.shape) >= 2, "prune axes")
    if rows is not None:
        length, shape = spec.shape[0], (kept(rows, spec.shape[0]), *spec.shape[1:])
        fallback = (1, *spec.shape[1:])
    else:
        length, shape = spec.shape[-1], (*spec.shape[:-1], kept(columns, spec.shape[-1]))
        fallback = (*spec.shape[:-1], 1)
    return [Spec((length,), "bool", 0, 1), Spec(shape, spec.dtype), Spec(fallback, spec.wide)]


def rebuild_prune(planes: list[np.ndarray], spec: Spec, sparsity: Any, rows: Any, **_: Any) -> np.ndarray:
    mask, values = planes[0].astype(bool), planes[1]
    axis = 0 if sparsity is not None or rows is not None else values.ndim - 1
    need(int(mask.sum()) == values.shape[axis], "prune mask")
    out = np.zeros(spec.shape, values.dtype)
    if sparsity is not None:
        out[mask] = values
        return out
    if rows is not None:
        out[...] = limit(planes[2], spec.dtype)
        out[mask] = values
    else:
        out[...] = limit(planes[2], spec.dtype)
        out[..., mask] = values
    return out


def plan_seed(spec: Spec, rank: int, variance: None, center: bool) -> list[Spec]:
    need(spec.dtype in REAL and len(spec.shape) >= 2 and spec.numel > 0 and variance is None, "seed")
    rows, columns = spec.shape[0], math.prod(spec.shape[1:])
    need(1 <= rank <= min(rows, columns), "seed rank")
    mean = [Spec((1, columns), spec.wide)] if center else []
    return [*mean, Spec((rank, columns), spec.wide), Spec((rows, rank), spec.wide)]


def rebuild_seed(planes: list[np.ndarray], spec: Spec, center: bool, **_: Any) -> np.ndarray:
    rows = planes[-1] @ planes[-2]
    if center:
        rows = rows + planes[0]
    return limit(rows, spec.dtype).reshape(spec.shape)


def blocks(spec: Spec, granularity: str, group_size: int | None) -> tuple[tuple[int, ...], int, int, int]:
    need((group_size is not None) == (granularity == "group"), "int group size")
    *lead, width = spec.shape or (1,)
    if granularity == "tensor":
        return (1,) * len(lead), spec.numel, max(spec.numel, 1), 1
    size = max(width if group_size is None else min(group_size, width), 1)
    return tuple(lead), width, size, max(math.ceil(width / size), 1)


def plan_int(spec: Spec, bits: int, symmetric: bool, granularity: str, group_size: int | None) -> list[Spec]:
    need(spec.dtype in REAL and 1 <= bits <= 8, "int")
    lead, _, _, groups = blocks(spec, granularity, group_size)
    scale = Spec((*lead, groups), spec.wide)
    if symmetric:
        return [Spec(spec.shape, "int8", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), scale]
    return [Spec(spec.shape, "uint8", 0, 2**bits - 1), scale, Spec(scale.shape, "uint8", 0, 2**bits - 1)]


def rebuild_int(
    planes: list[np.ndarray], spec: Spec, bits: int, symmetric: bool, granularity: str, group_size: int | None
) -> np.ndarray:
    lead, width, size, _ = blocks(spec, granularity, group_size)
    block = np.arange(width) // size
    values = planes[0].reshape(*lead, width).astype(spec.wide)
    if not symmetric:
        values = values - planes[2].astype(spec.wide)[..., block]
    elif bits == 1:
        values = values + np.dtype(spec.wide).type(0.5)
    return limit(values * planes[1][..., block], spec.dtype).reshape(spec.shape)


def plan_cast(spec: Spec, to: str) -> list[Spec]:
    need(spec.dtype in ("float32", "float64") and to in ("float16", "bfloat16"), "cast")
    return [Spec(spec.shape, to)]


def rebuild_cast(planes: list[np.ndarray], spec: Spec, **_: Any) -> np.ndarray:
    return convert(planes[0], spec.dtype)


# Packers


def unzstd(frame: bytes, size: int, window: int = 1 << 27) -> bytes:
    """Exactly ``size`` bytes of one frame with nothing after it; memory does not depend on what the frame announces."""
    reader = zstandard.ZstdDecompressor(max_window_size=window).decompressobj()
    content, fed = b"", 0
    try:
        while fed < len(frame) and not reader.eof and len(content) <= size:
            content += reader.decompress(frame[fed : fed + 256])
            fed += 256
    except zstandard.ZstdError as error:
        raise Refused(str(error)) from error
    need(reader.eof and not reader.unused_data and fed >= len(frame) and len(content) == size, "zstd frame")
    return content


def bits_of(data: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(np.uint64)


def integers(bits: np.ndarray, width: int, count: int) -> np.ndarray:
    """``count`` unsigned integers of ``width`` bits, least significant bit first."""
    powers = np.uint64(1) << np.arange(width, dtype=np.uint64)
    return (bits[: count * width].reshape(count, width) * powers).sum(1, dtype=np.uint64)


def from_offsets(offsets: np.ndarray, spec: Spec) -> np.ndarray:
    need(spec.numel == offsets.size and (not offsets.size or int(offsets.max()) <= spec.span), "integers out of bounds")
    return (offsets.astype(np.int64) + spec.lo).astype(spec.dtype).reshape(spec.shape)


def elements(data: bytes, spec: Spec) -> np.ndarray:
    need(len(data) == spec.numel * ITEM_BYTES[spec.dtype], "plane length")
    if spec.dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(spec.shape)
    return np.frombuffer(data, np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)


def unpack_raw(data: bytes, spec: Spec) -> np.ndarray:
    if spec.span is None:
        return elements(data, spec)
    width = spec.span.bit_length()
    need(len(data) == math.ceil(spec.numel * width / 8), "raw length")
    bits = bits_of(data)
    need(not bits[spec.numel * width :].any(), "raw padding")
    return from_offsets(integers(bits, width, spec.numel), spec)


def unpack_zstd(data: bytes, spec: Spec, level: int) -> np.ndarray:
    need(1 <= level <= 22, "zstd level")
    item = ITEM_BYTES[spec.dtype]
    raw_bytes = spec.numel * item
    if spec.span is not None:
        item = next(size for size in (1, 2, 4, 8) if 8 * size >= spec.span.bit_length())
        raw_bytes = math.ceil(spec.numel * spec.span.bit_length() / 8)
    if not raw_bytes:
        need(not data, "bytes of an empty plane")
        return unpack_raw(data, spec)
    need(len(data) >= 1 and data[0] <= 3, "zstd layout")
    if data[0] == 0:
        return unpack_raw(data[1:], spec)
    size = raw_bytes if data[0] == 1 else spec.numel * item
    window = max(1024, 1 << (size - 1).bit_length())
    content = unzstd(bytes.fromhex("28B52FFD00") + data[1:], size, window)
    if data[0] == 1:
        return unpack_raw(content, spec)
    if data[0] == 3:
        content = np.frombuffer(content, np.uint8).reshape(item, spec.numel).T.tobytes()
    return elements(content, spec) if spec.span is None else from_offsets(np.frombuffer(content, f"<u{item}"), spec)


def unpack_ans(data: bytes, spec: Spec) -> np.ndarray:
    span = spec.span
    need(span is not None and span <= 65535, "ans alphabet")
    if not spec.numel or not span:
        need(not data, "bytes of an empty plane")
        return from_offsets(np.zeros(spec.numel, np.uint64), spec)
    need(len(data) >= 1, "ans without bytes")
    if data[0] == 0x20:
        return unpack_raw(data[1:], spec)
    if data[0] == 0x40:
        need(len(data) == 1 + math.ceil(span.bit_length() / 8), "one symbol")
        return from_offsets(np.full(spec.numel, int.from_bytes(data[1:], "little"), np.uint64), spec)
    need(data[0] < 0x20, "ans layout")
    symbols, frequencies, length = read_table(data, span + 1)
    return from_offsets(np.array(read_stack(data[length:], symbols, frequencies, spec.numel), np.uint64), spec)


def read_table(data: bytes, alphabet: int) -> tuple[list[int], list[int], int]:
    need(len(data) >= 2, "table header")
    mantissa, differences, gaps = data[0] & 7, bool(data[0] & 8), bool(data[0] & 16)
    need(gaps or data[1] < 16, "table header")
    widths, start, count = [data[1] & 15], 2, alphabet
    if gaps:
        widths, start, count = [data[1] >> 4, data[1] & 15], 4, int.from_bytes(data[2:4], "little") + 1
        need(len(data) >= 4 and count <= alphabet, "table header")
    bits = bits_of(data[start:])
    ones = np.flatnonzero(bits)[: count * len(widths)]
    need(len(ones) == count * len(widths), "table cut off")
    quotients = np.diff(ones, prepend=-1) - 1
    at = int(ones[-1]) + 1
    sequences = []
    for number, width in enumerate(widths):
        need(at + count * width <= len(bits), "table cut off")
        remainders = integers(bits[at:], width, count).astype(np.int64)
        sequences.append((quotients[number * count : (number + 1) * count] << width) + remainders)
        at += count * width
    end = math.ceil(at / 8)
    need(not bits[at : 8 * end].any(), "table padding")
    numbers = sequences[-1]
    if differences:
        numbers = np.cumsum(np.where(numbers % 2, -(numbers + 1) // 2, numbers // 2))
    if gaps:
        symbols, levels = np.cumsum(sequences[0] + 1) - 1, numbers + 1
    else:
        symbols, levels = np.flatnonzero(numbers), numbers[numbers != 0]
    need(len(symbols) >= 2 and int(symbols[-1]) < alphabet, "table symbols")
    need(int(levels.min()) >= 1 and int(levels.max()) <= 16 * 2**mantissa + 1, "table levels")
    weights = [(2**mantissa + (q - 1) % 2**mantissa) << ((q - 1) >> mantissa) for q in levels.tolist()]
    total, room, before, frequencies = sum(weights), 2**20 - len(weights), 0, []
    for weight in weights:
        frequencies.append((before + weight) * room // total - before * room // total + 1)
        before += weight
    return symbols.tolist(), frequencies, start + end


def read_stack(stack: bytes, symbols: list[int], frequencies: list[int], count: int) -> list[int]:
    need(len(stack) > 0 and stack[-1] != 0, "last byte of the ANS stack")
    words = np.frombuffer(stack + b"\0" * (-len(stack) % 4), "<u4").tolist()
    n = len(symbols)
    before = np.cumsum([0, *frequencies])
    need(int(before[-1]) == 2**20, "frequencies")
    bounds = [int(before[j]) * (2**24 - n) // 2**20 + j for j in range(n)] + [2**24]
    state, out = 0, []
    while state < 2**32 and words:
        state = state << 32 | words.pop()
    for _ in range(count):
        q = state % 2**24
        j = int(np.searchsorted(bounds, q, side="right")) - 1
        out.append(symbols[j])
        state = (state >> 24) * (bounds[j + 1] - bounds[j]) + q - bounds[j]
        if state < 2**32 and words:
            state = state << 32 | words.pop()
    need(state == 0 and not words, "end of the ANS stack")
    return out


TRANSFORMS: dict[tuple[str, int], tuple[Callable[..., list[Spec]], Callable[..., np.ndarray]]] = {
    ("prune", 1): (plan_prune, rebuild_prune),
    ("seed", 1): (plan_seed, rebuild_seed),
    ("int", 1): (plan_int, rebuild_int),
    ("cast", 1): (plan_cast, rebuild_cast),
}
PACKERS: dict[tuple[str, int], Callable[..., np.ndarray]] = {
    ("raw", 1): unpack_raw,
    ("zstd", 1): unpack_zstd,
    ("ans", 1): unpack_ans,
}
