"""Small files that would take a reader's memory or hours of its time, each made by code, with what it tries.

All checksums match and every section has the right form: what is wrong is only how much they ask for. A test opens and
decodes each of them in a process with little memory; a fuzzer can start from them. They are sealed here and not by the
writer, which refuses to write most of them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stackc.artifact.container import MAGIC, PLAIN_VERSION, SHARING_VERSION, BlockChecksums, compress
from stackc.testing.planes import random_words

_MEBIBYTE = 1 << 20
_FLOAT32, _UINT8, _BOOL = 0, 8, 9

RAW = ["raw", 1, {}]
#: Any real plane in six bytes: every code is 0, and so is the one scale.
ZEROS = [
    "int",
    1,
    {"bits": 8, "symmetric": True, "granularity": "tensor", "group_size": None},
    [["ans", 1, {}], RAW],
]
ZERO_PLANES = (b"\x40\x00", bytes(4))


class HostileFile(NamedTuple):
    """A file, and why nobody should have to pay for it.

    Parameters
    ----------
    name : str
        Names the test.
    reason : str
        What the file tries.
    error : str
        Class of the error that refuses it.
    says : str
        A part of that error's message.
    content : callable
        Makes the bytes.
    """

    name: str
    reason: str
    error: str
    says: str
    content: Callable[[], bytes]


def sealed(manifest: bytes, payload: bytes = b"", version: int = PLAIN_VERSION) -> bytes:
    """A file of these parts whose header and checksum match."""
    compressed = compress(manifest)
    start = MAGIC + bytes([version]) + len(compressed).to_bytes(4, "little") + len(manifest).to_bytes(4, "little")
    return start + zlib.crc32(compressed, zlib.crc32(start)).to_bytes(4, "little") + compressed + payload


def crafted(
    *,
    config: Any = None,
    stacks: Any = (),
    names: Any = (),
    tensors: Any = (),
    ties: Any = None,
    bundle: Any = None,
    payload: bytes = b"",
    shared: Any = None,
    bases: Any = (),
) -> bytes:
    """A file with these sections; one that is bytes stands in the manifest as it is."""
    blocks = BlockChecksums()
    blocks.update(payload)
    sections = [config, stacks, names, tensors, ties or {}, bundle or {}]
    items = [msgspec.Raw(item) if isinstance(item, bytes) else item for item in sections]
    if shared is None:
        return sealed(msgspec.msgpack.encode([2, *items, blocks.digest()]), payload)
    further = [msgspec.Raw(item) if isinstance(item, bytes) else item for item in (shared, bases)]
    return sealed(msgspec.msgpack.encode([2, *items, blocks.digest(), *further]), payload, SHARING_VERSION)


def stored(tensors: Mapping[str, tuple[Sequence[int], Any, Sequence[bytes]]], **sections: Any) -> bytes:
    """A file of float32 tensors, each with its shape, stack and packed planes."""
    table: list[Any] = []
    entries = []
    for shape, stack, planes in tensors.values():
        if stack not in table:
            table.append(stack)
        entries.append([table.index(stack), _FLOAT32, list(shape), [len(plane) for plane in planes]])
    payload = b"".join(plane for _, _, planes in tensors.values() for plane in planes)
    return crafted(stacks=table, names=list(tensors), tensors=entries, payload=payload, **sections)


def configured(config: Mapping[str, Any]) -> bytes:
    """A file of one number that is known by two names, and a config."""
    return crafted(
        config={"model_type": "bert", "architectures": ["BertModel"], **config},
        stacks=[RAW],
        names=["a"],
        tensors=[[0, _UINT8, [1], [1]]],
        ties={"b": 0},
        payload=b"\0",
    )


def _array(items: int, item: bytes) -> bytes:
    """A MessagePack array that repeats one item."""
    return b"\xdd" + items.to_bytes(4, "big") + item * items


def _map(items: int, value: bytes) -> bytes:
    """A MessagePack map with distinct keys of four letters."""
    keys = (b"\xa4" + bytes(97 + number // 26**place % 26 for place in range(4)) for number in range(items))
    return b"\xdf" + items.to_bytes(4, "big") + b"".join(key + value for key in keys)


def _tower(levels: int, side: int) -> bytes:
    stack: Any = ZEROS
    for _ in range(levels):
        stack = ["seed", 1, {"rank": side, "variance": None, "center": False}, [ZEROS, stack]]
    return stored({"x": ((side, side), stack, ZERO_PLANES * (levels + 1))})


def _row_tower(levels: int, length: int) -> bytes:
    stack: Any = ZEROS
    for _ in range(levels):
        stack = ["seed", 1, {"rank": 1, "variance": None, "center": True}, [ZEROS, stack, ZEROS]]
    return stored({"x": ((1, length), stack, ZERO_PLANES * (2 * levels + 1))})


def _padded(elements: int, padding: int) -> bytes:
    """One tensor of zeros, and a bundled file that makes the whole larger without asking for anything."""
    noise = compress(random_words(padding // 8, 0, "padding").tobytes())
    return crafted(
        stacks=[ZEROS],
        names=["x"],
        tensors=[[0, _FLOAT32, [elements], [2, 4]]],
        bundle={"vocab.txt": [len(noise), padding]},
        payload=b"".join(ZERO_PLANES) + noise,
    )


def _shared_table(tensors: int) -> bytes:
    fields = {"entries": 65536, "dims": 4, "shared": True, "dtype": "float32"}
    table = base64.b64encode(bytes(_MEBIBYTE)).decode()
    stack = ["codebook", 1, {**fields, "table": table}, [["ans", 1, {}]]]
    return stored({str(number): ((1,), stack, (b"\x40\x00\x00",)) for number in range(tensors)})


def _tables(tensors: int) -> bytes:
    """As many stacks as tensors, each with a table of its own."""
    table = base64.b64encode(bytes(_MEBIBYTE)).decode()
    fields = {"entries": 65536, "dims": 4, "shared": True, "dtype": "float32", "table": table}
    stack = msgspec.Raw(msgspec.msgpack.encode(["codebook", 1, fields, [["ans", 1, {}]]]))
    return crafted(
        stacks=[stack] * tensors,
        names=[str(number) for number in range(tensors)],
        tensors=[[number, _FLOAT32, [1], [3]] for number in range(tensors)],
        payload=b"\x40\x00\x00" * tensors,
    )


def _shared(shape: Sequence[int], stack: int, planes: int = 0) -> list[Any]:
    return [stack, _FLOAT32, list(shape), [2, 4] * planes, None, None, None]


def _doubling(levels: int, side: int) -> bytes:
    """Each plane is the product of the next one with itself: as a tree it would have two to the power of the levels leaves."""
    twice = [
        ["seed", 1, {"rank": side, "variance": None, "center": False}, [level + 1, level + 1]]
        for level in range(levels)
    ]
    return crafted(
        stacks=[0, *twice, ZEROS],
        names=["x"],
        tensors=[[0, _FLOAT32, [side, side], []]],
        shared=[*(_shared([side, side], level + 1) for level in range(levels)), _shared([side, side], levels + 1, 1)],
        payload=b"".join(ZERO_PLANES),
    )


_LAYERS = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 8}
_BILLION = 10**9

HOSTILE_FILES = (
    HostileFile(
        "a-config-of-empty-maps",
        "30 million empty maps in the config take 64 bytes each as objects",
        "ArtifactError",
        "its manifest",
        lambda: crafted(config=b"\x81\xa1x" + _array(30 * _MEBIBYTE, b"\x80")),
    ),
    HostileFile(
        "a-config-of-maps-below-the-limits",
        "as many empty maps as an honest manifest has bytes",
        "ArtifactError",
        "config",
        lambda: crafted(config=b"\x81\xa1x" + _array(_MEBIBYTE - 4096, b"\x80")),
    ),
    HostileFile(
        "a-config-without-end",
        "a config nested deeper than a parser can follow",
        "ArtifactError",
        "config",
        lambda: crafted(config=b"\x81\xa1x" + b"\x91" * 500_000 + b"\xc0"),
    ),
    HostileFile(
        "a-config-of-one-long-text",
        "30 MB of one letter in a kilobyte",
        "ArtifactError",
        "its manifest",
        lambda: crafted(config={"x": "x" * (30 * _MEBIBYTE)}),
    ),
    HostileFile(
        "names-without-tensors",
        "ten million names for no tensor",
        "ArtifactError",
        "its manifest",
        lambda: crafted(names=_array(10 * _MEBIBYTE, b"\xa2ab")),
    ),
    HostileFile(
        "names-without-tensors-below-the-limits",
        "300,000 names for no tensor",
        "ArtifactError",
        "names",
        lambda: crafted(names=_array(300_000, b"\xa2ab")),
    ),
    HostileFile(
        "tensors-without-bytes",
        "100,000 tensors that the file spends nothing on",
        "ArtifactError",
        "tensors",
        lambda: crafted(
            stacks=[RAW], names=_array(100_000, b"\xa2ab"), tensors=_array(100_000, b"\x94\x00\x00\x90\x90")
        ),
    ),
    HostileFile(
        "a-shape-without-end",
        "a million axes, where an array has 64",
        "ArtifactError",
        "manifest",
        lambda: crafted(
            stacks=[RAW], names=["x"], tensors=b"\x91\x94\x00\x00" + _array(1_000_000, b"\x00") + b"\x91\x00"
        ),
    ),
    HostileFile(
        "planes-without-end",
        "a million planes of no bytes for one tensor",
        "ArtifactError",
        "manifest",
        lambda: crafted(stacks=[RAW], names=["x"], tensors=b"\x91\x94\x00\x00\x90" + _array(1_000_000, b"\x00")),
    ),
    HostileFile(
        "ties-without-end",
        "20,000 further names of one tensor",
        "ArtifactError",
        "ties",
        lambda: stored({"x": ((), ZEROS, ZERO_PLANES)}, ties=_map(20_000, b"\x00")),
    ),
    HostileFile(
        "bundled-files-without-end",
        "a thousand bundled files of no bytes",
        "ArtifactError",
        "bundle",
        lambda: crafted(bundle=_map(1000, b"\x92\x00\x00")),
    ),
    HostileFile(
        "stacks-without-end",
        "a million stacks for one tensor",
        "ArtifactError",
        "stacks",
        lambda: crafted(
            stacks=_array(1_000_000, b"\x80"), names=["x"], tensors=[[0, _FLOAT32, [], [4]]], payload=bytes(4)
        ),
    ),
    HostileFile(
        "a-stack-of-empty-maps",
        "a million empty maps in the configuration of a stage",
        "ArtifactError",
        "stack",
        lambda: stored({"x": ((), ["raw", 1, {"x": [{}] * 1_000_000}], (bytes(4),))}),
    ),
    HostileFile(
        "zeros",
        "two gigabytes of zeros in ten kilobytes",
        "ArtifactError",
        "max_bytes",
        lambda: _padded(240_000_000, 10_000),
    ),
    HostileFile(
        "a-bundled-bomb",
        "a bundled file of 268 MB of zeros",
        "ArtifactError",
        "max_bytes",
        lambda: _bomb(256 << 20),
    ),
    HostileFile(
        "a-tower-of-products",
        "ten matrix products of full rank, one on the other",
        "ArtifactError",
        "multiplications",
        lambda: _tower(10, 1200),
    ),
    HostileFile(
        "a-product-of-full-rank",
        "one matrix product, but of a matrix as large as the file may hold",
        "ArtifactError",
        "multiplications",
        lambda: _tower(1, 4000),
    ),
    HostileFile(
        "a-tower-of-rows",
        "thirty planes as large as the tensor, all in memory at once",
        "ArtifactError",
        "planes",
        lambda: _row_tower(30, 8 * _MEBIBYTE),
    ),
    HostileFile(
        "many-small-towers",
        "a product that alone would pass, sixteen times",
        "ArtifactError",
        "multiplications",
        lambda: stored(
            {
                str(number): (
                    (1000, 1000),
                    ["seed", 1, {"rank": 1000, "variance": None, "center": False}, [ZEROS, ZEROS]],
                    ZERO_PLANES * 2,
                )
                for number in range(16)
            }
        ),
    ),
    HostileFile(
        "decisions-without-bytes",
        "a mask of 67 million elements, each several decisions of an adaptive coder, from three bytes",
        "ArtifactError",
        "multiplications",
        lambda: crafted(
            stacks=[["context", 1, {}]], names=["x"], tensors=[[0, _BOOL, [8192, 8192], [3]]], payload=b"\x03\x80\x01"
        ),
    ),
    HostileFile(
        "a-table-for-everybody",
        "a table of a megabyte in the configuration, looked into by thousands of tensors of one number",
        "ArtifactError",
        "multiplications",
        lambda: _shared_table(5000),
    ),
    HostileFile(
        "a-table-for-each",
        "ten tensors of one number, each with a table of a megabyte in its own stack",
        "ArtifactError",
        "its manifest",
        lambda: _tables(10),
    ),
    HostileFile(
        "a-circle",
        "two planes that refer to each other",
        "ArtifactError",
        "may only refer to those after it",
        lambda: crafted(
            stacks=[0, 1], names=["x"], tensors=[[0, _FLOAT32, [2], []]], shared=[_shared([2], 1), _shared([2], 0)]
        ),
    ),
    HostileFile(
        "a-plane-that-is-not-there",
        "a reference to the millionth plane of none",
        "ArtifactError",
        "refers to shared plane 1000000, the file has 0",
        lambda: crafted(stacks=[1_000_000], names=["x"], tensors=[[0, _FLOAT32, [2], []]], shared=[]),
    ),
    HostileFile(
        "a-chain-without-end",
        "twenty thousand planes, each the next one",
        "ArtifactError",
        "begins a chain of 20000 planes",
        lambda: crafted(
            stacks=list(range(20_000)),
            names=["x"],
            tensors=[[0, _FLOAT32, [2], []]],
            shared=[_shared([2], number + 1) for number in range(19_999)] + [_shared([2], 19_999)],
        ),
    ),
    HostileFile(
        "planes-that-double",
        "thirty products of a plane with itself, one on the other",
        "ArtifactError",
        "planes",
        lambda: _doubling(30, 1000),
    ),
    HostileFile(
        "a-vast-plane",
        "a shared plane of a terabyte for a tensor of one number",
        "ArtifactError",
        "which is float32 1099511627776",
        lambda: crafted(
            stacks=[0, ZEROS],
            names=["x"],
            tensors=[[0, _FLOAT32, [1], []]],
            shared=[_shared([1 << 40], 1, 1)],
            payload=b"".join(ZERO_PLANES),
        ),
    ),
    HostileFile(
        "shared-planes-without-end",
        "120,000 shared planes of no bytes",
        "ArtifactError",
        "shared planes",
        lambda: crafted(
            stacks=[0],
            names=["x"],
            tensors=[[0, _FLOAT32, [], []]],
            shared=_array(120_000, msgspec.msgpack.encode(_shared([], 0))),
        ),
    ),
    HostileFile(
        "base-models-without-end",
        "25,000 base models for one plane",
        "ArtifactError",
        "base models",
        lambda: crafted(
            stacks=[0],
            names=["x"],
            tensors=[[0, _FLOAT32, [], []]],
            shared=[[None, _FLOAT32, [], [], None, None, [0, "x"]]],
            bases=_array(25_000, msgspec.msgpack.encode([bytes(32), "x"])),
        ),
    ),
    HostileFile(
        "a-base-that-would-excuse-all",
        "two gigabytes of zeros that a base model, which nobody has, would be large enough for",
        "ArtifactError",
        "max_bytes",
        lambda: crafted(
            stacks=[ZEROS, 0],
            names=["x", "y"],
            tensors=[[0, _FLOAT32, [1 << 29], [2, 4]], [1, _FLOAT32, [1 << 29], []]],
            shared=[[None, _FLOAT32, [1 << 29], [], None, None, [0, "x"]]],
            bases=[[bytes(32), "x"]],
            payload=b"".join(ZERO_PLANES),
        ),
    ),
    HostileFile(
        "a-billion-layers",
        "a config of a thousand million layers for one number",
        "ModelError",
        "num_hidden_layers",
        lambda: configured({**_LAYERS, "num_hidden_layers": _BILLION}),
    ),
    HostileFile(
        "sixty-thousand-layers",
        "as many layers as some model may have labels",
        "ModelError",
        "the weights do not fit the config",
        lambda: configured({**_LAYERS, "num_hidden_layers": 60_000}),
    ),
    HostileFile(
        "a-billion-labels",
        "a config of a thousand million labels",
        "ModelError",
        "num_labels",
        lambda: configured({**_LAYERS, "num_hidden_layers": 1, "num_labels": _BILLION}),
    ),
    HostileFile(
        "a-billion-words",
        "an embedding of a thousand million rows for one number",
        "ModelError",
        "the weights do not fit the config",
        lambda: configured({**_LAYERS, "num_hidden_layers": 1, "vocab_size": _BILLION}),
    ),
    HostileFile(
        "a-billion-positions",
        "buffers for a thousand million positions, which no weight file holds",
        "ModelError",
        "the weights do not fit the config",
        lambda: configured(
            {
                "model_type": "gpt2",
                "architectures": ["GPT2Model"],
                "n_embd": 8,
                "n_head": 1,
                "n_layer": 1,
                "n_positions": _BILLION,
            }
        ),
    ),
    HostileFile(
        "a-billion-experts",
        "a thousand million experts for one number",
        "ModelError",
        "num_local_experts",
        lambda: configured(
            {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": _BILLION}
        ),
    ),
    HostileFile(
        "a-backbone-from-elsewhere",
        "a config that names a second model, to be downloaded",
        "ModelError",
        "nothing is downloaded",
        lambda: configured(
            {
                "model_type": "upernet",
                "architectures": ["UperNetForSemanticSegmentation"],
                "backbone": "somebody/backbone",
                "use_pretrained_backbone": True,
                "use_timm_backbone": False,
            }
        ),
    ),
)


def _bomb(size: int) -> bytes:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    piece = bytes(16 * _MEBIBYTE)
    frame = b"".join([compressor.compress(piece) for _ in range(size // len(piece))]) + compressor.flush()
    return crafted(bundle={"vocab.txt": [len(frame), size]}, payload=frame)
