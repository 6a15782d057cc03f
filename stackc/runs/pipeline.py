"""Plan, settle, encode, decode, judge: one recipe on one reference, into one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stackc.reporting.accounting import byte_rows
from stackc.planning.allocation.run import allocating
from stackc.recipe.targets import require_target
from stackc.artifact.reader import Artifact
from stackc.util.output import require_replaceable, writing
from stackc.util.clock import Clock
from stackc.planning.encode import is_calibrated
from stackc.planning.encode_model import encode_model
from stackc.util.errors import ModelError
from stackc.healing.checkpoint import CheckpointFolder
from stackc.healing.checks import check_heal, heal_stages, size_notes, with_heal_sizes
from stackc.healing.stage import Healing
from stackc.tasks.judge import prepare_judge
from stackc.tasks.moments import second_moments
from stackc.util.partial import partial_folder
from stackc.planning.plan import plan_recipe
from stackc.util.progress import Progress
from stackc.recipe.lock import check_locked_reference, lock_document, lock_notes, locked_choices, versions
from stackc.recipe.recipe import Recipe
from stackc.reporting.report import FileSummary, ModelSummary, Report
from stackc.healing.summary import HealingSummary
from stackc.tasks.row_weights import fingerprint
from stackc.planning.settle import settle
from stackc.runs.stage_data import calibration_notes, stage_calibration, stage_weights
from stackc.reporting.stage_rows import stage_rows
from stackc.tasks import find_task
from stackc.tasks.none import NoTask

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.planning.trained import HardenedStages
    from stackc.models import Reference


class Compressed(NamedTuple):
    """What `compress_to_file` leaves: the file, its report and the text of its lock file."""

    path: Path
    report: Report
    lock: str


def compress_to_file(
    recipe: Recipe,
    reference: Reference,
    path: Path,
    *,
    evaluate: bool = True,
    every_stage: bool = True,
    teacher: Reference | None = None,
    checkpoints: CheckpointFolder | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Run a recipe on a reference and write the artifact.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    reference : Reference
        The model.
    path : Path
        The artifact, in a folder that exists. A file that is there is replaced when everything else is done.
    evaluate : bool
        Whether to run the recipe's task on the reference and on every decoded file.
    every_stage : bool
        Whether to write, decode and judge also the file that each earlier stage would leave. Without it the report has
        a row for the whole recipe only.
    teacher : Reference, optional
        What heal stages match that name no teacher of their own; the reference without it.
    checkpoints : CheckpointFolder, optional
        Where trainings are continued from, and where they write checkpoints; nowhere without it.
    progress : Progress, optional
        Told what is going on.

    Raises
    ------
    StackcError
        In one sentence, with stage and tensor; ``path`` is then as it was before.
    """
    progress = progress or Progress()
    clock = Clock()
    require_target(recipe)
    recipe = with_heal_sizes(recipe, reference.nbytes)
    check_heal(recipe)
    choices = locked_choices(recipe)
    plan = plan_recipe(recipe, reference.specs, reference.ties, choices)
    if "tokenizer" in recipe.bundle and not reference.tokenizer_files:
        raise ModelError(f"bundle: {reference.source} has no tokenizer; remove 'tokenizer' from 'bundle'")
    task = find_task(recipe.task)
    with clock.measure("fingerprint"):
        model_fingerprint = reference.fingerprint()
    check_locked_reference(recipe, reference.source, model_fingerprint)
    notes: list[str] = [*reference.notes]
    if evaluate and reference.kind == "safetensors" and task.name != NoTask.name:
        evaluate = False
        notes.append(
            f"the task {task.name} was not run: a bare weights file has no architecture, so sizes and weight errors are all"
        )
    with _staging_folder(path) as folder, ExitStack() as stack:
        with clock.measure("evaluate"):
            judge = prepare_judge(task, reference, progress) if evaluate else None
        moments: Mapping[str, Tensor] = {}
        calibration = stage_calibration(plan, task, reference)
        if calibration is not None:
            with clock.measure("calibrate"):
                names = [tensor.name for tensor in plan.tensors if is_calibrated(tensor)]
                moments = stack.enter_context(second_moments(reference, calibration, names, progress))
            notes += calibration_notes(plan, moments)
        with clock.measure("settle"):
            weights = stage_weights(plan, task, reference)
        with clock.measure("allocate"):
            bundled = reference.companion_contents()
            if "tokenizer" in recipe.bundle:
                bundled |= reference.tokenizer_contents()
            allocation = stack.enter_context(
                allocating(
                    plan,
                    task,
                    reference,
                    weights=weights,
                    moments=moments,
                    made=choices,
                    files=bundled,
                    progress=progress,
                )
            )
        healing = Healing(
            reference,
            teacher or reference,
            task,
            weights=weights,
            moments=moments,
            files=bundled,
            checkpoints=checkpoints or CheckpointFolder(),
            progress=progress,
        )
        first = 0 if every_stage else len(plan.stages) - 1
        paths = [folder / f"{stage}.stackc" for stage in range(first, len(plan.stages))]
        locked = choices
        healed: HardenedStages = {}
        summaries: list[HealingSummary] = []
        if allocation is not None or not heal_stages(recipe):
            while True:
                with clock.measure("settle"):
                    made = locked if allocation is None else allocation.choices
                    plan, choices = settle(plan, reference.tensor, weights, made, moments)
                with clock.measure("encode"):
                    encoded = encode_model(plan, reference, weights, moments, healed, paths, progress)
                with clock.measure("allocate"):
                    if allocation is None or allocation.accept(encoded.file_bytes[-1]):
                        break
        if heal_stages(recipe):
            with clock.measure("heal"):
                plan, choices, healed, summaries = healing.run_all(plan, choices)
            with clock.measure("encode"):
                encoded = encode_model(plan, reference, weights, moments, healed, paths, progress)
        for index, chosen in encoded.packers.items():
            choices.setdefault(index, {}).update(chosen)
        rows = stage_rows(plan, reference, paths, encoded, judge, clock, progress)
        with Artifact(paths[-1]) as artifact:
            bytes_by_row = byte_rows(artifact, encoded.entropy_bits)
        with paths[-1].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with writing(path):
            paths[-1].replace(path)
    size = encoded.file_bytes[-1]
    model = _summarise(reference, model_fingerprint, encoded.lossless_bytes)
    report = Report(
        recipe=recipe.name,
        model=model,
        task=judge.description if judge else {"task": NoTask.name},
        reference_score=judge.reference_score if judge else None,
        stages=rows,
        bytes=bytes_by_row,
        file=FileSummary(
            name=path.name,
            bytes=size,
            sha256=digest,
            weights_bytes=encoded.weights_bytes,
            self_contained_bytes=encoded.self_contained_bytes,
            left_behind=list(reference.left_behind),
            ratio=model.bytes / size,
            ratio_to_fp16=model.fp16_bytes / size,
            ratio_to_lossless=model.lossless_bytes / size,
        ),
        seconds=clock.seconds,
        versions=versions(),
        notes=[*notes, *size_notes(recipe, size), *lock_notes(recipe, digest)],
        healing=summaries,
        allocation=allocation.summary(size) if allocation is not None else None,
    )
    lock = lock_document(
        recipe,
        task={
            "name": task.name,
            **{key: value for key, value in msgspec.to_builtins(task).items() if value is not None},
        },
        reference=model_fingerprint,
        weights={index: fingerprint(w) for index, w in enumerate(weights) if w is not None},
        calibration=calibration.fingerprint if calibration is not None else "",
        choices=choices,
        artifact=digest,
    )
    return Compressed(path, report, lock)


@contextmanager
def _staging_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for files on their way, so that moving the last one there cannot fail halfway."""
    require_replaceable(path)
    with ExitStack() as stack:
        with writing(path):
            folder = stack.enter_context(partial_folder(path))
        yield folder


def _summarise(reference: Reference, found: str, lossless_bytes: int) -> ModelSummary:
    specs = reference.specs.values()
    return ModelSummary(
        source=reference.source,
        kind=reference.kind,
        parameters=reference.parameters,
        tensors=len(reference.specs),
        bytes=reference.nbytes,
        fp16_bytes=sum(2 * s.numel if s.is_real and s.item_bytes > 2 else s.nbytes for s in specs),
        lossless_bytes=lossless_bytes,
        fingerprint=found,
    )
