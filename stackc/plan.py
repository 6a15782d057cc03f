"""From a recipe and the specs of a model to a stack for every tensor; no weight is read.

Each stage rewrites the planes that it matches. What a stage's pattern matches but its `plan` refuses is skipped and
listed with the reason; a stage that is left with nothing is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from stackc.errors import PlanError, SpecError
from stackc.nearest import nearest
from stackc.packer import Packer
from stackc.patterns import is_literal, matches
from stackc.recipe.recipe import Recipe, Stage
from stackc.registry import find
from stackc.spec import PlaneSpec
from stackc.stack import Branch, Leaf, Stack, join, replace
from stackc.transform import Transform

#: ``{stage: {plane: settled transform}}``, planes written as ``tensor`` or ``tensor/path``.
Choices = Mapping[int, Mapping[str, Transform]]


class Skipped(NamedTuple):
    """A plane that a stage's pattern matches and its plan refuses."""

    plane: str
    reason: str


class TensorPlan(NamedTuple):
    """What happens to one tensor.

    ``steps[i]`` holds the transforms and packers that stage ``i`` puts at which paths, ``stacks[i]`` the whole stack if
    the recipe stopped after stage ``i``; open ends are closed with the default packer.
    """

    name: str
    names: tuple[str, ...]
    spec: PlaneSpec
    steps: tuple[Mapping[str, Transform | Packer], ...]
    stacks: tuple[Stack, ...]


class StagePlan(NamedTuple):
    """What one stage does over the model."""

    stage: Stage
    matched: int
    skipped: tuple[Skipped, ...]
    settled: bool


class Plan(NamedTuple):
    """The whole recipe, planned."""

    recipe: Recipe
    tensors: tuple[TensorPlan, ...]
    stages: tuple[StagePlan, ...]

    @property
    def settled(self) -> bool:
        """Whether every stage's choices are made, so that the specs are exact and not upper bounds."""
        return all(stage.settled for stage in self.stages)


class _Growing:
    """The stack of one tensor while stages are applied to it."""

    def __init__(self, names: tuple[str, ...], spec: PlaneSpec, default: Packer) -> None:
        self.names = names
        self.spec = spec
        self.open: dict[str, PlaneSpec] = {"": spec}
        self.packed: dict[str, str] = {}
        self.stack: Stack = Leaf(default)
        self.default = default
        self.steps: list[dict[str, Transform | Packer]] = []
        self.stacks: list[Stack] = []

    def put(self, path: str, config: Transform | Packer, use: str) -> None:
        """Apply a transform or packer to an open plane, or raise SpecError and leave everything as it was."""
        spec = self.open[path]
        if isinstance(config, Packer):
            reason = config.refusal(spec)
            if reason is not None:
                raise SpecError(reason)
            self.stack = replace(self.stack, path, Leaf(config))
            self.packed[path] = use
        else:
            specs = config.plan(spec)
            self.stack = replace(self.stack, path, Branch(config, {plane: Leaf(self.default) for plane in specs}))
            self.open.update({join(path, plane): planned for plane, planned in specs.items()})
        del self.open[path]
        self.steps[-1][path] = config


def address(tensor: str, path: str) -> str:
    """A plane as recipes and messages write it: ``tensor`` or ``tensor/path``."""
    return f"{tensor}/{path}" if path else tensor


def plan_recipe(
    recipe: Recipe,
    specs: Mapping[str, PlaneSpec],
    ties: Mapping[str, str] | None = None,
    choices: Choices | None = None,
) -> Plan:
    """Plan every stage for every tensor.

    Parameters
    ----------
    recipe : Recipe
        Validated recipe.
    specs : mapping
        Spec of each distinct tensor by its first name.
    ties : mapping, optional
        Further names of tensors: ``{other name: first name}``. Patterns match any name of a tensor.
    choices : mapping, optional
        Settled transforms for stages that choose from data; where missing, upper bounds are planned.

    Raises
    ------
    PlanError
        If a stage matches nothing, or a plane that it names without wildcards does not fit it.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> recipe = recipe_from({"stages": [{"use": "int", "bits": 4}]})
    >>> plan = plan_recipe(recipe, {"a": PlaneSpec((3, 5), "float32")})
    >>> list(plan.tensors[0].steps[0])
    ['']
    """
    default: Packer = find("raw").stage()  # type: ignore[assignment]
    others: dict[str, list[str]] = {}
    for other, first in (ties or {}).items():
        others.setdefault(first, []).append(other)
    growing = [_Growing((name, *others.get(name, [])), spec, default) for name, spec in specs.items()]
    stages = tuple(
        _apply(stage, index, growing, (choices or {}).get(index, {})) for index, stage in enumerate(recipe.stages)
    )
    tensors = tuple(TensorPlan(g.names[0], g.names, g.spec, tuple(g.steps), tuple(g.stacks)) for g in growing)
    return Plan(recipe, tensors, stages)


def _apply(stage: Stage, index: int, growing: Sequence[_Growing], choices: Mapping[str, Transform]) -> StagePlan:
    matched, settled = 0, True
    skipped: list[Skipped] = []
    for tensor in growing:
        tensor.steps.append({})
        for path in list(tensor.open):
            if not matches(stage.on, tensor.names, path):
                continue
            plane = address(tensor.names[0], path)
            config = choices.get(plane, stage.config)
            try:
                tensor.put(path, config, f"stages[{index}] ({stage.use})")
            except SpecError as error:
                if is_literal(stage.on):
                    raise PlanError(f"stages[{index}] ({stage.use}) does not fit {plane} ({tensor.open[path]}): {error}") from error
                skipped.append(Skipped(plane, str(error)))
            else:
                matched += 1
                settled &= isinstance(config, Packer) or config.settled
        tensor.stacks.append(tensor.stack)
    if not matched and not stage.allow_empty:
        raise PlanError(_nothing(stage, index, growing, skipped))
    return StagePlan(stage, matched, tuple(skipped), settled)


def _nothing(stage: Stage, index: int, growing: Sequence[_Growing], skipped: Sequence[Skipped]) -> str:
    """Why a stage has nothing to do, and what would help."""
    where = f"stages[{index}] ({stage.use})"
    on = f" on {', '.join(stage.on)}" if stage.on else ""
    if skipped:
        first = skipped[0]
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        return (
            f"{where}{on} fits none of the {len(skipped)} planes it matches: {first.plane}{more}: {first.reason}; "
            "put it before the stages that make such planes, change 'on', or say allow_empty: true"
        )
    packed = [(g.names[0], path, by) for g in growing for path, by in g.packed.items() if matches(stage.on, g.names, path)]
    if packed:
        name, path, by = packed[0]
        return f"{where}{on} comes too late: {address(name, path)} is already packed by {by}; put {stage.use} before it"
    tensors = [name for g in growing for name in g.names]
    if stage.on and not any(matches([pattern.partition("/")[0]], [name], "") for pattern in stage.on for name in tensors):
        hint = nearest(stage.on[0].partition("/")[0].strip("*"), tensors)
        return f"{where}{on} matches no tensor of the model{hint}; 'stackc check' lists the tensors"
    planes = sorted({path.rpartition("/")[2] for g in growing for path in g.open if path})
    known = f"the planes at this point are {', '.join(planes)}" if planes else "no stage before it makes planes"
    return f"{where}{on} matches no plane: {known}; or say allow_empty: true"


def planes_of_stage(plan: Plan, index: int) -> Iterator[tuple[TensorPlan, str, Transform | Packer]]:
    """Every plane that a stage applies to, with what it applies."""
    for tensor in plan.tensors:
        for path, config in tensor.steps[index].items():
            yield tensor, path, config
