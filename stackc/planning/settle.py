"""Make the choices that need a look at the whole model: a global threshold, a rank from a share of variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from stackc.core.abilities import Settling
from stackc.core.packer import Packer
from stackc.core.transform import Transform, Weighted
from stackc.planning.encode import Walker
from stackc.planning.plan import Choices, Plan, TensorPlan, address, plan_recipe, planes_of_stage
from stackc.util.errors import PlanError, StackcError, TensorError

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.planning.trained import HardenedStages

#: Loads one tensor by its first name.
Load = Callable[[str], "Tensor"]


class _LazyPlanes(Mapping[str, Weighted]):
    """The planes that a stage matches, each computed when it is asked for and then forgotten.

    ``given`` is the address of the plane that was given last, for error messages; None while one is being computed.
    """

    def __init__(
        self,
        places: Mapping[str, tuple[TensorPlan, str]],
        stage: int,
        load: Load,
        weights: Sequence[Tensor | None],
        moments: Mapping[str, Tensor] | None,
        healed: HardenedStages | None,
    ) -> None:
        self.given: str | None = None
        self._places = places
        self._stage = stage
        self._load = load
        self._weights = weights
        self._moments = moments
        self._healed = healed

    def __getitem__(self, plane: str) -> Weighted:
        tensor, path = self._places[plane]
        self.given = None
        walker = Walker(tensor, self._load(tensor.name), self._weights, self._moments, self._healed)
        for before in range(self._stage):
            walker.apply(before)
        weighted = walker.weighted(self._stage, path)
        self.given = plane
        return weighted

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def settle(
    plan: Plan,
    load: Load,
    weights: Sequence[Tensor | None],
    choices: Choices | None = None,
    moments: Mapping[str, Tensor] | None = None,
    until: int | None = None,
    healed: HardenedStages | None = None,
) -> tuple[Plan, dict[int, dict[str, Transform | Packer]]]:
    """Settle every stage of a plan, in order, and plan again with what was chosen.

    Parameters
    ----------
    plan : Plan
        As planned from the specs.
    load : callable
        Loads one tensor.
    weights : sequence
        Row weights per stage, or None.
    choices : mapping, optional
        Choices that are made already, as a lock file holds them.
    moments : mapping, optional
        Second moments by tensor, for calibrated stages.
    until : int, optional
        Settle the stages before this one only.
    healed : mapping, optional
        What stages that train have left of the tensors, by stage.

    Returns
    -------
    Plan, dict
        The settled plan and all choices: ``{stage: {plane: transform}}``.

    Raises
    ------
    TensorError
        If a transform cannot choose, with stage, plane and reason.
    PlanError
        If ``choices`` lack a plane.
    """
    specs = {tensor.name: tensor.spec for tensor in plan.tensors}
    ties = {other: tensor.name for tensor in plan.tensors for other in tensor.names[1:]}
    made: dict[int, dict[str, Transform | Packer]] = {stage: dict(chosen) for stage, chosen in (choices or {}).items()}
    for index, stage in enumerate(plan.stages[:until]):
        config = stage.config
        if not isinstance(config, Settling) or config.settled or index in made:
            continue
        plan = plan_recipe(plan.recipe, specs, ties, made)
        places = {address(tensor.name, path): (tensor, path) for tensor, path, _ in planes_of_stage(plan, index)}
        planes = _LazyPlanes(places, index, load, weights, moments, healed)
        try:
            made[index] = dict(config.settle(planes))
        except StackcError as error:
            if planes.given is None:  # an earlier stage, which says where itself
                raise
            raise TensorError(f"stages[{index}] ({stage.stage.use}) on {planes.given}: {error}") from error
    if made:
        plan = plan_recipe(plan.recipe, specs, ties, made)
    for index, stage in enumerate(plan.stages[:until]):
        if not stage.settled:
            raise PlanError(
                f"stages[{index}] ({stage.stage.use}): the choice for one of its planes is missing; if the recipe is locked, "
                "remove its 'lock' key"
            )
    return plan, made
