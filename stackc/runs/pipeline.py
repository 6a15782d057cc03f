"""Plan, settle, encode, decode, judge: one recipe on one reference, into one file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stackc.artifact.reader import Artifact
from stackc.healing.checks import check_heal, heal_stages, size_notes, with_heal_sizes
from stackc.healing.stage import heal
from stackc.healing.summary import HealingSummary
from stackc.planning.allocation.run import Allocation, KnownAllocation, allocate
from stackc.planning.bases import base_fingerprints, open_bases
from stackc.planning.encode import is_calibrated
from stackc.planning.encode_model import EncodedModel, encode_model
from stackc.planning.kept import code_key, session_key
from stackc.planning.program import Program, Session
from stackc.planning.settle import settle
from stackc.recipe.lock import (
    check_locked_bases,
    check_locked_reference,
    lock_document,
    lock_notes,
    locked_choices,
    versions,
)
from stackc.recipe.recipe import Recipe
from stackc.recipe.targets import require_target
from stackc.reporting.accounting import byte_rows
from stackc.reporting.report import BaseSummary, FileSummary, ModelSummary, Report
from stackc.reporting.stage_rows import stage_rows
from stackc.runs.stage_data import calibration_notes, stage_calibration, stage_weights
from stackc.tasks import find_task
from stackc.tasks.judge import Judge, prepare_judge
from stackc.tasks.moments import Moments, second_moments
from stackc.tasks.none import NoTask
from stackc.tasks.row_weights import fingerprint
from stackc.util.checkpoints import CheckpointFolder
from stackc.util.errors import ModelError
from stackc.util.memo import Memo, key_of
from stackc.util.output import require_replaceable, writing
from stackc.util.partial import partial_folder
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from stackc.models import Reference
    from stackc.planning.bases import BaseModel
    from stackc.tasks import Task
    from stackc.tasks.calibration import Calibration


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
    require_target(recipe)
    recipe = with_heal_sizes(recipe, reference.nbytes)
    check_heal(recipe)
    if "tokenizer" in recipe.bundle and not reference.tokenizer_files:
        raise ModelError(f"bundle: {reference.source} has no tokenizer; remove 'tokenizer' from 'bundle'")
    locked = locked_choices(recipe)
    bases = open_bases(recipe)
    specs = {name: base.specs for name, base in bases.items()}
    program = Program.of(recipe, reference.specs, reference.ties, locked, specs)
    task = find_task(recipe.task)
    run = RunSession(reference, task, teacher=teacher, checkpoints=checkpoints, progress=progress, memo=Memo.of_user())
    run.bases = bases
    with run.clock.measure("fingerprint"):
        check_locked_reference(recipe, reference.source, run.fingerprint)
        check_locked_bases(recipe, base_fingerprints(recipe, bases))
    run.notes += reference.notes
    if evaluate and reference.kind == "safetensors" and task.name != NoTask.name:
        evaluate = False
        run.notes.append(
            f"the task {task.name} was not run: a bare weights file has no architecture, so sizes and weight errors are all"
        )
    with _staging_folder(path) as folder, run:
        first = 0 if every_stage else len(recipe.stages) - 1
        run.paths = [folder / f"{stage}.stackc" for stage in range(first, len(recipe.stages))]
        if evaluate:
            with run.clock.measure("evaluate"):
                key = key_of(code_key(), run.fingerprint, reference.config, msgspec.to_builtins(task))
                run.judge = prepare_judge(task, reference, run.progress, run.memo, key)
        for phase in (calibrate, weigh, choose, train):
            program = phase(program, run)
        report = _report(program, run, path)
        with writing(path):
            run.paths[-1].replace(path)
    return Compressed(path, report, _lock(program, run, report.file.sha256))


class RunSession(Session):
    """A session that knows what has become of its program so far.

    Attributes
    ----------
    paths : list of Path
        A file for each of the last stages; the last one is the result.
    judge : Judge or None
        Gives scores, if there are to be any.
    calibration : Calibration or None
        What second moments are from.
    allocation : Allocation or None
        What chooses for a size.
    encoded : EncodedModel
        How the files were made.
    healed : list of HealingSummary
        How each training went.
    notes : list of str
        What people should know.
    """

    paths: Sequence[Path]
    encoded: EncodedModel

    def __init__(self, reference: Reference, task: Task, **options: Any) -> None:
        super().__init__(reference, task, **options)
        self.judge: Judge | None = None
        self.calibration: Calibration | None = None
        self.allocation: Allocation | KnownAllocation | None = None
        self.healed: list[HealingSummary] = []
        self.notes: list[str] = []


def calibrate(program: Program, run: RunSession) -> Program:
    """Second moments, if a stage wants some."""
    run.calibration = stage_calibration(program.plan, run.task, run.reference)
    if run.calibration is not None:
        with run.clock.measure("calibrate"):
            run.moments = _moments(program, run, run.calibration)
        run.notes += calibration_notes(program.plan, run.moments)
    return program


def _moments(program: Program, run: RunSession, calibration: Calibration) -> Moments:
    names = [tensor.name for tensor in program.plan.tensors if is_calibrated(tensor)]
    folder = run.resources.enter_context(TemporaryDirectory(prefix="stackc-moments-", ignore_cleanup_errors=True))
    kept, key = Path(folder) / "moments", key_of(code_key(), run.fingerprint, calibration.fingerprint, names)
    if run.memo.recall_file("moments", key, kept):
        return Moments.read(kept)
    moments = run.resources.enter_context(second_moments(run.reference, calibration, names, run.progress))
    if run.memo.active:
        moments.write(kept)
        run.memo.keep_file("moments", key, kept)
        kept.unlink()
    return moments


def weigh(program: Program, run: RunSession) -> Program:
    """Row weights, if a stage wants some, and the files that go along."""
    with run.clock.measure("settle"):
        run.weights = stage_weights(program.plan, run.task, run.reference)
    run.files = run.reference.companion_contents()
    if "tokenizer" in program.recipe.bundle:
        run.files |= run.reference.tokenizer_contents()
    if run.memo.active:
        run.key = session_key(run, run.calibration.fingerprint if run.calibration is not None else "")
    return program


def choose(program: Program, run: RunSession) -> Program:
    """Make the choices of all stages, for the size that is aimed at if there is one, and write the files."""
    with run.clock.measure("allocate"):
        run.allocation = allocate(program, run)
    if run.allocation is None and heal_stages(program.recipe):
        return program  # what is chosen after a training depends on it
    while True:
        if run.allocation is not None:
            program = program.with_choices(run.allocation.choices)
        program = encode(_settled(program, run), run)
        with run.clock.measure("allocate"):
            if run.allocation is None or run.allocation.accept(run.encoded.file_bytes[-1]):
                return program


def train(program: Program, run: RunSession) -> Program:
    """Run the heal stages, if there are any, and write the files with what they leave."""
    if not heal_stages(program.recipe):
        return program
    with run.clock.measure("heal"):
        program, run.healed = heal(program, run)
    return encode(program, run)


def encode(program: Program, run: RunSession) -> Program:
    """Write the files."""
    with run.clock.measure("encode"):
        run.encoded = encode_model(program, run, run.paths)
    return program


def _settled(program: Program, run: RunSession) -> Program:
    with run.clock.measure("settle"):
        return settle(program, run)


def _report(program: Program, run: RunSession, path: Path) -> Report:
    """Decode and judge what was written."""
    recipe, encoded, file = program.recipe, run.encoded, run.paths[-1]
    rows = stage_rows(program, run, run.paths, encoded, run.judge)
    with Artifact(file) as artifact:
        bytes_by_row = byte_rows(artifact, encoded.entropy_bits)
        needed = {base.sha256 for base in artifact.bases}
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    size = encoded.file_bytes[-1]
    model = _summarise(run.reference, run.fingerprint, encoded.lossless_bytes)
    bases = _bases(run.bases.values(), needed)
    return Report(
        recipe=recipe.name,
        model=model,
        task=run.judge.description if run.judge else {"task": NoTask.name},
        reference_score=run.judge.reference_score if run.judge else None,
        stages=rows,
        bytes=bytes_by_row,
        file=FileSummary(
            name=path.name,
            bytes=size,
            sha256=digest,
            weights_bytes=encoded.weights_bytes,
            self_contained_bytes=encoded.self_contained_bytes,
            left_behind=list(run.reference.left_behind),
            ratio=model.bytes / size,
            ratio_to_fp16=model.fp16_bytes / size,
            ratio_to_lossless=model.lossless_bytes / size,
            bases=bases,
            ratio_with_bases=model.bytes / (size + sum(base.bytes for base in bases)) if bases else None,
        ),
        seconds=run.clock.seconds,
        versions=versions(),
        notes=[*run.notes, *_recall_notes(encoded), *size_notes(recipe, size), *lock_notes(recipe, digest)],
        healing=run.healed,
        allocation=run.allocation.summary(size) if run.allocation is not None else None,
    )


def _recall_notes(encoded: EncodedModel) -> list[str]:
    if not encoded.recalled:
        return []
    files, total = encoded.recalled, len(encoded.file_bytes)
    return [
        f"{files} of {total} stage files {'is' if files == 1 else 'are'} from an earlier run on the same model, data and code, and "
        "so are their times; 'stackc cache' shows what is kept"
    ]


def _lock(program: Program, run: RunSession, digest: str) -> str:
    choices = {stage: dict(chosen) for stage, chosen in program.choices.items()}
    for index, chosen in run.encoded.packers.items():
        choices.setdefault(index, {}).update(chosen)
    settings = msgspec.to_builtins(run.task).items()
    return lock_document(
        program.recipe,
        task={"name": run.task.name, **{key: value for key, value in settings if value is not None}},
        reference=run.fingerprint,
        weights={index: fingerprint(w) for index, w in enumerate(run.weights) if w is not None},
        calibration=run.calibration.fingerprint if run.calibration is not None else "",
        bases=base_fingerprints(program.recipe, run.bases),
        choices=choices,
        artifact=digest,
    )


@contextmanager
def _staging_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for files on their way, so that moving the last one there cannot fail halfway."""
    require_replaceable(path)
    with ExitStack() as stack:
        with writing(path):
            folder = stack.enter_context(partial_folder(path))
        yield folder


def _bases(bases: Iterable[BaseModel], needed: Collection[str]) -> list[BaseSummary]:
    """The models that the file needs, each once, however many names the recipe has for it."""
    found = {base.fingerprint: base.reference for base in bases if base.fingerprint in needed}
    return [
        BaseSummary(source=reference.source, sha256=fingerprint, bytes=reference.nbytes)
        for fingerprint, reference in found.items()
    ]


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
