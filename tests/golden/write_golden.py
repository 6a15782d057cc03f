"""Writes the golden files: whole ``.stackc`` files, each beside the tensors that it must decode to for ever.

Run it once per released format version, or after adding a case::

    python -m tests.golden.write_golden

Files that exist are left alone: a golden file is never rewritten. When a stage gets a new version, add a case here and its
file will lie beside those of the old version, which must keep decoding. Planes are built from integers, never from
``torch.randn``, so every machine has the same ones. Most products of matrices are of small whole numbers, which are exact;
two are not, and hold decoders to the order of summation.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from stackc.artifact.reader import Artifact
from stackc.artifact.writer import ArtifactWriter
from stackc.core.planes import to_bytes
from stackc.core.registry import find, find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Leaf, Ref, stored_planes
from stackc.core.transform import Known
from stackc.models import open_reference
from stackc.recipe.parse import recipe_from
from stackc.runs.pipeline import compress_to_file
from stackc.testing.planes import bell
from tests.fuzz.parts import STACKS, split
from tests.helpers.crafted import pack, stack_of
from tests.packers.write_fixtures import trellis_codes

FOLDER = Path(__file__).parent / "files"


class Expected(msgspec.Struct, frozen=True):
    """A decoded tensor: ``data`` is its elements in C order, little-endian, in hexadecimal."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    data: str


class Golden(msgspec.Struct, frozen=True):
    """What a golden file must give; ``NAME.json`` beside ``NAME.stackc``.

    ``formats`` are the ``name@version`` of all its stages, ``bundle`` the SHA-256 of each bundled file.
    """

    formats: list[str]
    tensors: dict[str, Expected]
    ties: dict[str, str]
    bundle: dict[str, str]


class Made(NamedTuple):
    """A tensor that recipes compress, with the stages."""

    tensor: Tensor
    stages: list[Any]


class Planes(NamedTuple):
    """A tensor given by its stored planes, which the stages only pack: for exact products."""

    spec: PlaneSpec
    stages: list[Any]
    planes: Mapping[str, Tensor]


def weights(*shape: int) -> Tensor:
    return bell(shape, 7, "golden")


def whole(low: int, high: int, *shape: int) -> Tensor:
    """Small whole numbers as float32."""
    return (bell(shape, 7, f"golden {low} {high}") * 1000).round() % (high - low + 1) + low


def codes(*shape: int, most: int = 7) -> Tensor:
    return (bell(shape, 7, "golden codes") * 25).round().clamp(-most, most).to(torch.int8)


def cases() -> dict[str, Made | Planes]:
    """One tensor for each file, by the file's name; together they take every path through every format."""
    few = torch.zeros(96)
    few[torch.arange(96) % 11 == 3] = 1.0
    spread = torch.tensor([-30000.0, 1.0, 2.0, 30000.0])[(bell((120,), 7, "golden spread") * 9).round().long() % 4]
    seed_spec = PlaneSpec((6, 5), "float32")
    deep_planes = {
        "mask": torch.tensor([True, False, True, True, False, True]),
        "values/mean": whole(-4, 4, 1, 5),
        "values/basis": whole(-3, 3, 2, 5),
        "values/scores/codes": codes(4, 2),
        "values/scores/scale": torch.tensor([[1.0], [0.5], [2.0], [0.25]]),
        "fallback": whole(-9, 9, 1, 5),
    }
    deep = [
        {"use": "prune", "rows": 1 / 3},
        {"use": "seed", "rank": 2, "on": "*/values"},
        {"use": "int", "bits": 4, "on": "*/scores"},
        {"use": "ans", "on": "*/{codes,mask}"},
        "zstd",
    ]
    seeded = {"mean": whole(-4, 4, 1, 5), "basis": whole(-3, 3, 2, 5), "scores": whole(-5, 5, 6, 2)}
    rows = 2.0 ** -(torch.arange(40) % 7).float()
    sparse = weights(40, 24) * 30 * rows[:, None] * (torch.arange(40)[:, None] % 10 < 7) * (torch.arange(24) % 8 > 2)
    integers = {"use": "int", "bits": 5, "granularity": "tensor"}
    return {
        "raw": Made(weights(3, 4), ["raw"]),
        "raw-integers": Made(torch.arange(-3, 9, dtype=torch.int64).reshape(2, 2, 3), ["raw"]),
        "raw-bool": Made(weights(3, 5) > 0, ["raw"]),
        "raw-float16": Made(weights(7).half(), ["raw"]),
        "raw-bfloat16": Made(weights(7).bfloat16(), ["raw"]),
        "raw-float64": Made(weights(3).double() / 3, ["raw"]),
        "raw-int32": Made((weights(5) * 2.0**20).int(), ["raw"]),
        "raw-int16": Made((weights(5) * 2.0**14).short(), ["raw"]),
        "raw-int8": Made(codes(5), ["raw"]),
        "raw-uint8": Made(torch.arange(5, dtype=torch.uint8), ["raw"]),
        "raw-number": Made(torch.tensor(-0.0), ["raw"]),
        "raw-empty": Made(torch.zeros(0, 3), ["raw"]),
        "raw-not-finite": Made(torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0, 1e-45]), ["raw"]),
        "zstd-stored": Made(weights(5), ["zstd"]),
        "zstd-packed": Made(torch.arange(16).repeat(8).float(), [integers, "zstd"]),
        "zstd-elements": Made(torch.arange(13).repeat(24).float(), [integers, "zstd"]),
        "zstd-shuffled": Made(torch.linspace(1, 2, 120), [{"use": "zstd", "level": 5}]),
        "ans-raw": Made(torch.arange(15.0) - 7, [{"use": "int", "bits": 4}, "ans"]),
        "ans-one-symbol": Made(torch.full((30,), 7.0), [integers, "ans"]),
        "ans-table": Made(weights(8, 20), [integers, "ans"]),
        "ans-gaps": Made(spread, [{"use": "int", "step": 1.0}, "ans"]),
        "ans-mask": Made(few > 0, ["ans"]),
        "floats-raw": Made(weights(2), ["floats"]),
        "floats-zstd": Made(weights(3, 4).repeat(8, 1), ["floats"]),
        "floats-split": Made(weights(18, 20), ["floats"]),
        "floats-split-rows": Made((weights(40, 24) * rows[:, None]).bfloat16(), ["floats"]),
        "floats-split-float16": Made(weights(14, 20).half(), ["floats"]),
        "floats-split-float64": Made(torch.where(weights(160) > 0.05, weights(160), 0.0).double() ** 3, ["floats"]),
        "context-raw": Made(torch.arange(14.0) - 6.5, [{"use": "int", "bits": 4}, "context"]),
        "context-short": Made(weights(8, 12) * 0.5, [{"use": "int", "step": 0.05}, "context"]),
        "context-long": Made(sparse, [{"use": "int", "step": 0.05}, "context"]),
        "context-constant": Made(torch.full((4, 9), 7.0), [integers, "context"]),
        "context-trellis": Made(trellis_codes((40, 50), 4), ["context"]),
        "context-without-bounds": Made((weights(12, 20) * 40).short(), ["context"]),
        "auto": Made(weights(20, 30), [{"use": "int", "bits": 3}, "auto"]),
        "int": Made(weights(4, 6), [{"use": "int", "bits": 4}]),
        "int8": Made(weights(4, 6), ["int8"]),
        "int-tensor": Made(weights(3, 4, 2), [{"use": "int", "bits": 3, "granularity": "tensor"}]),
        "int-group": Made(weights(4, 7), [{"use": "int", "bits": 6, "granularity": "group", "group_size": 3}]),
        "int-zero-point": Made(weights(4, 6) + 0.3, [{"use": "int", "bits": 4, "symmetric": False}]),
        "int-one-bit": Made(weights(4, 6), [{"use": "int", "bits": 1}]),
        "int-sixteen-bits": Made(weights(4, 6), [{"use": "int", "step": 2.0**-14}]),
        "int-float16": Made(weights(4, 6).half(), [{"use": "int", "bits": 4}]),
        "int-float64": Made(weights(4, 6).double(), [{"use": "int", "bits": 4}]),
        "int-vector": Made(weights(9), [{"use": "int", "bits": 5}]),
        "fp16": Made(weights(4, 3), ["fp16"]),
        "bf16": Made(weights(4, 3), ["bf16"]),
        "tcq": Made(weights(5, 7), [{"use": "tcq", "step": 0.02}]),
        "tcq-4-states": Made(weights(5, 7), [{"use": "tcq", "step": 0.02, "states": 4}]),
        "tcq-16-bits": Made(weights(5, 7), [{"use": "tcq", "step": 1e-4}]),
        "codebook": Made(weights(6, 10), [{"use": "codebook", "entries": 5}]),
        "codebook-vectors": Made(weights(6, 10), [{"use": "codebook", "entries": 6, "dims": 3, "dtype": "float16"}]),
        "codebook-shared": Made(weights(6, 10), [{"use": "codebook", "entries": 4, "dims": 2, "shared": True}]),
        "prune": Made(weights(5, 6), [{"use": "prune", "sparsity": 0.7}]),
        "prune-global": Made(weights(5, 6), [{"use": "prune", "sparsity": 0.4, "scope": "global"}]),
        "prune-rows": Made(weights(5, 6), [{"use": "prune", "rows": 0.4}]),
        "prune-columns": Made(weights(5, 6), [{"use": "prune", "columns": 0.5}]),
        "prune-infinite": Planes(
            PlaneSpec((2, 3), "float32"),
            [{"use": "prune", "sparsity": 0.5}],
            {
                "mask": torch.tensor([[True, False, True], [False, True, False]]),
                "values": torch.tensor([float("inf"), float("-inf"), 1.0]),
            },
        ),
        "prune-everything": Made(weights(5, 6), [{"use": "prune", "sparsity": 1.0}]),
        "seed": Planes(seed_spec, [{"use": "seed", "rank": 2}], seeded),
        "seed-without-mean": Planes(
            seed_spec,
            [{"use": "seed", "rank": 2, "center": False}],
            {"basis": seeded["basis"], "scores": seeded["scores"]},
        ),
        "seed-four-axes": Planes(
            PlaneSpec((3, 2, 2, 2), "float16"),
            [{"use": "seed", "rank": 3, "center": False}],
            {"basis": whole(-3, 3, 3, 8), "scores": whole(-5, 5, 3, 3)},
        ),
        "seed-rounded": Made(weights(9, 8), [{"use": "seed", "rank": 5}]),
        "seed-float64": Made(weights(7, 6).double(), [{"use": "seed", "rank": 4}]),
        # version 2 of these sees a tensor of three or more axes as rows of its first one
        "int-2": Made(weights(4, 6), [{"use": "int", "bits": 4}]),
        "int-2-convolution": Made(weights(3, 2, 3, 3), [{"use": "int", "bits": 4}]),
        "int-2-groups": Made(weights(3, 2, 3, 3), [{"use": "int", "bits": 5, "granularity": "group", "group_size": 7}]),
        "prune-2": Made(weights(5, 6), [{"use": "prune", "sparsity": 0.7}]),
        "prune-2-rows": Made(weights(4, 2, 3, 3), [{"use": "prune", "rows": 0.5}]),
        "prune-2-columns": Made(weights(4, 2, 3, 3), [{"use": "prune", "columns": 0.5}]),
        # and version 2 of this one had a table in its configuration, where now planes have one in common
        "codebook-2": Made(weights(6, 10), [{"use": "codebook", "entries": 5}]),
        "codebook-2-convolution": Made(weights(4, 2, 3, 3), [{"use": "codebook", "entries": 6, "dims": 4}]),
        "codebook-3": Made(weights(6, 10), [{"use": "codebook", "entries": 5}]),
        "codebook-3-convolution": Made(weights(4, 2, 3, 3), [{"use": "codebook", "entries": 6, "dims": 4}]),
        "codebook-3-one-user": Made(weights(3, 2), [{"use": "codebook", "entries": 9, "group": "all"}]),
        "prune-seed-int": Planes(seed_spec, deep, deep_planes),
        "fp16-floats-zstd": Made(weights(3, 4).repeat(8, 1), ["fp16", "floats"]),
        "prune-int8-ans-zstd": Made(weights(10, 6), [{"use": "prune", "rows": 0.5}, "int8", "ans", "zstd"]),
    }


def write(name: str, case: Made | Planes, folder: Path) -> Path:
    """The file of one case."""
    path = folder / f"{name}.stackc"
    if isinstance(case, Planes):
        stack = stack_of(case.stages, case.spec)
        packed = [plane.packer.pack(case.planes[plane.path], plane.spec) for plane in stored_planes(stack, case.spec)]
        with ArtifactWriter(path, "module", None) as writer:
            writer.add(["w"], case.spec, stack, packed)
            writer.finish()
        return path
    module = torch.nn.Module()
    module.register_buffer("w", case.tensor)
    recipe = recipe_from({"stages": case.stages})
    compress_to_file(recipe, open_reference(module), path, evaluate=False, every_stage=False)
    return path


def write_whole_model(folder: Path) -> Path:
    """Several tensors, a tie, a bundled tokenizer and a configuration in one file."""
    path = folder / "whole-model.stackc"
    config = {"architectures": ["BertModel"], "hidden_size": 4, "dropout": 0.1, "id2label": {"0": "no"}, "none": None}
    tensors: dict[str, tuple[Tensor, list[Any], list[str]]] = {
        "embeddings.weight": (weights(6, 4), ["int8", {"use": "ans", "on": "*/codes"}, "zstd"], ["decoder.weight"]),
        "layer.weight": (weights(4, 4), ["int8", {"use": "ans", "on": "*/codes"}, "zstd"], []),
        "layer.bias": (weights(4), ["raw"], []),
        "positions": (torch.arange(6)[None], ["zstd"], []),
        "step": (torch.tensor(7), ["raw"], []),
    }
    with ArtifactWriter(path, "transformers", config) as writer:
        for name, (x, stages, ties) in tensors.items():
            stack = stack_of(stages, PlaneSpec.of(x))
            writer.add([name, *ties], PlaneSpec.of(x), stack, pack(stack, x))
        writer.add_file("tokenizer.json", b'{"model": {"type": "WordPiece"}}' * 4)
        writer.add_file("tokenizer_config.json", b"{}")
        writer.finish()
    return path


def write_companions(folder: Path) -> Path:
    """Files beside the weights that may lie in a folder of their own, and the list of those that stayed behind."""
    path = folder / "companions.stackc"
    spec = PlaneSpec((2,), "float32")
    stack = stack_of(["raw"], spec)
    with ArtifactWriter(path, "transformers", {"architectures": ["BertModel"]}) as writer:
        writer.add(["w"], spec, stack, pack(stack, torch.tensor([1.0, -1.0])))
        writer.add_file("generation_config.json", b'{"eos_token_id": 2}')
        writer.add_file("1_Pooling/config.json", b'{"pooling_mode_mean_tokens": true}')
        writer.add_file("left_behind.json", b'["modeling_mine.py"]')
        writer.finish()
    return path


def write_shared_planes(folder: Path) -> Path:
    """Planes that stacks refer to: one of two tensors and a plane of its own, a whole tensor, one with bounds."""
    path = folder / "shared-planes.stackc"
    raw, ans = Leaf(find_packer("raw")), Leaf(find_packer("ans"))
    seed = find("seed").stage(rank=2, center=False)
    tensor, basis = PlaneSpec((6, 5), "float32"), PlaneSpec((2, 5), "float32")
    mask = PlaneSpec((6,), "bool", 0, 1)
    rows = find("prune").stage(rows=1 / 3)
    with ArtifactWriter(path, "module", None) as writer:
        for name, stack in {"a": Ref("@basis"), "b": Ref("@again")}.items():
            scores = to_bytes(whole(-5, 5, 6, 2))
            writer.add(
                [name, *(["tied"] if name == "a" else [])],
                tensor,
                Branch(seed, {"basis": stack, "scores": raw}),
                [scores],
            )
        writer.add(["whole"], basis, Ref("@basis"), [])
        pruned = {"mask": Ref("@mask"), "values": raw, "fallback": raw}
        for name in ("c", "d"):
            planes = [to_bytes(whole(-4, 4, 4, 5)), to_bytes(whole(-9, 9, 1, 5))]
            writer.add([name], tensor, Branch(rows, pruned), planes)
        kept = torch.tensor([True, False, True, True, False, True])
        writer.add_shared("@mask", mask, ans, [ans.packer.pack(kept, mask)])
        halves = PlaneSpec(basis.shape, "float16")
        cast = find("cast").stage(to="float16")
        writer.add_shared("@halves", halves, raw, [to_bytes(whole(-3, 3, 2, 5).half())])
        for name in ("@basis", "@again"):
            writer.add_shared(name, basis, Branch(cast, {"values": Ref("@halves")}), [])
        writer.finish()
    return path


def write_delta(folder: Path) -> Path:
    """Tensors of several dtypes that differ from planes of the file, which stand where a tensor of another model would."""
    path = folder / "delta.stackc"
    raw, zstd, context = (Leaf(find_packer(name)) for name in ("raw", "zstd", "context"))
    flips = torch.arange(20) % 3 == 1
    bases = {
        "float32": weights(4, 5),
        "float16": weights(4, 5).half(),
        "bfloat16": weights(4, 5).bfloat16(),
        "float64": weights(4, 5).double() / 3,
        "int8": codes(4, 5),
        "uint8": torch.arange(20, dtype=torch.uint8).reshape(4, 5),
        "int64": torch.arange(20).reshape(4, 5) << 40,
        "bool": weights(4, 5) > 0,
    }
    with ArtifactWriter(path, "module", None) as writer:
        for dtype, base in bases.items():
            spec = PlaneSpec.of(base)
            # Of another sign here and there, else a little larger; integers differ by what wraps around.
            change = torch.where(flips.reshape(4, 5), -1.0, 1.0 + 1 / 64) if spec.is_real else None
            other = base ^ flips.reshape(4, 5) if change is None and dtype == "bool" else base
            x = (base * change).to(base.dtype) if change is not None else other if dtype == "bool" else base * 3 - 100
            for exact in (True, False) if spec.is_real else (True,):
                delta = find("delta").stage(exact=exact)
                stack = {"base": Ref(f"@{dtype}"), "difference": zstd if exact else raw, "far": context}
                planes, specs = delta.encode(x, Known(shared={"base": base})), delta.plan(spec)
                own = {plane: leaf for plane, leaf in stack.items() if plane in specs}
                packed = [
                    leaf.packer.pack(planes[plane], specs[plane])
                    for plane, leaf in own.items()
                    if isinstance(leaf, Leaf)
                ]
                writer.add([f"{dtype}{'' if exact else ', rounded'}"], spec, Branch(delta, own), packed)
            writer.add_shared(f"@{dtype}", spec, raw, [raw.packer.pack(base, spec)])
        writer.finish()
    return path


def write_share(folder: Path) -> Path:
    """Tensors that are a common plane and a difference, or that plane alone, in every real dtype."""
    path = folder / "share.stackc"
    raw = Leaf(find_packer("raw"))
    with ArtifactWriter(path, "module", None) as writer:
        for dtype in ("float32", "float64", "float16", "bfloat16"):
            spec, name = PlaneSpec((5, 4), dtype), f"@{dtype}"
            common, *differences = weights(15, 4).to(getattr(torch, dtype)).split(5)
            for number, difference in enumerate(differences):
                stack = Branch(find("share").stage(), {"common": Ref(name), "difference": raw})
                writer.add([f"{dtype}.{number}"], spec, stack, [to_bytes(difference)])
            one = Branch(find("share").stage(difference=False), {"common": Ref(name)})
            writer.add([f"{dtype}.tied"], spec, one, [])
            writer.add_shared(name, spec, raw, [to_bytes(common)])
        largest = torch.full((2,), torch.finfo(torch.float16).max, dtype=torch.float16)
        both = Branch(find("share").stage(), {"common": raw, "difference": raw})
        writer.add(["beyond"], PlaneSpec((2,), "float16"), both, [to_bytes(largest)] * 2)
        writer.finish()
    return path


def write_codebook_of_a_group(folder: Path) -> Path:
    """One codebook of two tensors, and one of two others whose rows are shorter than its vectors."""
    path = folder / "codebook-3-group.stackc"
    module = torch.nn.Module()
    for name, shape in {"a": (6, 10), "b": (1, 7), "c": (6, 2), "d": (5, 2)}.items():
        module.register_buffer(name, weights(*shape))
    stages = [{"use": "codebook", "entries": 6, "dims": 3, "group": "all"}, {"use": "fp16", "on": "a/codebook"}]
    compress_to_file(recipe_from({"stages": stages}), open_reference(module), path, evaluate=False, every_stage=False)
    return path


def expected(path: Path) -> Golden:
    """What a file decodes to today."""
    with Artifact(path) as artifact:
        tensors = {}
        for name, spec in artifact.specs.items():
            data = to_bytes(artifact[name])
            tensors[name] = Expected(spec.dtype, spec.shape, hashlib.sha256(data).hexdigest(), data.hex())
        bundle = {name: hashlib.sha256(artifact.bundled_file(name)).hexdigest() for name in artifact.bundled}
        return Golden(sorted(formats(split(path.read_bytes()).manifest[STACKS])), tensors, artifact.ties, bundle)


def formats(nodes: list[Any]) -> set[str]:
    """``name@version`` of all stages below the nodes of a manifest."""
    stages = [node for node in nodes if not isinstance(node, int)]  # others are references
    return {name for node in stages for name in (f"{node[0]}@{node[1]}", *formats(node[3] if len(node) > 3 else []))}


def main() -> None:
    """Write what is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    writers = {name: functools.partial(write, name, case) for name, case in cases().items()}
    models = {
        "whole-model": write_whole_model,
        "companions": write_companions,
        "shared-planes": write_shared_planes,
        "share": write_share,
        "codebook-3-group": write_codebook_of_a_group,
        "delta": write_delta,
    }
    for name, write_to in {**writers, **models}.items():
        if not (FOLDER / f"{name}.json").exists():
            golden = msgspec.json.encode(expected(write_to(FOLDER)))
            (FOLDER / f"{name}.json").write_bytes(msgspec.json.format(golden) + b"\n")


if __name__ == "__main__":
    main()
