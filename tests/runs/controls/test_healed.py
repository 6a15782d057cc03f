"""Controls of a healed result: unhealed, on random weights at the result's size, and linear on the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stackc
from stackc.recipe.controls import CONTROL_NAMES
from stackc.reporting.report import ControlRow, Report
from stackc.reporting.table import summary_lines

HEAL = {"use": "heal", "steps": 6, "batch_size": 16, "holdout": 20, "evaluations": 2, "rate": 1e-6}


@pytest.fixture(scope="module")
def further(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlabelled texts, two of which are evaluated."""
    evaluated = [line.split("\t")[0] for line in reviews.read_text().splitlines()[1:3]]
    path = tmp_path_factory.mktemp("further") / "more.txt"
    path.write_text("\n".join([*evaluated, "the script is often funny and the camera moving .", "a dull view of it ."]))
    return path


@pytest.fixture(scope="module")
def report(tiny_model: Path, own_task: dict[str, object], further: Path) -> Report:
    stages: list[Any] = [
        {"use": "int", "on": "*.weight", "step": 0.1},
        {**HEAL, "data": [str(further)]},
        {"use": "ans", "on": "*/codes"},
        "zstd",
    ]
    _, report = stackc.compress(str(tiny_model), {"task": own_task, "stages": stages}, controls=["all"], seeds=2)
    return report


def row(report: Report, name: str) -> ControlRow:
    return next(row for row in report.controls if row.control == name)


def test_every_control_was_run(report: Report) -> None:
    assert tuple(row.control for row in report.controls) == CONTROL_NAMES
    assert all(row.score is not None for row in report.controls), [row.verdict for row in report.controls]
    assert report.seeds is not None
    assert len(report.seeds.runs) == 2


def test_random_weights_are_healed_towards_the_same_teacher_at_the_results_size(report: Report) -> None:
    control = row(report, "random-init")
    assert "its price of bits steered towards the result's size" in control.description
    assert control.verdict.startswith("beats its random-init control")
    assert ("no control at equal bytes" in control.verdict) == (control.bytes < 0.9 * report.file.bytes)


def test_no_heal_is_the_rest_of_the_recipe(report: Report, tiny_model: Path, own_task: dict[str, object]) -> None:
    stages = [{"use": "int", "on": "*.weight", "step": 0.1}, {"use": "ans", "on": "*/codes"}, "zstd"]
    _, plain = stackc.compress(str(tiny_model), {"task": own_task, "stages": stages})
    assert row(report, "no-heal").bytes == plain.file.bytes
    assert row(report, "no-heal").score == plain.final.score


def test_the_linear_control_has_the_texts_of_the_heal_stage(report: Report) -> None:
    (healing,) = report.healing
    # The two evaluated texts are in neither.
    assert healing.dropped == 2
    assert f"ridge regression on {healing.rows:,} rows" in row(report, "linear").description


def test_all_of_it_is_said(report: Report) -> None:
    said = "\n".join(summary_lines(report))
    assert "2 rows were dropped, being evaluated or held out" in said
    assert all(row.verdict in said for row in report.controls)
    assert "mean of 2 seeds (0, 1)" in said


def test_a_result_that_owes_its_reference_nothing_is_told_so(tiny_model: Path, tiny_task: dict[str, object]) -> None:
    # The labels are none that the model knows: it is right by chance, and so is its control.
    recipe = {"task": tiny_task, "stages": ["int8", {**HEAL, "steps": 1, "rate": 0.0}, "zstd"]}
    _, report = stackc.compress(str(tiny_model), recipe, controls=["random-init"])
    (control,) = report.controls
    assert control.verdict.startswith("does not beat its random-init control")
    assert control.verdict.endswith("nothing shows that the stored reference, and not the training, did the work")
    assert control.description == "the same recipe on a random initialisation (seed 0)"
