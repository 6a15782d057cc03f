"""A recipe with its controls and its repetitions under other seeds: the pipeline, several times, into one report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stackc.core.training import TrainingStage
from stackc.healing.settings import Heal
from stackc.healing.teacher import teacher_logits
from stackc.healing.texts import training_texts
from stackc.models import open_reference, random_reference
from stackc.planning.bases import open_bases, open_with_bases
from stackc.recipe.controls import ControlName
from stackc.recipe.recipe import Recipe, Stage
from stackc.reporting.report import ControlRow, Report, SeedRow, SeedSummary, Spread
from stackc.runs.controls.choose import is_healed, require_controls
from stackc.runs.controls.linear import fit_linear, linear_logits
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.tasks import Outcome, Score, find_task
from stackc.tasks.judge import Judge, prepare_judge
from stackc.util.checkpoints import CheckpointFolder
from stackc.util.errors import StackcError
from stackc.util.progress import Advance, Progress
from stackc.util.statistics import Interval, control_sentence, mean_and_deviation

if TYPE_CHECKING:
    from stackc.models import Reference
    from stackc.tasks import Task

#: A control with less than this share of the result's bytes is none at equal bytes.
_EQUAL = 0.9

#: Training rows that ``linear`` holds out where no heal stage says how many.
_HOLDOUT = 1000


class _Made(NamedTuple):
    """The file of a control, judged: its size, what it is in words, and its score."""

    description: str
    bytes: int
    score: Score


def compress_with_controls(
    recipe: Recipe,
    reference: Reference,
    path: Path,
    *,
    evaluate: bool = True,
    every_stage: bool = True,
    checkpoints: CheckpointFolder | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Run a recipe, then under its other seeds, then its controls; one file and one report are left.

    The file and the lock are those of the recipe's own seed. Each other seed is one more, and the controls are run for the
    first alone.

    Parameters
    ----------
    recipe, reference, path, evaluate, every_stage, checkpoints, progress
        As in `stackc.runs.pipeline.compress_to_file`. Seeds and controls have checkpoints of their own in the folder.

    Raises
    ------
    StackcError
        In one sentence: before any work if a control cannot be had. A control that fails later is a row that says so,
        for the result is there already.
    """
    progress = progress or Progress()
    checkpoints = checkpoints or CheckpointFolder()
    require_controls(recipe, reference, find_task(recipe.task), evaluate=evaluate)
    result = compress_to_file(
        recipe,
        reference,
        path,
        evaluate=evaluate,
        every_stage=every_stage,
        checkpoints=checkpoints,
        progress=progress,
    )
    report = result.report
    if recipe.seeds > 1:
        seeds = _run_seeds(recipe, reference, report, evaluate=evaluate, checkpoints=checkpoints, progress=progress)
        report = msgspec.structs.replace(report, seeds=seeds)
    if recipe.controls:
        rows = run_controls(recipe, reference, path, report, checkpoints=checkpoints, progress=progress)
        report = msgspec.structs.replace(report, controls=rows)
    return result._replace(report=report)


def run_controls(
    recipe: Recipe,
    reference: Reference,
    path: Path,
    report: Report,
    *,
    checkpoints: CheckpointFolder | None = None,
    progress: Progress | None = None,
) -> list[ControlRow]:
    """Run the controls of a recipe and compare the result with each.

    Parameters
    ----------
    recipe : Recipe
        What was run.
    reference : Reference
        What it was run on, and the teacher where no stage names another.
    path : Path
        The result's file.
    report : Report
        Its report.
    checkpoints : CheckpointFolder, optional
        Of the run.
    progress : Progress, optional
        Told what is going on.

    Raises
    ------
    StackcError
        If the result itself cannot be judged. A control that fails is a row that says so.
    """
    progress = progress or Progress()
    runs = _Controls(recipe, reference, path, report, checkpoints or CheckpointFolder(), progress)
    return [runs.row(control) for control in recipe.controls]


class _Controls:
    """The result, judged, and what its controls are made of."""

    def __init__(
        self,
        recipe: Recipe,
        reference: Reference,
        path: Path,
        report: Report,
        checkpoints: CheckpointFolder,
        progress: Progress,
    ) -> None:
        self._recipe = recipe
        self._reference = reference
        self._budget = report.file.bytes
        self._checkpoints = checkpoints
        self._progress = progress
        self._task: Task = find_task(recipe.task)
        judge = prepare_judge(self._task, reference, _Labelled(progress, "controls"))
        if judge is None:
            raise StackcError(f"the task {self._task.name} measures nothing, so no control can be compared by it")
        self._judge: Judge = judge
        self._bases = list(open_bases(recipe).values())
        self._score_file("the result", path)

    def row(self, control: ControlName) -> ControlRow:
        """Run one control."""
        make: Callable[[Path], _Made] = {
            "random-init": self._random_init,
            "linear": self._linear,
            "no-heal": self._no_heal,
        }[control]
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="stackc-") as folder:
            try:
                made = make(Path(folder, f"{control}.stackc"))
            except StackcError as error:
                # The result took longer than any control: it is not given up for one.
                return ControlRow(
                    control=control,
                    description="",
                    bytes=0,
                    score=None,
                    verdict=f"the {control} control could not be run: {error}",
                    seconds=time.perf_counter() - begin,
                )
        return self._compared(control, made, time.perf_counter() - begin)

    def _compared(self, control: ControlName, made: _Made, seconds: float) -> ControlRow:
        found = self._judge.compare("the result", control)
        if found is None:
            verdict = f"not compared with its {control} control: the task {self._task.name} compares no two models"
            return ControlRow(
                control=control,
                description=made.description,
                bytes=made.bytes,
                score=made.score,
                verdict=verdict,
                seconds=seconds,
            )
        interval = Interval(found.low, found.high)
        verdict = control_sentence(control, found.metric, found.difference, interval, found.mcnemar_p)
        if control == "random-init" and is_healed(self._recipe) and not verdict.startswith("beats"):
            verdict += "; so nothing shows that the stored reference, and not the training, did the work"
        if control == "random-init" and made.bytes < _EQUAL * self._budget:
            verdict += (
                f"; but its file came out at {made.bytes:,} bytes instead of {self._budget:,}, so that it is no control at equal "
                "bytes"
            )
        return ControlRow(
            control=control,
            description=made.description,
            bytes=made.bytes,
            score=made.score,
            difference=found.difference,
            difference_low=found.low,
            difference_high=found.high,
            mcnemar_p=found.mcnemar_p,
            verdict=verdict,
            seconds=seconds,
        )

    def _random_init(self, path: Path) -> _Made:
        stages = tuple(steered(self._recipe, index, self._budget) for index in range(len(self._recipe.stages)))
        aimed = " with its price of bits steered towards the result's size" if stages != self._recipe.stages else ""
        fresh = random_reference(self._reference, self._recipe.seed)
        size = self._compress("random-init", alone(self._recipe, stages), fresh, path)
        description = f"the same recipe on a random initialisation (seed {self._recipe.seed}){aimed}"
        return _Made(description, size, self._score_file("random-init", path))

    def _no_heal(self, path: Path) -> _Made:
        stages = tuple(stage for stage in self._recipe.stages if not isinstance(stage.config, TrainingStage))
        size = self._compress("no-heal", alone(self._recipe, stages), self._reference, path)
        return _Made("the same recipe without its heal stages", size, self._score_file("no-heal", path))

    def _linear(self, path: Path) -> _Made:
        heal = next((s.config for s in reversed(self._recipe.stages) if isinstance(s.config, Heal)), None)
        if heal is None:
            rows = len(self._task.training_texts())
            texts = training_texts(self._task, (), None, min(_HOLDOUT, max(rows // 10, 1)))
        else:
            texts = training_texts(self._task, heal.data, heal.rows, heal.holdout, heal.augmented)
        teacher = self._reference
        if heal is not None and heal.teacher is not None:
            teacher = open_reference(heal.teacher, allow_code=self._recipe.allow_code)
        progress = _Labelled(self._progress, "linear")
        labels, held_out = (
            teacher_logits(teacher, self._task.token_ids(some, teacher.tokenizer()), progress=progress).logits
            for some in (texts.texts, texts.held_out)
        )
        fit = fit_linear(texts.texts, labels, texts.held_out, held_out, path, budget=self._budget, progress=progress)
        # The task may evaluate the first rows only.
        evaluated = self._task.evaluation_texts()[: self._judge.reference_score.rows]
        logits = linear_logits(path, evaluated, labels.shape[1])
        description = (
            f"{fit.features:,} of {fit.columns:,} hashed words and pairs of words, ridge regression on {len(labels):,} "
            f"rows towards the answers of {teacher.source}"
        )
        return _Made(description, fit.bytes, self._judge.judge(Outcome.of(logits), "linear"))

    def _compress(self, name: str, recipe: Recipe, reference: Reference, path: Path) -> int:
        done = compress_to_file(
            recipe,
            reference,
            path,
            evaluate=False,  # the judge of all controls has the reference's outcome already
            every_stage=False,
            teacher=self._reference,
            checkpoints=self._checkpoints.within(name),
            progress=_Labelled(self._progress, name),
        )
        return done.report.file.bytes

    def _score_file(self, name: str, path: Path) -> Score:
        with open_with_bases(path, self._bases) as artifact:
            state = artifact.state_dict()
        return self._judge.score(name, lambda: state, name)


def alone(recipe: Recipe, stages: tuple[Stage, ...] | None = None, *, seed: int | None = None) -> Recipe:
    """The recipe, perhaps with other stages or another seed, to be run once: its lock holds choices for other weights."""
    return msgspec.structs.replace(
        recipe,
        stages=recipe.stages if stages is None else stages,
        seed=recipe.seed if seed is None else seed,
        controls=(),
        seeds=1,
        lock=None,
    )


def steered(recipe: Recipe, index: int, size: int) -> Stage:
    """A stage of the control: a heal stage with a price of bits aims at the size of the result's file instead.

    The size is not known to a heal stage while transforms come after it; such a stage keeps its price.
    """
    stage = recipe.stages[index]
    heal = stage.config
    if not isinstance(heal, Heal) or not (heal.rate or heal.bytes is not None):
        return stage
    if not all(later.is_packer for later in recipe.stages[index + 1 :]):
        return stage
    return msgspec.structs.replace(stage, config=msgspec.structs.replace(heal, rate=0.0, bytes=size))


def _run_seeds(
    recipe: Recipe,
    reference: Reference,
    report: Report,
    *,
    evaluate: bool,
    checkpoints: CheckpointFolder,
    progress: Progress,
) -> SeedSummary:
    runs = [SeedRow(seed=recipe.seed, bytes=report.file.bytes, score=report.final.score)]
    for seed in range(recipe.seed + 1, recipe.seed + recipe.seeds):
        with tempfile.TemporaryDirectory(prefix="stackc-") as folder:
            done = compress_to_file(
                alone(recipe, seed=seed),
                reference,
                Path(folder, "model.stackc"),
                evaluate=evaluate,
                every_stage=False,
                checkpoints=checkpoints.within(f"seed-{seed}"),
                progress=_Labelled(progress, f"seed {seed}"),
            )
        runs.append(SeedRow(seed=seed, bytes=done.report.file.bytes, score=done.report.final.score))
    return summarise_seeds(runs)


def summarise_seeds(runs: list[SeedRow]) -> SeedSummary:
    """Mean and standard deviation of two runs or more.

    Examples
    --------
    >>> summarise_seeds([SeedRow(seed=n, bytes=1000 + n, score=None) for n in range(3)]).bytes
    Spread(mean=1001.0, deviation=1.0)
    """
    scores = [run.score for run in runs if run.score is not None]
    retentions = [score.retention for score in scores if score.retention is not None]
    return SeedSummary(
        runs=runs,
        bytes=_spread([run.bytes for run in runs]),
        value=_spread([score.value for score in scores]) if len(scores) == len(runs) else None,
        retention=_spread(retentions) if len(retentions) == len(runs) else None,
    )


def _spread(values: list[float] | list[int]) -> Spread:
    mean, deviation = mean_and_deviation([float(value) for value in values])
    return Spread(mean=mean, deviation=deviation)


class _Labelled(Progress):
    """Progress of one run among several, each task under the run's name."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Announce a piece of work with the run that it belongs to."""
        with self._progress.task(f"{self._name}: {description}", total) as advance:
            yield advance
