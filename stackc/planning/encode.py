"""Encode one tensor through all stages, keeping what the file would hold after each of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.abilities import Allocated, Narrowing, uses_moments
from stackc.core.entropy import entropy_bits
from stackc.core.packer import Packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import (
    Branch,
    Leaf,
    Ref,
    SidePlane,
    Stack,
    as_planned,
    decode,
    encode_plane,
    is_factor,
    is_side,
    join,
    node_at,
    packer_at,
    replace,
    side_planes,
    stored_planes,
)
from stackc.core.transform import Known, Transform, Weighted
from stackc.planning.bases import StandingPlanes
from stackc.planning.factors import require_kept
from stackc.planning.plan import TensorPlan, address
from stackc.planning.zeroed import Zeroed, zeroed
from stackc.util.errors import DependencyError, PlanError, StackcError, TensorError
from stackc.util.peak_memory import MemoryMeter

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.planning.program import Program, Session
    from stackc.planning.trained import Hardened, HardenedStages


class EncodedTensor(NamedTuple):
    """Result of `encode_tensor`: for every stage the stack with the packers that were chosen, the packed planes and the
    seconds; order-0 entropies of the planes of the last one, and what was turned to zero in side information.
    """

    plan: TensorPlan
    stacks: tuple[Stack, ...]
    stages: tuple[tuple[bytes, ...], ...]
    seconds: tuple[float, ...]
    entropy_bits: Mapping[str, float]
    zeroed: Sequence[Zeroed]

    @property
    def paths(self) -> list[str]:
        """Where the packed planes of the last stage are, in their order."""
        return [plane.path for plane in stored_planes(self.stacks[-1], self.plan.spec)]

    @property
    def chosen_packers(self) -> dict[int, dict[str, Packer]]:
        """By stage and address of the plane, the packers that a stage such as ``auto`` chose in its own place."""
        chosen: dict[int, dict[str, Packer]] = {}
        for index, step in enumerate(self.plan.steps):
            for path, config in step.items():
                if isinstance(config, Packer) and (packer := packer_at(self.stacks[-1], path)) != config:
                    chosen.setdefault(index, {})[address(self.plan.name, path)] = packer
        return chosen


class Walker:
    """The planes of one tensor between two stages.

    Parameters
    ----------
    plan : TensorPlan
        With settled transforms in the stages that are walked.
    x : Tensor
        The tensor.
    weights : sequence, optional
        Row weights per stage, or None; they follow the rows through the transforms that keep them. Those of stages that
        do not apply to this tensor, whose rows are others, are left out.
    moments : mapping, optional
        Second moments by tensor, for the calibrated stages; see `stackc.tasks.moments`. They follow the planes
        through the transforms that hand them on.
    trained : mapping, optional
        What stages that train have left of the tensors, by stage.
    shared : mapping, optional
        The planes that stacks refer to, by name, as they were before later stages encoded them.
    keep_inputs : bool
        Whether ``inputs`` keeps what every transform was given, by path.

    Attributes
    ----------
    stage : int
        The stage that is next.
    zeroed : list of Zeroed
        What the stages so far have turned to zero in side information.
    """

    def __init__(
        self,
        plan: TensorPlan,
        x: Tensor,
        weights: Sequence[Tensor | None] = (),
        moments: Mapping[str, Tensor] | None = None,
        trained: HardenedStages | None = None,
        shared: Mapping[str, Tensor] = MappingProxyType({}),
        *,
        keep_inputs: bool = False,
    ) -> None:
        self.plan = plan
        self.stage = 0
        self._shared = shared
        self.inputs: dict[str, Tensor] = {}
        self.zeroed: list[Zeroed] = []
        self._keep_inputs = keep_inputs
        self._trained = {
            stage: tensors[plan.name] for stage, tensors in (trained or {}).items() if plan.name in tensors
        }
        self.planes: dict[str, tuple[PlaneSpec, Tensor]] = {"": (plan.spec, x)}
        self._weights: list[dict[str, Tensor]] = [
            {"": known} if known is not None and step else {}
            for known, step in zip(weights or [None] * len(plan.steps), plan.steps, strict=True)
        ]
        wanted = moments is not None and plan.name in moments and is_calibrated(plan)
        self._moments: dict[str, Tensor] = {"": moments[plan.name]} if wanted and moments is not None else {}

    def weighted(self, stage: int, path: str) -> Weighted:
        """A plane with the row weights that a stage gives it.

        Raises
        ------
        PlanError
            If the stage has row weights and they do not reach this plane.
        """
        known = self._weights[stage]
        if known and path not in known:
            raise PlanError(
                f"stages[{stage}]: its row weights do not reach {address(self.plan.name, path)}, whose rows are not "
                "rows of the tensor; narrow 'on'"
            )
        return Weighted(self.planes[path][1], known.get(path))

    def _known(self, stage: int, path: str) -> Known:
        return Known(self.weighted(stage, path).weights, self._moments.get(path), self.standing(stage, path))

    def standing(self, stage: int, path: str) -> dict[str, Tensor]:
        """The planes of what a stage splits that stand elsewhere, by their name there."""
        node = node_at(self.plan.stacks[stage], path)
        return {
            plane: self._shared[below.plane]
            for plane, below in (node.planes.items() if isinstance(node, Branch) else ())
            if isinstance(below, Ref)
        }

    def apply(self, stage: int) -> None:
        """Run the transforms of one stage, or take what it has trained."""
        if stage in self._trained:
            self._take(stage, self._trained[stage])
        for path, config in self.plan.steps[stage].items():
            if isinstance(config, Packer):
                continue
            known = self._known(stage, path)
            spec, x = self.planes.pop(path)
            if self._keep_inputs:
                self.inputs[path] = x
            with self.placed(stage, path, config):
                made = encode_plane(config, x, spec, known)
                self._watch(stage, path, config, spec, x, {plane: value for plane, (_, value) in made.items()})
            del x
            self._put(stage, path, config, made)

    def _watch(
        self, stage: int, path: str, config: Transform, spec: PlaneSpec, x: Tensor, planes: Mapping[str, Tensor]
    ) -> None:
        """Refuse what a lossy transform does to factors, and note what it turns to zero in other side information."""
        if path and spec.is_real and not config.is_lossless:
            stack = self.plan.stacks[stage]
            factor = is_factor(stack, path)
            if factor or is_side(stack, path):
                after = config.decode(planes, spec)
                if factor:
                    require_kept(x, after)
                else:
                    self._note(zeroed(stage, path, x, after))
        if isinstance(config, Narrowing):
            for plane, (before, after) in config.narrowed(x, planes).items():
                self._note(zeroed(stage, join(path, plane), before, after))

    def _note(self, found: Zeroed | None) -> None:
        if found is not None:
            self.zeroed.append(found)

    def _take(self, stage: int, trained: Hardened) -> None:
        specs = {plane.path: plane.spec for plane in stored_planes(self.plan.stacks[stage], self.plan.spec)}
        for path, spec in specs.items():
            difference = spec.mismatch(trained.planes[path])
            if difference is not None:
                where = f"stages[{stage}] on {address(self.plan.name, path)}"
                raise TensorError(f"{where} broke its plan: {difference}; this is a bug in it")
        before = {path: plane for path, (_, plane) in self.planes.items()}
        self.planes = {path: (spec, trained.planes[path]) for path, spec in specs.items()}
        if stage:
            sides = [side_planes(stack, self.plan.spec) for stack in self.plan.stacks[stage - 1 : stage + 1]]
            for was, now in zip(*sides, strict=True):
                if now.spec.is_real:
                    planes = self._plane(was, before), self._plane(now, trained.planes)
                    found = zeroed(stage, now.path, *planes, factor=now.factor)
                    # Training has seen what zeros in a basis do; a block of zeros is the end of what was there.
                    self._note(found and found._replace(matters=now.factor))
        if self._keep_inputs:
            self.inputs = dict(trained.inputs)

    def _plane(self, side: SidePlane, planes: Mapping[str, Tensor]) -> Tensor:
        return decode(
            side.stack, side.spec, lambda path, *_: planes[path], lambda name, _: self._shared[name], path=side.path
        )

    def forks(self, stage: int, path: str, configs: Sequence[Transform]) -> Iterator[Walker]:
        """What this walker would be after each of several transforms of one plane; this one stays as it is.

        Parameters
        ----------
        stage, path
            Where the transforms are applied.
        configs : sequence of Transform
            Settled values of one transform, which may share work; see `stackc.core.abilities.Allocated.encode_each`.
        """
        spec, x = self.planes[path]
        known = self._known(stage, path)
        options = [config for config in configs if isinstance(config, Allocated)]
        made = options[0].encode_each(x, options, known) if options else (each.encode(x, known) for each in configs)
        for config in configs:
            with self.placed(stage, path, config):
                planes = as_planned(config, next(made), spec)
            fork = copy.copy(self)
            fork.planes = {other: held for other, held in self.planes.items() if other != path}
            fork._weights = [dict(known) for known in self._weights]
            fork._moments = dict(self._moments)
            fork.zeroed = list(self.zeroed)
            fork._put(stage, path, config, planes)
            yield fork

    def _put(self, stage: int, path: str, config: Transform, made: Mapping[str, tuple[PlaneSpec, Tensor]]) -> None:
        """Put the planes that a transform made in the place of the one that it took; those that are shared stand elsewhere."""
        node = node_at(self.plan.stacks[stage], path)
        own = [plane for plane in made if not (isinstance(node, Branch) and isinstance(node.planes[plane], Ref))]
        self.planes.update({join(path, plane): made[plane] for plane in own})
        planes = {plane: value for plane, (_, value) in made.items()}
        for weights in self._weights[stage:]:
            if path in weights:
                for plane, known in config.carry(Known(weights[path]), planes).items():
                    if known.weights is not None:
                        weights[join(path, plane)] = known.weights
        if path in self._moments:
            for plane, known in config.carry(Known(moments=self._moments.pop(path)), planes).items():
                if known.moments is not None:
                    self._moments[join(path, plane)] = known.moments

    @contextmanager
    def placed(self, stage: int | None, path: str, config: Transform | Packer) -> Iterator[None]:
        """Name the stage and the plane in the errors of the block."""
        where = f"{config.name} on" if stage is None else f"stages[{stage}] ({config.name}) on"
        try:
            yield
        except DependencyError:
            raise
        except (StackcError, RuntimeError) as error:  # torch's own, such as memory that it does not get
            raise TensorError(f"{where} {address(self.plan.name, path)}: {' '.join(str(error).split())}") from error


def is_calibrated(plan: TensorPlan) -> bool:
    """Whether a stage uses the second moments of what this tensor is multiplied with."""
    return any(uses_moments(config) for step in plan.steps for config in step.values())


def walk(program: Program, session: Session, tensor: TensorPlan, *, keep_inputs: bool = False) -> Walker:
    """The planes of one tensor of a program, or of a plane that tensors share, before its first stage."""
    shared = StandingPlanes(program.shared, program.plan, session.bases)
    if tensor.is_shared:  # which has no rows of a tensor, and meets nothing
        return Walker(tensor, program.shared[tensor.name], (), None, program.trained, shared, keep_inputs=keep_inputs)
    return Walker(
        tensor,
        session.reference.tensor(tensor.name),
        session.weights,
        session.moments,
        program.trained,
        shared,
        keep_inputs=keep_inputs,
    )


def encode_tensor(walker: Walker, *, every_stage: bool = True, meter: MemoryMeter | None = None) -> EncodedTensor:
    """Encode and pack one tensor.

    Parameters
    ----------
    walker : Walker
        Of a settled plan; stages that are behind it leave nothing.
    every_stage : bool
        Whether to pack also what each stage but the last leaves behind.
    meter : MemoryMeter, optional
        Told which stage is running, as ``str(stage)``.

    Raises
    ------
    TensorError
        If a transform refuses the data, with stage, tensor and plane.
    """
    plan = walker.plan
    packed: dict[tuple[str, Packer], tuple[Packer, bytes]] = {}
    stacks = list(plan.stacks[: walker.stage])
    stages: list[tuple[bytes, ...]] = [()] * walker.stage
    seconds = [0.0] * walker.stage
    last = len(plan.steps) - 1
    for index, stack in enumerate(plan.stacks[walker.stage :], walker.stage):
        begin = time.perf_counter()
        with meter.during(str(index)) if meter else nullcontext():
            walker.apply(index)
            if index in plan.trained:
                packed.clear()
            stored = []
            for planned in stored_planes(stack, plan.spec) if every_stage or index == last else ():
                key = (planned.path, planned.packer)
                if key not in packed:
                    with walker.placed(None, planned.path, planned.packer):
                        packed[key] = planned.packer.choose(walker.planes[planned.path][1], planned.spec)
                chosen, data = packed[key]
                if chosen is not planned.packer:
                    stack = replace(stack, planned.path, Leaf(chosen))
                stored.append(data)
        stacks.append(stack)
        stages.append(tuple(stored))
        seconds.append(time.perf_counter() - begin)
    entropy = {path: entropy_bits(value) for path, (_, value) in walker.planes.items()}
    return EncodedTensor(plan, tuple(stacks), tuple(stages), tuple(seconds), entropy, walker.zeroed)
