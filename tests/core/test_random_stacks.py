"""Stacks made at random from whatever stages the plan takes: encoded into a file, decoded, held against each other.

Which stages fit which planes is decided by their specs alone, so a transform or packer that plans what it cannot do shows
up here.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import nn

from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Leaf, encode_plane, from_wire, stored_planes, to_wire
from stackc.core.transform import Transform
from stackc.models import open_reference
from stackc.planning.plan import plan_recipe
from stackc.recipe.document import parse_document
from stackc.recipe.lock import locked_choices
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.reporting.accounting import byte_rows
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.util.errors import PlanError

SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])

TRANSFORMS: list[st.SearchStrategy[dict[str, Any]]] = [
    st.fixed_dictionaries(
        {"use": st.just("prune"), "sparsity": SHARES, "scope": st.sampled_from(["tensor", "global"])}
    ),
    st.fixed_dictionaries({"use": st.just("prune"), "rows": SHARES}),
    st.fixed_dictionaries({"use": st.just("prune"), "columns": SHARES}),
    st.fixed_dictionaries({"use": st.just("seed"), "rank": st.integers(1, 4), "center": st.booleans()}),
    st.fixed_dictionaries({"use": st.just("seed"), "variance": st.sampled_from([0.1, 0.9, 1.0])}),
    st.fixed_dictionaries(
        {
            "use": st.just("int"),
            "bits": st.integers(1, 8),
            "symmetric": st.booleans(),
            "granularity": st.sampled_from(["tensor", "row"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "use": st.just("int"),
            "bits": st.integers(1, 8),
            "granularity": st.just("group"),
            "group_size": st.integers(1, 9),
        }
    ),
    st.sampled_from([{"use": "fp16"}, {"use": "bf16"}]),
]
PACKERS: list[st.SearchStrategy[dict[str, Any]]] = [
    st.sampled_from([{"use": name} for name in ("raw", "ans", "floats", "context", "auto")]),
    st.fixed_dictionaries({"use": st.just("zstd"), "level": st.sampled_from([1, 3, 19])}),
]
REAL = ["float32", "float64", "float16", "bfloat16"]
OTHER = ["int64", "int32", "int16", "int8", "uint8", "bool"]
SHAPES = st.lists(st.integers(0, 7), max_size=3).map(tuple) | st.tuples(st.integers(1, 40), st.integers(1, 12))


@st.composite
def tensors(draw: st.DrawFn, special: bool = False) -> dict[str, torch.Tensor]:
    """One to three tensors; the first is a matrix that every transform takes."""
    made = {}
    for index in range(draw(st.integers(1, 3))):
        first = not index
        dtype = getattr(torch, draw(st.sampled_from(REAL[:2] if first else REAL + OTHER)))
        shape = draw(st.tuples(st.integers(4, 30), st.integers(4, 12)) if first else SHAPES)
        generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
        if dtype == torch.bool:
            x = x > 0
        elif dtype.is_floating_point and special and x.numel():
            x.view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))
        made["abc"[index]] = (x.abs() if dtype == torch.uint8 else x).to(dtype)
    return made


@st.composite
def recipes(draw: st.DrawFn, specs: dict[str, PlaneSpec]) -> list[dict[str, Any]]:
    """Stages that the plan takes, each on planes that are there: transforms first, then packers."""
    stages: list[dict[str, Any]] = []
    for kinds, most in ((TRANSFORMS, 4), (PACKERS, 3)):
        for _ in range(draw(st.integers(0, most))):
            stage = draw(st.one_of(kinds))
            plan = plan_recipe(recipe_from({"stages": stages}), specs) if stages else None
            leaves = {name: [""] for name in specs}
            for tensor in plan.tensors if plan else ():
                leaves[tensor.name] = [plane.path for plane in stored_planes(tensor.stacks[-1], tensor.spec)]
            places = [f"{name}/{path}" if path else name for name, paths in leaves.items() for path in paths]
            on = draw(st.none() | st.lists(st.sampled_from(places), min_size=1, max_size=3, unique=True))
            candidate = {**stage, **({"on": on} if on else {})}
            try:
                plan_recipe(recipe_from({"stages": [*stages, candidate]}), specs)
            except PlanError:
                continue
            stages.append(candidate)
    return stages or [{"use": "raw"}]


class Holder(nn.Module):
    """A module of nothing but tensors."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, x in state.items():
            self.register_buffer(name, x)


def compress(state: dict[str, torch.Tensor], recipe: Any, folder: str) -> Compressed:
    return compress_to_file(recipe, open_reference(Holder(state)), Path(folder, "a.stackc"))


def check_accounts(result: Compressed) -> None:
    size = os.stat(result.path).st_size
    assert sum(row.bytes for row in result.report.bytes) == size
    assert result.report.model.bytes - sum(row.saved_bytes for row in result.report.stages) == size
    with Artifact(result.path) as artifact:
        assert sum(row.bytes for row in byte_rows(artifact)) == size


@settings(max_examples=30)
@given(data=st.data())
def test_random_stacks_decode_and_add_up(data: st.DataObject) -> None:
    state = data.draw(tensors())
    specs = {name: PlaneSpec.of(x) for name, x in state.items()}
    stages = data.draw(recipes(specs))
    note(str(stages))
    before = {name: to_bytes(x) for name, x in state.items()}
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_from({"stages": stages})
        try:
            result = compress(state, recipe, folder)
        except PlanError:
            # As long as a rank is open, planes are planned at their largest: a later stage may find them too small.
            assert not plan_recipe(recipe, specs).settled
            return
        assert {name: to_bytes(x) for name, x in state.items()} == before
        check_accounts(result)
        locked = parse_recipe(parse_document(result.lock, "recipe.lock.yaml"))
        plan = plan_recipe(locked, specs, choices=locked_choices(locked))
        with Artifact(result.path) as artifact:
            for tensor in plan.tensors:
                y = artifact[tensor.name]
                assert PlaneSpec.of(y) == tensor.spec
                assert artifact.stack(tensor.name) == tensor.stacks[-1]
                if not any(isinstance(config, Transform) for step in tensor.steps for config in step.values()):
                    assert to_bytes(y) == before[tensor.name]
                bound = error_bound(tensor.stacks[-1], state[tensor.name], tensor.spec)
                error = float(torch.linalg.vector_norm(y.double() - state[tensor.name].double()))
                assert error <= bound
        data_first = result.path.read_bytes()
        assert compress(state, locked, folder).path.read_bytes() == data_first


def error_bound(stack: Branch | Leaf, x: torch.Tensor, spec: PlaneSpec) -> float:
    """Bound on the error of a stack where the bounds of its transforms add up: one transform, or one behind a prune."""
    if isinstance(stack, Leaf):
        return 0.0
    own = stack.transform.error_bound(x)
    below = {plane: child for plane, child in stack.planes.items() if isinstance(child, Branch)}
    if not below:
        return own
    # What a prune keeps is decoded to its place and nowhere else, so the error of the values comes on top.
    if stack.transform.name == "prune" and set(below) == {"values"}:
        values, made = encode_plane(stack.transform, x, spec)["values"]
        return own + error_bound(below["values"], made, values)
    return math.inf


@settings(max_examples=15)
@given(data=st.data())
def test_packers_alone_keep_every_bit(data: st.DataObject) -> None:
    state = data.draw(tensors(special=True))
    packer = st.sampled_from(
        [{"use": "zstd", "level": 1}, *({"use": name} for name in ("raw", "ans", "floats", "context", "auto"))]
    )
    stages = [{**data.draw(packer), "on": [name], "allow_empty": True} for name in state]
    with tempfile.TemporaryDirectory() as folder:
        result = compress(state, recipe_from({"stages": stages}), folder)
        check_accounts(result)
        assert result.report.final.weight_error == 0
        with Artifact(result.path) as artifact:
            assert {name: to_bytes(artifact[name]) for name in state} == {
                name: to_bytes(x) for name, x in state.items()
            }


@settings(max_examples=40)
@given(data=st.data())
def test_the_wire_form_of_random_stacks_comes_back(data: st.DataObject) -> None:
    specs = {"a": PlaneSpec((12, 9), "float32"), "b": PlaneSpec((5,), "float16"), "c": PlaneSpec((3, 3), "int8")}
    plan = plan_recipe(recipe_from({"stages": data.draw(recipes(specs))}), specs)
    if not plan.settled:
        return
    for tensor in plan.tensors:
        for stack in tensor.stacks:
            wire = msgspec.msgpack.decode(msgspec.msgpack.encode(to_wire(stack)))
            assert from_wire(wire, tensor.spec) == stack
            paths = [plane.path for plane in stored_planes(stack, tensor.spec)]
            assert len(set(paths)) == len(paths)
