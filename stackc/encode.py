"""Encode one tensor through all stages, keeping what the file would hold after each of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from stackc.errors import DependencyError, PlanError, StackcError, TensorError
from stackc.meter import MemoryMeter
from stackc.packer import Packer
from stackc.plan import TensorPlan, address
from stackc.spec import PlaneSpec
from stackc.stack import encode_plane, join, stored_planes
from stackc.statistics import entropy_bits
from stackc.transform import Transform, Weighted

if TYPE_CHECKING:
    from torch import Tensor


class EncodedTensor(NamedTuple):
    """Result of `encode_tensor`: the packed planes and the seconds of every stage; order-0 entropies of the last one's."""

    plan: TensorPlan
    stages: tuple[tuple[bytes, ...], ...]
    seconds: tuple[float, ...]
    entropy_bits: Mapping[str, float]


class Walker:
    """The planes of one tensor between two stages.

    Parameters
    ----------
    plan : TensorPlan
        With settled transforms in the stages that are walked.
    x : Tensor
        The tensor.
    weights : sequence
        Row weights per stage, or None; they follow the rows through the transforms that keep them. Those of stages that
        do not apply to this tensor, whose rows are others, are left out.
    """

    def __init__(self, plan: TensorPlan, x: Tensor, weights: Sequence[Tensor | None]) -> None:
        self.plan = plan
        self.planes: dict[str, tuple[PlaneSpec, Tensor]] = {"": (plan.spec, x)}
        self._weights: list[dict[str, Tensor]] = [
            {"": known} if known is not None and step else {} for known, step in zip(weights, plan.steps, strict=True)
        ]

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

    def apply(self, stage: int) -> None:
        """Run the transforms of one stage."""
        for path, config in self.plan.steps[stage].items():
            if isinstance(config, Packer):
                continue
            weights = self.weighted(stage, path).weights
            spec, x = self.planes.pop(path)
            with self.placed(stage, path, config):
                made = encode_plane(config, x, spec, weights)
            self.planes.update({join(path, plane): value for plane, value in made.items()})
            self._carry(stage, path, config, {plane: value for plane, (_, value) in made.items()})

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

    def _carry(self, stage: int, path: str, transform: Transform, made: Mapping[str, Tensor]) -> None:
        for known in self._weights[stage:]:
            if path in known:
                carried = transform.carry(known[path], made)
                known.update({join(path, plane): w for plane, w in carried.items()})


def encode_tensor(
    plan: TensorPlan,
    x: Tensor,
    weights: Sequence[Tensor | None],
    *,
    every_stage: bool = True,
    meter: MemoryMeter | None = None,
) -> EncodedTensor:
    """Encode and pack one tensor.

    Parameters
    ----------
    plan : TensorPlan
        Settled plan of this tensor.
    x : Tensor
        The tensor; left as it was.
    weights : sequence of Tensor or None
        Row weights for each stage, or None.
    every_stage : bool
        Whether to pack also what each stage but the last leaves behind.
    meter : MemoryMeter, optional
        Told which stage is running, as ``str(stage)``.

    Raises
    ------
    TensorError
        If a transform refuses the data, with stage, tensor and plane.
    """
    walker = Walker(plan, x, weights)
    del x  # the walker drops it once a transform has split it
    packed: dict[tuple[str, Packer], bytes] = {}
    stages, seconds = [], []
    last = len(plan.steps) - 1
    for index, stack in enumerate(plan.stacks):
        begin = time.perf_counter()
        with meter.during(str(index)) if meter else nullcontext():
            walker.apply(index)
            stored = []
            for planned in stored_planes(stack, plan.spec) if every_stage or index == last else ():
                key = (planned.path, planned.packer)
                if key not in packed:
                    with walker.placed(None, planned.path, planned.packer):
                        packed[key] = planned.packer.pack(walker.planes[planned.path][1], planned.spec)
                stored.append(packed[key])
        stages.append(tuple(stored))
        seconds.append(time.perf_counter() - begin)
    entropy = {path: entropy_bits(value) for path, (_, value) in walker.planes.items()}
    return EncodedTensor(plan, tuple(stages), tuple(seconds), entropy)
