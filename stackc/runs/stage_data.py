"""What stages are given beside planes: row weights, and calibration data of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stackc.core.abilities import uses_moments
from stackc.planning.plan import Plan, planes_of_stage
from stackc.tasks.calibration import Calibration, calibration_batches
from stackc.tasks.row_weights import fingerprint, row_weights
from stackc.util.errors import DataError, PlanError

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.models import Reference
    from stackc.tasks import Task


def stage_weights(plan: Plan, task: Task, reference: Reference) -> list[Tensor | None]:
    """Row weights of every stage that names a source, None for the others; each source is read once.

    Raises
    ------
    DataError
        If a source cannot be read or does not go with the rows; see `stackc.tasks.row_weights.row_weights`.
    PlanError
        If a stage matches tensors with different numbers of rows, or the weights are not those of the recipe's lock.
    """
    weights: list[Tensor | None] = []
    loaded: dict[tuple[str, int], Tensor] = {}
    for index, stage in enumerate(plan.stages):
        source = stage.stage.weights
        counts = {tensor.spec.shape[0] if tensor.spec.shape else 1 for tensor, _, _ in planes_of_stage(plan, index)}
        if source is None or not counts:
            weights.append(None)
            continue
        if len(counts) > 1:
            raise PlanError(
                f"stages[{index}] ({stage.stage.use}): row weights are for tensors with one number of rows, and 'on' matches "
                f"tensors with {', '.join(map(str, sorted(counts)))} rows; narrow 'on'"
            )
        key = (source, counts.pop())
        if key not in loaded:
            try:
                loaded[key] = row_weights(source, rows=key[1], task=task, tokenizer=reference.tokenizer())
            except DataError as error:
                raise DataError(f"stages[{index}] ({stage.stage.use}): {error}") from error
        expected = plan.recipe.lock.weights.get(str(index)) if plan.recipe.lock else None
        if expected and fingerprint(loaded[key]) != expected:
            raise PlanError(
                f"stages[{index}]: the row weights {source!r} are not those of the lock; its data has changed"
            )
        weights.append(loaded[key])
    return weights


def stage_calibration(plan: Plan, task: Task, reference: Reference) -> Calibration | None:
    """Calibration data, if a stage uses any.

    Raises
    ------
    DataError
        If the task has no training rows, or the model no tokenizer.
    PlanError
        If the data are not those of the recipe's lock.
    """
    first = next((index for index, stage in enumerate(plan.stages) if uses_moments(stage.config)), None)
    if first is None:
        return None
    where = f"stages[{first}] ({plan.stages[first].stage.use})"
    try:
        calibration = calibration_batches(task, reference, plan.recipe.calibration.rows)
    except DataError as error:
        raise DataError(f"{where} is calibrated: {error}") from error
    expected = plan.recipe.lock.calibration if plan.recipe.lock else ""
    if expected and calibration.fingerprint != expected:
        raise PlanError(f"{where}: the calibration data is not that of the lock; the training rows have changed")
    return calibration


def calibration_notes(plan: Plan, moments: Mapping[str, Tensor]) -> list[str]:
    """How many of the matrices of each calibrated stage have second moments.

    Raises
    ------
    PlanError
        If a stage has none of them.
    """
    notes = []
    for index, stage in enumerate(plan.stages):
        if not uses_moments(stage.config):
            continue
        matched = {tensor.name: tensor.spec for tensor, _, _ in planes_of_stage(plan, index)}
        without = [name for name, spec in matched.items() if name not in moments and len(spec.shape) > 1]
        where = f"stages[{index}] ({stage.stage.use})"
        if matched and not any(name in moments for name in matched):
            raise PlanError(
                f"{where} is calibrated, but nothing that it matches, such as {next(iter(matched))}, is the weight of a linear "
                "layer or an ungrouped convolution that ran on the calibration data, or of an embedding that logits depend on; "
                "change 'on', or remove 'calibrated'"
            )
        if without:
            notes.append(
                f"{where} is calibrated: {len(without)} of its matrices, such as {without[0]}, are no weights of linear "
                "layers, ungrouped convolutions or embeddings that ran, and were encoded without second moments"
            )
    return notes
