"""Results that are complete or not there, also after a process was killed at the worst moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stackc.runs.runner import replacing_folder
from stackc.util.partial import atomic_file, partial_folder, recover, temporary_name

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks")

#: Replaces the folder ``out``, and dies without a word at the n-th rename, before or after it.
KILLED = """
import os, pathlib, sys
import stackc.util.partial as partial
from stackc.runs.runner import replacing_folder
swaps, when, number = sys.argv[1] == "swap", sys.argv[2], int(sys.argv[3])
count = 0
def dying(rename):
    def one(*names):
        global count
        count += 1
        if count == number and when == "before":
            os._exit(9)
        result = rename(*names)
        if count == number:
            os._exit(9)
        return result
    return one
if swaps:
    partial._swap = dying(partial._swap)
else:
    partial._swap = lambda one, other: False
    pathlib.Path.replace = dying(pathlib.Path.replace)
with replacing_folder(pathlib.Path("out")) as folder:
    (folder / "new").touch()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("way", "when", "number", "left"),
    [
        ("swap", "before", 1, "old"),
        ("swap", "after", 1, "new"),
        ("renames", "before", 1, "old"),
        ("renames", "after", 1, None),
        ("renames", "before", 2, None),
        ("renames", "after", 2, "new"),
    ],
)
def test_of_two_results_one_is_there_wherever_a_process_dies(
    tmp_path: Path, way: str, when: str, number: int, left: str | None
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").touch()
    arguments = [sys.executable, "-c", KILLED, way, when, str(number)]
    assert subprocess.run(arguments, cwd=tmp_path, timeout=60, check=False).returncode == 9
    if left is not None:
        assert names(tmp_path / "out") == [left]
    recover(tmp_path / "out")
    assert names(tmp_path / "out") == [left or "old"]
    assert names(tmp_path) == ["out"]


def test_the_next_run_removes_what_a_dead_process_has_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dead = temporary_name(out)
    dead.mkdir()
    (dead / "half").touch()
    others = temporary_name(tmp_path / "another")
    others.mkdir()
    with partial_folder(out) as living:
        assert not dead.exists()
        recover(out)
        with replacing_folder(out) as folder:
            (folder / "new").touch()
        assert living.exists()
    assert names(tmp_path) == sorted([others.name, "out"])


def test_partial_files_of_dead_processes_go_too(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    dead = temporary_name(path)
    dead.touch()
    with atomic_file(path) as outer:
        assert not dead.exists()
        with atomic_file(path) as inner:
            assert outer.exists()
            inner.write_text("inner")
        outer.write_text("outer")
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "outer"


def test_a_library_may_put_another_file_under_the_name(tmp_path: Path) -> None:
    """As safetensors does: what is on its way is still that of a living process."""
    path = tmp_path / "a"
    with atomic_file(path) as temporary:
        other = tmp_path / "other"
        other.write_text("other")
        other.replace(temporary)
        recover(path)
    assert path.read_text() == "other"
    assert names(tmp_path) == ["a"]
