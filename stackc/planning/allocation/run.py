"""The rate allocation of one run: from a plan with open choices to choices that the written file confirms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from stackc.core.transform import Transform, config_fields
from stackc.planning.allocation.allocate import TOLERANCE, Allocator, Fit
from stackc.planning.allocation.fisher import POOL, fisher_information
from stackc.planning.allocation.sensitivity import Sensitivity, WeightError
from stackc.planning.allocation.summary import AllocationSummary
from stackc.planning.allocation.unseen import counts_tokens, unseen_weights
from stackc.planning.kept import Named, named, prefix_key, unnamed
from stackc.planning.plan import Choices, Plan
from stackc.planning.program import Program, Session
from stackc.planning.settle import settle
from stackc.recipe.targets import open_choices
from stackc.tasks.calibration import Calibration, calibration_batches
from stackc.tasks.none import NoTask
from stackc.tasks.phrases import whole_texts
from stackc.util.errors import DataError, PlanError, RecipeError
from stackc.util.memo import key_of

if TYPE_CHECKING:
    from stackc.core.packer import Packer
    from stackc.models import Reference
    from stackc.tasks import Task

#: Files that are written before the allocation gives up; the first one nearly always fits.
_ATTEMPTS = 5

#: Bytes that a corrected goal stays below the target, since a container is not quite predictable.
_MARGIN = 32


class KnownAllocation:
    """Choices that an earlier run has found for the same target.

    Parameters
    ----------
    choices : mapping
        All choices, as a file of the right size was written with them.
    summary : AllocationSummary
        What was said of them.
    """

    def __init__(self, choices: Choices, summary: AllocationSummary) -> None:
        self.choices = choices
        self._summary = summary

    def accept(self, size: int) -> bool:
        """Yes: the file had the right size."""
        return True

    def summary(self, size: int) -> AllocationSummary:
        """What was aimed at, reached and chosen, for the report."""
        return msgspec.structs.replace(self._summary, bytes=size)


class Allocation:
    """Choices for a target, corrected until a written file keeps to it.

    Parameters
    ----------
    allocator : Allocator
        Explored around the target.
    target : int
        Most bytes of the file.
    sensitivity : Sensitivity
        What losses were estimated by.
    made : mapping
        Choices of the stages that leave nothing open.
    keep : callable
        Told of the choices in the end, as `KnownAllocation` needs them.
    """

    def __init__(
        self, allocator: Allocator, target: int, sensitivity: Sensitivity, made: Choices, keep: Callable[[bytes], None]
    ) -> None:
        self._keep = keep
        self._allocator = allocator
        self._target = target
        self._sensitivity = sensitivity
        self._made = made
        self._goal = target
        self._sizes: list[int] = []
        self._fit: Fit = allocator.fit(target)

    @property
    def choices(self) -> dict[int, Mapping[str, Transform | Packer]]:
        """All choices made so far, for `stackc.planning.settle.settle`."""
        return {**self._made, **self._fit.choices}

    def accept(self, size: int) -> bool:
        """Whether a file with these choices is as large as it should be; if not, other choices are made.

        Raises
        ------
        PlanError
            If no choice was found that keeps to the target.
        """
        self._sizes.append(size)
        last = len(self._sizes) == _ATTEMPTS
        if (0 if last else (1 - TOLERANCE) * self._target) <= size <= self._target:
            self._keep(_kept(self.choices, self.summary(size)))
            return True
        if last:
            raise PlanError(
                f"no choice was found for a file of at most {self._target:,} bytes: the files that were tried had "
                f"{', '.join(f'{tried:,}' for tried in self._sizes)}; give a slightly different target"
            )
        margin = _MARGIN if size > self._target else 0
        last = len(self._sizes) == _ATTEMPTS - 1
        self._goal += self._target - size - margin - int(last * TOLERANCE / 3 * self._target)
        self._fit = self._allocator.fit(self._goal)
        return False

    def summary(self, size: int) -> AllocationSummary:
        """What was aimed at, reached and chosen, for the report."""
        return AllocationSummary(
            target_bytes=self._target,
            bytes=size,
            sensitivity=self._sensitivity.name,
            unit=self._sensitivity.unit,
            estimated_loss=self._fit.loss,
            slope=self._fit.price,
            choices={
                f"stages[{stage}]": {plane: config_fields(transform) for plane, transform in chosen.items()}
                for stage, chosen in sorted(self._fit.choices.items())
            },
        )


def _kept(choices: Choices, summary: AllocationSummary) -> bytes:
    content = {stage: {plane: named(config) for plane, config in chosen.items()} for stage, chosen in choices.items()}
    return msgspec.json.encode((content, summary))


def _known(data: bytes) -> KnownAllocation:
    content, summary = msgspec.json.decode(data, type=tuple[dict[int, dict[str, Named]], AllocationSummary])
    choices = {stage: {plane: unnamed(one) for plane, one in chosen.items()} for stage, chosen in content.items()}
    return KnownAllocation(choices, summary)


def allocate(program: Program, session: Session) -> Allocation | KnownAllocation | None:
    """Choose what a recipe leaves to the rate allocation; None if that is nothing, or a lock holds the choices.

    Parameters
    ----------
    program : Program
        Of a recipe with a target, with the choices that are made already, as a lock holds them.
    session : Session
        Gives the model, and training rows for the sensitivity.

    Raises
    ------
    PlanError
        If the target is out of reach.
    DataError
        If the sensitivity needs training rows and there are none.
    """
    recipe, reference, task = program.recipe, session.reference, session.task
    stages = [stage for stage in open_choices(recipe) if stage not in program.choices]
    if not stages:
        return None
    if recipe.lock is not None or recipe.allocate is None:
        raise RecipeError(
            f"the lock holds no choices for stages[{stages[0]}] ({recipe.stages[stages[0]].use}); remove the 'lock' key"
        )
    target = recipe.allocate.budget(reference.nbytes)
    program = settle(program, session, until=stages[0])
    pool = _pool(program.plan, task, reference)
    # What is packed by the last stage decides what the first may take.
    settings = [target, recipe.allocate, pool.fingerprint if pool is not None else ""]
    key = key_of(prefix_key(program, session, len(recipe.stages)), *settings)
    known = session.memo.recall("allocation", key)
    if known is not None:
        return _known(known)
    weights = session.weights
    if pool is None:
        sensitivity: Sensitivity = WeightError(reference)
    else:
        rows, population = recipe.calibration.rows, len(task.calibration_texts())
        sensitivity = session.resources.enter_context(
            fisher_information(reference, pool, rows, population, session.progress)
        )
        weights = unseen_weights(program.plan, weights, task, reference.tokenizer(), pool)
    allocator = Allocator(program, session, sensitivity, weights)
    allocator.explore(target)
    return Allocation(allocator, target, sensitivity, program.choices, partial(session.memo.keep, "allocation", key))


def _pool(plan: Plan, task: Task, reference: Reference) -> Calibration | None:
    """Training rows that losses are estimated on; None where the estimate needs none."""
    settings = plan.recipe.allocate
    chosen = settings.sensitivity if settings is not None else None
    data = not isinstance(task, NoTask) and reference.kind != "safetensors"
    if chosen == WeightError.name or (chosen is None and not data):
        return None
    rows = POOL * plan.recipe.calibration.rows
    try:
        if counts_tokens(plan):  # in the other texts, of which there should be as many
            rows = min(rows, max(len(whole_texts(task.calibration_texts())) // 2, 1))
        return calibration_batches(task, reference, rows)
    except DataError as error:
        raise DataError(
            f"allocate: {error}; or allocate without data, with 'sensitivity: {WeightError.name}'"
        ) from error
