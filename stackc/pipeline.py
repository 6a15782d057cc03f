"""Plan, settle, encode, decode, judge: one recipe on one reference, into one file."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stackc.accounting import byte_rows
from stackc.allocation.run import allocating
from stackc.allocation.settings import require_target
from stackc.artifact.reader import Artifact
from stackc.artifact.writer import ArtifactWriter, temporary_name, writing
from stackc.calibration import Calibration, calibration_batches
from stackc.encode import EncodedTensor, encode_tensor, is_calibrated
from stackc.errors import DataError, ModelError, PlanError, TensorError
from stackc.healing.checkpoint import CheckpointFolder
from stackc.healing.checks import check_heal, heal_settings, heal_stages
from stackc.healing.stage import Healing
from stackc.judge import Judge, prepare_judge
from stackc.measure import decode_and_compare
from stackc.meter import MemoryMeter
from stackc.moments import input_moments
from stackc.packer import Packer
from stackc.parallel import map_ordered
from stackc.plan import Plan, StagePlan, TensorPlan, plan_recipe, planes_of_stage
from stackc.progress import Progress
from stackc.recipe.lock import lock_document, locked_choices, versions
from stackc.recipe.recipe import Recipe
from stackc.registry import find_packer
from stackc.report import FileSummary, HealingSummary, ModelSummary, Report, StageRow
from stackc.row_weights import fingerprint, row_weights
from stackc.settle import settle
from stackc.spec import PlaneSpec
from stackc.tasks import find_task
from stackc.tasks.none import NoTask
from stackc.transform import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.encode import Healed
    from stackc.reference import Reference
    from stackc.tasks import Task


class Compressed(NamedTuple):
    """What `compress_to_file` leaves: the file, its report and the text of its lock file."""

    path: Path
    report: Report
    lock: str


class _Encoded(NamedTuple):
    """Sizes, times and entropies from the encoding pass."""

    file_bytes: list[int]
    encode_seconds: list[float]
    entropy_bits: dict[tuple[str, str], float]
    lossless_bytes: int
    weights_bytes: int
    self_contained_bytes: int | None
    peaks: dict[str, int]
    packers: dict[int, dict[str, Packer]]


class _Clock:
    """Wall seconds of each part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin


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
    clock = _Clock()
    require_target(recipe)
    check_heal(recipe)
    choices = locked_choices(recipe)
    plan = plan_recipe(recipe, reference.specs, reference.ties, choices)
    if "tokenizer" in recipe.bundle and not reference.tokenizer_files:
        raise ModelError(f"bundle: {reference.source} has no tokenizer; remove 'tokenizer' from 'bundle'")
    task = find_task(recipe.task)
    with clock.measure("fingerprint"):
        model_fingerprint = reference.fingerprint()
    _check_lock(recipe, reference.source, model_fingerprint)
    notes: list[str] = []
    if evaluate and reference.kind == "safetensors" and task.name != NoTask.name:
        evaluate = False
        notes.append(
            f"the task {task.name} was not run: a bare weights file has no architecture, so sizes and weight errors are all"
        )
    with _staging_folder(path) as folder, ExitStack() as stack:
        with clock.measure("evaluate"):
            judge = prepare_judge(task, reference, progress) if evaluate else None
        moments: Mapping[str, Tensor] = {}
        calibration = _calibration(plan, task, reference)
        if calibration is not None:
            with clock.measure("calibrate"):
                names = [tensor.name for tensor in plan.tensors if is_calibrated(tensor)]
                moments = stack.enter_context(input_moments(reference, calibration, names, progress))
            notes += _calibration_notes(plan, moments)
        with clock.measure("settle"):
            weights = _stage_weights(plan, task, reference)
        with clock.measure("allocate"):
            bundled = _tokenizer_contents(reference) if "tokenizer" in recipe.bundle else {}
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
        healed: Healed = {}
        summaries: list[HealingSummary] = []
        if allocation is not None or not heal_stages(recipe):
            while True:
                with clock.measure("settle"):
                    made = locked if allocation is None else allocation.choices
                    plan, choices = settle(plan, reference.tensor, weights, made, moments)
                with clock.measure("encode"):
                    encoded = _encode_model(plan, reference, weights, moments, healed, paths, progress)
                with clock.measure("allocate"):
                    if allocation is None or allocation.accept(encoded.file_bytes[-1]):
                        break
        if heal_stages(recipe):
            with clock.measure("heal"):
                plan, choices, healed, summaries = healing.run_all(plan, choices)
            with clock.measure("encode"):
                encoded = _encode_model(plan, reference, weights, moments, healed, paths, progress)
        for index, chosen in encoded.packers.items():
            choices.setdefault(index, {}).update(chosen)
        rows = _stage_rows(plan, reference, paths, encoded, judge, clock, progress)
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
            ratio=model.bytes / size,
            ratio_to_fp16=model.fp16_bytes / size,
            ratio_to_lossless=model.lossless_bytes / size,
        ),
        seconds=clock.seconds,
        versions=versions(),
        notes=[*notes, *_size_notes(recipe, size), *_lock_notes(recipe, digest)],
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
    folder = temporary_name(path)
    with writing(path):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_lock(recipe: Recipe, source: str, found: str) -> None:
    """Refuse a lock that was made for other weights."""
    if recipe.lock is not None and recipe.lock.reference != found:
        raise ModelError(
            f"the lock was made for weights with fingerprint {recipe.lock.reference[:16]}, {source} has {found[:16]}; use "
            "that reference, or remove the 'lock' key to run the recipe on this one"
        )


def _size_notes(recipe: Recipe, size: int) -> list[str]:
    """Where training did not reach the size that it was given."""
    notes = []
    for index in heal_stages(recipe):
        target = heal_settings(recipe, index).target_bytes
        if target is not None and size > target:
            notes.append(
                f"stages[{index}] (heal): the file is {size - target:,} bytes above the {target:,} that it was to have; more "
                "steps, or a slightly smaller 'bytes', may do"
            )
    return notes


def _lock_notes(recipe: Recipe, digest: str) -> list[str]:
    """What became of a lock's promise of the same bytes."""
    if recipe.lock is None or recipe.lock.artifact == digest:
        return []
    now = versions()
    changed = [
        f"{package} {version} is now {now.get(package, 'not installed')}"
        for package, version in recipe.lock.versions.items()
        if now.get(package) != version
    ]
    cause = f"since then {', '.join(changed)}" if changed else "the versions of all packages are the same"
    return [
        f"the file differs from the one that the lock was written with (sha256 {recipe.lock.artifact[:16]}); {cause}"
    ]


def _stage_weights(plan: Plan, task: Task, reference: Reference) -> list[Tensor | None]:
    """Row weights of every stage that names a source."""
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


def _calibration(plan: Plan, task: Task, reference: Reference) -> Calibration | None:
    """Calibration data, if a stage uses any; under a lock, that of the lock."""
    first = next((index for index, stage in enumerate(plan.stages) if _wants_moments(stage)), None)
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


def _wants_moments(stage: StagePlan) -> bool:
    return isinstance(stage.stage.config, Transform) and stage.stage.config.calibrated


def _calibration_notes(plan: Plan, moments: Mapping[str, Tensor]) -> list[str]:
    """How many of the matrices of each calibrated stage have inputs; a stage that has none of them is refused."""
    notes = []
    for index, stage in enumerate(plan.stages):
        if not _wants_moments(stage):
            continue
        matched = {tensor.name: tensor.spec for tensor, _, _ in planes_of_stage(plan, index)}
        without = [name for name, spec in matched.items() if name not in moments and len(spec.shape) > 1]
        where = f"stages[{index}] ({stage.stage.use})"
        if matched and not any(name in moments for name in matched):
            raise PlanError(
                f"{where} is calibrated, but nothing that it matches, such as {next(iter(matched))}, is the weight of a linear "
                "layer that ran on the calibration data; change 'on', or remove 'calibrated'"
            )
        if without:
            notes.append(
                f"{where} is calibrated: {len(without)} of its matrices, such as {without[0]}, are no weights of linear layers "
                "and were rounded without inputs"
            )
    return notes


def _encode_model(
    plan: Plan,
    reference: Reference,
    weights: Sequence[Tensor | None],
    moments: Mapping[str, Tensor],
    healed: Healed,
    paths: Sequence[Path],
    progress: Progress,
) -> _Encoded:
    """Stream all tensors through all stages; write one file per path, the last being the result."""
    first = len(plan.stages) - len(paths)
    files = _tokenizer_contents(reference)
    seconds = [0.0] * len(plan.stages)
    entropy: dict[tuple[str, str], float] = {}
    lossless_bytes = 0
    packers: dict[int, dict[str, Packer]] = {}

    with ExitStack() as stack:
        meter = stack.enter_context(MemoryMeter())
        advance = stack.enter_context(progress.task("encode", reference.nbytes))
        writers = [stack.enter_context(ArtifactWriter(path, reference.kind, reference.config)) for path in paths]

        def one(tensor: TensorPlan) -> tuple[EncodedTensor, int]:
            try:
                packed = len(_lossless(tensor.spec).pack(reference.tensor(tensor.name), tensor.spec))
                # Read again, so that nothing here holds the tensor when its planes have taken its place.
                encoded = encode_tensor(
                    tensor,
                    reference.tensor(tensor.name),
                    weights,
                    moments=moments,
                    healed=healed,
                    every_stage=first == 0,
                    meter=meter,
                )
                return encoded, packed
            except MemoryError as error:
                raise TensorError(f"{tensor.name} ({tensor.spec}) does not fit in memory") from error

        for encoded, size in map_ordered(one, plan.tensors):
            lossless_bytes += size
            seconds = [total + more for total, more in zip(seconds, encoded.seconds, strict=True)]
            entropy |= {(encoded.plan.name, path): bits for path, bits in encoded.entropy_bits.items()}
            for stage, writer in enumerate(writers, start=first):
                writer.add(encoded.plan.names, encoded.plan.spec, encoded.stacks[stage], encoded.stages[stage])
            for stage, chosen in encoded.chosen_packers.items():
                packers.setdefault(stage, {}).update(chosen)
            advance(encoded.plan.spec.nbytes)
        final = writers[-1]
        weights_bytes = final.projected_bytes({})
        lossless_bytes += weights_bytes - final.payload_bytes  # a lossless file needs a container too
        self_contained_bytes = final.projected_bytes(files) if files else None
        if "tokenizer" in plan.recipe.bundle:
            for writer in writers:
                for name, content in files.items():
                    writer.add_file(name, content)
        sizes = [writer.finish() for writer in writers]
    return _Encoded(sizes, seconds, entropy, lossless_bytes, weights_bytes, self_contained_bytes, meter.peaks, packers)


def _lossless(spec: PlaneSpec) -> Packer:
    """The packer of the lossless file that the ratio is held against: the smallest that stackc has for the dtype."""
    return find_packer("floats") if spec.is_real else find_packer("zstd", level=19)


def _tokenizer_contents(reference: Reference) -> dict[str, bytes]:
    try:
        return {name: file.read_bytes() for name, file in reference.tokenizer_files.items()}
    except OSError as error:
        raise ModelError(f"the tokenizer file {error.filename} cannot be read: {error.strerror}") from error


def _stage_rows(
    plan: Plan,
    reference: Reference,
    paths: Sequence[Path],
    encoded: _Encoded,
    judge: Judge | None,
    clock: _Clock,
    progress: Progress,
) -> list[StageRow]:
    """Decode and judge every file: one row for each stage, or one for the whole recipe if there is one file only."""
    rows: list[StageRow] = []
    before = reference.nbytes
    first = len(plan.stages) - len(paths)
    for last, (path, size) in enumerate(zip(paths, encoded.file_bytes, strict=True), start=first):
        stages = plan.stages if len(paths) == 1 else plan.stages[last : last + 1]
        label = plan.recipe.name if len(stages) > 1 else stages[0].stage.use
        with clock.measure("decode"):
            decoded = decode_and_compare(path, reference, f"after {label}", progress, keep=judge is not None)
        score = None
        if judge is not None and decoded.state is not None:
            with clock.measure("evaluate"):
                score = judge.score(f"after {label}", decoded.state, decoded.digest)
        indices = range(last + 1 - len(stages), last + 1)
        rows.append(
            StageRow(
                use=label,
                description=", ".join(stage.stage.describe() for stage in stages),
                planes=sum(stage.matched for stage in stages),
                skipped=sum(len(stage.skipped) for stage in stages),
                skipped_reasons=_reasons(stages),
                bytes_if_stopped_here=size,
                saved_bytes=before - size,
                stage_ratio=before / size,
                ratio=reference.nbytes / size,
                bits_per_parameter=8 * size / max(reference.parameters, 1),
                weight_error=decoded.weight_error,
                score=score,
                encode_seconds=sum(encoded.encode_seconds[index] for index in indices),
                decode_seconds=decoded.seconds,
                peak_memory_bytes=max((encoded.peaks.get(str(index), 0) for index in indices), default=0),
            )
        )
        before = size
    return rows


def _reasons(stages: Sequence[StagePlan]) -> list[str]:
    counts = Counter(skipped.reason for stage in stages for skipped in stage.skipped)
    return [f"{count} x {reason}" for reason, count in counts.most_common()]


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
