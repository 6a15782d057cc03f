"""The healing benchmark: runs that are shared out and stopped come together on one page."""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from stackc.reporting.report import read_report

FOLDER = Path(__file__).parents[2] / "benchmarks" / "healing"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Names of `run.py` and of `report.py`, imported as Python does for a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("STACKC_CACHE", str(tmp_path / "cache"))
    yield runpy.run_path(str(FOLDER / "run.py")), runpy.run_path(str(FOLDER / "report.py"))
    sys.modules.pop("run", None)


def test_controls_and_seeds_are_added_to_what_is_there(
    scripts, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    run, report = scripts
    recipe = {
        "model": str(tiny_model),
        "task": {
            "name": "text-classification",
            "data": str(reviews),
            "train": str(reviews.with_name("reviews-train.tsv")),
        },
        "stages": [
            {"use": "int", "step": 0.1},
            {"use": "heal", "bytes": "5kB", "steps": 4, "evaluations": 2, "holdout": 20},
            "context",
            "floats",
        ],
    }
    folders = [tmp_path / run["folder_of"]("350x", seed) for seed in (0, 1)]
    run["run_once"](recipe, folders[0], ("no-heal",))
    file = (folders[0] / "model.stackc").read_bytes()
    for _ in range(2):
        run["run_once"](recipe, folders[0], ("no-heal", "random-init"))
    run["run_once"]({**recipe, "seed": 1}, folders[1], ())
    assert (folders[0] / "model.stackc").read_bytes() == file
    reports = {seed: read_report(folder / "report.json") for seed, folder in enumerate(folders)}
    assert [row.control for row in reports[0].controls] == ["no-heal", "random-init"]
    assert all(row.score is not None and row.bytes > 0 for row in reports[0].controls)

    page = report["page"]([report["kept"]("350x", reports)], "head")
    mean = sum(each.file.bytes for each in reports.values()) / 2
    assert f"{mean:,.0f} bytes (2 seeds)" in page
    assert f"| 350x | random-init | {reports[0].controls[1].bytes:,} |" in page
    alone = report["page"]([report["kept"]("350x", {0: reports[0]})], "head")
    assert "seeds)" not in alone
    assert "## MiniLM" not in alone
    larger = report["page"]([report["kept"](name, reports) for name in ("350x", "minilm-100x")], "head")
    assert "| minilm-100x | random-init |" in larger.partition("## MiniLM")[2]


def test_stored_runs_stay_when_their_folders_are_gone(scripts, tmp_path: Path) -> None:
    _, report = scripts
    stored = [{"name": name, "bytes": 7} for name in ("no heal", "350x", "gone from the benchmark")]
    runs, read = report["collected"](stored, tmp_path)
    assert ([run["name"] for run in runs], read) == (["350x", "no heal"], []), "in the order of the page"
    assert runs == [stored[1], stored[0]]


def test_the_picture_is_of_one_reference(scripts, tmp_path: Path) -> None:
    _, report = scripts
    stored = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))["runs"]
    pictures = []
    for runs in (stored, [run for run in stored if run["name"] != "minilm-100x"]):
        report["picture"](runs, tmp_path / "picture.svg")
        pictures.append((tmp_path / "picture.svg").read_bytes())
    assert len(stored) > len([run for run in stored if run["name"] != "minilm-100x"])
    assert pictures[0] == pictures[1]


def test_the_larger_model_is_its_own_teacher(scripts) -> None:
    run, _ = scripts
    arguments = argparse.Namespace(model="small", teacher="large", data="dev.tsv", train="train.tsv")
    for each in [*run["HEADLINES"], *run["LARGER"]]:
        recipe = run["recipe_of"](each, arguments)
        (heal,) = [stage for stage in recipe["stages"] if isinstance(stage, dict) and stage["use"] == "heal"]
        larger = each in run["LARGER"]
        assert (recipe["model"], heal.get("teacher")) == (("large", None) if larger else ("small", "large"))
