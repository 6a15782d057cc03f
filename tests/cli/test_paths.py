"""What people write where a path goes: ``~``, and things in the file system that are no files."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import stackc as library
from stackc.util.errors import StackcError
from stackc.util.paths import user_path
from tests.cli.conftest import Invoke
from tests.helpers.models import weights_file


@pytest.fixture
def patience() -> Iterator[None]:
    """What waits for ever fails instead."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a file of it."""
    folder = tmp_path_factory.mktemp("made")
    artifact, _ = library.compress(
        str(weights_file(folder / "model.safetensors")), {"stages": ["raw"]}, folder / "a.stackc"
    )
    artifact.close()
    return folder


@pytest.fixture
def here(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, a recipe and a file, and a home folder beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(made, Path(), dirs_exist_ok=True)
    Path("r.yaml").write_text("model: model.safetensors\nstages: [zstd]\n")
    return tmp_path


COMMANDS = {
    "check {}.yaml": "the recipe {}.yaml",
    "list recipes {}.yaml": "the recipe {}.yaml",
    "check r.yaml --model {}.safetensors": "{}.safetensors",
    "check r.yaml --model folder": "folder/config.json",
    "check r.yaml --task {}.csv": "{}.csv",
    "run r.yaml --no-eval --set 'stages=[{{use: prune, on: layer.weight, rows: 0.5, weights: {}.npy}}, zstd]'": "{}.npy",
    "check r.yaml --set 'stages=[int8, {{use: heal, data: [{}.txt]}}, zstd]'": "{}.txt",
    "inspect {}.stackc": "{}.stackc",
    "verify {}.stackc": "{}.stackc",
    "decode {}.stackc": "{}.stackc",
    "repack {}.stackc": "{}.stackc",
    "compare a.stackc {}.stackc": "{}.stackc",
    "compare a.stackc {}.json": "the report {}.json",
    "eval {}.stackc --task r.csv": "{}.stackc",
    "decode a.stackc --overwrite -o {}.safetensors": "{}.safetensors",
    "repack a.stackc --overwrite -o {}.stackc": "{}.stackc",
}


@pytest.mark.skipif(os.name != "posix", reason="pipes in the file system")
@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("command", "kind"),
    [*((command, "pipe") for command in COMMANDS), ("check {}.yaml", "device"), ("inspect {}.stackc", "socket")],
)
def test_what_is_no_file_is_refused_at_once(
    stackc: Invoke, here: Path, command: str, kind: str, request: pytest.FixtureRequest
) -> None:
    Path("r.csv").write_text("text,label\na,1\n")
    suffixes = ("yaml", "safetensors", "csv", "npy", "txt", "stackc", "json")
    for path in (Path("folder/config.json"), *(Path(f"{kind}.{suffix}") for suffix in suffixes)):
        path.parent.mkdir(exist_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            listening = socket.socket(socket.AF_UNIX)
            request.addfinalizer(listening.close)
            listening.bind(str(path))
    result = stackc(*shlex.split(command.format(kind)))
    assert result.exit_code == 1, result.output
    assert COMMANDS[command].format(kind) in result.stderr
    assert f"it is a {'named pipe' if kind == 'pipe' else kind}; give a regular file" in result.stderr
    assert not Path(f"{kind}.stackc").is_file()
    assert not Path(f"{kind}.safetensors").is_file()


def test_a_file_takes_no_device_s_place(here: Path) -> None:
    os.mkfifo("pipe.stackc")
    with pytest.raises(StackcError, match=r"pipe\.stackc cannot be written: it is a named pipe"):
        library.compress("model.safetensors", {"stages": ["zstd"]}, "pipe.stackc", overwrite=True)
    assert Path("pipe.stackc").is_fifo()


def test_a_tilde_is_the_home_folder_wherever_a_path_is_written(stackc: Invoke, here: Path) -> None:
    home = here / "home"
    for name in ("model.safetensors", "r.yaml"):
        Path(name).rename(home / name)
    (home / "weights.txt").write_text(24 * "1\n")
    (home / "weighted.yaml").write_text(
        "model: ~/model.safetensors\n"
        "stages: [{use: prune, on: layer.weight, rows: 0.5, weights: ~/weights.txt}, zstd]\n"
    )

    def works(*words: str) -> None:
        result = stackc(*words)
        assert result.exit_code == 0, result.output

    works("run", "~/weighted.yaml", "--output", "~/run")
    works("check", "~/r.yaml", "--model=~/model.safetensors")
    works("inspect", "~/run")
    works("verify", "~/run/model.stackc")
    works("decode", "~/run", "--output=~/decoded.safetensors")
    works("decode", "~/run", "--output=~/decoded")
    works("repack", "~/run", "--output=~/small.stackc")
    works("compare", "~/run", "~/run/report.json")
    assert {path.name for path in home.iterdir()} >= {"run", "decoded.safetensors", "decoded"}
    assert library.run("~/r.yaml", "~/model.safetensors", output="~/second").artifact == home / "second/model.stackc"
    artifact, _ = library.compress("~/model.safetensors", "~/r.yaml", "~/one.stackc")
    artifact.close()
    library.open("~/one.stackc").close()
    library.repack("~/one.stackc", "~/two.stackc")
    assert [path.name for path in Path().iterdir()] == ["a.stackc"]


def test_a_home_that_nobody_knows_is_a_sentence(stackc: Invoke, here: Path) -> None:
    for words in (("run", "r.yaml", "-o", "~nobody-of-that-name/x"), ("check", "~nobody-of-that-name/r.yaml")):
        result = stackc(*words)
        assert result.exit_code == 1
        assert "home folder that '~nobody-of-that-name/" in result.stderr
    assert {path.name for path in Path().iterdir()} == {"model.safetensors", "r.yaml", "a.stackc"}


def test_a_zero_byte_is_no_path(stackc: Invoke, here: Path) -> None:
    Path("zero.yaml").write_text('model: "a\\0b"\nstages: [zstd]\n')
    result = stackc("check", "zero.yaml")
    assert result.exit_code == 1
    assert "holds a zero byte" in result.stderr
    with pytest.raises(StackcError, match="zero byte"):
        user_path("a\0b")


def test_names_beyond_ascii_in_an_ascii_locale(here: Path) -> None:
    Path("\u00e9").mkdir()
    Path("model.safetensors").rename("\u00e9/model.safetensors")
    Path("\u00e9/r\u00e9.yaml").write_text("model: \u00e9/model.safetensors\nstages: [zstd]\n", encoding="utf-8")
    words = [sys.executable, "-c", "from stackc.cli import main; main()", "run", "\u00e9/r\u00e9.yaml"]
    words += ["--output", "\u00e9/out", "--model", "\u00e9/model.safetensors"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(words, env=os.environ | ascii_only, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert library.run("\u00e9/out/recipe.lock.yaml", output="again").report.recipe == "r\u00e9"
