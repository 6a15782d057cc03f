"""Tasks are found by name, as plugins, without torch; what a recipe gets wrong is an error that says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from stackc.tasks import find_task, task_names
from stackc.tasks.none import NoTask
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError, DependencyError, RecipeError


def test_a_name_with_fields_is_a_value() -> None:
    task = find_task({"name": "text-classification", "data": "a.csv", "limit": 5})
    assert task == TextClassification(data="a.csv", limit=5)
    assert hash(task) == hash(TextClassification(data="a.csv", limit=5))
    assert find_task(msgspec.to_builtins(task) | {"name": task.name}) == task
    assert find_task("none") == find_task({"name": "none"}) == NoTask()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "text-clasification",
            "unknown task 'text-clasification', did you mean 'text-classification'. Installed are none,",
        ),
        ({"name": "zzz"}, "unknown task 'zzz'. Installed are"),
        ({"name": 3}, "unknown task 3"),
        ({"data": "a.csv"}, "the task has no name"),
    ],
)
def test_unknown_names_are_recipe_errors(value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        find_task(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "missing required field `data`"),
        ({"data": "a.csv", "batchsize": 3}, "unknown field `batchsize`"),
        ({"data": "a.csv", "batch_size": "3"}, r"`int`, got `str` - at `\$.batch_size`"),
        ({"data": "a.csv", "batch_size": 0}, r">= 1 - at `\$.batch_size`"),
        ({"data": "a.csv", "limit": 0}, r">= 1 - at `\$.limit`"),
        ({"data": "a.csv", "max_length": 0}, r">= 1 - at `\$.max_length`"),
        ({"data": 3}, r"`str`, got `int` - at `\$.data`"),
    ],
)
def test_wrong_fields_are_validation_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        find_task({"name": "text-classification", **fields})


def test_no_task_measures_nothing_and_has_no_texts() -> None:
    task = NoTask()
    task.check()
    assert task.prepare(None, None) is None
    with pytest.raises(DataError, match="no task"):
        task.calibration_texts()
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        find_task({"name": "none", "data": "a.csv"})


def test_another_package_can_add_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "measures-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: measures\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(
        "[stackc.tasks]\nplain = measures_task:Plain\nbroken = measures_absent:Broken\n"
    )
    (tmp_path / "measures_task.py").write_text(
        "from typing import ClassVar\n"
        "from stackc.tasks.none import NoTask\n"
        "class Plain(NoTask, frozen=True):\n"
        "    name: ClassVar[str] = 'plain'\n"
        "    words: int = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert {"plain", "none", "text-classification"} <= set(task_names())
    assert msgspec.to_builtins(find_task({"name": "plain", "words": 3})) == {"words": 3}
    with pytest.raises(DependencyError, match="task 'broken' of package measures does not import: No module named"):
        find_task("broken")


def test_planning_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\n"
        "from stackc.tasks import find_task\n"
        "find_task({'name': 'text-classification', 'data': 'reviews.tsv', 'train': 'reviews-train.tsv'}).check()\n"
        "import stackc.tasks.row_weights\n"
        "heavy = {'torch', 'numpy', 'scipy', 'transformers', 'datasets', 'pyarrow', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
