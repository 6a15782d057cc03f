"""Writes the refuse-vectors: small files that every decoder must refuse, each with the reason.

``python -m tests.golden.write_refused`` adds what ``refused.json`` does not hold yet; what it holds is never changed. Each
is a golden file with one thing wrong. Apart from the ones about checksums, all checksums match.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from tests.fuzz.parts import (
    BUNDLE,
    CHECKSUMS,
    CONFIG,
    DTYPE,
    KIND,
    LENGTHS,
    NAMES,
    SHAPE,
    STACK,
    STACKS,
    TENSORS,
    TIES,
    Parts,
    checksums,
    header,
    join,
    manifest_bytes,
    seal,
    seal_bytes,
    split,
)

FOLDER = Path(__file__).parent
FILE = FOLDER / "refused.json"

RAW = ["raw", 1, {}]


class Vector(msgspec.Struct, frozen=True):
    """A file to refuse: ``data`` in hexadecimal, made of the golden file ``origin``.

    ``reason`` says what is wrong. A decoder may notice when it opens the file or when it decodes the tensors and bundled
    files; what counts is that it gives no tensor with an error in it.
    """

    name: str
    origin: str
    reason: str
    data: str


def golden(name: str) -> bytes:
    return (FOLDER / "files" / f"{name}.stackc").read_bytes()


def changed(name: str, change: Callable[[list[Any], list[bytes]], Any]) -> bytes:
    """A golden file whose manifest and pieces were changed in place; lengths and checksums are put right."""
    parts = split(golden(name))
    change(*parts)
    return join(parts)


def manifest_only(name: str, change: Callable[[list[Any]], Any]) -> bytes:
    """A golden file whose manifest was changed or replaced, with the payload and the lengths as they were."""
    encoded, payload = manifest_bytes(golden(name))
    manifest = msgspec.msgpack.decode(encoded)
    replaced = change(manifest)
    return seal(manifest if replaced is None else replaced, payload)


def put(*path: Any) -> Callable[..., None]:
    """Set the item of the manifest at ``path[:-1]`` to ``path[-1]``."""

    def change(manifest: list[Any], *_: Any) -> None:
        target: Any = manifest
        for part in path[:-2]:
            target = target[part]
        target[path[-2]] = path[-1]

    return change


def piece(number: int, change: Callable[[bytes], bytes]) -> Callable[..., None]:
    """Change one plane."""

    def apply(manifest: list[Any], pieces: list[bytes]) -> None:
        pieces[number] = change(pieces[number])

    return apply


def byte(at: int, value: int) -> Callable[[bytes], bytes]:
    """Set one byte."""

    def change(data: bytes) -> bytes:
        out = bytearray(data)
        out[at] = value
        return bytes(out)

    return change


def settings(**fields: Any) -> Callable[..., None]:
    """Set fields of the configuration of the first stack's root."""

    def change(manifest: list[Any], pieces: list[bytes]) -> None:
        manifest[STACKS][0][2].update(fields)

    return change


def frame(content: bytes, **parameters: Any) -> bytes:
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, **{"write_content_size": False, "write_checksum": False, "write_dict_id": False, **parameters}
        )
    ).compress(content)


def bare(content: bytes, **parameters: Any) -> bytes:
    """A frame without its first five bytes."""
    return frame(content, **parameters)[5:]


def nested(depth: int) -> list[Any]:
    node: list[Any] = RAW
    for _ in range(depth - 1):
        node = [
            "prune",
            1,
            {"sparsity": 0.0, "rows": None, "columns": None, "scope": "tensor", "keep": None},
            [RAW, node],
        ]
    return node


def the_file() -> Iterator[tuple[str, str, str, bytes]]:
    """Header, manifest frame, size of the file, checksums."""
    data = golden("int")
    encoded, payload = manifest_bytes(data)
    compressed = data[20 : len(data) - len(payload)]
    size = len(encoded)
    yield "empty", "int", "a file without bytes", b""
    yield "magic", "int", "the first byte of the magic is another", b"\x92" + data[1:]
    yield "version-0", "int", "format version 0", header(compressed, size, 0) + data[20:]
    yield "version-2", "int", "format version 2", header(compressed, size, 2) + data[20:]
    yield "cut-in-header", "int", "it ends inside the header", data[:19]
    yield "cut-in-manifest", "int", "it ends inside the compressed manifest", data[:60]
    yield "cut-in-payload", "int", "the last byte is missing", data[:-1]
    yield "longer", "int", "a byte follows the payload", data + b"\0"
    yield "header-checksum", "int", "the CRC-32 of header and manifest does not match", byte(16, data[16] ^ 1)(data)
    yield "block-checksum", "int", "the CRC-32 of the block does not match its bytes", byte(-1, data[-1] ^ 1)(data)
    yield (
        *("compressed-length-too-large", "int", "C is larger than what is left of the file"),
        header(compressed, size, announced=len(data)) + data[20:],
    )
    yield (
        *("compressed-length-over-limit", "int", "C is above 64 MiB"),
        header(compressed, size, announced=(64 << 20) + 1) + data[20:],
    )
    yield "length-over-limit", "int", "M is above 64 MiB", header(compressed, (64 << 20) + 1) + data[20:]
    yield "length-too-small", "int", "the manifest has more than M bytes", header(compressed, size - 1) + data[20:]
    yield "length-too-large", "int", "the manifest has fewer than M bytes", header(compressed, size + 1) + data[20:]
    two = compressed + b"\0"
    yield "after-frame", "int", "a byte follows the frame of the manifest", header(two, size) + two + payload
    bomb = frame(bytes(8 << 20))
    yield "manifest-bomb", "int", "the frame decodes to 8 MiB where M is 1000", header(bomb, 1000) + bomb
    bomb = frame(bytes(8 << 20), write_content_size=True)
    yield "manifest-bomb-stated", "int", "the frame says so itself", header(bomb, 1000) + bomb
    yield (
        "hole",
        "int",
        "a byte of the payload belongs to no plane",
        manifest_only("int", lambda m: _checked(m, payload)),
    )


def _checked(manifest: list[Any], payload: bytes) -> list[Any]:
    manifest[TENSORS][0][LENGTHS][0] -= 1
    return manifest


def the_manifest() -> Iterator[tuple[str, str, str, bytes]]:
    """Form and cross-references."""

    def named(name: str, reason: str, change: Callable[..., Any], origin: str = "whole-model") -> Any:
        return name, origin, reason, manifest_only(origin, change)

    encoded, payload = manifest_bytes(golden("int"))
    yield "after-manifest", "int", "a byte follows the MessagePack value", seal_bytes(encoded + b"\xc0", payload)
    yield "manifest-nothing", "int", "the manifest is no MessagePack value", seal_bytes(b"\xc1", payload)
    yield "manifest-nested", "int", "arrays nested without end", seal_bytes(b"\x91" * 3000 + b"\xc0", payload)
    yield (
        "manifest-announces",
        "int",
        "an array of 2^32 - 1 items in nine bytes",
        seal_bytes(b"\x98\2\xc0\xdd" + b"\xff" * 4, payload),
    )
    yield named("manifest-map", "the manifest is a map", lambda m: {"kind": 1}, "int")
    yield named("items-missing", "seven items", lambda m: m[:-1], "int")
    yield named("items-too-many", "nine items", lambda m: [*m, 0], "int")
    yield named("kind-unknown", "kind 3", put(KIND, 3))
    yield named("kind-negative", "kind -1", put(KIND, -1))
    yield named("config-array", "the config is an array", put(CONFIG, [1]))
    yield named("name-missing", "fewer names than tensors", lambda m: m[NAMES].pop() and None)
    yield named("name-twice", "two tensors of one name", put(NAMES, 1, "embeddings.weight"))
    yield named("name-metadata", "a tensor called __metadata__", put(NAMES, 1, "__metadata__"))
    yield named("tie-metadata", "a tied name __metadata__", put(TIES, "__metadata__", 0))
    yield named("name-number", "a name is a number", put(NAMES, 0, 5))
    yield named("tie-to-a-name", "a tied name is also that of a tensor", put(TIES, "step", 0))
    yield named("tie-to-nothing", "a tie to tensor 5 of 5", put(TIES, "decoder.weight", 5))
    yield named("tie-negative", "a tie to tensor -1", put(TIES, "decoder.weight", -1))
    yield named("stack-unknown", "stack 9 of the table", put(TENSORS, 0, STACK, 9))
    yield named("stack-negative", "stack -1", put(TENSORS, 0, STACK, -1))
    yield named("dtype-unknown", "dtype 10", put(TENSORS, 0, DTYPE, 10))
    yield named("dtype-negative", "dtype -1", put(TENSORS, 0, DTYPE, -1))
    yield named("shape-negative", "a length of -6", put(TENSORS, 0, SHAPE, [-6, 4]))
    yield named("shape-negative-twice", "two negative lengths whose product is right", put(TENSORS, 0, SHAPE, [-6, -4]))
    yield named("shape-real", "a length of 6.0", put(TENSORS, 0, SHAPE, [6.0, 4]))
    yield named("shape-huge", "2^64 - 1 elements", put(TENSORS, 2, SHAPE, [(1 << 64) - 1]))
    yield named("shape-overflow", "2^64 elements, which is 0 in 64 bits", put(TENSORS, 2, SHAPE, [1 << 32, 1 << 32]))
    yield named("shape-over-limit", "more than 100,000 times the bytes of the file", put(TENSORS, 2, SHAPE, [1 << 30]))
    yield named("axes", "65 axes", put(TENSORS, 2, SHAPE, [4] + [1] * 64))
    yield named("lengths-negative", "lengths 17 and -1, whose sum is right", put(TENSORS, 2, LENGTHS, [17, -1]))
    yield named("tensor-item-missing", "a tensor of three items", lambda m: m[TENSORS][0].pop() and None)
    yield named("tensor-item-too-many", "a tensor of five items", lambda m: m[TENSORS][0].append(0))
    for blocks, name in ((b"", "missing"), (bytes(8), "too-many")):
        _, whole = manifest_bytes(golden("whole-model"))
        manifest, _ = split(golden("whole-model"))
        manifest[CHECKSUMS] = blocks or b""
        manifest[CHECKSUMS] += checksums(whole) if blocks else b""
        yield (
            *(f"checksums-{name}", "whole-model", f"checksums are {name.replace('-', ' ')}"),
            seal_bytes(msgspec.msgpack.encode(manifest), whole),
        )
    for name, label in (
        ("", "empty"),
        (".", "dot"),
        ("..", "dots"),
        ("a/b", "slash"),
        ("../x", "path"),
        ("a\\b", "backslash"),
        ("a\0b", "zero"),
        ("config.json", "config"),
        ("model.safetensors", "weights"),
        ("modeling_x.py", "code"),
        ("pytorch_model.bin", "pickle"),
        ("Tokenizer.json", "case"),
        ("tokenizer.json\n", "line"),
        ("1_Pooling/../config.json", "climbs"),
        ("1_Transformer/config.json", "module"),
    ):
        yield named(f"bundle-name-{label}", f"a bundled file is called {name!r}", _bundled(name))
    yield named("bundle-negative", "a bundled file of -1 bytes", put(BUNDLE, "tokenizer.json", 1, -1))
    yield named("bundle-length", "a bundled file has another length than stated", put(BUNDLE, "tokenizer.json", 1, 127))


def _bundled(name: str) -> Callable[..., None]:
    def change(manifest: list[Any]) -> None:
        manifest[BUNDLE] = {name if file == "tokenizer.json" else file: size for file, size in manifest[BUNDLE].items()}

    return change


def the_stacks() -> Iterator[tuple[str, str, str, bytes]]:
    """Stages, their settings, the planes that they plan."""

    def named(name: str, origin: str, reason: str, change: Callable[..., Any]) -> Any:
        return name, origin, reason, changed(origin, change)

    yield named("stage-unknown", "raw", "a stage that there is not", put(STACKS, 0, ["wavelet", 1, {}]))
    yield named("stage-version", "raw", "a version that there is not", put(STACKS, 0, ["raw", 9, {}]))
    yield named("stage-preset", "raw", "a preset is no format", put(STACKS, 0, ["int8", 1, {}, [RAW, RAW]]))
    yield named("stage-field", "raw", "a field that the stage does not have", put(STACKS, 0, ["raw", 1, {"level": 3}]))
    yield named("stage-field-missing", "tcq", "tcq without states", lambda m, p: m[STACKS][0][2].pop("states"))
    yield named("stage-field-encoder", "int", "a step, which is the encoder's", settings(step=None))
    yield named("stage-field-type", "int", "symmetric is 1", settings(symmetric=1))
    yield named("stage-field-nil", "int", "granularity is nil", settings(granularity=None))
    yield named("stage-nil", "raw", "a node is nil", put(STACKS, 0, None))
    yield named("packer-with-children", "raw", "a packer has a child", put(STACKS, 0, ["raw", 1, {}, [RAW]]))
    yield named(
        "children-missing", "int", "int has two planes, one child is listed", lambda m, p: m[STACKS][0][3].pop()
    )
    yield named("children-too-many", "int", "three children are listed", lambda m, p: m[STACKS][0][3].append(RAW))
    yield named("lengths-too-few", "int", "two leaves, one length", lambda m, p: _lengths(m, p, 1))
    yield named("lengths-too-many", "int", "two leaves, three lengths", lambda m, p: _lengths(m, p, 3))
    yield named("depth", "raw", "33 nodes on a path", lambda m, p: _deep(m, p, 33))
    yield "planes-over-limit", "raw", "planes of more than 64 times the tensor's bytes plus 1 MiB", _many_planes()
    yield named("prune-integers", "raw-int8", "prune of integers", lambda m, p: _deep(m, p, 2))
    yield named("prune-two-shares", "prune", "two shares are given", settings(rows=0.5))
    yield named("prune-no-share", "prune", "no share is given", settings(sparsity=None))
    yield named("prune-share", "prune", "a share of 1.5", settings(sparsity=1.5))
    yield named("prune-share-type", "prune", "a share of true", settings(sparsity=True))
    yield named("prune-keep", "prune-global", "more elements are kept than there are", settings(keep=31))
    yield named("prune-global-unsettled", "prune-global", "scope global without keep", settings(keep=None))
    yield named(
        "prune-mask",
        "prune",
        "the mask has one true element too many",
        piece(0, lambda d: bytes([d[0] | 0x80]) + d[1:]),
    )
    yield named(
        "prune-rows-mask",
        "prune-rows",
        "the mask of rows has one true element less",
        piece(0, lambda d: bytes([d[0] & (d[0] - 1)])),
    )
    yield named("prune-rows-vector", "raw", "rows of a tensor of one axis", _rows_of_a_vector)
    yield named("seed-rank", "seed", "a rank above the number of columns", settings(rank=6))
    yield named("seed-rank-0", "seed", "rank 0", settings(rank=0))
    yield named("seed-auto", "seed", "rank auto", settings(rank="auto"))
    yield named("seed-variance", "seed", "a variance instead of a rank", settings(rank=None, variance=0.5))
    yield named("seed-other-rank", "seed", "a rank that does not fit the planes", settings(rank=1))
    yield named("int-bits-0", "int", "0 bits", settings(bits=0))
    yield named("int-bits-9", "int", "9 bits with a scale per row", settings(bits=9))
    yield named("int-other-bits", "int", "bits that do not fit the plane of codes", settings(bits=5))
    yield named("int-group-size", "int-group", "groups without a size", settings(group_size=None))
    yield named("int-size-without-groups", "int", "a group size with rows", settings(group_size=3))
    yield named("int-granularity", "int", "a granularity that there is not", settings(granularity="column"))
    yield named("int-of-integers", "int", "int of a tensor of integers", put(TENSORS, 0, DTYPE, 7))
    yield named("int-2-as-1", "int-2-convolution", "planes of int@2 under the name of int@1", put(STACKS, 0, 1, 1))
    yield named("prune-2-as-1", "prune-2-columns", "planes of prune@2 as prune@1", put(STACKS, 0, 1, 1))
    yield named("codebook-2-code", "codebook-2-convolution", "a code above the last entry", piece(0, byte(0, 0xFF)))
    yield named("cast-to", "fp16", "cast to float32", settings(to="float32"))
    yield named("cast-of-half", "fp16", "cast of float16", put(TENSORS, 0, DTYPE, 1))
    yield named("tcq-states", "tcq", "5 states", settings(states=5))
    yield named("tcq-bits", "tcq", "1 bit", settings(bits=1))
    yield named("codebook-entries", "codebook", "a table of at most one entry", settings(entries=1))
    yield named("codebook-dims", "codebook", "vectors of 0 values", settings(dims=0))
    yield named("codebook-code", "codebook", "a code above the last entry", piece(0, byte(0, 0xFF)))
    yield named("codebook-table", "codebook-shared", "a table that is no base64", settings(table="!!!!"))
    yield named("codebook-table-length", "codebook-shared", "half an entry in the table", settings(table="AAA="))
    yield named("codebook-table-long", "codebook-shared", "more entries than stated", settings(entries=2))
    yield named("codebook-3-code", "codebook-3", "a code above the last entry", piece(0, byte(0, 0xFF)))
    yield named("codebook-3-shared", "codebook-3-one-user", "nine entries for six vectors", settings(shared=False))
    yield named("codebook-3-entries", "codebook-3-group", "a codebook of other size", settings(entries=7))
    yield named("codebook-3-table", "codebook-3", "a table in the configuration", settings(table="AAAAAA=="))
    yield named("delta-exact-word", "delta", "exact is no boolean", settings(exact="yes"))
    yield named("delta-base", "delta", "the name of the base in the configuration", settings(base="model"))
    yield named("share-difference-number", "share", "difference is no boolean", settings(difference=1))
    yield named("share-group", "share", "a group in the configuration", settings(group="all"))
    yield named("ans-without-bounds", "raw", "ans of real numbers", put(STACKS, 0, ["ans", 1, {}]))
    yield named("ans-alphabet", "raw-int32", "ans of integers without bounds", put(STACKS, 0, ["ans", 1, {}]))
    yield named("floats-of-integers", "raw-int32", "floats of integers", put(STACKS, 0, ["floats", 1, {}]))
    yield named("context-of-reals", "raw", "context of real numbers", put(STACKS, 0, ["context", 1, {}]))
    yield named("context-range", "raw-int32", "context of a range of 2^32", put(STACKS, 0, ["context", 1, {}]))
    yield named("zstd-level", "zstd-stored", "level 23", settings(level=23))


def _lengths(manifest: list[Any], pieces: list[bytes], count: int) -> None:
    whole = b"".join(pieces)
    cut = [0, 12, len(whole), len(whole)] if count == 3 else [0, len(whole)]
    pieces[:] = [whole[start:end] for start, end in itertools.pairwise(cut)]
    manifest[TENSORS][0][LENGTHS] = [0] * count


def _deep(manifest: list[Any], pieces: list[bytes], depth: int) -> None:
    manifest[STACKS][0] = nested(depth)
    numel = 1
    for length in manifest[TENSORS][0][SHAPE]:
        numel *= length
    mask = ((1 << numel) - 1).to_bytes(-(-numel // 8), "little")
    pieces[:] = [mask] * (depth - 1) + pieces
    manifest[TENSORS][0][LENGTHS] = [0] * depth


def _many_planes() -> bytes:
    """A row of 5,000 zeros as principal components of principal components: 128 planes of its size."""
    pieces: list[bytes] = []

    def node(depth: int, columns: int) -> list[Any]:
        if not depth or columns == 1:
            pieces.append(b"\1" + bare(bytes(4 * columns)))
            return ["zstd", 1, {"level": 19}]
        children = [node(depth - 1, columns), node(depth - 1, columns), node(0, 1)]
        return ["seed", 1, {"rank": 1, "variance": None, "center": True}, children]

    manifest = [2, None, [node(7, 5000)], ["w"], [[0, 0, [1, 5000], [0] * len(pieces)]], {}, {}, b""]
    return join(Parts(manifest, pieces))


def _rows_of_a_vector(manifest: list[Any], pieces: list[bytes]) -> None:
    config = {"sparsity": None, "rows": 0.0, "columns": None, "scope": "tensor", "keep": None}
    manifest[STACKS][0] = ["prune", 1, config, [RAW, RAW, RAW]]
    manifest[TENSORS][0][SHAPE] = [12]
    manifest[TENSORS][0][LENGTHS] = [0, 0, 0]
    pieces[:] = [b"\xff\x0f", *pieces, bytes(4)]


def the_planes() -> Iterator[tuple[str, str, str, bytes]]:
    """Bytes of packers."""

    def named(name: str, origin: str, reason: str, change: Callable[[bytes], bytes], number: int = 0) -> Any:
        return name, origin, reason, changed(origin, piece(number, change))

    raw_mask = ["zstd", 1, {"level": 19}]
    yield named("raw-short", "raw", "a plane that is one byte short", lambda d: d[:-1])
    yield named("raw-long", "raw", "a plane that is one byte long", lambda d: d + b"\0")
    yield named("raw-empty", "raw-empty", "bytes of a plane without elements", lambda d: b"\0")
    yield named(
        "raw-padding", "raw-bool", "a bit after the last element is set", lambda d: d[:-1] + bytes([d[-1] | 0x80])
    )
    yield (
        *("mask-of-2", "raw-bool", "a mask holds a 2"),
        changed(
            "raw-bool", lambda m, p: (put(STACKS, 0, raw_mask)(m), p.__setitem__(0, b"\2" + bare(b"\2" + bytes(14))))
        ),
    )
    yield named("zstd-nothing", "zstd-shuffled", "no layout", lambda d: b"")
    yield named("zstd-layout", "zstd-shuffled", "layout 4", byte(0, 4))
    yield named("zstd-stored-short", "zstd-stored", "a stored plane that is one byte short", lambda d: d[:-1])
    yield named("zstd-cut", "zstd-shuffled", "the frame is cut off", lambda d: d[:-1])
    yield named("zstd-after", "zstd-shuffled", "a byte follows the frame", lambda d: d + b"\0")
    yield named("zstd-short", "zstd-shuffled", "the frame holds 479 bytes of 480", lambda d: b"\3" + bare(bytes(479)))
    yield named("zstd-long", "zstd-shuffled", "the frame holds 481 bytes of 480", lambda d: b"\3" + bare(bytes(481)))
    yield named(
        "zstd-bomb",
        "zstd-shuffled",
        "the frame holds 8 MiB instead of 480 bytes",
        lambda d: b"\3" + bare(bytes(8 << 20)),
    )
    yield named(
        "zstd-window", "zstd-shuffled", "a window of 64 MiB for 480 bytes", lambda d: b"\3" + bytes([16 << 3]) + d[2:]
    )
    yield named(
        "zstd-whole-frame", "zstd-shuffled", "a frame with its magic number", lambda d: b"\3" + frame(bytes(480))
    )
    yield named(
        "zstd-above", "zstd-elements", "an element above the bounds", lambda d: b"\2" + bare(bytes([255]) * 312)
    )
    yield named("ans-nothing", "ans-table", "no bytes", lambda d: b"")
    yield named("ans-form", "ans-table", "byte 0 is 60", byte(0, 0x60))
    yield named("ans-raw-form", "ans-raw", "byte 0 is 21", byte(0, 0x21))
    yield named("ans-symbol", "ans-one-symbol", "a symbol above the alphabet", lambda d: b"\x40\xff")
    yield named("ans-symbol-long", "ans-one-symbol", "two bytes for a symbol of one", lambda d: d + b"\0")
    yield named("ans-table-cut", "ans-table", "the table is cut off", lambda d: d[:4])
    yield named("ans-table-gap-bits", "ans-mask", "a Rice parameter of gaps without gaps", byte(1, 0x10))
    gaps = b"\x10\0\x20\0" + b"\xff" * 9
    yield named("ans-table-too-many", "ans-table", "33 symbols of an alphabet of 32", lambda d: gaps + d[4:])
    yield named("ans-table-one", "ans-gaps", "a table of one symbol", lambda d: d[:2] + b"\0\0" + d[4:])
    yield named("ans-table-zeros", "ans-mask", "a frequency table without symbols", lambda d: b"\0\0\3" + d[3:])
    yield named("ans-table-level", "ans-mask", "a level of 31, above 17", lambda d: b"\0\5\xff\0" + d[3:])
    yield named("ans-no-stack", "ans-mask", "a table and no stack", lambda d: d[:3])
    yield named("ans-last-zero", "ans-mask", "the last byte of the stack is 0", lambda d: d + b"\0")
    yield named("ans-long", "ans-mask", "words of the stack are left", lambda d: d + b"\1\1\1\1")
    yield named("ans-short", "ans-table", "the stack ends too early", lambda d: d[:-8])
    yield named("ans-empty", "prune-everything", "bytes of a plane without elements", lambda d: b"\0", 1)
    yield named("floats-nothing", "floats-split", "no form", lambda d: b"")
    yield named("floats-form", "floats-split", "form 3", byte(0, 3))
    yield named("floats-flags", "floats-split", "bit 4 of the flags", byte(1, 16))
    yield named("floats-nibbles", "floats-split-float16", "coded nibbles where there are none", byte(1, 8))
    yield named("floats-width-0", "floats-split-rows", "rows of width 0", byte(2, 0))
    yield named(
        "floats-width-varint", "floats-split-rows", "a width of ten bytes", lambda d: d[:2] + b"\xff" * 10 + d[3:]
    )
    yield named("floats-exponents", "floats-split", "exponents above 255", byte(3, 0xFF - 1))
    yield named(
        "floats-first-exponent",
        "floats-split",
        "the first exponent is not listed",
        lambda d: d[:4] + bytes([d[4] & 0xFE]) + d[5:],
    )
    yield named("floats-cut", "floats-split", "the last byte is missing", lambda d: d[:-1])
    yield named("floats-after", "floats-split", "a byte follows", lambda d: d + b"\0")
    yield named("floats-state", "floats-split-rows", "a first state of 0", _first_state)
    yield named("floats-inner-layout", "floats-zstd", "a zstd layout of 4", byte(1, 4))
    yield named("context-nothing", "context-long", "no bytes", lambda d: b"")
    yield named("context-short-peak", "context-short", "a short header with p = 6", byte(0, 2 * 120 + 3))
    yield named("context-signs", "context-long", "signs 3", byte(0, 0x7E))
    yield named("context-trellis", "context-long", "trellis 3", byte(1, 0xE1))
    yield named("context-centre", "context-constant", "a centre above the bounds", byte(2, 0x20))
    yield named("context-after-centre", "context-constant", "a byte after a peak of 0", lambda d: d + b"\1")
    yield named("context-peak-varint", "context-constant", "a peak of six bytes", lambda d: d[:3] + b"\xff" * 6)
    yield named("context-peak", "context-constant", "a peak of 2^31", lambda d: d[:3] + b"\x80\x80\x80\x80\x08\1")
    yield named("context-no-words", "context-short", "no words", lambda d: d[:1])
    yield named("context-last-zero", "context-short", "the last byte of the words is 0", lambda d: d + b"\0")
    yield named("context-long", "context-short", "words that are never read", lambda d: d + b"\1" * 64)
    yield named("context-low-peak", "context-long", "a peak of 1, with which words are left", byte(2, 1))
    yield named("context-raw", "context-raw", "the raw form is one byte long", lambda d: d + b"\0")


def _first_state(data: bytes) -> bytes:
    # form, flags, width, first and span of the exponents, their bits, then four bytes of the first state
    at = 5 + data[4] // 8 + 1
    return data[:at] + struct.pack("<I", 0) + data[at + 4 :]


def vectors() -> Iterator[Vector]:
    """All of them."""
    for made in (the_file(), the_manifest(), the_stacks(), the_planes()):
        for name, origin, reason, data in made:
            yield Vector(name, origin, reason, data.hex())


def main() -> None:
    """Add what is not there yet."""
    kept = read() if FILE.exists() else []
    known = {vector.name for vector in kept}
    kept += [vector for vector in vectors() if vector.name not in known]
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def read() -> list[Vector]:
    """What the file holds."""
    return msgspec.json.decode(FILE.read_bytes(), type=list[Vector])


if __name__ == "__main__":
    main()
