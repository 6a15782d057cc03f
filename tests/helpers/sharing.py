"""Files whose tensors share planes, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch
from hypothesis import strategies as st

from stackc.artifact.bases import Base
from stackc.artifact.writer import ArtifactWriter
from stackc.core.planes import to_bytes
from stackc.core.registry import find, find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Leaf, Ref, Stack
from stackc.models import open_reference

if TYPE_CHECKING:
    from torch import Tensor

RAW = Leaf(find_packer("raw"))
TENSOR = PlaneSpec((4, 6), "float32")
BASIS = PlaneSpec((2, 6), "float32")
HALVES = PlaneSpec((2, 6), "float16")
SCORES = PlaneSpec((4, 2), "float32")


class Outside(NamedTuple):
    """A shared plane that lies in a base model."""

    base: Base
    tensor: str


Shared = Mapping[str, tuple[PlaneSpec, Stack | Outside, Sequence["Tensor"]]]
Tensors = Mapping[str, tuple[PlaneSpec, Stack, Sequence["Tensor"]]]


def in_basis(basis: Stack) -> Stack:
    """A tensor whose rows are sums of rows of a basis."""
    return Branch(find("seed").stage(rank=2, center=False), {"basis": basis, "scores": RAW})


def halved(values: Stack) -> Stack:
    """A plane stored as float16."""
    return Branch(find("cast").stage(to="float16"), {"values": values})


def numbers(spec: PlaneSpec, first: int = 0) -> Tensor:
    """Small whole numbers, so that products are exact."""
    return ((torch.arange(spec.numel) + first) % 7 - 3).reshape(spec.shape).to(getattr(torch, spec.dtype))


def base_model() -> torch.nn.Module:
    """A model that files may lie in: one matrix with the shape of a basis."""
    model = torch.nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(numbers(BASIS, 5))
    return model


def base_of(model: torch.nn.Module, hint: str = "some/model") -> Base:
    """What a file says of a base model."""
    return Base(open_reference(model).fingerprint(), hint)


def write_sharing(path: Path, tensors: Tensors, shared: Shared, files: Mapping[str, bytes] | None = None) -> Path:
    """A file of tensors and shared planes whose leaves are all `RAW`."""
    with ArtifactWriter(path, "module", None) as writer:
        for name, (spec, stack, planes) in tensors.items():
            writer.add([name], spec, stack, list(map(to_bytes, planes)))
        for name, (spec, stack, planes) in shared.items():
            if isinstance(stack, Outside):
                writer.add_outside(name, spec, *stack)
            else:
                writer.add_shared(name, spec, stack, list(map(to_bytes, planes)))
        for name, content in (files or {}).items():
            writer.add_file(name, content)
        assert writer.projected_bytes({}) == writer.finish()
    return path


def example(path: Path) -> Path:
    """Three tensors with one basis, which is stored in halves, and one tensor that is this basis."""
    tensors = {
        name: (TENSOR, in_basis(Ref("@basis")), [numbers(SCORES, first)]) for first, name in enumerate(("a", "b", "c"))
    }
    tensors["whole"] = (BASIS, Ref("@basis"), [])
    tensors["alone"] = (BASIS, RAW, [numbers(BASIS, 4)])
    shared = {"@halves": (HALVES, RAW, [numbers(HALVES)]), "@basis": (BASIS, halved(Ref("@halves")), [])}
    return write_sharing(path, tensors, shared)


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict, dict]:
    """Tensors and shared planes of one spec, each stored, halved, or a reference to a plane of higher rank; in any order."""
    count = draw(st.integers(1, 6))

    def stack(first: int) -> tuple:
        further = [f"@{number}" for number in range(first, count)]
        kind = draw(st.sampled_from(["raw", "ref", "basis"] if further else ["raw"]))
        if kind == "raw":
            return BASIS, RAW, [numbers(BASIS, draw(st.integers(0, 9)))]
        plane = Ref(draw(st.sampled_from(further)))
        if kind == "ref":
            return BASIS, plane, []
        square = msgspec.structs.replace(SCORES, shape=(2, 2))
        return BASIS, in_basis(plane), [numbers(square, draw(st.integers(0, 9)))]

    tensors = {f"t{number}": stack(0) for number in range(draw(st.integers(1, 6)))}
    shared = {f"@{number}": stack(number + 1) for number in range(count)}
    order = draw(st.permutations(list(shared)))
    return tensors, {name: shared[name] for name in order}
