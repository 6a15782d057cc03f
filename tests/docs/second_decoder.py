"""A second decoder of the artifact format, written from ``docs/format.md`` alone: it imports nothing of stackc.

Slow and small. bfloat16 arrays, which numpy does not have, are kept as float32 arrays that hold bfloat16 numbers.
"""

from __future__ import annotations

import base64
import bisect
import itertools
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
BUNDLED = re.compile(
    r"generation_config\.json|(video_)?preprocessor_config\.json|processor_config\.json"
    r"|audio_tokenizer_config\.json|chat_template\.(jinja|json)|additional_chat_templates/[A-Za-z0-9_-]{1,60}\.jinja"
    r"|modules\.json|config_sentence_transformers\.json"
    r"|sentence_(bert|roberta|distilbert|camembert|albert|xlm-roberta|xlnet)_config\.json"
    r"|[0-9]{1,2}_(Pooling|Normalize|Dropout)/config\.json"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(txt|json)|merges\.txt|bpe\.codes|byte_maps\.json|dict\.txt|emoji\.json|entity_vocab\.json"
    r"|normalizer\.json|prophetnet\.tokenizer|target_vocab\.json|tekken\.json|vocab-(src|tgt)\.json"
    r"|word_(pronunciation|shape)\.json|[A-Za-z0-9][A-Za-z0-9._-]{0,80}\.(model|spm|tiktoken)|left_behind\.json"
)
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
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]

    @property
    def span(self) -> int | None:
        return None if self.lo is None or self.hi is None else self.hi - self.lo

    @property
    def wide(self) -> str:
        return "float64" if self.dtype == "float64" else "float32"


def need(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


#: Kind, config, stacks, names, tensors, ties, bundle, checksums.
Manifest = tuple[
    int,
    dict[str, Any] | None,
    list[Any],
    list[str],
    list[tuple[int, int, list[int], list[int]]],
    dict[str, int],
    dict[str, tuple[int, int]],
    bytes,
]


#: Stack, dtype, shape, lengths, bounds, base.
Shared = tuple[int | None, int, list[int], list[int], int | None, int | None, tuple[int, str] | None]

#: The same, with the plane table and the bases.
Manifest2 = tuple[(*Manifest.__args__, list[Shared], list[tuple[bytes, str]])]


class SecondDecoder:
    """An opened file: ``names``, ``tensor(name)``, ``bundled(file name)``; ``bases`` are base models by their SHA-256."""

    def __init__(self, path: Path, bases: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> None:
        self.given = bases or {}
        data = path.read_bytes()
        need(data[:7] == MAGIC and len(data) >= 20, "magic")
        need(data[7] in (1, 2), "version")
        compressed, size, checksum = struct.unpack_from("<III", data, 8)
        need(max(compressed, size) <= LARGEST_MANIFEST and 20 + compressed <= len(data), "manifest size")
        frame = data[20 : 20 + compressed]
        need(zlib.crc32(data[:16] + frame) == checksum, "header checksum")
        try:
            manifest = msgspec.msgpack.decode(unzstd(frame, size), type=Manifest if data[7] == 1 else Manifest2)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Refused(f"manifest: {error}") from error
        self.kind, self.config, self.stacks, first_names, self.tensors, ties, self.bundle, checksums = manifest[:8]
        self.shared, self.bases = manifest[8:] or ([], [])
        need(self.kind in (0, 1, 2) and len(first_names) == len(self.tensors), "manifest")
        need(len(self.stacks) <= len(self.tensors) + len(self.shared), "stacks")
        need(all(0 <= number < len(self.tensors) for number in ties.values()), "tie")
        for stack, dtype, shape, _ in self.tensors:
            need(0 <= stack < len(self.stacks) and 0 <= dtype < len(DTYPES), "tensor")
            need(len(shape) <= 64 and min(shape, default=0) >= 0, "shape")
        self._check_shared()
        self.names: dict[str, int] = {**{name: number for number, name in enumerate(first_names)}, **ties}
        need(len(self.names) == len(first_names) + len(ties) and "__metadata__" not in self.names, "names")
        self.payload = data[20 + compressed :]
        need(all(BUNDLED.fullmatch(name) for name in self.bundle), "bundled name")
        lengths = [length for entry in (*self.tensors, *self.shared) for length in entry[3]]
        lengths += [packed for packed, _ in self.bundle.values()]
        need(min(lengths, default=0) >= 0 and sum(lengths) == len(self.payload), "file size")
        blocks = [self.payload[start : start + BLOCK] for start in range(0, len(self.payload), BLOCK)]
        need(b"".join(struct.pack("<I", zlib.crc32(block)) for block in blocks) == checksums, "block checksums")

    def tensor(self, name: str) -> np.ndarray:
        number = self.names[name]
        stack, dtype, shape, lengths = self.tensors[number]
        start = sum(sum(entry[3]) for entry in self.tensors[:number])
        spec = Spec(tuple(shape), DTYPES[dtype], *((0, 1) if DTYPES[dtype] == "bool" else ()))
        return self._entry(stack, spec, lengths, start, 0, 0)

    def _check_shared(self) -> None:
        """The rules for the plane table and the bases."""
        need(len(self.bases) <= min(64, len(self.shared)), "bases")
        need(all(len(sha256) == 32 for sha256, _ in self.bases), "fingerprint")
        for stack, dtype, shape, lengths, *_, base in self.shared:
            need((stack is None) != (base is None), "stack or base")
            need(stack is None or 0 <= stack < len(self.stacks), "stack of a shared plane")
            need(base is None or (0 <= base[0] < len(self.bases) and not lengths), "base")
            need(0 <= dtype < len(DTYPES) and len(shape) <= 64 and min(shape, default=0) >= 0, "shared plane")
        for number in range(len(self.shared)):
            self._shared_spec(number)

    def _shared_spec(self, number: int) -> Spec:
        _, dtype, shape, _, lo, hi, _ = self.shared[number]
        name = DTYPES[dtype]
        need((lo is None) == (hi is None), "bounds")
        if lo is not None and hi is not None:
            width = 8 * ITEM_BYTES[name]
            least, most = (0, (1 << width) - 1) if name == "uint8" else (-(1 << (width - 1)), (1 << (width - 1)) - 1)
            least, most = (0, 1) if name == "bool" else (least, most)
            need(name not in REAL and least <= lo <= hi <= most, "bounds")
        return Spec(tuple(shape), name, lo, hi)

    def _shared_plane(self, number: int, depth: int) -> np.ndarray:
        need(depth < 32, "chain")
        spec, (stack, _, _, lengths, *_, base) = self._shared_spec(number), self.shared[number]
        if base is not None:
            plane = self.given[self.bases[base[0]][0].hex()][base[1]]
            need(plane.shape == spec.shape, "tensor of the base")
            return plane
        assert stack is not None
        start = sum(sum(entry[3]) for entry in (*self.tensors, *self.shared[:number]))
        return self._entry(stack, spec, lengths, start, number + 1, depth + 1)

    def _entry(self, stack: int, spec: Spec, lengths: list[int], start: int, first: int, depth: int) -> np.ndarray:
        """A tensor or a shared plane, which may refer to shared planes from ``first`` on."""

        def spec_of(number: int) -> Spec:
            need(first <= number < len(self.shared), "reference")
            return self._shared_spec(number)

        leaves = list(planned(self.stacks[stack], spec, 0, spec_of))
        need(len(leaves) == len(lengths), "lengths")
        need(sum(leaf.nbytes for leaf in leaves) <= 64 * spec.nbytes + (1 << 20), "bytes of the planes")

        def planes() -> Iterator[bytes]:
            at = start
            for length in lengths:
                yield self.payload[at : at + length]
                at += length

        stored = planes()
        return decode(self.stacks[stack], spec, lambda: next(stored), lambda number: self._shared_plane(number, depth))

    def bundled(self, file: str) -> bytes:
        start = sum(sum(entry[3]) for entry in (*self.tensors, *self.shared))
        for name, (packed, size) in self.bundle.items():
            if name == file:
                return unzstd(self.payload[start : start + packed], size)
            start += packed
        raise KeyError(file)


def planned(node: Any, spec: Spec, depth: int, spec_of: Callable[[int], Spec]) -> Iterator[Spec]:
    """The specs of the leaves; refuses a node that does not have its form."""
    need(depth < 32, "depth")
    if type(node) is int:
        need(spec_of(node) == spec, "spec of a shared plane")
        return
    need(isinstance(node, list) and len(node) in (3, 4), "node")
    name, version, config, *rest = node
    need(isinstance(name, str) and type(version) is int and isinstance(config, dict), "node")
    if not rest:
        need((name, version) in PACKERS, f"packer {name}@{version}")
        yield spec
        return
    need((name, version) in TRANSFORMS, f"transform {name}@{version}")
    specs = configured(TRANSFORMS[name, version][0], spec, config)
    need(isinstance(rest[0], list) and len(specs) == len(rest[0]), "children")
    for child, below in zip(rest[0], specs, strict=True):
        yield from planned(child, below, depth + 1, spec_of)


def configured(function: Callable[..., Any], spec: Spec, config: dict[str, Any]) -> Any:
    """What the plan of a stage makes of fields that may have any name and any type."""
    try:
        return function(spec, **config)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(f"configuration: {error}") from error


def decode(node: Any, spec: Spec, next_bytes: Callable[[], bytes], shared: Callable[[int], np.ndarray]) -> np.ndarray:
    if type(node) is int:
        return shared(node)
    name, version, config, *rest = node
    if not rest:
        plane = configured(lambda spec, **fields: PACKERS[name, version](next_bytes(), spec, **fields), spec, config)
    else:
        plan, rebuild = TRANSFORMS[name, version]
        specs = plan(spec, **config)
        children = [decode(child, below, next_bytes, shared) for child, below in zip(rest[0], specs, strict=True)]
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
    return np.where(np.isnan(x), np.float32(np.nan), rounded.astype("<u4").view("<f4"))


def limit(x: np.ndarray, dtype: str) -> np.ndarray:
    largest = x.dtype.type(LARGEST[dtype])
    return convert(np.clip(x, -largest, largest), dtype)


# Transforms: plan(spec, **config) gives the specs of the planes, rebuild(planes, spec, **config) the plane


def in_rows(shape: tuple[int, ...], version: int) -> tuple[int, ...]:
    return shape if version == 1 or len(shape) < 3 else (shape[0], math.prod(shape[1:]))


def plan_prune(
    spec: Spec, sparsity: Any, rows: Any, columns: Any, scope: str, keep: int | None, version: int
) -> list[Spec]:
    need(spec.dtype in REAL, "prune of integers")
    shares = [share for share in (sparsity, rows, columns) if share is not None]
    need(all(type(share) in (int, float) and 0 <= share <= 1 for share in shares), "prune share")
    need(scope in ("tensor", "global") and (keep is None or type(keep) is int), "prune scope")
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
        *lead, length = in_rows(spec.shape, version)
        shape, fallback = (*lead, kept(columns, length)), (*lead, 1)
    return [Spec((length,), "bool", 0, 1), Spec(shape, spec.dtype), Spec(fallback, spec.wide)]


def rebuild_prune(planes: list[np.ndarray], spec: Spec, sparsity: Any, rows: Any, version: int, **_: Any) -> np.ndarray:
    mask, values = planes[0].astype(bool), limit(planes[1], spec.dtype)
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
        out = out.reshape(in_rows(spec.shape, version))
        out[...] = limit(planes[2], spec.dtype)
        out[..., mask] = values
    return out.reshape(spec.shape)


def plan_seed(spec: Spec, rank: int, variance: None, center: bool) -> list[Spec]:
    need(spec.dtype in REAL and len(spec.shape) >= 2 and spec.numel > 0 and variance is None, "seed")
    rows, columns = spec.shape[0], math.prod(spec.shape[1:])
    need(type(rank) is int and type(center) is bool, "seed fields")
    need(1 <= rank <= min(rows, columns), "seed rank")
    mean = [Spec((1, columns), spec.wide)] if center else []
    return [*mean, Spec((rank, columns), spec.wide), Spec((rows, rank), spec.wide)]


def rebuild_seed(planes: list[np.ndarray], spec: Spec, center: bool, **_: Any) -> np.ndarray:
    basis, scores = planes[-2:]
    rows = scores[:, :1] * basis[:1]
    for component in range(1, len(basis)):
        rows = rows + scores[:, component : component + 1] * basis[component]
    if center:
        rows = rows + planes[0]
    return limit(rows, spec.dtype).reshape(spec.shape)


def blocks(spec: Spec, granularity: str, group_size: int | None, version: int) -> tuple[tuple[int, ...], int, int, int]:
    need(granularity in ("tensor", "row", "group"), "int granularity")
    need((group_size is not None) == (granularity == "group"), "int group size")
    *lead, width = in_rows(spec.shape, version) or (1,)
    if granularity == "tensor":
        return (1,) * len(lead), spec.numel, max(spec.numel, 1), 1
    size = max(width if group_size is None else min(group_size, width), 1)
    return tuple(lead), width, size, max(math.ceil(width / size), 1)


def plan_int(
    spec: Spec, bits: int, symmetric: bool, granularity: str, group_size: int | None, version: int
) -> list[Spec]:
    need(type(bits) is int and type(symmetric) is bool, "int fields")
    need(group_size is None or (type(group_size) is int and group_size >= 1), "int group size")
    whole = symmetric and granularity == "tensor"
    need(spec.dtype in REAL and 1 <= bits <= (16 if whole else 8), "int")
    lead, _, _, groups = blocks(spec, granularity, group_size, version)
    scale = Spec((*lead, groups), spec.wide)
    if symmetric:
        return [Spec(spec.shape, "int8" if bits <= 8 else "int16", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), scale]
    return [Spec(spec.shape, "uint8", 0, 2**bits - 1), scale, Spec(scale.shape, "uint8", 0, 2**bits - 1)]


def rebuild_int(
    planes: list[np.ndarray],
    spec: Spec,
    bits: int,
    symmetric: bool,
    granularity: str,
    group_size: int | None,
    version: int,
) -> np.ndarray:
    lead, width, size, _ = blocks(spec, granularity, group_size, version)
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


def plan_share(spec: Spec, difference: bool) -> list[Spec]:
    need(spec.dtype in REAL and type(difference) is bool, "share")
    return [spec, spec] if difference else [spec]


def rebuild_share(planes: list[np.ndarray], spec: Spec, **_: Any) -> np.ndarray:
    return limit(sum(plane.astype(spec.wide) for plane in planes), spec.dtype)


TRELLIS = {
    4: {0: (0, 2, 1, 3), 1: (2, 0, 3, 1)},
    8: {0: (0, 2, 4, 6, 5, 7, 1, 3), 1: (2, 0, 6, 4, 7, 5, 3, 1)},
}


def plan_tcq(spec: Spec, states: int, bits: int) -> list[Spec]:
    need(type(states) is int and type(bits) is int, "tcq fields")
    need(spec.dtype in REAL and states in TRELLIS and 2 <= bits <= 16, "tcq")
    codes = Spec(spec.shape, "int8" if bits <= 8 else "int16", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return [codes, Spec((), spec.wide)]


def rebuild_tcq(planes: list[np.ndarray], spec: Spec, states: int, bits: int) -> np.ndarray:
    state, steps = 0, []
    for code in planes[0].reshape(-1).tolist():
        sign = (code > 0) - (code < 0)
        steps.append(2 * code - (sign if state >= states // 2 else 0))
        state = TRELLIS[states][code % 2][state]
    return limit(np.array(steps, spec.wide).reshape(spec.shape) * planes[1], spec.dtype)


def codebook_shape(spec: Spec, dims: int, version: int) -> tuple[tuple[int, ...], int, int, int]:
    *lead, width = in_rows(spec.shape, version) or (1,)
    size = max(min(dims, width), 1)
    return tuple(lead), width, size, -(-width // size)


def shared_table(entries: int, dims: int, dtype: Any, table: Any) -> np.ndarray:
    need(isinstance(table, str) and dtype in ("float16", "float32", "float64"), "shared codebook")
    try:
        data = base64.b64decode(table, validate=True)
    except ValueError as error:
        raise Refused("table of a codebook") from error
    rows, rest = divmod(len(data), dims * ITEM_BYTES[dtype])
    need(rest == 0 and 1 <= rows <= entries, "table of a codebook")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(rows, dims)


def plan_codebook(
    spec: Spec, entries: int, dims: int, shared: bool, dtype: Any, version: int, table: Any = None
) -> list[Spec]:
    need(type(entries) is int and type(dims) is int and type(shared) is bool, "codebook fields")
    need(spec.dtype in REAL and 2 <= entries <= 65536 and dims >= 1, "codebook")
    lead, _, size, groups = codebook_shape(spec, dims, version)
    in_config = shared and version < 3
    if in_config:
        rows = len(shared_table(entries, dims, dtype, table))
    else:
        need(table is None and dtype in (None, "float16", "float32", "float64"), "codebook")
        rows = entries if shared else min(entries, math.prod(lead) * groups)
    most = max(rows - 1, 0)
    narrowest = "int8" if most < 1 << 7 else "uint8" if most < 1 << 8 else "int16" if most < 1 << 15 else "int32"
    codes = Spec((*lead, groups), narrowest, 0, most)
    return [codes] if in_config else [codes, Spec((rows, size), dtype or spec.wide)]


def rebuild_codebook(
    planes: list[np.ndarray],
    spec: Spec,
    entries: int,
    dims: int,
    shared: bool,
    dtype: Any,
    version: int,
    table: Any = None,
) -> np.ndarray:
    lead, width, size, groups = codebook_shape(spec, dims, version)
    book = shared_table(entries, dims, dtype, table)[:, :size] if shared and version < 3 else planes[1]
    values = book[planes[0]].reshape(*lead, groups * size)[..., :width].astype("float64")
    return limit(limit(values, spec.wide), spec.dtype).reshape(spec.shape)


def plan_delta(spec: Spec, exact: bool) -> list[Spec]:
    need(type(exact) is bool and (exact or spec.dtype in REAL), "delta")
    base = Spec(spec.shape, spec.dtype, *((0, 1) if spec.dtype == "bool" else ()))
    if not exact or spec.dtype == "bool":
        return [base, base]
    bits = 8 * ITEM_BYTES[spec.dtype]
    if bits < 32:
        return [base, Spec(spec.shape, "uint8" if bits == 8 else "int32", 0, 2**bits - 1)]
    return [base, Spec(spec.shape, f"int{bits}", 0, 2 ** (bits - 1) - 1), Spec(spec.shape, "bool", 0, 1)]


def rebuild_delta(planes: list[np.ndarray], spec: Spec, exact: bool) -> np.ndarray:
    base, difference = planes[:2]
    if not exact:
        with np.errstate(over="ignore"):
            return limit(base.astype(spec.wide) + difference.astype(spec.wide), spec.dtype)
    if spec.dtype == "bool":
        return base != difference
    bits = 8 * ITEM_BYTES[spec.dtype]
    half, whole = 1 << (bits - 1), 1 << bits
    patterns = base.astype("<f4").view("<u4") >> 16 if spec.dtype == "bfloat16" else base.view(f"u{bits // 8}")
    far = planes[2] if bits >= 32 else np.zeros(spec.shape, bool)
    made = []
    for pattern, z, highest in zip(patterns.ravel().tolist(), difference.ravel().tolist(), far.ravel(), strict=True):
        z += half if highest else 0
        number = invert(pattern, spec, half) + (-(z + 1) // 2 if z % 2 else z // 2)
        made.append(invert(number % whole, spec, half))
    words = np.array(made, np.uint64).reshape(spec.shape)
    if spec.dtype == "bfloat16":
        return (words.astype("<u4") << 16).view("<f4")
    return words.astype(f"u{bits // 8}").view(spec.dtype)


def invert(pattern: int, spec: Spec, half: int) -> int:
    """Of a real number its place among all others, or the other way round."""
    return pattern ^ (half - 1) if spec.dtype in REAL and pattern & half else pattern


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
    need(type(level) is int and 1 <= level <= 22, "zstd level")
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
    window = min(max(1024, 1 << (size - 1).bit_length()), 1 << 31)
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


def unpack_floats(data: bytes, spec: Spec) -> np.ndarray:
    need(spec.dtype in REAL, "floats of integers")
    if not spec.numel:
        need(not data, "bytes of an empty plane")
        return elements(b"", spec)
    need(len(data) >= 1 and data[0] <= 2, "floats form")
    if data[0] == 0:
        return unpack_raw(data[1:], spec)
    if data[0] == 1:
        return unpack_zstd(data[1:], spec, 19)
    item = ITEM_BYTES[spec.dtype]
    words = read_split(data[1:], spec.numel, *SPLIT[spec.dtype])
    return elements(b"".join(word.to_bytes(item, "little") for word in words), spec)


#: Bits of the exponent, bits of the top, whether there is a nibble, low bytes.
SPLIT = {
    "float32": (8, 3, True, 2),
    "bfloat16": (8, 3, True, 0),
    "float16": (5, 2, False, 1),
    "float64": (11, 4, False, 6),
}


class Bytes:
    """Bytes that are read from the beginning."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, count: int) -> bytes:
        need(self.position + count <= len(self.data), "bytes cut off")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self, most: int = 9) -> int:
        value = 0
        for group in range(most):
            byte = self.number(1)
            value |= (byte & 127) << 7 * group
            if byte < 128:
                return value
        raise Refused("varint")


def read_split(data: bytes, count: int, exponent_bits: int, top_bits: int, nibble: bool, low_bytes: int) -> list[int]:
    source = Bytes(data)
    flags = source.number(1)
    need(flags < 16 and (nibble or flags < 8), "floats flags")
    width = source.varint() if flags & 3 else count
    need(1 <= width <= count, "floats width")
    first, span = source.varint(), source.varint()
    need(first + span < 2**exponent_bits, "floats exponents")
    listed = bits_of(source.take(span // 8 + 1)).astype(int).tolist()
    need(listed[0] == listed[span] == 1 and not any(listed[span + 1 :]), "floats exponents")
    exponents = [first + j for j, bit in enumerate(listed) if bit]
    zero = flags >> 2 & 1
    need(len(exponents) + zero <= 256, "floats exponents")
    rows = read_adaptive(source, 16, [0] * math.ceil(count / width), 1) if flags & 1 else [0] * math.ceil(count / width)
    columns = read_adaptive(source, 16, [0] * width, 1) if flags & 2 else [0] * width
    contexts = [rows[i // width] + columns[i % width] for i in range(count)]
    symbols = read_adaptive(source, len(exponents) + zero, contexts, 31)
    numbers = [symbol - zero for symbol in symbols if symbol >= zero]
    need(len(numbers) > 0, "floats of zeros")
    tops = read_adaptive(source, 2 ** (top_bits + 1), numbers, len(exponents))
    words = [
        ((top >> top_bits) << exponent_bits | exponents[number]) << top_bits | top % 2**top_bits
        for number, top in zip(numbers, tops, strict=True)
    ]
    if nibble:
        if flags & 8:
            nibbles = read_adaptive(source, 16, [0] * len(words), 1)
        else:
            nibbles = [half for byte in source.take(math.ceil(len(words) / 2)) for half in (byte % 16, byte // 16)]
            need(len(words) % 2 == 0 or nibbles.pop() == 0, "floats nibbles")
        words = [word << 4 | low for word, low in zip(words, nibbles, strict=True)]
    words = [word << 8 * low_bytes for word in words]
    for j in range(low_bytes):
        length = source.varint()
        need(length < len(words), "floats low bytes")
        low = source.take(length or len(words))
        if length:
            window = min(max(1024, 1 << (len(words) - 1).bit_length()), 1 << 31)
            low = unzstd(bytes.fromhex("28B52FFD00") + low, len(words), window)
        words = [word | byte << 8 * j for word, byte in zip(words, low, strict=True)]
    need(source.position == len(data), "bytes after floats")
    rest = iter(words)
    return [0 if zero and symbol == 0 else next(rest) for symbol in symbols]


def read_adaptive(source: Bytes, alphabet: int, contexts: list[int], context_count: int) -> list[int]:
    def spread(weights: list[int]) -> list[int]:
        sums = [0, *itertools.accumulate(weights)]
        return [0, *(sums[s + 1] * (2**14 - alphabet) // sums[-1] + s + 1 for s in range(alphabet))]

    states = [source.number(4) for _ in range(4 if len(contexts) >= 4096 else 1)]
    need(min(states) >= 2**16, "first states")
    recent, counts = ([[0] * alphabet for _ in range(context_count)] for _ in range(2))
    wait, ends, everywhere = [0] * context_count, [[0]] * context_count, [1] * alphabet
    symbols = []
    for i, c in enumerate(contexts):
        if wait[c] == 0:
            everywhere = [everywhere[s] + 2 * recent[c][s] for s in range(alphabet)]
            counts[c] = [counts[c][s] + recent[c][s] for s in range(alphabet)]
            recent[c] = [0] * alphabet
            prior = spread(everywhere)
            ends[c] = spread([512 * counts[c][s] + prior[s + 1] - prior[s] for s in range(alphabet)])
            total = sum(counts[c])
            if total >= 2**14:
                counts[c] = [count // 2 for count in counts[c]]
            wait[c] = min(max(total // 8, 8), 1024)
        wait[c] -= 1
        state = states[i % len(states)]
        q = state % 2**14
        s = bisect.bisect_right(ends[c], q) - 1
        state = (ends[c][s + 1] - ends[c][s]) * (state // 2**14) + q - ends[c][s]
        if state < 2**16:
            state = state * 2**16 + source.number(2)
        states[i % len(states)] = state
        symbols.append(s)
        recent[c][s] += 1
    need(set(states) == {2**16}, "last states")
    return symbols


def unpack_context(data: bytes, spec: Spec) -> np.ndarray:
    need(spec.dtype not in REAL, "context of real numbers")
    bits = 8 * ITEM_BYTES[spec.dtype]
    lo, hi = (0, 2**bits - 1) if spec.dtype == "uint8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    bounded = spec._replace(lo=spec.lo if spec.span is not None else lo, hi=spec.hi if spec.span is not None else hi)
    need(bounded.lo >= -(2**31) and bounded.hi < 2**31 and bounded.span < 2**31, "context range")
    if not spec.numel or not bounded.span:
        need(not data, "bytes of an empty plane")
        return from_offsets(np.zeros(spec.numel, np.uint64), bounded)
    if data[:1] == b"\1":
        return unpack_raw(data[1:], bounded)
    numbers = np.array(read_context(data, spec.shape, bounded.lo, bounded.hi))
    need(bounded.lo <= int(numbers.min()) and int(numbers.max()) <= bounded.hi, "context values")
    return numbers.astype(spec.dtype).reshape(spec.shape)


def read_context(data: bytes, shape: tuple[int, ...], lo: int, hi: int) -> list[int]:
    source = Bytes(data)
    first = source.number(1)
    if first % 2:
        p, s = divmod((first - 3) // 2, 20)
        need(p < 6, "context header")
        peak, centre, row_mask, column_mask, signs, trellis = (1, 2, 3, 5, 7, 15)[p], 0, False, False, 0, 0
        way = s // 2 % 3 if s < 18 else 0
        transposed, carry = way == 2, way > 0
        memory, resolution, mixture = (2, s % 2, (0, 1, 3)[s // 6]) if s < 18 else (s - 16, 0, 4)
    else:
        second = source.number(1)
        transposed, carry, row_mask, column_mask = (bool(first >> bit & 1) for bit in (1, 2, 3, 4))
        signs, mixture, resolution, memory, trellis = (
            *(first >> 5 & 3, second & 3),
            *(second >> place & 3 for place in (2, 4, 6)),
        )
        need(signs < 3 and trellis < 3, "context header")
        folded = source.varint(5) if first & 128 else 0
        centre = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        peak = source.varint(5)
    need(lo <= centre <= hi and peak < 2**31, "context header")
    rest = data[source.position :]
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape) // rows
    if peak == 0:
        need(not rest, "bytes after the centre")
        return [centre] * (rows * columns)
    if transposed:
        rows, columns = columns, rows
    coder = RangeDecoder(rest)
    used = []
    for mask, length in ((row_mask, rows), (column_mask, columns)):
        contexts = [[2**21, 0], [2**21, 0]]
        before = [1]
        for _ in range(length if mask else 0):
            before.append(coder.bit(contexts[before[-1]], 60))
        used.append([index for index in range(length) if not mask or before[index + 1]])
    machine = TRELLIS[(0, 4, 8)[trellis]] if trellis else {0: (0,), 1: (0,)}
    limit = (60, 127, 255, 1000)[memory]
    magnitudes = list(
        read_magnitudes(
            *(coder, len(used[0]), len(used[1]), carry, signs, peak, limit),
            *(CONTEXT_MIXTURES[mixture], resolution, machine),
        )
    )
    need(len(coder.words) <= coder.position, "words that are never read")
    matrix = [[centre] * columns for _ in range(rows)]
    for (i, j), (magnitude, sign) in zip(itertools.product(*used), magnitudes, strict=True):
        need(magnitude <= peak, "magnitude above the peak")
        matrix[i][j] += (0, magnitude, -magnitude)[sign]
    if transposed:
        matrix = [list(column) for column in zip(*matrix, strict=True)]
    return list(itertools.chain.from_iterable(matrix))


CONTEXT_MIXTURES = ((4, 4, 0), (8, 8, 0), (3, 3, 4), (4, 0, 4), (0, 0, 0))


class RangeDecoder:
    """Bits of the adaptive range coder of ``context``."""

    def __init__(self, data: bytes) -> None:
        need(len(data) > 0 and data[-1] != 0, "last byte of the words")
        padded = data + b"\0" * (-len(data) % 4)
        self.words = [int.from_bytes(padded[at : at + 4], "big") for at in range(0, len(padded), 4)]
        self.position, self.width = 0, 2**64 - 1
        self.code = self.word() << 32
        self.code |= self.word()

    def word(self) -> int:
        self.position += 1
        return self.words[self.position - 1] if self.position <= len(self.words) else 0

    def refill(self) -> None:
        if self.width < 2**32:
            self.code = (self.code * 2**32 + self.word()) % 2**64
            self.width *= 2**32

    def bit(self, context: list[int], limit: int) -> int:
        p, n = context
        bound = self.width // 2**16 * (p // 64)
        value = int(self.code < bound)
        if value:
            self.width = bound
        else:
            self.code -= bound
            self.width -= bound
        self.refill()
        p += (2**22 * value - p) * context_rate(n) // 65536
        context[:] = min(max(p, 1024), 4193280), min(n + 1, limit)
        return value

    def plain(self, k: int) -> int:
        self.width //= 2**k
        value = min(self.code // self.width, 2**k - 1)
        self.code -= value * self.width
        self.refill()
        return value


def context_rate(n: int) -> int:
    return 655360 // (10 * n + 16)


def context_activity(magnitude: int) -> int:
    y = 2 * min(magnitude, 1023) + 1
    e = y.bit_length() - 1
    return 256 * (16 * e + 16 * y // 2**e - 16)


def context_class(step: int, r: int) -> int:
    if step >= 128:
        return (8 - r) * 2**r + (32 * step - 4096) // 2 ** (12 - r)
    if step < 2**r:
        return step
    e = step.bit_length() - 1
    return (e - r + 1) * 2**r + step // 2 ** (e - r) % 2**r


def read_magnitudes(
    coder: RangeDecoder,
    rows: int,
    columns: int,
    carry: bool,
    signs: int,
    peak: int,
    limit: int,
    mixture: tuple[int, int, int],
    resolution: int,
    machine: dict[int, tuple[int, ...]],
) -> Iterator[tuple[int, int]]:
    """Magnitude and sign of each value, row by row."""
    a, b, c = mixture
    tables: dict[tuple[Any, ...], dict[int, list[int]]] = {}
    starts = {"signs": [2**21, 16], "low": [1971200, 24], "escape": [2**21, 0]}

    def fixed(name: str, number: int) -> list[int]:
        return tables.setdefault((name,), {}).setdefault(number, list(starts[name]))

    def of_class(name: str, number: int, g: int, before: list[int] | None = None) -> list[int]:
        table = tables.setdefault((name, number), {})
        if g not in table:
            nearest = min(table, key=lambda other: (abs(other - g), other), default=None)
            if nearest is not None:
                table[g] = [table[nearest][0], 6]
            else:
                table[g] = [2**21, 0] if before is None else [before[0], 3]
        return table[g]

    def read(step: int, quantiser: int, around: int) -> tuple[int, int]:
        g = context_class(step, resolution)
        if coder.bit(of_class("zero", quantiser, g), limit) == 0:
            return 0, 0
        sign = signs or 1 + coder.bit(fixed("signs", around), limit)
        shift = max(step // 128 - 1, 0)
        last = min((peak - 1) // 2**shift, 16)
        high, context = 0, None
        while high < last:
            context = of_class("unary", high, g, context) if high else of_class("first", quantiser, g)
            if coder.bit(context, limit) == 0:
                break
            high += 1
        if high == 16:
            length = 0
            while length < 31 and coder.bit(fixed("escape", length), limit) == 1:
                length += 1
            high = 15 + 2**length + coder.plain(length)
        magnitude = high
        if shift > 0:
            magnitude = 2 * magnitude + coder.bit(fixed("low", min(high, 15)), limit)
            if shift > 1:
                magnitude = 2 ** (shift - 1) * magnitude + coder.plain(shift - 1)
        return magnitude + 1, sign

    level = row_average = seen = state = 0
    column_average, above = [0] * columns, [0] * columns
    for i in range(rows if columns else 0):
        near = left = total = 0
        if i == 0 or not carry:
            row_average, seen = level, 0
        for j in range(columns):
            mixed = a * (row_average - level) + b * (column_average[j] - level) + c * (near - level)
            step = min(max((level + mixed // 8) // 32, 0), 1407)
            states = len(machine[0])
            magnitude, sign = read(step, int(states > 1 and state >= states // 2), 3 * left + above[j])
            yield magnitude, sign
            state = machine[magnitude % 2][state]
            x = context_activity(magnitude)
            row_average += (x - row_average) * context_rate(seen) // 65536
            seen = min(seen + 1, 255)
            if i == 0:
                column_average[j] = x // 2
            else:
                column_average[j] += (x - column_average[j]) * context_rate(min(i + 1, 255)) // 65536
            near = (near + x) // 2
            left = above[j] = sign
            total += x
        mean = total // columns
        if i == 0:
            level = mean
            column_average = [average + mean // 2 for average in column_average]
        else:
            level += (mean - level) * context_rate(min(i + 1, 255)) // 65536


TRANSFORMS: dict[tuple[str, int], tuple[Callable[..., list[Spec]], Callable[..., np.ndarray]]] = {
    **{("prune", n): (partial(plan_prune, version=n), partial(rebuild_prune, version=n)) for n in (1, 2)},
    ("seed", 1): (plan_seed, rebuild_seed),
    **{("int", n): (partial(plan_int, version=n), partial(rebuild_int, version=n)) for n in (1, 2)},
    ("cast", 1): (plan_cast, rebuild_cast),
    ("delta", 1): (plan_delta, rebuild_delta),
    ("share", 1): (plan_share, rebuild_share),
    **{("codebook", n): (partial(plan_codebook, version=n), partial(rebuild_codebook, version=n)) for n in (1, 2, 3)},
    ("tcq", 1): (plan_tcq, rebuild_tcq),
}
PACKERS: dict[tuple[str, int], Callable[..., np.ndarray]] = {
    ("raw", 1): unpack_raw,
    ("zstd", 1): unpack_zstd,
    ("ans", 1): unpack_ans,
    ("floats", 1): unpack_floats,
    ("context", 1): unpack_context,
}
