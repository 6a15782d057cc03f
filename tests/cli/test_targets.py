"""``--target-ratio`` and ``--target-bytes``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke

AUTO = "stages: [{use: int, step: auto}, zstd]\n"


@pytest.fixture
def auto(tmp_path: Path) -> Path:
    path = tmp_path / "auto.yaml"
    path.write_text(AUTO)
    return path


@pytest.mark.parametrize(("option", "value"), [("--target-ratio", "5"), ("--target-bytes", "5.4kB")])
def test_a_run_keeps_to_the_target(stackc: Invoke, auto: Path, classifier: Path, tmp_path: Path, option, value) -> None:
    result = stackc("run", auto, "--model", classifier, "--output", tmp_path / "out", option, value)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    target = report["allocation"]["target_bytes"]
    assert target == (5400 if option == "--target-bytes" else report["model"]["bytes"] // 5)
    assert 0.99 * target <= report["file"]["bytes"] <= target
    assert "allocated to 41 planes by weight-error" in " ".join(result.stdout.split())


def test_check_plans_with_a_target(stackc: Invoke, auto: Path, classifier: Path) -> None:
    result = stackc("check", auto, "--model", classifier, "--target-bytes", "5.4kB")
    assert result.exit_code == 0, result.output
    assert "at most" in result.stdout


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_missing_target_is_an_error(stackc: Invoke, auto: Path, classifier: Path, command: str) -> None:
    result = stackc(command, auto, "--model", classifier)
    assert result.exit_code == 1
    assert "leaves step: auto to the rate allocation, which has no target" in " ".join(result.stderr.split())


def test_both_targets_are_an_error(stackc: Invoke, auto: Path, classifier: Path) -> None:
    result = stackc("check", auto, "--model", classifier, "--target-bytes", "5kB", "--target-ratio", "3")
    assert result.exit_code == 1
    assert "give exactly one of ratio and bytes, not both" in " ".join(result.stderr.split())


def test_inspect_shows_what_was_chosen(stackc: Invoke, auto: Path, classifier: Path, tmp_path: Path) -> None:
    assert stackc("run", auto, "-m", classifier, "-o", tmp_path / "out", "--target-ratio", "5").exit_code == 0
    result = stackc("inspect", tmp_path / "out" / "model.stackc", "--json")
    assert result.exit_code == 0, result.output
    assert "auto" not in result.stdout.replace("auto.yaml", "")
