"""The tree of transforms and packers: wire form, checks, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import pytest
import torch

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.core.stack import (
    MAX_DEPTH,
    Branch,
    Leaf,
    Ref,
    branches,
    cost,
    decode,
    describe,
    encode_plane,
    from_wire,
    is_factor,
    is_side,
    node_at,
    packer_at,
    references,
    replace,
    shared_planes,
    side_planes,
    stored_planes,
    to_wire,
    with_transforms,
)
from stackc.core.transform import Transform
from stackc.util.errors import ArtifactError, DependencyError, SpecError, StackcError, TensorError
from tests.helpers.crafted import stack_of

NOTHING = {"sparsity": 0.0, "rows": None, "columns": None, "scope": "tensor", "keep": None}
SPEC = PlaneSpec((6, 4), "float32")
STAGES = [
    {"use": "prune", "rows": 0.5},
    {"use": "seed", "on": "*/values", "rank": 2},
    {"use": "int", "on": "*/scores", "bits": 4},
    {"use": "zstd", "on": "!*/mask", "level": 7},
]
RAW = ["raw", 1, {}]


def cast(*below: Any) -> list[Any]:
    return ["cast", 1, {"to": "float16"}, list(below)]


def test_stored_planes_are_the_leaves_in_order() -> None:
    planes = stored_planes(stack_of(STAGES, SPEC), SPEC)
    assert [(plane.path, str(plane.spec), plane.packer.name, plane.side) for plane in planes] == [
        ("mask", "bool 6 in 0..1", "raw", True),
        ("values/mean", "float32 1x4", "zstd", True),
        ("values/basis", "float32 2x4", "zstd", True),
        ("values/scores/codes", "int8 3x2 in -8..7", "zstd", False),
        ("values/scores/scale", "float32 3x1", "zstd", True),
        ("fallback", "float32 1x4", "zstd", True),
    ]


def test_the_wire_form_comes_back_and_survives_messagepack() -> None:
    stack = stack_of(STAGES, SPEC)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(to_wire(stack)))
    assert from_wire(wire, SPEC) == stack
    assert wire[:2] == ["prune", 2]
    assert wire[2]["rows"] == 0.5
    assert wire[3][0] == ["raw", 1, {}]


def test_descriptions() -> None:
    assert describe(stack_of(["fp16", "zstd"], SPEC)) == "cast(values: zstd)"
    assert describe(stack_of(["raw"], SPEC)) == "raw"


@pytest.mark.parametrize(
    "wire",
    [
        None,
        3,
        "raw",
        [],
        {},
        ["raw"],
        ["raw", 1],
        ["raw", 1, {}, None, 5],
        ["raw", 1, {}, []],
        ["raw", 1, {}, [RAW]],
        ["raw", 1, []],
        ["raw", "1", {}],
        ["raw", 1.0, {}],
        [3, 1, {}],
        ["raw", 1, {"level": 3}],
        ["zstd", 1, {"level": 99}],
        ["zstd", 1, {"level": "high"}],
        ["ans", 1, {}],
        ["int", 1, {"bits": 8}],
        ["int", 1, {"bits": 8}, []],
        ["int", 1, {"bits": 8}, [RAW]],
        ["int", 1, {"bits": 8}, [RAW, RAW, RAW]],
        ["int", 1, {"bits": 8}, {"codes": RAW, "scale": RAW}],
        ["int", 1, {"bits": 0}, [RAW, RAW]],
        ["int", 1, {"bits": 8, "granularity": "group"}, [RAW, RAW]],
        ["seed", 1, {"rank": 5}, [RAW, RAW, RAW]],
        ["seed", 1, {"rank": 1 << 62}, [RAW, RAW, RAW]],
        ["seed", 1, {"rank": None, "variance": 0.9, "center": True}, [RAW, RAW, RAW]],
        ["prune", 1, NOTHING | {"sparsity": 0.5, "scope": "global"}, [RAW, RAW]],
        ["prune", 1, NOTHING | {"sparsity": float("nan")}, [RAW, RAW]],
        ["prune", 1, NOTHING | {"sparsity": 0.5, "scope": "global", "keep": 1 << 60}, [RAW, RAW]],
        cast(cast(RAW)),
        cast(["cast", 1, {"to": "bfloat16"}, [RAW]]),
    ],
)
def test_wire_forms_that_cannot_be(wire: Any) -> None:
    with pytest.raises(ArtifactError):
        from_wire(wire, SPEC)


@pytest.mark.parametrize("wire", [["wavelet", 1, {}], ["int8", 1, {}, [RAW, RAW]], ["raw", 2, {}], ["raw", -1, {}]])
def test_wire_forms_of_stages_that_are_not_installed(wire: Any) -> None:
    with pytest.raises(DependencyError):
        from_wire(wire, SPEC)


def test_the_wire_form_has_a_greatest_depth() -> None:
    def nested(depth: int) -> Any:
        wire: Any = RAW
        for _ in range(depth - 1):
            wire = ["prune", 1, NOTHING, [RAW, wire]]
        return wire

    assert from_wire(nested(MAX_DEPTH), SPEC)
    with pytest.raises(ArtifactError, match="nested deeper"):
        from_wire(nested(MAX_DEPTH + 1), SPEC)
    with pytest.raises(ArtifactError, match="nested deeper"):
        from_wire(nested(5000), SPEC)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bits": 4, "symmetric": True, "granularity": "row"},
        {"bits": 4, "symmetric": True, "granularity": None, "group_size": None},
        {"bits": 4, "symmetric": True, "granularity": "row", "group_size": None, "calibrated": False},
    ],
)
def test_a_configuration_says_everything_that_decoding_asks_for(config: dict[str, Any]) -> None:
    """What a file leaves out would change with the defaults of the stage."""
    with pytest.raises(ArtifactError, match="int is not configured as a file does it, by bits and symmetric and"):
        from_wire(["int", 1, config, [RAW, RAW]], SPEC)


def test_stored_planes_of_a_stack_that_does_not_fit() -> None:
    raw = find("raw").stage()
    with pytest.raises(SpecError, match="ans does not take the tensor: ans codes integers"):
        stored_planes(Leaf(find("ans").stage()), SPEC)
    with pytest.raises(SpecError, match=r"cast makes the planes \['values'\], but the stack stores \['codes'\]"):
        stored_planes(Branch(find("cast").stage(to="float16"), {"codes": Leaf(raw)}), SPEC)


def test_a_node_is_replaced_and_the_rest_shared() -> None:
    stack = stack_of(STAGES, SPEC)
    raw = Leaf(find("raw").stage())
    changed = replace(stack, "values/scores/codes", raw)
    assert stored_planes(changed, SPEC)[3].packer.name == "raw"
    assert stored_planes(stack, SPEC)[3].packer.name == "zstd"
    with pytest.raises(StackcError, match="has no plane 'a'"):
        replace(raw, "a", raw)


def test_decode_asks_for_every_leaf_once_in_stored_order_and_has_gradients() -> None:
    stack = stack_of(STAGES, SPEC)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    planes: dict[str, torch.Tensor] = {}

    def walk(node: Any, value: torch.Tensor, spec: PlaneSpec, path: str) -> None:
        if isinstance(node, Leaf):
            planes[path] = value
            return
        for plane, (below, made) in encode_plane(node.transform, value, spec).items():
            walk(node.planes[plane], made, below, f"{path}/{plane}".lstrip("/"))

    walk(stack, x, SPEC, "")
    for path, value in planes.items():
        planes[path] = value.requires_grad_() if value.is_floating_point() else value
    asked = []

    def plane_at(path: str, spec: PlaneSpec, packer: Any) -> torch.Tensor:
        asked.append(path)
        assert spec.mismatch(planes[path]) is None
        return planes[path]

    y = decode(stack, SPEC, plane_at)
    assert SPEC.mismatch(y) is None
    assert asked == [plane.path for plane in stored_planes(stack, SPEC)]
    y.sum().backward()
    assert all(plane.grad is not None for plane in planes.values() if plane.is_floating_point())


class Liar(Transform, frozen=True):
    """Plans one thing and makes another."""

    name: ClassVar[str] = "liar"
    version: ClassVar[int] = 1

    made: str = "codes"

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        return {"codes": PlaneSpec(spec.shape, "int8", -1, 1)}

    def encode(self, x: torch.Tensor, known: Any = None) -> dict[str, torch.Tensor]:
        made = {"dtype": x, "shape": x[:1].to(torch.int8), "range": torch.full_like(x, 2, dtype=torch.int8)}
        return {"codes": made[self.made]} if self.made in made else {self.made: x.to(torch.int8)}

    def decode(self, planes: Mapping[str, torch.Tensor], spec: PlaneSpec) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("other", r"planned the planes \['codes'\] but made \['other'\]"),
        ("dtype", "broke its plan for codes: expected int8 6x4 in -1..1, got float32 6x4"),
        ("shape", "expected int8 6x4 in -1..1, got int8 1x4"),
        ("range", r"expected values in -1..1, got 2..2; this is a bug in it"),
    ],
)
def test_encode_is_held_against_its_plan(made: str, message: str) -> None:
    with pytest.raises(TensorError, match=message):
        encode_plane(Liar(made=made), torch.zeros(6, 4), SPEC)


BASIS = PlaneSpec((2, 10), "float32")


def referring() -> Branch:
    """A stack that uses one shared plane as it is, and one twice below another transform."""
    scores = Branch(find("seed").stage(rank=2, center=False), {"basis": Ref("@b"), "scores": Ref("@b")})
    return Branch(find("seed").stage(rank=2, center=False), {"basis": Ref("@a"), "scores": scores})


def test_every_walker_knows_references() -> None:
    stack, spec = referring(), PlaneSpec((2, 2), "float32")
    assert stored_planes(stack, spec) == []
    assert [(use.path, use.plane, use.side) for use in references(stack, spec)] == [
        ("basis", "@a", True),
        ("scores/basis", "@b", True),
        ("scores/scores", "@b", False),
    ]
    assert shared_planes(stack) == ["@a", "@b"]
    assert branches(stack) == ["", "scores"]
    assert describe(stack) == "seed(basis: @a, scores: seed(basis: @b, scores: @b))"
    assert node_at(stack, "scores/basis") == Ref("@b")
    assert is_side(stack, "scores/basis")
    assert not is_factor(stack, "basis")
    assert list(side_planes(stack, spec)) == []  # a shared plane is looked at where it stands
    assert with_transforms(stack, {"basis": find("int8").stage()}) == stack
    for walk in (
        packer_at,
        lambda stack, path: node_at(stack, f"{path}/x"),
        lambda stack, path: is_side(stack, f"{path}/x"),
    ):
        with pytest.raises(StackcError):
            walk(stack, "scores/scores")


def test_references_decode_by_name_and_are_numbers_in_a_file() -> None:
    stack, spec = referring(), PlaneSpec((2, 2), "float32")
    shared = {"@a": torch.eye(2), "@b": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    asked = []

    def shared_at(plane: str, spec: PlaneSpec) -> torch.Tensor:
        asked.append(plane)
        return shared[plane]

    decoded = decode(stack, spec, lambda *_: pytest.fail("there are no leaves"), shared_at)
    assert torch.equal(decoded, shared["@b"] @ shared["@b"])
    assert asked == ["@a", "@b", "@b"]
    wire = to_wire(stack, {"@a": 1, "@b": 0})
    again = from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(wire)), spec, [spec, spec])
    assert describe(again) == "seed(basis: @1, scores: seed(basis: @0, scores: @0))"
    with pytest.raises(StackcError, match="'@b', which is not there"):
        to_wire(stack, {"@a": 1})
    with pytest.raises(StackcError, match="there are none here"):
        decode(stack, spec, lambda *_: shared["@a"])
    with pytest.raises(
        ArtifactError, match="needs float32 2x2 where it refers to shared plane 1, which is float32 2x10"
    ):
        from_wire(wire, spec, [spec, BASIS])


def test_a_shared_plane_costs_its_users_a_look() -> None:
    spec = PlaneSpec((2, 10), "float32")
    assert cost(Ref("@a"), spec) == (0, 64 * 20)
