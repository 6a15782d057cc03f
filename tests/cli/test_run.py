"""``stackc run`` writes a file, a report and a lock, and prints what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import Result

from stackc.reporting.report import read_report
from tests.cli.conftest import Invoke

SMALL = "stages: [int8, zstd]\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_the_output_ends_with_the_three_files(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert sorted(path.name for path in folder.iterdir()) == ["model.stackc", "recipe.lock.yaml", "report.json"]
    lines = result.stdout.rstrip().splitlines()
    assert lines[-3:] == [
        f"file    {folder / 'model.stackc'}",
        f"report  {folder / 'report.json'}",
        f"lock    {folder / 'recipe.lock.yaml'}",
    ]
    assert result.stderr == ""


def test_the_table_has_the_reference_and_every_stage(finished: tuple[Path, Result]) -> None:
    rows = [line.split()[0] for line in finished[1].stdout.splitlines() if line.strip()]
    start = rows.index("reference")
    assert rows[start : start + 6] == ["reference", "prune", "seed", "int", "ans", "zstd"]


def test_the_words_agree_with_the_file(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    size = (folder / "model.stackc").stat().st_size
    report = read_report(folder / "report.json")
    assert f"model.stackc: {size:,} bytes" in result.stdout
    assert report.file.bytes == size
    assert report.final.score is not None
    assert report.final.score.verdict in result.stdout


def test_json_alone_is_on_stdout(stackc: Invoke, small: Path, classifier: Path, tmp_path: Path) -> None:
    result = stackc("run", small, "--model", classifier, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    written = (tmp_path / "out" / "report.json").read_text()
    assert result.stdout == written
    assert [row["use"] for row in json.loads(result.stdout)["stages"]] == ["int8", "zstd"]
    assert result.stderr == ""


def test_quiet_prints_nothing(stackc: Invoke, small: Path, classifier: Path, tmp_path: Path) -> None:
    result = stackc("run", small, "--model", classifier, "--output", tmp_path / "out", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "out" / "model.stackc").is_file()


def test_quick_has_one_row_for_the_whole_recipe(
    stackc: Invoke, small: Path, classifier: Path, reviews: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = stackc("run", small, "--model", classifier, "--task", reviews, "--output", out, "--quick")
    assert result.exit_code == 0, result.output
    report = read_report(out / "report.json")
    assert [row.use for row in report.stages] == ["small"]
    assert report.stages[0].bytes_if_stopped_here == report.file.bytes


def test_task_takes_a_data_file(stackc: Invoke, small: Path, classifier: Path, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("run", small, "--model", classifier, "--task", reviews, "--set", "task.limit=40", "--output", out)
    result = stackc(*arguments, "--quick")
    assert result.exit_code == 0, result.output
    report = read_report(out / "report.json")
    assert report.final.score is not None
    assert (report.task["task"], report.final.score.rows) == ("text-classification", 40)


def test_no_eval_measures_no_task(stackc: Invoke, recipe: Path, tmp_path: Path) -> None:
    result = stackc("run", recipe, "--no-eval", "--quick", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert read_report(tmp_path / "out" / "report.json").final.score is None
    assert "accuracy" not in result.stdout
    assert "not evaluated on a task" in result.stdout


def test_set_changes_one_value(stackc: Invoke, small: Path, classifier: Path, tmp_path: Path) -> None:
    arguments = ("run", small, "--model", classifier, "--set", "stages[1].level=3", "--set", "seed=7", "--quick")
    result = stackc(*arguments, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lock = (tmp_path / "out" / "recipe.lock.yaml").read_text()
    assert "level: 3" in lock
    assert "seed: 7" in lock


def test_a_shipped_recipe_is_found_by_name(
    stackc: Invoke, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = stackc("run", "recipes/int8.yaml", "--model", classifier, "--task", "none", "--quick")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "int8" / "model.stackc").is_file()


def test_an_existing_folder_needs_overwrite(stackc: Invoke, small: Path, classifier: Path, tmp_path: Path) -> None:
    arguments = ("run", small, "--model", classifier, "--output", tmp_path / "out", "--quick")
    assert stackc(*arguments).exit_code == 0
    before = (tmp_path / "out" / "model.stackc").read_bytes()
    refused = stackc(*arguments, "--set", "stages[0].symmetric=false")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "out" / "model.stackc").read_bytes() == before
    replaced = stackc(*arguments, "--set", "stages[0].symmetric=false", "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert (tmp_path / "out" / "model.stackc").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "stages[0].bitz=4"), ("stages[0].bitz", "did you mean 'bits'?")),
        (("--set", "stages[7].bits=4"), ("stages[7]", "2 items")),
        (("--task", "text-clasification"), ("did you mean 'text-classification'?",)),
        (("--task", "[1"), ("--task '[1'",)),
        (("--task", "missing.tsv"), ("there is no file 'missing.tsv'",)),
        (("--model", "no/such/folder"), ("no/such/folder",)),
    ],
)
def test_mistakes_are_one_sentence(
    stackc: Invoke, classifier: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"model: {classifier}\nstages: [int, zstd]\n")
    result = stackc("run", path, *arguments, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_names_the_nearest(stackc: Invoke) -> None:
    result = stackc("run", "prune+seed+int9")
    assert result.exit_code == 1
    assert "did you mean 'prune+seed+int8'?" in result.stderr


def test_controls_and_seeds_are_shown(stackc: Invoke, classifier: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(f"task: {{name: text-classification, data: {reviews}}}\n{SMALL}")
    result = stackc(
        "run", recipe, "-m", classifier, "-o", tmp_path / "out", "--control", "random-init", "--seeds", "2", "--quick"
    )
    assert result.exit_code == 0, result.output
    assert "result ahead by points" in result.stdout
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert "random-init" in rows
    assert "beat its random-init control" in result.stdout or "beats its random-init control" in result.stdout
    assert "mean of 2 seeds (0, 1)" in result.stdout
    report = read_report(tmp_path / "out" / "report.json")
    assert [row.control for row in report.controls] == ["random-init"]


def test_a_control_that_does_not_exist(stackc: Invoke, small: Path, classifier: Path, tmp_path: Path) -> None:
    result = stackc("run", small, "-m", classifier, "-o", tmp_path / "out", "--control", "lineer")
    assert result.exit_code != 0
    assert "did you mean 'linear'" in result.stderr
    assert not (tmp_path / "out").exists()
