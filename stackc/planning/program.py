"""`Program`: what is done to a model, as far as it is decided. `Session`: what it is done with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self

from stackc.core.spec import PlaneSpec
from stackc.planning.plan import BaseSpecs, Choices, Plan, plan_recipe
from stackc.planning.trained import HardenedStages
from stackc.recipe.recipe import Recipe
from stackc.util.checkpoints import CheckpointFolder
from stackc.util.clock import Clock
from stackc.util.memo import Memo
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

    from stackc.models import Reference
    from stackc.planning.bases import BaseModel
    from stackc.tasks import Task


class Program(NamedTuple):
    """What is done to every tensor of a model: the plan of a recipe, with every choice and all training that is done so far.

    Phases of a run take a program and a `Session` and return a program with more decided.

    Parameters
    ----------
    plan : Plan
        A stack for every tensor; upper bounds where something is still to be chosen.
    choices : mapping
        What is chosen, by stage and address of the plane.
    trained : mapping
        What stages that train have left of the tensors, by stage and tensor.
    shared : mapping
        The planes that tensors share, by name, as the stages that made them found them.
    bases : mapping
        What the models have that stages name as bases.
    """

    plan: Plan
    choices: Choices = MappingProxyType({})
    trained: HardenedStages = MappingProxyType({})
    shared: Mapping[str, Tensor] = MappingProxyType({})
    bases: BaseSpecs = MappingProxyType({})

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        specs: Mapping[str, PlaneSpec],
        ties: Mapping[str, str] | None = None,
        choices: Choices | None = None,
        bases: BaseSpecs = MappingProxyType({}),
    ) -> Self:
        """Plan a recipe; arguments and errors are those of `stackc.planning.plan.plan_recipe`.

        Examples
        --------
        >>> from stackc.recipe.parse import recipe_from
        >>> program = Program.of(recipe_from({"stages": ["int8"]}), {"a": PlaneSpec((3, 5), "float32")})
        >>> program.settled, list(program.choices)
        (True, [])
        """
        return cls(plan_recipe(recipe, specs, ties, choices, bases), choices or {}, bases=bases)

    @property
    def recipe(self) -> Recipe:
        """The recipe that is followed."""
        return self.plan.recipe

    @property
    def settled(self) -> bool:
        """Whether every choice is made."""
        return self.plan.settled

    def with_choices(self, choices: Choices) -> Self:
        """The same recipe, planned again with these choices instead."""
        specs = {tensor.name: tensor.spec for tensor in self.plan.tensors}
        ties = {other: tensor.name for tensor in self.plan.tensors for other in tensor.names[1:]}
        return self._replace(plan=plan_recipe(self.recipe, specs, ties, choices, self.bases), choices=choices)


class Session:
    """What a program is run with, from the model to the data; it holds what lasts as long as the run.

    Parameters
    ----------
    reference : Reference
        The uncompressed model.
    task : Task
        Gives training rows, and judges.
    teacher : Reference, optional
        Whose answers are matched by stages that train and name no teacher of their own; the reference without it.
    checkpoints : CheckpointFolder, optional
        Where trainings are continued from, and where they write checkpoints; nowhere without it.
    progress : Progress, optional
        Told what is going on.
    memo : Memo, optional
        Results of earlier runs; nothing is kept without it.

    Attributes
    ----------
    bases : mapping
        The models that stages name as bases, by that name.
    weights : sequence of Tensor or None
        Importance of rows, for each stage of the recipe.
    moments : mapping
        Second moments by tensor, for calibrated stages.
    files : mapping
        Contents of the files that are bundled.
    memo : Memo
        Results of earlier runs.
    key : str
        Of all that results depend on beside the program.
    trainings : dict
        By stage, the keys of what trainings have left.
    own : set
        Keys of the files that this session made itself.
    clock : Clock
        Seconds of the parts of the run.
    resources : ExitStack
        Closed with the session: folders with what does not fit in memory.
    """

    def __init__(
        self,
        reference: Reference,
        task: Task,
        *,
        teacher: Reference | None = None,
        checkpoints: CheckpointFolder | None = None,
        progress: Progress | None = None,
        memo: Memo | None = None,
    ) -> None:
        self.reference = reference
        self.task = task
        self.teacher = teacher or reference
        self.checkpoints = checkpoints or CheckpointFolder()
        self.progress = progress or Progress()
        self.bases: Mapping[str, BaseModel] = {}
        self.weights: Sequence[Tensor | None] = ()
        self.moments: Mapping[str, Tensor] = {}
        self.files: Mapping[str, bytes] = {}
        self.memo = memo or Memo()
        self.key = ""
        self.trainings: dict[int, str] = {}
        self.own: set[str] = set()
        self.clock = Clock()
        self.resources = ExitStack()

    @cached_property
    def fingerprint(self) -> str:
        """Of the reference; reads all of it once."""
        return self.reference.fingerprint()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resources.close()
