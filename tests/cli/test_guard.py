"""Commands end with one sentence and the right exit code, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stackc as library
from stackc.util.errors import ModelError
from tests.cli.conftest import Invoke


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("the model is\nelsewhere"), 1, "error: the model is elsewhere"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left", "x.bin"), 1, "error: x.bin: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "x.bin"), 1, "error: x.bin: Permission denied"),
        (MemoryError(), 1, "error: not enough memory"),
        (RuntimeError("can't start new thread"), 1, "error: this process may start no more threads; raise the limit"),
        (KeyError("weight"), 1, "error: unexpected KeyError: 'weight'; this is a bug: please report it"),
    ],
)
def test_one_line_and_a_code(
    stackc: Invoke, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(source: object) -> None:
        raise error

    monkeypatch.setattr("stackc.recipe.parse.find_recipe", fail)
    result = stackc("run", "int8")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1


def test_debugging_lets_errors_through(stackc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKC_DEBUG", "1")
    result = stackc("run", "no-such-recipe")
    assert type(result.exception).__name__ == "RecipeError"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("rn",), "Did you mean 'run'?"), (("run", "int8", "--modle", "x"), "--model"), (("run",), "RECIPE")],
)
def test_usage_errors_exit_2_with_a_hint(stackc: Invoke, arguments: tuple[str, ...], words: str) -> None:
    result = stackc(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_version(stackc: Invoke) -> None:
    from importlib.metadata import version

    assert stackc("--version").stdout == f"stackc {version('stackc')}\n"


def test_help_names_every_command(stackc: Invoke) -> None:
    text = stackc("--help").stdout
    for command in ("run", "check", "list", "inspect", "verify", "decode", "eval", "compare", "schema"):
        assert f" {command} " in text


def test_a_closed_pipe_is_no_error() -> None:
    command = [sys.executable, "-c", "from stackc.cli import main; main()", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait()
    assert stderr == b""


@pytest.mark.skipif(os.name != "posix", reason="a shell")
@pytest.mark.parametrize("command", ["schema", "--help", "--version", "list recipes lossless"])
@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 1, "error: the disk is full; free some space or choose another place\n"),
        (">/dev/full 2>&1", 1, ""),
        ("2>/dev/full >/dev/null", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_a_standard_output_that_takes_nothing(command: str, redirection: str, code: int, words: str) -> None:
    line = f"'{sys.executable}' -c 'from stackc.cli import main; main()' {command} {redirection}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", words)


def test_an_error_that_nobody_can_be_told_keeps_its_code() -> None:
    line = f"'{sys.executable}' -c 'from stackc.cli import main; main()' run no-such-recipe"
    for redirection in ("2>/dev/full", "2>&-", ">/dev/full 2>/dev/full"):
        done = subprocess.run(["sh", "-c", f"{line} {redirection}"], capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.skipif(os.name != "posix", reason="file descriptors")
def test_a_closed_output_is_no_place_for_files(classifier: Path, tmp_path: Path) -> None:
    """The numbers of closed streams are the next that a file gets."""
    (tmp_path / "r.yaml").write_text(f"model: {classifier}\nstages: [zstd]\n")
    line = f"'{sys.executable}' -c 'from stackc.cli import main; main()' run r.yaml --output out <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0
    with library.open(tmp_path / "out/model.stackc") as artifact:
        assert all(artifact[name].numel() for name in artifact)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_termination_removes_temporary_folders(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time, torch\n"
        "class Slow(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.zeros(4, 4))\n"
        "def make():\n"
        "    from stackc.models import module\n"
        "    def wait(*_):\n"
        "        pathlib.Path('started').touch()\n"
        "        time.sleep(60)\n"
        "    module.ModuleReference.fingerprint = wait\n"
        "    return Slow()\n"
    )
    (tmp_path / "r.yaml").write_text("stages: [zstd]\n")
    command = [sys.executable, "-c", "from stackc.cli import main; main()", "run", "r.yaml", "--model", "slow:make"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert (tmp_path / "started").exists()
    assert process.returncode == 128 + signal.SIGTERM
    assert list((tmp_path / "runs").iterdir()) == []
