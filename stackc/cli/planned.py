"""A plan as plain data: what ``stackc check`` shows and writes as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stackc.core.packer import Packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Stack, describe, stored_planes
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.planning.balance import cautions, fixed_width
from stackc.planning.plan import Plan, TensorPlan, address, planes_of_stage

#: How the planes of a stage are called that are whole tensors.
WHOLE = "tensor"


class PlaneGroup(msgspec.Struct, frozen=True):
    """Planes with one name that a stage makes, or packs."""

    plane: str
    dtype: str
    count: int
    elements: int


class Skips(msgspec.Struct, frozen=True):
    """Planes that a stage's pattern matches and that do not fit, all for the same reason."""

    reason: str
    planes: list[str]


class CheckedStage(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage will do.

    ``parameters`` are those that differ from their defaults. ``fixed_width_bytes`` are the planes after this stage at fixed width, before any packer: an upper bound of them if
    ``upper_bound`` is true, because the stage then chooses from data. ``caution`` says if side information takes more than
    what it is there for, at fixed width.
    """

    use: str
    parameters: dict[str, Any]
    on: list[str]
    matched: int
    packs: bool
    trains: bool = False
    planes: list[PlaneGroup]
    skipped: list[Skips]
    upper_bound: bool
    fixed_width_bytes: int
    caution: str = ""


class CheckedPlane(msgspec.Struct, frozen=True):
    """One plane that will be stored."""

    path: str
    spec: str
    packer: str


class CheckedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """How one tensor will be stored."""

    name: str
    names: list[str]
    spec: str
    stack: str
    planes: list[CheckedPlane]


class CheckedRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """A planned recipe."""

    recipe: str
    model: str
    task: str
    parameters: int
    bytes: int
    upper_bound: bool
    stages: list[CheckedStage]
    tensors: list[CheckedTensor]
    untouched: list[str]
    bases: list[str] = []
    controls: list[str] = []
    seeds: int = 1
    notes: list[str] = []


def checked(plan: Plan, *, model: str, task: str, notes: Sequence[str] = ()) -> CheckedRecipe:
    """Describe a plan.

    Parameters
    ----------
    plan : Plan
        Of `stackc.planning.plan.plan_recipe`; settled or not.
    model, task : str
        Names to show.
    notes : sequence of str
        What is to be said of the model.
    """
    heavy = cautions(plan, fixed_width)
    return CheckedRecipe(
        recipe=plan.recipe.name,
        model=model,
        task=task,
        parameters=sum(tensor.spec.numel for tensor in plan.tensors),
        bytes=sum(tensor.spec.nbytes for tensor in plan.tensors),
        upper_bound=not plan.settled,
        stages=[_stage(plan, index, heavy.get(index, "")) for index in range(len(plan.stages))],
        tensors=[_tensor(tensor) for tensor in plan.tensors],
        untouched=[tensor.name for tensor in plan.tensors if not any(tensor.steps) and not tensor.trained],
        bases=list(dict.fromkeys(plane.base for plane in plan.outside.values())),
        controls=list(plan.recipe.controls),
        seeds=plan.recipe.seeds,
        notes=list(notes),
    )


def _stage(plan: Plan, index: int, caution: str) -> CheckedStage:
    stage = plan.stages[index]
    reasons: dict[str, list[str]] = {}
    for skip in stage.skipped:
        reasons.setdefault(skip.reason, []).append(skip.plane)
    return CheckedStage(
        use=stage.stage.use,
        parameters=_changed(stage.config),
        on=list(stage.stage.on),
        matched=stage.matched,
        packs=stage.stage.is_packer,
        trains=stage.stage.is_training,
        planes=_groups(plan, index),
        skipped=[Skips(reason, planes) for reason, planes in sorted(reasons.items(), key=lambda item: -len(item[1]))],
        # A choice of an earlier stage leaves the sizes of the later ones open too.
        upper_bound=not all(before.settled for before in plan.stages[: index + 1]),
        fixed_width_bytes=sum(_fixed_width_bytes(tensor.stacks[index], tensor.spec) for tensor in plan.tensors),
        caution=caution,
    )


def _changed(config: Transform | Packer | TrainingStage) -> dict[str, Any]:
    plain = msgspec.to_builtins(config)
    fields = msgspec.structs.fields(type(config))
    return {f.name: plain[f.name] for f in fields if getattr(config, f.name) != f.default}


def _groups(plan: Plan, index: int) -> list[PlaneGroup]:
    """The planes that a transform makes, or that a packer takes, by name and dtype."""
    counts: Counter[tuple[str, str]] = Counter()
    elements: Counter[tuple[str, str]] = Counter()
    for tensor, path, config in planes_of_stage(plan, index):
        spec = _spec_at(tensor, path, index)
        made = config.plan(spec) if isinstance(config, Transform) else {path.rpartition("/")[2] or WHOLE: spec}
        for plane, planned in made.items():
            counts[plane, planned.dtype] += 1
            elements[plane, planned.dtype] += planned.numel
    return [PlaneGroup(plane, dtype, count, elements[plane, dtype]) for (plane, dtype), count in counts.items()]


def _spec_at(tensor: TensorPlan, path: str, index: int) -> PlaneSpec:
    """Spec of the plane at a path of a tensor's stack after a stage."""
    stack, spec = tensor.stacks[index], tensor.spec
    for part in path.split("/") if path else ():
        if not isinstance(stack, Branch):
            raise ValueError(f"{address(tensor.name, path)} is not in its stack")
        spec, stack = stack.transform.plan(spec)[part], stack.planes[part]
    return spec


def _fixed_width_bytes(stack: Stack, spec: PlaneSpec) -> int:
    return sum((plane.spec.numel * plane.spec.bits + 7) // 8 for plane in stored_planes(stack, spec))


def _tensor(tensor: TensorPlan) -> CheckedTensor:
    stack = tensor.stacks[-1]
    planes: Iterable[CheckedPlane] = (
        CheckedPlane(plane.path, str(plane.spec), plane.packer.name) for plane in stored_planes(stack, tensor.spec)
    )
    return CheckedTensor(
        name=tensor.name,
        names=list(tensor.names),
        spec=str(tensor.spec),
        stack=describe(stack),
        planes=list(planes),
    )
