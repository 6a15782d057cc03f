"""From a recipe and the specs of a model to a stack for every tensor; no weight is read.

Each stage rewrites the planes that it matches. What a stage's pattern matches but its `plan` refuses is skipped and
listed with the reason; a stage that is left with nothing is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from stackc.core.abilities import Outside, Sharing
from stackc.core.packer import Packer
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import (
    MAX_DEPTH,
    Branch,
    Leaf,
    Ref,
    Stack,
    branches,
    join,
    node_at,
    plan_of,
    replace,
    stored_planes,
    with_transforms,
)
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.recipe.recipe import Recipe, Stage
from stackc.util.errors import PlanError, SpecError
from stackc.util.nearest import nearest
from stackc.util.patterns import is_literal, matches, names_planes

#: ``{stage: {plane: settled transform}}``, planes written as ``tensor`` or ``tensor/path``.
Choices = Mapping[int, Mapping[str, Transform | Packer]]

#: What the tensors of other models look like: ``{model: {tensor: spec}}``, by all names that tensors have.
BaseSpecs = Mapping[str, Mapping[str, PlaneSpec]]
_NO_BASES: BaseSpecs = MappingProxyType({})


class Skipped(NamedTuple):
    """A plane that a stage's pattern matches and its plan refuses."""

    plane: str
    reason: str


class Place(NamedTuple):
    """Where a plane is: in a tensor with these names, at this path of its stack."""

    names: tuple[str, ...]
    path: str

    def below(self, path: str) -> Place:
        """A plane that is made of this one."""
        return Place(self.names, "/".join(filter(None, (self.path, path))))


class TensorPlan(NamedTuple):
    """What happens to one tensor, or to a plane that tensors share.

    ``steps[i]`` holds the transforms and packers that stage ``i`` puts at which paths, ``stacks[i]`` the whole stack if
    the recipe stopped after stage ``i``; open ends are closed with the default packer. ``trained`` are the stages that
    train this tensor: they split nothing, but may settle transforms of the stack anew. ``users`` says where a shared plane
    is used, and ``maker`` which stage makes it; a tensor of the model has neither.
    """

    name: str
    names: tuple[str, ...]
    spec: PlaneSpec
    steps: tuple[Mapping[str, Transform | Packer], ...]
    stacks: tuple[Stack, ...]
    trained: frozenset[int] = frozenset()
    users: tuple[Place, ...] = ()
    maker: int = -1

    @property
    def is_shared(self) -> bool:
        """Whether it is a plane that stands once and is used by tensors."""
        return self.maker >= 0

    def places(self, path: str) -> list[Place]:
        """Where people see a plane of this stack: a shared one in all tensors that use it."""
        return [place.below(path) for place in self.users or (Place(self.names, ""),)]


class OutsidePlane(NamedTuple):
    """A plane that is a tensor of another model.

    Attributes
    ----------
    name : str
        What stacks call it.
    spec : PlaneSpec
        Of the tensor.
    base, tensor : str
        The model, as the recipe names it, and the tensor's name there.
    maker : int
        The stage that refers to it.
    """

    name: str
    spec: PlaneSpec
    base: str
    tensor: str
    maker: int


class StagePlan(NamedTuple):
    """What one stage does over the model."""

    stage: Stage
    matched: int
    skipped: tuple[Skipped, ...]
    settled: bool

    @property
    def config(self) -> Transform | Packer | TrainingStage:
        """What the stage does, before anything is settled."""
        return self.stage.config


class Plan(NamedTuple):
    """The whole recipe, planned."""

    recipe: Recipe
    tensors: tuple[TensorPlan, ...]
    stages: tuple[StagePlan, ...]
    shared: tuple[TensorPlan, ...] = ()
    outside: Mapping[str, OutsidePlane] = MappingProxyType({})

    @property
    def everything(self) -> tuple[TensorPlan, ...]:
        """The tensors of the model, and the planes that they share."""
        return self.tensors + self.shared

    @property
    def settled(self) -> bool:
        """Whether every stage's choices are made, so that the specs are exact and not upper bounds."""
        return all(stage.settled for stage in self.stages)


class _Growing:
    """The stack of one tensor, or of a plane that tensors share, while stages are applied to it.

    ``parent`` is what made a shared plane.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        spec: PlaneSpec,
        default: Packer,
        users: tuple[Place, ...] = (),
        maker: int = -1,
        parent: Transform | None = None,
    ) -> None:
        self.names = names
        self.spec = spec
        self.users = users
        self.maker = maker
        self.parent = parent
        self.open: dict[str, PlaneSpec] = {"": spec}
        self.packed: dict[str, str] = {}
        self.stack: Stack = Leaf(default)
        self.default = default
        self.steps: list[dict[str, Transform | Packer]] = [{} for _ in range(maker + 1)]
        self.stacks: list[Stack] = [self.stack] * (maker + 1)
        self.trained: set[int] = set()

    def places(self, path: str) -> list[Place]:
        """Where people see a plane of this stack: a shared one in all tensors that use it."""
        return [place.below(path) for place in self.users or (Place(self.names, ""),)]

    def matches(self, patterns: Sequence[str], path: str) -> bool:
        """Whether patterns match a plane of this stack."""
        return any(matches(patterns, place.names, place.path) for place in self.places(path))

    def share(self, path: str, name: str) -> None:
        """Take a plane that was just made from somewhere else."""
        del self.open[path]
        self.stack = replace(self.stack, path, Ref(name))

    def made_by(self, path: str) -> Transform | None:
        """The transform that makes a plane of this stack; None for a tensor itself."""
        if not path:
            return self.parent
        above = node_at(self.stack, path.rpartition("/")[0])
        assert isinstance(above, Branch)
        return above.transform

    def train(self, stage: int, transforms: Mapping[str, Transform | Packer]) -> None:
        """Let a stage train this tensor; ``transforms`` by address are those that it has settled anew."""
        self.trained.add(stage)
        own = {path: transforms.get(address(self.names[0], path)) for path in branches(self.stack)}
        changed = {path: config for path, config in own.items() if isinstance(config, Transform)}
        if changed:
            self.stack = with_transforms(self.stack, changed)
            leaves = {plane.path: plane.spec for plane in stored_planes(self.stack, self.spec)}
            self.open = {path: leaves[path] for path in self.open}

    def put(self, path: str, config: Transform | Packer, use: str) -> str | None:
        """Apply a transform or packer to an open plane that it takes; if the stack is too deep for it, say so instead."""
        spec = self.open[path]
        if isinstance(config, Packer):
            self.stack = replace(self.stack, path, Leaf(config))
            self.packed[path] = use
        else:
            specs = plan_of(config, spec)
            above = path.count("/") + 1 if path else 0
            if above + 2 > MAX_DEPTH:  # the transform and a packer
                return f"a stack is at most {MAX_DEPTH} stages deep"
            self.stack = replace(self.stack, path, Branch(config, {plane: Leaf(self.default) for plane in specs}))
            self.open.update({join(path, plane): planned for plane, planned in specs.items()})
        del self.open[path]
        self.steps[-1][path] = config
        return None


def refusal(config: Transform | Packer, spec: PlaneSpec) -> str | None:
    """Why a transform or packer cannot take a plane with this spec, or None if it can."""
    if isinstance(config, Packer):
        return config.refusal(spec)
    try:
        plan_of(config, spec)
    except SpecError as error:
        return str(error)
    return None


def address(tensor: str, path: str) -> str:
    """A plane as recipes and messages write it: ``tensor`` or ``tensor/path``."""
    return f"{tensor}/{path}" if path else tensor


def plan_recipe(
    recipe: Recipe,
    specs: Mapping[str, PlaneSpec],
    ties: Mapping[str, str] | None = None,
    choices: Choices | None = None,
    bases: BaseSpecs = _NO_BASES,
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
    bases : mapping, optional
        What the models have that stages name as bases.

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
    default = find_packer("raw")
    others: dict[str, list[str]] = {}
    for other, first in (ties or {}).items():
        others.setdefault(first, []).append(other)
    growing = [_Growing((name, *others.get(name, [])), spec, default) for name, spec in specs.items()]
    outside: dict[str, OutsidePlane] = {}
    stages = tuple(
        _apply(stage, index, growing, (choices or {}).get(index, {}), bases, outside)
        for index, stage in enumerate(recipe.stages)
    )
    done = [
        TensorPlan(
            *(g.names[0], g.names, g.spec, tuple(g.steps), tuple(g.stacks), frozenset(g.trained), g.users, g.maker)
        )
        for g in growing
    ]
    return Plan(recipe, tuple(done[: len(specs)]), stages, tuple(done[len(specs) :]), outside)


class _Tried(NamedTuple):
    """A plane that a stage's patterns match, and why it does not fit, if so."""

    tensor: _Growing
    path: str
    spec: PlaneSpec
    refusal: str | None

    @property
    def plane(self) -> str:
        return address(self.tensor.names[0], self.path)


def _apply(
    stage: Stage,
    index: int,
    growing: list[_Growing],
    choices: Mapping[str, Transform | Packer],
    bases: BaseSpecs,
    outside: dict[str, OutsidePlane],
) -> StagePlan:
    """Let a stage do its work on what there is; adds the planes that it makes to what there is."""
    if isinstance(stage.config, TrainingStage):
        return _train(stage, index, growing, choices)
    found: list[tuple[_Growing, str, PlaneSpec, Action]] = []
    for tensor in growing:
        tensor.steps.append({})
        for path, spec in tensor.open.items():
            plane = address(tensor.names[0], path)
            action = action_of(stage, choices, plane, tensor.places(path), spec, tensor.made_by(path), bases)
            if action is not None:
                found.append((tensor, path, spec, action))
    alone = _alone(stage, found)
    tried: list[_Tried] = []
    settled = True
    for tensor, path, spec, action in found:
        refusal = action.refusal or (_ALONE if address(tensor.names[0], path) in alone else None)
        refusal = refusal or tensor.put(path, action.config, f"stages[{index}] ({stage.use})")
        tried.append(_Tried(tensor, path, spec, refusal))
        if refusal is None and isinstance(action.config, Outside):
            referred = _refer(action.config, index, tensor, spec, bases)
            outside[referred.name] = referred
        if refusal is None and isinstance(action.config, Transform):
            settled &= action.config.settled
    shared = _share(stage, index, [one for one in tried if one.refusal is None])
    for tensor in growing:
        tensor.stacks.append(tensor.stack)
    growing += shared
    skipped = [one for one in tried if one.refusal is not None]
    if not stage.allow_empty:
        _require_named(stage, index, growing, tried)
        if len(skipped) == len(tried):
            raise PlanError(_nothing(stage, index, stage.on, growing, skipped))
    return StagePlan(
        stage, len(tried) - len(skipped), tuple(Skipped(one.plane, one.refusal or "") for one in skipped), settled
    )


def _refer(config: Outside, index: int, tensor: _Growing, spec: PlaneSpec, bases: BaseSpecs) -> OutsidePlane:
    """Take the plane of a tensor that was just split and that lies in another model from there."""
    assert config.base is not None
    name = f"^{index}.{tensor.names[0]}"
    tensor.share(config.outside, name)
    there = next(other for other in tensor.names if other in bases[config.base])
    return OutsidePlane(name, spec, config.base, there, index)


#: Why a stage that only shares leaves a plane as it is.
_ALONE = "no other plane of its group has its shape and dtype, so it has nothing in common with one"

#: Addresses of planes by what they share: the name of a group, that of the shared plane, and its spec.
_Users = Mapping[tuple[str, str, PlaneSpec], list[str]]


def _users(stage: Stage, planes: Mapping[str, tuple[Transform | Packer, PlaneSpec]]) -> _Users:
    """Which planes that a stage splits would have what in common; given is what splits each of them, and its spec.

    Matrices of other widths have nothing in common: each kind of plane stands for itself.
    """
    found: dict[tuple[str, str, PlaneSpec], list[str]] = {}
    if not isinstance(stage.config, Sharing) or not stage.config.common:
        return found
    for group, members in stage.config.groups(list(planes)).items():
        for member in members:
            config, its = planes[member]
            assert isinstance(config, Sharing)
            for plane, spec in plan_of(config, its).items():
                if plane in config.common:
                    found.setdefault((group, plane, spec), []).append(member)
    return found


def _alone(stage: Stage, found: Sequence[tuple[_Growing, str, PlaneSpec, Action]]) -> set[str]:
    """Planes that a stage would split to no end, as they share with no other."""
    if not isinstance(stage.config, Sharing) or stage.config.solitary:
        return set()
    fitting = {
        address(tensor.names[0], path): (action.config, spec)
        for tensor, path, spec, action in found
        if action.refusal is None
    }
    several = {member for members in _users(stage, fitting).values() if len(members) > 1 for member in members}
    return set(fitting) - several


def _share(stage: Stage, index: int, made: Sequence[_Tried]) -> list[_Growing]:
    """The planes that what a stage has just split has in common, group by group."""
    by_plane = {one.plane: one for one in made}
    users = _users(stage, {plane: (one.tensor.steps[index][one.path], one.spec) for plane, one in by_plane.items()})
    found: dict[str, _Growing] = {}
    for (group, plane, spec), members in users.items():
        if len(members) == 1:
            continue
        assert isinstance(stage.config, Sharing)
        same = sum(name.startswith(f"@{index}.{group}.{plane}") for name in found)
        name = f"@{index}.{group}.{plane}" + (f".{same + 1}" if same else "")
        uses = [(by_plane[member].tensor, join(by_plane[member].path, plane)) for member in members]
        places = tuple(place for tensor, path in uses for place in tensor.places(path))
        found[name] = _Growing((name,), spec, uses[0][0].default, places, index, stage.config)
        for tensor, path in uses:
            tensor.share(path, name)
    return list(found.values())


class Action(NamedTuple):
    """What a stage does with a plane that it is meant for, and why it cannot, if so."""

    config: Transform | Packer
    refusal: str | None


def action_of(
    stage: Stage,
    choices: Mapping[str, Transform | Packer],
    plane: str,
    places: Sequence[Place],
    spec: PlaneSpec,
    parent: Transform | None,
    bases: BaseSpecs = _NO_BASES,
) -> Action | None:
    """What a stage does with a plane; None if it is not meant for it, whatever it may be able to take.

    It is if its patterns match and the plane is not side information of an earlier stage of the same kind, such as the scale
    of codes: nobody who quantises weights means the scales of what is quantised already; a pattern with a plane in it does.
    Stages that train act on tensors and not on planes.

    Parameters
    ----------
    stage : Stage
        Of the recipe.
    choices : mapping
        Of this stage, by address of the plane; without one the plane gets what the recipe says.
    plane : str
        Address of the plane.
    places : sequence of Place
        Where the plane is used: one place, or several of a shared one.
    spec : PlaneSpec
        Of the plane.
    parent : Transform, optional
        What made the plane; None for the tensor itself.
    bases : mapping
        As for `plan_recipe`.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> int8, spec = recipe_from({"stages": ["int8"]}).stages[0], PlaneSpec((3, 5), "float32")
    >>> action_of(int8, {}, "w", [Place(("w",), "")], spec, None).refusal
    >>> action_of(int8, {}, "w/scale", [Place(("w",), "scale")], spec, int8.config)
    """
    if isinstance(stage.config, TrainingStage):
        return None
    if not any(matches(stage.on, place.names, place.path) for place in places):
        return None
    side = parent is not None and places[0].path.rpartition("/")[2] in parent.side
    if side and isinstance(stage.config, type(parent)) and not names_planes(stage.on):
        return None
    config = choices.get(plane, stage.config)
    if isinstance(config, Outside) and (reason := _outside_refusal(config, places[0].names, spec, parent, bases)):
        return Action(config, reason)
    return Action(config, refusal(config, spec))


def _outside_refusal(
    config: Outside, names: Sequence[str], spec: PlaneSpec, parent: Transform | None, bases: BaseSpecs
) -> str | None:
    """Why a plane has no counterpart in the model that a stage names, or None if it has one."""
    if parent is not None:
        return f"{config.name} takes whole tensors, as its base has no others, and {parent.name} has made this plane"
    if not config.base:
        return f"{config.name} needs a model as its 'base'"
    if config.base not in bases:
        return f"the base {config.base} was not opened"
    there = bases[config.base]
    found = next((there[name] for name in names if name in there), None)
    if found is None:
        return f"the base {config.base} has no tensor of this name"
    if (found.shape, found.dtype) != (spec.shape, spec.dtype):
        return f"it is {found} in the base {config.base}, and {spec} here"
    return None


def _train(
    stage: Stage, index: int, growing: Sequence[_Growing], choices: Mapping[str, Transform | Packer]
) -> StagePlan:
    """A stage that trains tensors: it matches whole tensors of real numbers, and what only such tensors share."""
    matched = 0
    for tensor in growing:
        tensor.steps.append({})
        if tensor.spec.is_real and all(matches(stage.on, place.names, "") for place in tensor.places("")):
            tensor.train(index, choices)
            matched += 1
        tensor.stacks.append(tensor.stack)
    if not matched and not stage.allow_empty:
        on = f" on {', '.join(stage.on)}" if stage.on else ""
        raise PlanError(
            f"stages[{index}] ({stage.use}){on} matches no tensor of real numbers; it trains whole tensors, so 'on' names "
            "tensors and no planes; 'stackc check' lists the tensors"
        )
    return StagePlan(stage, matched, (), True)


def _require_named(stage: Stage, index: int, growing: Sequence[_Growing], tried: Sequence[_Tried]) -> None:
    """Refuse a recipe that names a plane without wildcards which is not there or does not fit."""
    names = {name for tensor in growing for name in tensor.names}
    for pattern in stage.on:
        if not (is_literal(pattern) or pattern in names):
            continue
        named = [one for one in tried if one.tensor.matches([pattern], one.path)]
        if any(one.refusal is None for one in named):
            continue
        if named:
            first = named[0]
            raise PlanError(f"stages[{index}] ({stage.use}) does not fit {first.plane} ({first.spec}): {first.refusal}")
        raise PlanError(_nothing(stage, index, [pattern], growing, []))


def _nothing(
    stage: Stage, index: int, patterns: Sequence[str], growing: Sequence[_Growing], skipped: Sequence[_Tried]
) -> str:
    """Why a stage has nothing to do, and what would help."""
    on = f" on {', '.join(patterns)}" if patterns else ""
    where = f"stages[{index}] ({stage.use}){on}"
    if skipped:
        # The reason that helps is that of the plane most people mean: the largest, not some mask or bias.
        first = max(skipped, key=lambda one: one.spec.numel)
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        remedy = "put it before the stages that make such planes, change 'on'" if first.path else "change 'on'"
        return (
            f"{where} fits none of the {len(skipped)} planes it matches: {first.plane}{more}: {first.refusal}; "
            f"{remedy}, or say allow_empty: true"
        )
    packed = [(g.names[0], path, by) for g in growing for path, by in g.packed.items() if g.matches(patterns, path)]
    if packed:
        name, path, by = packed[0]
        return f"{where} comes too late: {address(name, path)} is already packed by {by}; put {stage.use} before it"
    tensors = [name for g in growing if g.maker < 0 for name in g.names]
    tensor_globs = [pattern.partition("/")[0] for pattern in patterns if not pattern.startswith("!")]
    if tensor_globs and not any(matches(tensor_globs, [name], "") for name in tensors):
        hint = nearest(tensor_globs[0].strip("*"), tensors)
        return f"{where} matches no tensor of the model{hint}; 'stackc check' lists the tensors"
    planes = sorted({p.path.rpartition("/")[2] for g in growing for path in g.open for p in g.places(path) if p.path})
    known = f"the planes at this point are {', '.join(planes)}" if planes else "no stage before it makes planes"
    return f"{where} matches no plane: {known}; or say allow_empty: true"


def planes_of_stage(plan: Plan, index: int) -> Iterator[tuple[TensorPlan, str, Transform | Packer]]:
    """Every plane that a stage applies to, with what it applies."""
    for tensor in plan.everything:
        for path, config in tensor.steps[index].items():
            yield tensor, path, config
