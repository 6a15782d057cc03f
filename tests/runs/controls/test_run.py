"""A result is compared with its controls, repeated under seeds, and only rows of the report remain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import stackc
import stackc.runs.runner
from stackc.healing.settings import Heal
from stackc.recipe.parse import load_recipe, recipe_from
from stackc.recipe.recipe import Stage
from stackc.reporting.report import Report, SeedRow, read_report
from stackc.reporting.table import summary_lines
from stackc.runs.controls import linear
from stackc.runs.controls.run import alone, steered, summarise_seeds
from stackc.util.errors import DataError, RecipeError
from stackc.util.progress import Progress


@pytest.fixture(scope="module")
def finished(
    tiny_model: Path, own_task: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> stackc.runs.runner.Run:
    folder = tmp_path_factory.mktemp("runs") / "all"
    recipe = {"task": own_task, "stages": ["int8", "zstd"]}
    return stackc.run(recipe, str(tiny_model), output=folder, controls=["all"], seeds=2)


def control(report: Report, name: str) -> Any:
    (row,) = [row for row in report.controls if row.control == name]
    return row


def test_a_control_that_must_lose_does(finished: stackc.runs.runner.Run) -> None:
    report = finished.report
    row = control(report, "random-init")
    assert row.score is not None
    assert report.final.score is not None
    assert report.final.score.value > 0.95
    assert row.verdict.startswith("beats its random-init control by ")
    assert row.difference == pytest.approx(report.final.score.value - row.score.value)
    assert 0 < row.difference_low < row.difference < row.difference_high
    assert row.mcnemar_p < 0.05
    assert row.verdict in "\n".join(summary_lines(report))


def test_the_same_recipe_makes_a_file_of_about_the_same_size(finished: stackc.runs.runner.Run) -> None:
    assert control(finished.report, "random-init").bytes == pytest.approx(finished.report.file.bytes, rel=0.1)


def test_the_linear_control_has_the_bytes_and_the_teacher_of_the_result(finished: stackc.runs.runner.Run) -> None:
    row = control(finished.report, "linear")
    assert 0 < row.bytes <= finished.report.file.bytes
    assert row.score.rows == finished.report.final.score.rows
    assert "ridge regression on 81 rows towards the answers of" in row.description


def test_seeds_are_run_and_the_first_is_kept(finished: stackc.runs.runner.Run) -> None:
    seeds = finished.report.seeds
    assert seeds is not None
    assert [run.seed for run in seeds.runs] == [0, 1]
    # Nothing in these stages is random.
    assert seeds.bytes.mean == finished.report.file.bytes
    assert seeds.bytes.deviation == 0
    assert seeds.value is not None
    assert seeds.value.mean == finished.report.final.score.value  # type: ignore[union-attr]
    assert seeds.retention is not None


def test_only_rows_remain(finished: stackc.runs.runner.Run) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == [
        "model.stackc",
        "recipe.lock.yaml",
        "report.json",
    ]
    assert read_report(finished.folder / "report.json") == finished.report
    locked = load_recipe(finished.folder / "recipe.lock.yaml")
    assert locked.controls == ("random-init", "linear")
    assert locked.seeds == 2


def test_the_file_is_the_one_without_controls(
    finished: stackc.runs.runner.Run, tiny_model: Path, own_task: dict[str, object], tmp_path: Path
) -> None:
    recipe = {"task": own_task, "stages": ["int8", "zstd"]}
    _, report = stackc.compress(str(tiny_model), recipe, tmp_path / "plain.stackc")
    assert (tmp_path / "plain.stackc").read_bytes() == finished.artifact.read_bytes()
    assert (report.controls, report.seeds) == ([], None)


def test_a_control_that_fails_takes_nothing_with_it(
    tiny_model: Path, own_task: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise DataError("no linear model fits in 3 bytes")

    monkeypatch.setattr("stackc.runs.controls.run.fit_linear", refuse)
    assert linear.fit_linear is not refuse
    recipe = {"task": own_task, "stages": ["int8", "zstd"], "controls": ["linear"]}
    _, report = stackc.compress(str(tiny_model), recipe)
    (row,) = report.controls
    assert row.verdict == "the linear control could not be run: no linear model fits in 3 bytes"
    assert (row.score, row.bytes) == (None, 0)
    assert f"{row.verdict}" in summary_lines(report)


def test_what_cannot_be_had_is_refused_before_any_work(tiny_model: Path, own_task: dict[str, object]) -> None:
    class Nothing(Progress):
        def task(self, description: str, total: int) -> Any:
            raise AssertionError(description)

    recipe = {"task": own_task, "stages": ["int8", "zstd"]}
    with pytest.raises(RecipeError, match="no-heal leaves out the heal stages"):
        stackc.compress(str(tiny_model), recipe, controls=["no-heal"], progress=Nothing())
    with pytest.raises(RecipeError, match="no --no-eval"):
        stackc.compress(str(tiny_model), recipe, controls=["linear"], evaluate=False, progress=Nothing())


def test_progress_says_which_run_it_is(tiny_model: Path, own_task: dict[str, object]) -> None:
    seen: list[str] = []

    class Seen(Progress):
        def task(self, description: str, total: int) -> Any:
            seen.append(description)
            return super().task(description, total)

    recipe = {"task": own_task, "stages": ["int8"], "controls": ["random-init"], "seeds": 2}
    stackc.compress(str(tiny_model), recipe, progress=Seen())
    assert "encode" in seen
    assert "seed 1: encode" in seen
    assert "random-init: encode" in seen


def test_heal_stages_of_a_control_aim_at_the_results_size() -> None:
    plain = recipe_from({"stages": ["int8", "zstd"]})

    def with_heal(*stages: Stage) -> Any:
        return msgspec.structs.replace(plain, stages=stages)

    quantise, pack = plain.stages
    priced = with_heal(quantise, Stage("heal", Heal(rate=1e-6)), pack)
    assert steered(priced, 1, 5000).config == Heal(bytes=5000)
    assert steered(with_heal(quantise, Stage("heal", Heal(bytes="9kB"))), 1, 5000).config == Heal(bytes=5000)
    # Without a price there is nothing to steer, and before a transform the size is not known.
    free = with_heal(quantise, Stage("heal", Heal()), pack)
    assert steered(free, 1, 5000) == free.stages[1]
    early = with_heal(Stage("heal", Heal(rate=1e-6)), quantise, pack)
    assert steered(early, 0, 5000) == early.stages[0]
    assert steered(priced, 0, 5000) == quantise


def test_a_control_is_run_once_and_unlocked() -> None:
    recipe = recipe_from({"stages": ["int8"], "controls": ["linear"], "seeds": 3, "seed": 5})
    once = alone(recipe, seed=6)
    assert (once.controls, once.seeds, once.seed, once.lock, once.stages) == ((), 1, 6, None, recipe.stages)


def test_spreads_are_missing_where_a_score_is() -> None:
    summary = summarise_seeds([SeedRow(seed=n, bytes=1000 + 2 * n, score=None) for n in range(2)])
    assert summary.bytes.mean == 1001
    assert summary.bytes.deviation == pytest.approx(2**0.5)
    assert (summary.value, summary.retention) == (None, None)
