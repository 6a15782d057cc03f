"""Kernels are compiled wherever they run; their machine code is kept where that is possible, and nothing fails where it is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import stackc.recipes
import stackc.transforms

ROOT = Path(stackc.__file__).parents[1]
KERNELS = [
    *Path(stackc.transforms.__path__[0]).rglob("_*kernel.py"),
    *Path(stackc.__file__).parent.rglob("_*kernel.py"),
]

#: Runs a kernel and says where its machine code is.
SCRIPT = """
import sys
import numpy
sys.path.insert(0, sys.argv[1])
from _kernel import total
print(total(numpy.arange(5)))
print(total.stats.cache_path, sum(total.stats.cache_hits.values()))
"""

KERNEL = """
from stackc.util.compiled import compiled
from _other_kernel import step

@compiled
def total(values):
    result = 0
    for value in values:
        result += step(value)
    return result
"""

OTHER = """
from stackc.util.compiled import compiled

@compiled(inline="always")
def step(value):
    return value + FACTOR
"""


def test_every_kernel_is_compiled_by_the_one_decorator() -> None:
    assert len(KERNELS) > 5
    for file in KERNELS:
        text = file.read_text(encoding="utf-8")
        assert re.search(r"^from stackc\.util\.compiled import compiled$", text, re.MULTILINE), file
        assert not re.search(r"^\s*(import|from) numba", text, re.MULTILINE), file


class Place:
    """A folder of two kernels, and a process that runs one of them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir()
        self.write(1)

    def write(self, factor: int) -> None:
        (self.source / "_kernel.py").write_text(KERNEL)
        (self.source / "_other_kernel.py").write_text(OTHER.replace("FACTOR", str(factor)))

    def obstruct(self) -> None:
        """Nothing can be kept beside the source any more; not by the superuser either, who heeds no permissions."""
        shutil.rmtree(self.source / "__pycache__", ignore_errors=True)
        (self.source / "__pycache__").touch()

    def run(self, **variables: str) -> tuple[int, str, int]:
        """What the kernel returns, the folder of its machine code, and how often it was found there."""
        unset = {"HOME", "XDG_CACHE_HOME", "STACKC_CACHE", "NUMBA_CACHE_DIR"}
        environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(self.source)],
            capture_output=True,
            text=True,
            env=environment | {"PYTHONPATH": str(ROOT)},
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        value, kept = done.stdout.splitlines()
        folder, hits = kept.rsplit(" ", 1)
        return int(value), folder, int(hits)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_machine_code_is_kept_beside_the_source(place: Place) -> None:
    assert place.run(HOME="~") == (15, str(place.source / "__pycache__"), 0)
    assert place.run(HOME="~") == (15, str(place.source / "__pycache__"), 1)
    place.write(2)  # of the kernel that is called, in another file
    assert place.run(HOME="~") == (20, str(place.source / "__pycache__"), 0)


def test_damaged_machine_code_is_compiled_again(place: Place) -> None:
    place.run(HOME="~")
    for file in (place.source / "__pycache__").glob("*.nb?"):
        file.write_bytes(b"damaged")
    assert place.run(HOME="~")[0] == 15


def test_without_a_place_each_process_compiles(place: Place) -> None:
    place.obstruct()
    nowhere = str(place.source / "_kernel.py" / "home")  # no folder can be made below a file
    assert place.run(HOME=nowhere) == (15, "None", 0)
    assert place.run(HOME="~") == (15, "None", 0)
    assert place.run(HOME="/nonexistent", STACKC_CACHE=nowhere) == (15, "None", 0)
    assert sorted(entry.name for entry in place.folder.iterdir()) == ["source"]


def test_the_cache_folder_is_the_next_best_place(place: Place) -> None:
    place.obstruct()
    for variables in ({"STACKC_CACHE": "kept"}, {"XDG_CACHE_HOME": "shared"}, {"HOME": "home"}):
        absolute = {name: str(place.folder / value) for name, value in variables.items()}
        value, folder, hits = place.run(**absolute)
        assert (value, hits) == (15, 0)
        assert Path(folder).is_relative_to(next(iter(absolute.values())))
        assert Path(folder).parent.name == "kernels"
        assert place.run(**absolute) == (15, folder, 1)
    other = str(place.folder / "numba")
    assert place.run(NUMBA_CACHE_DIR=other)[1].startswith(other)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no owners of files")
def test_code_is_not_taken_from_where_others_can_put_it(place: Place) -> None:
    place.obstruct()
    kept = {"STACKC_CACHE": str(place.folder / "kept")}
    folder = Path(place.run(**kept)[1])
    folder.chmod(0o777)
    assert place.run(**kept) == (15, "None", 0)


def test_a_run_needs_no_place_to_write_but_its_output(tmp_path: Path) -> None:
    """The whole package where nothing can be kept, for a user without a home; and nothing appears in the working folder."""
    package = tmp_path / "package" / "stackc"
    shutil.copytree(Path(stackc.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, module in (("transforms", stackc.transforms), ("recipes", stackc.recipes)):
        shutil.copytree(module.__path__[0], package / name, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (package, package / "transforms"):
        (folder / "__pycache__").touch()
    work = tmp_path / "work"
    work.mkdir()
    script = (
        "import stackc, torch; assert 'package' in stackc.__file__\n"
        "torch.manual_seed(0); artifact, report = stackc.compress(torch.nn.Linear(40, 30), {'stages': ['floats']})\n"
        "print(report.file.sha256)"
    )
    unset = {"XDG_CACHE_HOME", "STACKC_CACHE", "NUMBA_CACHE_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    found = [
        subprocess.run(
            [sys.executable, "-c", script.replace("'package' in", check)],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"HOME": "~", "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=work,
        ).stdout
        for path, check in ((package.parent, "'package' in"), (ROOT, "'package' not in"))
    ]
    assert found[0] == found[1]
    assert list(work.iterdir()) == []


def test_a_kernel_takes_options_of_numba() -> None:
    from stackc.util.compiled import compiled

    @compiled(fastmath=True)
    def doubled(values):
        return values * 2

    assert doubled(numpy.arange(3)).tolist() == [0, 2, 4]
