"""A run takes from earlier ones what is the same, and nothing that is not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import stackc
from stackc.planning import encode_model as encoding
from stackc.planning.allocation import run as allocation
from stackc.reporting import stage_rows as rows
from stackc.tasks import judge
from stackc.util.memo import Memo

STAGES: list[Any] = [
    {"use": "seed", "on": "*.weight", "rank": "auto", "calibrated": True},
    {"use": "int", "on": ["*/scores", "*/basis"], "bits": 6},
    {"use": "heal", "steps": 4, "batch_size": 8, "evaluations": 2, "holdout": 9},
    "zstd",
]


class Counted:
    """How often each part of a run did its work."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, int] = {}
        for name, owner, function in (
            ("encode", encoding, "encode_tensor"),
            ("allocate", allocation, "Allocator"),
            ("decode", rows, "decode_and_compare"),
            ("evaluate", judge.Judge, "_measure"),
        ):
            patch.setattr(owner, function, self._counting(name, getattr(owner, function)))

    def _counting(self, name: str, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            return function(*arguments, **options)

        return counted

    def take(self) -> dict[str, int]:
        """The counts since the last time."""
        calls, self.calls = self.calls, {}
        return calls


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counted:
    monkeypatch.setenv("STACKC_CACHE_SIZE", "1GB")
    monkeypatch.setattr("stackc.util.memo.cache_folder", lambda: tmp_path / "cache")
    return Counted(monkeypatch)


@pytest.fixture
def recipe(tiny_task: dict[str, object]) -> dict[str, Any]:
    return {"task": tiny_task, "allocate": {"ratio": 3}, "calibration": {"rows": 16}, "stages": STAGES}


def told(run: Any) -> dict[str, Any]:
    """A report without times, memory and what is said of earlier runs."""
    report = json.loads(run.report.to_json())
    for row in report["stages"]:
        for key in ("encode_seconds", "decode_seconds", "peak_memory_bytes"):
            del row[key]
    for healing in report["healing"]:
        del healing["seconds"]
    return {key: value for key, value in report.items() if key not in ("seconds", "notes")}


def test_the_same_again_does_nothing_and_says_the_same(
    counted: Counted, recipe: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    first = stackc.run(recipe, str(tiny_model), output=tmp_path / "first")
    assert set(counted.take()) == {"encode", "allocate", "decode", "evaluate"}
    again = stackc.run(recipe, str(tiny_model), output=tmp_path / "again")
    assert counted.take() == {}
    for name in ("model.stackc", "recipe.lock.yaml"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()
    assert told(again) == told(first)
    assert not first.report.notes
    assert "4 of 4 stage files are from an earlier run" in again.report.notes[0]
    Memo.of_user().clear()
    assert told(stackc.run(recipe, str(tiny_model), output=tmp_path / "anew")) == told(first)
    assert set(counted.take()) == {"encode", "allocate", "decode", "evaluate"}


def test_another_last_stage_repeats_only_that(
    counted: Counted, recipe: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del recipe["allocate"]
    recipe["stages"] = [{**STAGES[0], "rank": 4}, *STAGES[1:]]
    stackc.run(recipe, str(tiny_model), output=tmp_path / "first")
    counted.take()
    recipe["stages"] = [*recipe["stages"][:-1], "ans", "raw"]
    some = stackc.run(recipe, str(tiny_model), output=tmp_path / "some")
    calls = counted.take()
    assert "allocate" not in calls
    assert "evaluate" not in calls  # the same bits as before
    assert calls["decode"] == 1  # raw leaves the file as it is
    monkeypatch.setenv("STACKC_CACHE_SIZE", "0")
    fresh = stackc.run(recipe, str(tiny_model), output=tmp_path / "fresh")
    assert some.artifact.read_bytes() == fresh.artifact.read_bytes()
    assert told(some) == told(fresh)


def test_shared_planes_begin_where_a_run_differs(
    counted: Counted, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{"use": "seed", "on": "*.weight", "rank": 4, "group": "all"}, {"use": "int8", "on": "*/basis"}]
    stackc.run({"stages": [*stages, "raw"]}, str(tiny_model), output=tmp_path / "first")
    counted.take()
    some = stackc.run({"stages": [*stages, "zstd"]}, str(tiny_model), output=tmp_path / "some")
    assert counted.take()["decode"] == 1
    monkeypatch.setenv("STACKC_CACHE_SIZE", "0")
    fresh = stackc.run({"stages": [*stages, "zstd"]}, str(tiny_model), output=tmp_path / "fresh")
    assert some.artifact.read_bytes() == fresh.artifact.read_bytes()
    assert told(some) == told(fresh)


def test_changed_inputs_are_not_mistaken(
    counted: Counted, recipe: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number of one weight, one training text: each result is that of a run without a memory."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    task = dict(recipe["task"])
    train = tmp_path / "train.tsv"
    shutil.copy(task["train"], train)
    task["train"] = str(train)
    recipe["task"] = task
    stackc.run(recipe, str(model), output=tmp_path / "first")

    def change_weight() -> None:
        state = load_file(model / "model.safetensors")
        name = next(name for name, x in state.items() if x.is_floating_point() and x.ndim == 2)
        state[name][0, 0] += 0.01
        save_file(state, model / "model.safetensors", {"format": "pt"})

    def change_text() -> None:
        lines = train.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[-1] = lines[-1].replace(" ", " very ", 1)
        train.write_text("".join(lines), encoding="utf-8")

    changes = {
        "weight": change_weight,
        "text": change_text,
    }
    for name, change in changes.items():
        change()
        some = stackc.run(recipe, str(model), output=tmp_path / f"some-{name}")
        with monkeypatch.context() as patch:
            patch.setenv("STACKC_CACHE_SIZE", "0")
            fresh = stackc.run(recipe, str(model), output=tmp_path / f"fresh-{name}")
        assert some.artifact.read_bytes() == fresh.artifact.read_bytes(), name
        assert told(some) == told(fresh), name


_KILLED = """
import json, sys
import stackc
recipe, model, output = json.loads(sys.argv[1]), *sys.argv[2:]
stackc.run(recipe, model, output=output, resume=True)
"""


def test_a_killed_run_ends_with_the_same_bytes(recipe: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Killed once; `benchmarks/memo/run.py` does it at ten random moments."""
    environment = {**os.environ, "STACKC_CACHE_SIZE": "1GB", "STACKC_CACHE": str(tmp_path / "cache")}
    # machine code of kernels is kept where all tests have it
    environment.setdefault("NUMBA_CACHE_DIR", str(Path(os.environ["STACKC_CACHE"]) / "numba"))

    def start(output: str, cache: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _KILLED, json.dumps(recipe), str(tiny_model), str(tmp_path / output)]
        return subprocess.Popen(command, env={**environment, "STACKC_CACHE": str(tmp_path / cache)})

    begin = time.monotonic()
    assert start("whole", "other").wait() == 0
    seconds = time.monotonic() - begin
    process = start("killed", "cache")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.8 * seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (tmp_path / "killed").is_dir():
        assert start("killed", "cache").wait() == 0
    for name in ("model.stackc", "recipe.lock.yaml"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
