"""Plan, settle, encode, decode, judge: one recipe on one reference, into one file."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stackc.accounting import byte_rows
from stackc.artifact.reader import Artifact
from stackc.artifact.writer import ArtifactWriter, writing
from stackc.encode import EncodedTensor, encode_tensor
from stackc.errors import ModelError, PlanError, TensorError
from stackc.measure import decode_and_compare
from stackc.meter import MemoryMeter
from stackc.packer import Packer
from stackc.parallel import map_ordered
from stackc.plan import Plan, StagePlan, TensorPlan, plan_recipe, planes_of_stage
from stackc.progress import Progress
from stackc.recipe.lock import lock_document, locked_choices, versions
from stackc.recipe.recipe import Recipe
from stackc.registry import find
from stackc.report import FileSummary, ModelSummary, Report, StageRow
from stackc.row_weights import fingerprint, row_weights
from stackc.settle import settle
from stackc.tasks import Score, find_task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.reference import Reference
    from stackc.tasks import Evaluation, Outcome, Task


NO_TASK = "none"


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


class _Clock:
    """Wall seconds of each part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin


class _Judge:
    """Evaluates models on the task; two models with the same bits are evaluated once."""

    def __init__(self, evaluation: Evaluation, model: nn.Module, reference: Reference, progress: Progress) -> None:
        self._evaluation = evaluation
        self._reference = reference
        self._progress = progress
        self._scores: dict[str, Score] = {}
        self._outcome: Outcome = self._measure("reference", model)
        self.reference_score: Score = self._evaluation.score(self._outcome, self._outcome)

    def describe(self) -> dict[str, Any]:
        """What the models are evaluated on."""
        return self._evaluation.describe()

    def _measure(self, label: str, model: nn.Module) -> Outcome:
        with self._progress.task(f"evaluate {label}", self._evaluation.describe()["rows"]) as advance:
            done = 0

            def forward(now: int, total: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            return self._evaluation.measure(model, forward)

    def score(self, label: str, state: Mapping[str, Tensor], digest: str) -> Score:
        if digest not in self._scores:
            outcome = self._measure(label, self._reference.build(state))
            self._scores[digest] = self._evaluation.score(outcome, self._outcome)
        return self._scores[digest]


def _prepare_judge(task: Task, reference: Reference, progress: Progress) -> _Judge | None:
    """Evaluate the reference; None if the task measures nothing."""
    task.check()
    if task.name == NO_TASK:
        return None
    model = reference.build()
    evaluation = task.prepare(reference.tokenizer(), getattr(model, "config", None))
    return None if evaluation is None else _Judge(evaluation, model, reference, progress)


def compress_to_file(
    recipe: Recipe,
    reference: Reference,
    path: Path,
    *,
    evaluate: bool = True,
    every_stage: bool = True,
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
        The artifact; its folder exists.
    evaluate : bool
        Whether to run the recipe's task on the reference and on every decoded file.
    every_stage : bool
        Whether to write, decode and judge also the file that each earlier stage would leave. Without it the report has
        a row for the whole recipe only.
    progress : Progress, optional
        Told what is going on.

    Raises
    ------
    StackcError
        In one sentence, with stage and tensor; nothing is left at ``path`` then that was not there before.
    """
    progress = progress or Progress()
    clock = _Clock()
    plan = plan_recipe(recipe, reference.specs, reference.ties, locked_choices(recipe))
    task = find_task(recipe.task)
    notes = _check_lock(recipe, reference)
    with clock.measure("evaluate"):
        judge = _prepare_judge(task, reference, progress) if evaluate else None
    with clock.measure("settle"):
        weights = _stage_weights(plan, task, reference)
        plan, choices = settle(plan, reference.tensor, weights, locked_choices(recipe))
    with ExitStack() as stack:
        with writing(path):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".stages-", dir=path.parent)))
        paths = [folder / f"stage-{index}.stackc" for index in range(len(plan.stages) - 1)] if every_stage else []
        paths.append(path)
        with clock.measure("encode"):
            encoded = _encode_model(plan, reference, weights, paths, progress)
        rows = _stage_rows(plan, reference, paths, encoded, judge, clock, progress)
    with Artifact(path) as artifact:
        bytes_by_row = byte_rows(artifact, encoded.entropy_bits)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = encoded.file_bytes[-1]
    model = _summarise(reference, encoded.lossless_bytes)
    report = Report(
        recipe=recipe.name,
        model=model,
        task=judge.describe() if judge else {"task": NO_TASK},
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
        notes=notes,
    )
    lock = lock_document(
        recipe,
        task={"name": task.name, **{key: value for key, value in msgspec.to_builtins(task).items() if value is not None}},
        reference=model.fingerprint,
        weights={index: fingerprint(w) for index, w in enumerate(weights) if w is not None},
        choices=choices,
        artifact=digest,
    )
    return Compressed(path, report, lock)


def _check_lock(recipe: Recipe, reference: Reference) -> list[str]:
    """Refuse a lock that was made for other weights; return notes on versions that differ."""
    if recipe.lock is None:
        return []
    found = reference.fingerprint()
    if recipe.lock.reference and recipe.lock.reference != found:
        raise ModelError(
            f"the lock was made for weights with fingerprint {recipe.lock.reference[:16]}, {reference.source} has "
            f"{found[:16]}; use that reference, or remove the 'lock' key to run the recipe on this one"
        )
    now = versions()
    return [
        f"the lock was written with {package} {version}, this run used {now.get(package, 'none')}; bytes can differ"
        for package, version in recipe.lock.versions.items()
        if now.get(package) != version
    ]


def _stage_weights(plan: Plan, task: Task, reference: Reference) -> list[Tensor | None]:
    """Row weights of every stage that names a source."""
    weights: list[Tensor | None] = []
    loaded: dict[tuple[str, int], Tensor] = {}
    for index, stage in enumerate(plan.stages):
        source = stage.stage.weights
        if source is None:
            weights.append(None)
            continue
        counts = {tensor.spec.shape[0] if tensor.spec.shape else 1 for tensor, _, _ in planes_of_stage(plan, index)}
        if len(counts) != 1:
            raise PlanError(
                f"stages[{index}] ({stage.stage.use}): row weights are for tensors with one number of rows, and 'on' matches "
                f"tensors with {', '.join(map(str, sorted(counts)))} rows; narrow 'on'"
            )
        key = (source, counts.pop())
        if key not in loaded:
            loaded[key] = row_weights(source, rows=key[1], task=task, tokenizer=reference.tokenizer())
        expected = plan.recipe.lock.weights.get(str(index)) if plan.recipe.lock else None
        if expected and fingerprint(loaded[key]) != expected:
            raise PlanError(f"stages[{index}]: the row weights {source!r} are not those of the lock; its data has changed")
        weights.append(loaded[key])
    return weights


def _encode_model(
    plan: Plan, reference: Reference, weights: Sequence[Tensor | None], paths: Sequence[Path], progress: Progress
) -> _Encoded:
    """Stream all tensors through all stages; write one file per path, the last being the result."""
    every_stage = len(paths) > 1
    lossless: Packer = find("zstd").stage(level=3)  # type: ignore[assignment]
    files = {name: file.read_bytes() for name, file in reference.tokenizer_files.items()}
    seconds = [0.0] * len(plan.stages)
    entropy: dict[tuple[str, str], float] = {}
    lossless_bytes = 0

    with ExitStack() as stack:
        meter = stack.enter_context(MemoryMeter())
        advance = stack.enter_context(progress.task("encode", sum(t.spec.nbytes for t in plan.tensors)))
        writers = [stack.enter_context(ArtifactWriter(path, reference.kind, reference.config)) for path in paths]

        def one(tensor: TensorPlan) -> tuple[EncodedTensor, int]:
            try:
                x = reference.tensor(tensor.name)
                encoded = encode_tensor(tensor, x, weights, every_stage=every_stage, meter=meter)
                return encoded, len(lossless.pack(x, tensor.spec))
            except MemoryError as error:
                raise TensorError(f"{tensor.name} ({tensor.spec}) does not fit in memory") from error

        for encoded, size in map_ordered(one, plan.tensors):
            lossless_bytes += size
            seconds = [total + more for total, more in zip(seconds, encoded.seconds, strict=True)]
            entropy |= {(encoded.plan.name, path): bits for path, bits in encoded.entropy_bits.items()}
            offset = len(plan.stages) - len(writers)
            for index, writer in enumerate(writers, start=offset):
                writer.add(encoded.plan.names, encoded.plan.spec, encoded.plan.stacks[index], encoded.stages[index])
            advance(encoded.plan.spec.nbytes)
        final = writers[-1]
        weights_bytes = final.projected_bytes({})
        self_contained_bytes = final.projected_bytes(files) if files else None
        if "tokenizer" in plan.recipe.bundle:
            if not files:
                raise ModelError(f"bundle: {reference.source} has no tokenizer; remove 'tokenizer' from 'bundle'")
            for writer in writers:
                for name, content in files.items():
                    writer.add_file(name, content)
        sizes = [writer.finish() for writer in writers]
        peaks = meter.peaks
    return _Encoded(sizes, seconds, entropy, lossless_bytes, weights_bytes, self_contained_bytes, peaks)


def _stage_rows(
    plan: Plan,
    reference: Reference,
    paths: Sequence[Path],
    encoded: _Encoded,
    judge: _Judge | None,
    clock: _Clock,
    progress: Progress,
) -> list[StageRow]:
    rows: list[StageRow] = []
    before = reference.nbytes
    offset = len(plan.stages) - len(paths)
    for number, (path, size) in enumerate(zip(paths, encoded.file_bytes, strict=True), start=offset):
        stage = plan.stages[number]
        with clock.measure("decode"):
            decoded = decode_and_compare(path, reference, progress, keep=judge is not None)
        score = None
        if judge is not None and decoded.state is not None:
            with clock.measure("evaluate"):
                score = judge.score(f"after {stage.stage.use}", decoded.state, decoded.digest)
        whole = offset > 0
        rows.append(
            StageRow(
                use=plan.recipe.name if whole else stage.stage.use,
                description=", ".join(s.stage.describe() for s in plan.stages) if whole else stage.stage.describe(),
                planes=stage.matched,
                skipped=len(stage.skipped),
                skipped_reasons=_reasons(stage),
                bytes_if_stopped_here=size,
                saved_bytes=before - size,
                stage_ratio=before / size,
                ratio=reference.nbytes / size,
                bits_per_parameter=8 * size / max(reference.parameters, 1),
                weight_error=decoded.weight_error,
                score=score,
                encode_seconds=sum(encoded.encode_seconds) if whole else encoded.encode_seconds[number],
                decode_seconds=decoded.seconds,
                peak_memory_bytes=max(encoded.peaks.values()) if whole else encoded.peaks.get(str(number), 0),
            )
        )
        before = size
    return rows


def _reasons(stage: StagePlan) -> list[str]:
    counts = Counter(skipped.reason for skipped in stage.skipped)
    return [f"{count} x {reason}" for reason, count in counts.most_common()]


def _summarise(reference: Reference, lossless_bytes: int) -> ModelSummary:
    specs = reference.specs.values()
    return ModelSummary(
        source=reference.source,
        kind=reference.kind,
        parameters=reference.parameters,
        tensors=len(reference.specs),
        bytes=reference.nbytes,
        fp16_bytes=sum(2 * s.numel if s.is_real and s.item_bytes > 2 else s.nbytes for s in specs),
        lossless_bytes=lossless_bytes,
        fingerprint=reference.fingerprint(),
    )


