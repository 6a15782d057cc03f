"""``stackc compare`` puts two results side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stackc.reporting.report import read_report
from tests.cli.conftest import Invoke


@pytest.fixture(scope="module")
def other(stackc: Invoke, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same recipe with 8 bits."""
    folder = tmp_path_factory.mktemp("runs") / "eight"
    result = stackc("run", recipe, "--set", "stages[2].bits=8", "--output", folder, "--quick", "--quiet")
    assert result.exit_code == 0, result.output
    return folder


def test_two_runs(stackc: Invoke, artifact: Path, other: Path) -> None:
    found = json.loads(stackc("compare", artifact.parent, other, "--json").stdout)
    for key, folder in (("a", artifact.parent), ("b", other)):
        report = read_report(folder / "report.json")
        assert found[key]["file_bytes"] == report.file.bytes == (folder / "model.stackc").stat().st_size
        assert sum(found[key]["bytes_by_role"].values()) == report.file.bytes
        assert found[key]["ratio"] == report.file.ratio
        assert report.final.score is not None
        assert found[key]["score"]["value"] == report.final.score.value


def test_the_table_says_how_they_differ(stackc: Invoke, artifact: Path, other: Path) -> None:
    lines = stackc("compare", artifact.parent, other / "report.json").stdout.splitlines()
    a, b = (folder.joinpath("model.stackc").stat().st_size for folder in (artifact.parent, other))
    size = next(line for line in lines if line.startswith("file, bytes")).split()
    assert size[2:] == [f"{a:,}", f"{b:,}", "x", f"{b / a:.2f}"]
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    assert accuracy.rstrip().endswith("points")


def test_a_bare_file_has_sizes_only(stackc: Invoke, artifact: Path, other: Path) -> None:
    found = json.loads(stackc("compare", artifact, other, "--json").stdout)
    assert found["a"]["file_bytes"] == artifact.stat().st_size
    assert found["a"]["score"] is None
    text = stackc("compare", artifact, other).stdout
    assert "accuracy" in text


def test_other_data_is_pointed_out(stackc: Invoke, recipe: Path, artifact: Path, tmp_path: Path) -> None:
    arguments = ("run", recipe, "--set", "task.limit=30", "--quick", "--quiet", "--output", tmp_path / "out")
    assert stackc(*arguments).exit_code == 0
    assert "different data" in stackc("compare", artifact.parent, tmp_path / "out").stdout


def test_other_folders_and_files_are_refused(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    for path, words in ((tmp_path, "folder of a run"), (tmp_path / "none.json", "cannot be read")):
        result = stackc("compare", artifact, path)
        assert result.exit_code == 1
        assert words in result.stderr
