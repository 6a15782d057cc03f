"""`stackc.run`: a folder with everything in it, or the folder as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stackc
from stackc.artifact.reader import Artifact
from stackc.reporting.report import read_report
from stackc.runs.runner import ARTIFACT_NAME, LOCK_NAME, REPORT_NAME, replacing_folder, run
from stackc.util.errors import ModelError, OutputError, RecipeError, StackcError, TensorError
from tests.helpers.models import tied, weights_file

NAMES = {ARTIFACT_NAME, REPORT_NAME, LOCK_NAME}
RECIPE = {"stages": ["int8", "zstd"]}


@pytest.fixture
def model(tmp_path) -> str:
    return str(weights_file(tmp_path / "model.safetensors"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_the_file_its_report_and_its_lock(tmp_path, model: str) -> None:
    result = run(RECIPE, model, output=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    assert result.artifact == tmp_path / "out" / ARTIFACT_NAME
    assert read_report(tmp_path / "out" / REPORT_NAME) == result.report
    assert os.stat(result.artifact).st_size == result.report.file.bytes
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "out"}
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "out").stat().st_mode == plain.stat().st_mode


def test_the_lock_of_a_run_gives_the_same_file(tmp_path, model: str) -> None:
    recipe = {"stages": [{"use": "prune", "sparsity": 0.5, "scope": "global"}, {"use": "zstd", "level": 3}]}
    first = run(recipe, model, output=tmp_path / "first")
    again = run(tmp_path / "first" / LOCK_NAME, output=tmp_path / "again")
    assert again.artifact.read_bytes() == first.artifact.read_bytes()
    assert (tmp_path / "again" / LOCK_NAME).read_text() == (tmp_path / "first" / LOCK_NAME).read_text()
    assert again.report.notes == []


def test_the_default_folder_is_named_after_the_recipe(tmp_path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(f"model: {model}\nstages: [zstd]\n")
    assert stackc.run("small.yaml").folder == Path("runs/small")
    assert content(Path("runs/small"))


def test_a_recipe_without_a_model(tmp_path) -> None:
    with pytest.raises(RecipeError, match="the recipe recipe names no model; give one with --model"):
        run(RECIPE, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_is_a_model(tmp_path) -> None:
    result = run(RECIPE, tied(), output=tmp_path / "out")
    with Artifact(result.artifact) as artifact:
        assert artifact.kind == "module"


def test_an_existing_result_is_refused_and_left_alone(tmp_path, model: str) -> None:
    run(RECIPE, model, output=tmp_path / "out")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="exists already; choose another --output, or replace it with --overwrite"):
        run({"stages": ["raw"]}, model, output=tmp_path / "out")
    assert content(tmp_path) == before


def test_the_refusal_comes_before_any_work(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(OutputError):
        run(RECIPE, "no/such/model", output=tmp_path / "out")


def test_overwriting_replaces_the_result(tmp_path, model: str) -> None:
    run(RECIPE, model, output=tmp_path / "out")
    result = run({"stages": ["raw"]}, model, output=tmp_path / "out", overwrite=True)
    assert result.report.stages[0].use == "raw"
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES


def test_overwriting_does_not_touch_what_no_run_wrote(tmp_path, model: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match=r"holds files that no run wrote \(thesis.tex\)"):
        run(RECIPE, model, output=tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"
    with pytest.raises(OutputError, match="is a file; choose another --output"):
        run(RECIPE, model, output=model, overwrite=True)


def test_an_empty_folder_and_a_link_to_a_folder_are_fine(tmp_path, model: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    run(RECIPE, model, output=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in (tmp_path / "real").iterdir()} == NAMES


FAILURES = {
    "encode": ("stackc.planning.encode_model.encode_tensor", TensorError("no")),
    "decode": ("stackc.reporting.stage_rows.decode_and_compare", ModelError("no")),
    "account": ("stackc.runs.pipeline.byte_rows", KeyError("no")),
    "lock": ("stackc.runs.pipeline.lock_document", RuntimeError("no")),
    "report": ("stackc.reporting.report.Report.to_json", KeyboardInterrupt()),
}


@pytest.mark.parametrize("place", FAILURES)
def test_a_failure_in_the_middle_leaves_the_old_result(
    tmp_path, model: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run(RECIPE, model, output=tmp_path / "out")
    before = content(tmp_path)
    target, error = FAILURES[place]

    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(target, fail)
    with pytest.raises(type(error)):
        run({"stages": ["raw"]}, model, output=tmp_path / "out", overwrite=True)
    assert content(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "out"}


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").touch()
    replace = Path.replace

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr("stackc.util.partial._swap", lambda one, other: False)
    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises(OutputError, match="Input/output error"), replacing_folder(folder) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in folder.iterdir()] == ["old"]


@pytest.mark.parametrize("output", ["model.safetensors/out", "locked/out"])
def test_a_folder_that_cannot_be_made(tmp_path, model: str, output: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.geteuid() == 0 and output.startswith("locked"):
        pytest.skip("root may write anywhere")
    with pytest.raises(OutputError, match="cannot be written"):
        run(RECIPE, model, output=tmp_path / output)


class _FullDisk:
    """A file that takes no more bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk(tmp_path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackc.artifact import writer

    run(RECIPE, model, output=tmp_path / "out")
    before = content(tmp_path)
    open_temporary = writer.tempfile.TemporaryFile
    monkeypatch.setattr(writer.tempfile, "TemporaryFile", lambda **options: _FullDisk(open_temporary(**options)))
    with pytest.raises(OutputError, match="the disk is full; free some space or choose another --output"):
        run({"stages": ["raw"]}, model, output=tmp_path / "out", overwrite=True)
    assert content(tmp_path) == before
    monkeypatch.undo()

    def no_space(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for target in (
        "stackc.artifact.writer._Spool.pieces",
        "stackc.artifact.writer.os.fsync",
        "pathlib.Path.write_text",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, no_space)
            with pytest.raises(OutputError, match="the disk is full"):
                run({"stages": ["raw"]}, model, output=tmp_path / "out", overwrite=True)
        assert content(tmp_path) == before
        assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "out"}


LIMITED = """
import resource, sys
import stackc
from stackc.util.errors import OutputError
import torch
model, folder, size = sys.argv[1:]
refused = 0
for limit in (0, 100, int(size) // 2, int(size) - 1, 50_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        stackc.run({"stages": ["raw"]}, model, output=folder, overwrite=True)
    except OutputError as error:
        assert "cannot be written: File too large" in str(error), error
        refused += 1
    else:
        assert limit == 50_000, limit
assert refused == 4, refused
"""


def test_a_limit_on_file_sizes(tmp_path, model: str) -> None:
    """The system's own refusal, at every point where a write can meet it: a buffer's flush, a close, a copy."""
    size = run({"stages": ["raw"]}, model, output=tmp_path / "out").report.file.bytes
    before = {path.name for path in tmp_path.iterdir()}
    arguments = [model, str(tmp_path / "out"), str(size)]
    subprocess.run([sys.executable, "-W", "error", "-c", LIMITED, *arguments], check=True, timeout=120)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert read_report(tmp_path / "out" / REPORT_NAME).stages[0].use == "raw"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{}", "is a report of version None; this release reads version 1"),
        ('{"report_version": 2}', "is a report of version 2"),
        ('{"report_version": 1}', "is not a stackc report"),
        ("[1]", "is not a stackc report"),
        ("{", "is not a stackc report"),
        ("\xff", "is not a stackc report"),
    ],
)
def test_reports_that_cannot_be_read(tmp_path, text: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(StackcError, match=message):
        read_report(path)


def test_a_run_that_finishes_second_does_not_replace_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output folder is checked again at the end: another run may have filled it in the meantime."""
    import stackc.runs.controls.run

    whole = stackc.runs.controls.run.compress_to_file
    folder = tmp_path / "out"

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        result = whole(*arguments, **options)
        folder.mkdir()
        (folder / "model.stackc").write_text("the other run's")
        return result

    monkeypatch.setattr(stackc.runs.controls.run, "compress_to_file", meanwhile)
    with pytest.raises(OutputError, match="exists already"):
        run({"stages": ["raw"]}, torch.nn.Linear(2, 2), output=folder)
    assert (folder / "model.stackc").read_text() == "the other run's"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_bare_weights_file_is_run_without_the_task_of_the_recipe(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.arange(12.0).reshape(3, 4)}, tmp_path / "weights.safetensors")
    report = run("lossless", str(tmp_path / "weights.safetensors"), output=tmp_path / "out").report
    assert report.final.score is None
    assert report.final.weight_error == 0
    assert any("was not run" in note for note in report.notes)


def test_a_lock_keeps_the_name_of_its_recipe_and_runs_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.arange(12.0).reshape(3, 4)}, tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    first = run("lossless", "weights.safetensors", output="out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = run(tmp_path / "out" / "recipe.lock.yaml")
    assert second.folder == Path("runs/lossless")
    assert second.report.file.sha256 == first.report.file.sha256
