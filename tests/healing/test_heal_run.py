"""Healing as users run it: what it gains, what the report says, and runs that are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import stackc
from stackc.core.stack import describe
from stackc.healing.summary import HealingSummary
from stackc.healing.train import Training
from stackc.reporting.report import Report
from stackc.runs.runner import Run
from stackc.util.checkpoints import Checkpoints
from stackc.util.errors import DataError, ModelError, OutputError, PlanError, RecipeError, StackcError
from tests.helpers.tiny import tiny_classifier

INT2 = {"use": "int", "on": "*.weight", "bits": 2}
STEPS = {"use": "int", "on": "*.weight", "step": 0.25}
HEAL = {"use": "heal", "steps": 60, "batch_size": 16, "holdout": 20, "evaluations": 6, "lr": 5e-3}
PACK = [{"use": "context", "on": "*/codes"}, "zstd"]


@pytest.fixture
def compress(tiny_model: Path, tiny_task: dict[str, object]) -> Callable[..., tuple[Any, Report]]:
    """Compress the tiny classifier with some stages."""

    def with_stages(*stages: Any, model: str | None = None, **recipe: Any) -> tuple[Any, Report]:
        content = {"task": tiny_task, "stages": list(stages), **recipe}
        return stackc.compress(model or str(tiny_model), content)

    return with_stages


def divergence(report: Report) -> float:
    """From the reference, on the evaluation rows, of the decoded file."""
    score = report.final.score
    assert score is not None
    assert score.kl is not None
    return score.kl


def only(report: Report) -> HealingSummary:
    (summary,) = report.healing
    return summary


# ---- what it gains ----


@pytest.mark.parametrize("latent", ["planes", "dense"])
@pytest.mark.parametrize(
    "stages",
    [
        [INT2],
        [{"use": "prune", "on": "*.weight", "sparsity": 0.5}, {"use": "int", "on": "*/values", "bits": 4}],
        [{"use": "seed", "on": "*{word,position}_embeddings.weight", "rank": 3}, INT2],
        [{"use": "codebook", "on": "*.weight", "entries": 4}],
        [{"use": "share", "on": "*.layer.*", "difference": False}, "int8"],
        [{"use": "seed", "on": "*.dense.weight", "rank": 3}, {"use": "tcq", "on": "*/scores", "step": 0.5}],
    ],
    ids=["int", "prune + int", "seed + int", "codebook", "layers that are one", "seed + tcq"],
)
def test_a_healed_file_answers_more_like_the_reference(compress, stages: list[Any], latent: str) -> None:
    heal = {**HEAL, "latent": latent, "lr": 5e-3 if latent == "planes" else 2e-3}
    _, plain = compress(*stages, *PACK)
    _, healed = compress(*stages, heal, *PACK)
    summary = only(healed)
    curve = {point.step: point.divergence for point in summary.curve}
    assert curve[summary.best_step] == min(curve.values()) < 0.8 * curve[0]
    assert divergence(healed) < 0.9 * divergence(plain)


def test_the_curve_begins_at_what_the_stages_before_left(compress) -> None:
    _, plain = compress(INT2, {**HEAL, "steps": 1, "lr": 1e-12}, *PACK)
    _, unhealed = compress(INT2, *PACK)
    assert [point.step for point in only(plain).curve] == [0, 1]
    assert plain.file.bytes == unhealed.file.bytes


def test_the_report_says_how_it_went(compress, tiny_model: Path, tiny_task: dict[str, object]) -> None:
    _, report = compress(INT2, HEAL, *PACK)
    summary = only(report)
    assert summary.stage == 1
    assert summary.latent == "planes"
    assert summary.teacher == str(tiny_model)
    assert not summary.stronger_teacher
    assert (summary.rows, summary.held_out, summary.dropped) == (70, 20, 0)
    assert summary.steps == 60
    assert summary.best_step in [point.step for point in summary.curve]
    assert [point.step for point in summary.curve] == [0, 10, 20, 30, 40, 50, 60]
    assert summary.estimated_bytes is None
    assert summary.packed_bytes is None
    assert summary.price == 0
    assert summary.seconds > 0
    assert all(point.bits is None for point in summary.curve)
    heal_row = report.stages[1]
    assert heal_row.use == "heal"
    assert heal_row.planes > 10
    assert report.seconds["heal"] >= summary.seconds
    assert sum(row.bytes for row in report.bytes) == report.file.bytes


def test_epochs_are_passes_over_the_rows(compress) -> None:
    heal = {key: value for key, value in HEAL.items() if key != "steps"}
    assert only(compress(INT2, {**heal, "epochs": 3}, *PACK)[1]).steps == round(3 * 70 / 16)
    assert only(compress(INT2, heal, *PACK)[1]).steps == round(70 / 16)


def test_stages_before_and_after(compress) -> None:
    """What comes after heal takes what it has trained; a second one goes on with it."""
    once, healed = compress(INT2, HEAL, {"use": "cast", "on": "*/scale", "to": "float16"}, *PACK)
    assert {"int", "heal", "cast"} <= {stage.use for stage in healed.stages}
    assert any("scale: cast(values: zstd)" in describe(once.stack(name)) for name in once)
    assert only(healed).stage == 1

    _, early = compress(
        {"use": "seed", "on": "*word_embeddings.weight", "rank": 6}, HEAL, {"use": "int8", "on": "*.weight"}, *PACK
    )
    _, never = compress(
        {"use": "seed", "on": "*word_embeddings.weight", "rank": 6}, {"use": "int8", "on": "*.weight"}, *PACK
    )
    assert divergence(early) < divergence(never)


def test_several_heal_stages(compress) -> None:
    seed = {"use": "seed", "on": "*word_embeddings.weight", "rank": 6}
    _, report = compress(seed, {**HEAL, "steps": 30}, INT2, {**HEAL, "latent": "dense", "lr": 1e-3}, HEAL, *PACK)
    assert [(summary.stage, summary.latent) for summary in report.healing] == [
        (1, "planes"),
        (3, "dense"),
        (4, "planes"),
    ]
    first, second, third = ([point.divergence for point in summary.curve] for summary in report.healing)
    assert second[0] > min(first), "rounding to two bits undid much of the first"
    # The third goes on where the second ended, apart from rounding.
    assert third[0] == pytest.approx(min(second), rel=0.05)
    assert min(third) <= third[0]


def test_on_names_what_is_trained(compress) -> None:
    artifact, report = compress(INT2, {**HEAL, "on": "*encoder*"}, *PACK)
    plain, _ = compress(INT2, *PACK)
    assert report.stages[1].planes == sum("encoder" in name for name in plain)
    changed = {name for name in plain if not torch.equal(plain[name], artifact[name])}
    assert changed
    assert all("encoder" in name for name in changed)


def test_frozen_masks_stay_and_rechosen_ones_move(compress) -> None:
    stages = [{"use": "prune", "on": "*.dense.weight", "sparsity": 0.7}, {"use": "int", "on": "*/values", "bits": 6}]
    heal = {**HEAL, "latent": "dense", "lr": 2e-2, "steps": 120}
    plain, _ = compress(*stages, *PACK)
    frozen, _ = compress(*stages, heal, *PACK)
    rechosen, report = compress(*stages, {**heal, "masks": "rechosen", "evaluations": 1}, *PACK)
    names = [name for name in plain if name.endswith("dense.weight")]
    assert names
    for name in names:
        assert bool((frozen[name][plain[name] == 0] == 0).all())
        assert not torch.equal(frozen[name], plain[name])
    assert any(bool((rechosen[name][plain[name] == 0] != 0).any()) for name in names)
    assert only(report).best_step in (0, 120)
    kept = [sum(int((file[name] != 0).sum()) for name in names) for file in (plain, rechosen)]
    assert kept[1] <= kept[0] * 1.01


def test_ties_stay(tmp_path: Path, compress) -> None:
    model = tiny_classifier(tmp_path / "tied", tied=True)
    artifact, report = compress(INT2, {**HEAL, "steps": 20}, *PACK, model=str(model))
    assert only(report).steps == 20
    decoded = artifact.build()
    assert decoded.model.shared.weight is decoded.model.encoder.embed_tokens.weight


# ---- bits ----


def test_the_estimate_is_within_five_per_cent_of_what_is_packed(compress) -> None:
    artifact, report = compress(STEPS, {**HEAL, "rate": 1e-6}, *PACK)
    summary = only(report)
    assert summary.price == 1e-6
    assert summary.estimated_bytes is not None
    assert summary.packed_bytes is not None
    assert abs(summary.estimated_bytes - summary.packed_bytes) < 0.05 * summary.packed_bytes
    codes = [plane for name in artifact for plane in artifact.planes(name) if plane.planned.path.endswith("codes")]
    assert sum(plane.length for plane in codes) == summary.packed_bytes
    assert all(point.bits is not None and point.bits > 0 for point in summary.curve)
    last = summary.curve[-1]
    assert last.bits is not None
    assert last.bits / 8 == pytest.approx(report.file.bytes, rel=0.05)


def test_a_dearer_bit_makes_a_smaller_file(compress) -> None:
    sizes = [compress(STEPS, {**HEAL, "rate": rate}, *PACK)[1].file.bytes for rate in (0.0, 1e-5, 3e-5)]
    assert sizes[0] > 1.005 * sizes[1]
    assert sizes[1] > 1.1 * sizes[2]


def test_a_size_is_reached(compress) -> None:
    _, free = compress(STEPS, {**HEAL, "steps": 2}, *PACK)
    target = round(0.85 * free.file.bytes)
    _, report = compress(STEPS, {**HEAL, "steps": 150, "evaluations": 15, "bytes": target}, *PACK)
    assert 0.9 * target < report.file.bytes <= target
    assert not [note for note in report.notes if "above the" in note]


def test_a_size_that_is_out_of_reach_is_noted(compress) -> None:
    _, report = compress(STEPS, {**HEAL, "steps": 3, "bytes": 100}, *PACK)
    (note,) = [note for note in report.notes if "above the 100 that it was to have" in note]
    assert note.startswith(f"stages[1] (heal): the file is {report.file.bytes - 100:,} bytes above")
    assert only(report).price > 0


# ---- teachers, data, losses ----


def test_a_stronger_teacher_is_matched_and_named(tmp_path: Path, compress, tiny_model: Path) -> None:
    other = tiny_classifier(tmp_path / "other", seed=9)
    _, report = compress(INT2, {**HEAL, "teacher": str(other), "steps": 150}, *PACK)
    summary = only(report)
    assert summary.teacher == str(other)
    assert summary.stronger_teacher
    assert min(point.divergence for point in summary.curve) < 0.8 * summary.curve[0].divergence
    _, own = compress(INT2, {**HEAL, "steps": 150}, *PACK)
    assert divergence(report) > divergence(own), "it goes towards the teacher, away from the reference"


def test_further_text_is_trained_on_and_counted(tmp_path: Path, compress, reviews: Path) -> None:
    evaluated = reviews.read_text().splitlines()[1].split("\t")[0]
    further = tmp_path / "more.txt"
    further.write_text(f"{evaluated}\nthe view is never dull .\nthe view is clever and warm .\n")
    _, report = compress(INT2, {**HEAL, "data": [str(further)]}, *PACK)
    assert (only(report).rows, only(report).dropped) == (72, 1)
    assert only(report).sources[1:] == [str(further)]


def test_hidden_states_are_matched(compress) -> None:
    _, without = compress(INT2, HEAL, *PACK)
    _, report = compress(INT2, {**HEAL, "hidden": 1.0}, *PACK)
    assert only(report).curve[-1].loss > only(without).curve[-1].loss
    assert only(report).curve[-1].divergence < only(report).curve[0].divergence


def test_bfloat16(compress) -> None:
    _, report = compress(INT2, {**HEAL, "precision": "bfloat16"}, *PACK)
    curve = [point.divergence for point in only(report).curve]
    assert min(curve) < curve[0]


def test_patience_ends_a_training_that_gains_nothing(compress) -> None:
    heal = {**HEAL, "lr": 5.0, "patience": 2, "steps": 600, "evaluations": 60}
    summary = only(compress(INT2, heal, *PACK)[1])
    assert summary.steps < 600
    after = [point for point in summary.curve if point.step > summary.best_step]
    assert len(after) == 2
    assert all(point.divergence >= min(p.divergence for p in summary.curve) for point in after)


def test_a_training_that_goes_wrong_keeps_what_there_was(compress) -> None:
    _, plain = compress(INT2, *PACK)
    _, report = compress(INT2, {**HEAL, "lr": 2.0}, *PACK)
    assert only(report).best_step == 0
    assert divergence(report) == pytest.approx(divergence(plain), rel=1e-4)


def test_a_loss_that_is_not_finite_is_an_error(compress) -> None:
    said = refusal(compress, INT2, {**HEAL, "lr": 50.0}, error=ModelError)
    assert re.fullmatch(r"heal: the loss is not finite at step \d+; a smaller 'lr' than 50 may do", said)


# ---- the same bytes ----


RECIPE: list[Any] = [
    {"use": "prune", "on": "*word_embeddings.weight", "rows": 0.2},
    {"use": "seed", "on": "*word_embeddings.weight/values", "rank": 6},
    {"use": "int", "on": "*.weight", "step": 0.1},
    {**HEAL, "rate": 1e-5, "hidden": 0.1},
    {**HEAL, "latent": "dense", "masks": "rechosen", "lr": 1e-3, "steps": 50},
    *PACK,
]


#: Only the file and the trainings matter here.
QUICK: dict[str, Any] = {"evaluate": False, "every_stage": False}


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tiny_task: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing stopped."""
    recipe = {"task": tiny_task, "stages": RECIPE}
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        # Answers that were computed among other rows may differ in their last bit.
        patch.setenv("STACKC_CACHE", str(folder / "cache"))
        return stackc.run(recipe, str(tiny_model), output=folder / "whole", **QUICK)


@pytest.fixture
def run(tiny_model: Path, tiny_task: dict[str, object], tmp_path: Path) -> Callable[..., Run]:
    """Run a recipe into a folder of this test."""

    def into(name: str, stages: list[Any] = RECIPE, **options: Any) -> Run:
        recipe = {"task": tiny_task, "stages": stages, **options.pop("recipe", {})}
        return stackc.run(recipe, str(tiny_model), output=tmp_path / name, **QUICK, **options)

    return into


def curves(result: Run) -> list[Any]:
    return [(summary.best_step, summary.price, summary.curve) for summary in result.report.healing]


def test_the_lock_of_a_healed_run_gives_the_same_bytes(whole: Run, tmp_path: Path) -> None:
    again = stackc.run(whole.folder / "recipe.lock.yaml", output=tmp_path / "again")
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()
    assert again.report.notes == []
    assert curves(again) == curves(whole)


def test_another_seed_gives_other_bytes(run, whole: Run) -> None:
    assert run("other", recipe={"seed": 1}).artifact.read_bytes() != whole.artifact.read_bytes()


class Stopped(Exception):
    """In the place of a kill."""


@pytest.mark.parametrize("steps", [3, 40, 60, 100], ids=lambda steps: f"after {steps} steps")
def test_a_stopped_run_goes_on_to_the_same_bytes(run, whole: Run, steps: int, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stopping(patch, steps)
        with pytest.raises(Stopped):
            run("stopped")
    assert not (tmp_path / "stopped").exists()
    again = counting(monkeypatch)
    resumed = run("stopped", resume=True)
    assert resumed.artifact.read_bytes() == whole.artifact.read_bytes()
    assert (resumed.folder / "recipe.lock.yaml").read_text() == (whole.folder / "recipe.lock.yaml").read_text()
    assert curves(resumed) == curves(whole)
    # Checkpoints are written every 25 steps here, and at the end of each stage.
    done = steps // 25 * 25 if steps < 60 else 60 + (steps - 60) // 25 * 25
    assert again() == 110 - done
    assert not (tmp_path / ".stopped.checkpoints").exists()


def stopping(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Write checkpoints whenever that is possible, and stop after so many steps of all stages together."""
    patch.setitem(Checkpoints.__init__.__kwdefaults__, "interval", 0.0)  # type: ignore[arg-type]
    done = counting(patch)
    counted = Training._train_on

    def train_on(self: Training, batch: Any) -> None:
        if done() == steps:
            raise Stopped
        counted(self, batch)

    patch.setattr(Training, "_train_on", train_on)


def counting(patch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the steps of all trainings from here on."""
    count = 0
    before = Training._train_on

    def train_on(self: Training, batch: Any) -> None:
        nonlocal count
        count += 1
        before(self, batch)

    patch.setattr(Training, "_train_on", train_on)
    return lambda: count


KILLED = """
import os, signal, sys
import stackc
from stackc.util.checkpoints import Checkpoints
from stackc.healing.train import Training

Checkpoints.__init__.__kwdefaults__["interval"] = 0.0
before, count = Training._train_on, 0

def train_on(self, batch):
    global count
    count += 1
    if count == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    before(self, batch)

Training._train_on = train_on
recipe, model, output = sys.argv[1:]
stackc.run(recipe, model, output=output, evaluate=False, every_stage=False)
"""


def test_a_killed_process_is_resumed_by_another(tmp_path: Path, tiny_model: Path, tiny_task, whole: Run) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(msgspec.yaml.encode({"task": tiny_task, "stages": RECIPE}))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(recipe), str(tiny_model), str(tmp_path / "out")],
        capture_output=True,
        check=False,
        env=environment,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / ".out.checkpoints").iterdir())
    resumed = stackc.run(recipe, str(tiny_model), output=tmp_path / "out", resume=True, **QUICK)
    assert resumed.artifact.read_bytes() == whole.artifact.read_bytes()
    assert curves(resumed) == curves(whole)


def test_resuming_nothing_is_a_run(run, whole: Run) -> None:
    assert run("first", resume=True).artifact.read_bytes() == whole.artifact.read_bytes()


@pytest.fixture
def stopped(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The checkpoint of a run into ``out`` that was stopped in its first heal stage."""
    with monkeypatch.context() as patch:
        stopping(patch, 30)
        with pytest.raises(Stopped):
            run("out")
    (checkpoint,) = (tmp_path / ".out.checkpoints").rglob("*.pt")
    return checkpoint


def test_checkpoints_are_not_thrown_away_unasked(run, stopped: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(OutputError) as caught:
        run("out")
    assert str(caught.value) == (
        f"a run into {tmp_path / 'out'} was stopped and left checkpoints: go on with --resume, or begin anew with --overwrite"
    )
    assert stopped.exists()
    steps = counting(monkeypatch)
    run("out", overwrite=True)
    assert steps() == 110
    assert not stopped.exists()


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"rate": 2e-5}], ids=str)
def test_the_checkpoint_of_another_recipe_is_refused(run, stopped: Path, change: dict[str, Any]) -> None:
    stages = [*RECIPE[:3], {**RECIPE[3], **change}, *RECIPE[4:]]
    with pytest.raises(
        OutputError, match=r"was written by another training \(recipe, model, data or versions differ\)"
    ):
        run("out", stages, resume=True)
    assert stopped.exists()


def test_the_checkpoint_of_another_seed_is_refused(run, stopped: Path) -> None:
    with pytest.raises(OutputError, match="was written by another training"):
        run("out", resume=True, recipe={"seed": 3})


def test_a_damaged_checkpoint_is_named(run, stopped: Path) -> None:
    stopped.write_bytes(stopped.read_bytes()[: stopped.stat().st_size // 2])
    with pytest.raises(OutputError, match=r"stage-3\.pt is damaged \(.*\); delete it to begin anew"):
        run("out", resume=True)


def test_a_checkpoint_holds_no_code(stopped: Path) -> None:
    assert torch.load(stopped, weights_only=True)["state"]["step"] == 25


# ---- what cannot be ----


def refusal(compress: Any, *stages: Any, error: type[StackcError], **recipe: Any) -> str:
    with pytest.raises(error) as caught:
        compress(*stages, **recipe)
    return str(caught.value)


def test_a_size_that_is_not_known_yet(compress) -> None:
    said = refusal(compress, STEPS, {**HEAL, "bytes": "5kB"}, {"use": "cast", "to": "float16"}, error=RecipeError)
    assert said.startswith(
        "stages[1] (heal): 'bytes' aims at the size of the file, which is not known while cast comes after"
    )


def test_a_teacher_of_another_task(tmp_path: Path, compress) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    other = tiny_classifier(tmp_path / "three")
    config = AutoConfig.from_pretrained(other, num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(other)
    said = refusal(compress, INT2, {**HEAL, "teacher": str(other)}, error=ModelError)
    assert (
        said == f"stages[1] (heal): the teacher {other} has 3 classes, the model 2; choose a teacher of the same task"
    )


@pytest.mark.parametrize("on", ["*/codes", "*.weight/scale", "nothing.*"])
def test_planes_are_not_what_is_trained(compress, on: str) -> None:
    said = refusal(compress, INT2, {**HEAL, "on": on}, error=PlanError)
    assert f"stages[1] (heal) on {on} matches no tensor of real numbers; it trains whole tensors" in said


def test_what_others_share_is_not_trained_for_one(compress) -> None:
    one = {"use": "share", "on": "*.layer.*", "difference": False}
    said = refusal(compress, one, {**HEAL, "on": "*.layer.0.*"}, error=PlanError)
    assert (
        "stages[1] (heal): all that the tensors it matches store is shared with tensors that it does not match" in said
    )


def test_too_much_is_held_out(compress) -> None:
    said = refusal(compress, INT2, {**HEAL, "holdout": 90}, error=DataError)
    assert "holding out 90 of 90 different training rows leaves none to train on: set 'holdout' to 9" in said


def test_row_weights_are_for_transforms(compress) -> None:
    said = refusal(compress, INT2, {**HEAL, "weights": "token-counts"}, error=RecipeError)
    assert "weights" in said
    assert "heal" in said


def test_no_training_rows(compress, reviews: Path) -> None:
    said = refusal(compress, INT2, HEAL, error=StackcError, task={"name": "text-classification", "data": str(reviews)})
    assert "train" in said


def test_no_task(compress) -> None:
    assert "task" in refusal(compress, INT2, HEAL, error=StackcError, task="none")


def test_packed_tensors_cannot_be_trained_any_more(compress) -> None:
    _, report = compress(INT2, *PACK, HEAL)
    assert only(report).stage == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 1}, "give steps or epochs, not both"),
        ({"rate": 1e-6, "bytes": 100}, "give rate, a price of bits, or bytes"),
        ({"masks": "rechosen"}, "masks: rechosen goes with latent: dense"),
        ({"lr": 0}, "lr"),
        ({"bytes": "fifty"}, "fifty"),
        ({"latent": "both"}, "latent"),
        ({"data": ["missing.txt"]}, "missing.txt"),
    ],
    ids=str,
)
def test_settings_that_contradict(compress, change: dict[str, Any], message: str) -> None:
    assert message in refusal(compress, INT2, {**HEAL, **change}, error=StackcError)
