"""What a program has set for itself changes nothing of a result, and stands afterwards as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import stackc
import stackc.util.errors
from stackc.models import open_reference, random_reference
from stackc.models.saving import write_weights
from stackc.util.isolation import contained, isolated
from stackc.util.parallel import map_ordered, one_thread_per_operation

HEAL = {"use": "heal", "steps": 2, "batch_size": 16, "holdout": 20, "evaluations": 1}
RECIPES: dict[str, dict[str, Any]] = {
    "trained": {
        "calibration": {"rows": 16},
        "stages": [
            {"use": "seed", "on": "*word_embeddings.weight", "rank": 4, "calibrated": True},
            {"use": "int", "on": "*.query.weight", "step": 0.05, "rdo": 0.1, "calibrated": True},
            {"use": "int", "on": "*.dense.weight", "bits": 4},
            HEAL,
            "zstd",
        ],
    },
    "allocated": {
        "calibration": {"rows": 16},
        "allocate": {"ratio": 8},
        "stages": [{"use": "int", "on": "*.weight", "step": "auto"}, "context", "floats"],
    },
}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def warnings_raised() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "errstate": lambda: numpy.errstate(all="raise"),
    "warnings": warnings_raised,
    "meta": lambda: default_device("meta"),
    "meta block": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def state() -> dict[str, Any]:
    """What of this process and this thread a call could have changed."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": numpy.random.get_state()[1].tolist(),  # noqa: NPY002 - the state that numpy.random.seed sets
        "threads": torch.get_num_threads(),
        "threads to come": in_a_thread(torch.get_num_threads),
        "logging": (logging.root.manager.disable, list(logging.root.handlers), logging.lastResort.filters),
        "warnings": list(warnings.filters),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "errstate": numpy.geterr(),
        "stdout": sys.stdout,
        "path": list(sys.path),
    }


def in_a_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def compressed(model: Path, task: dict[str, object], recipe: str) -> tuple[str, float, float | None]:
    _, report = stackc.compress(str(model), {"task": task, **RECIPES[recipe]})
    score = report.final.score
    assert score is not None
    return report.file.sha256, score.value, score.kl


@pytest.fixture(scope="module")
def expected(tiny_model: Path, tiny_task: dict[str, object]) -> dict[str, Any]:
    return {recipe: compressed(tiny_model, tiny_task, recipe) for recipe in RECIPES}


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, "trained") for name in STATES),
        *((name, "allocated") for name in ("float64", "inference_mode", "autocast")),
    ],
)
def test_a_run_gives_what_it_gives_in_a_fresh_process(
    name: str, recipe: str, expected: dict[str, Any], tiny_model: Path, tiny_task: dict[str, object]
) -> None:
    with STATES[name]():
        before = state()
        found = compressed(tiny_model, tiny_task, recipe)
        after = state()
    assert found == expected[recipe]
    assert after == before


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    path = tmp_path_factory.mktemp("isolation") / "model.stackc"
    stages = [{"use": "seed", "on": "*.word_embeddings.weight", "rank": 4}, {"use": "int", "bits": 4}, "raw"]
    stackc.compress(str(tiny_model), {"stages": stages}, path)
    return path


@pytest.mark.parametrize("name", STATES)
def test_a_file_decodes_to_the_same_model(name: str, file: Path, tmp_path: Path) -> None:
    with stackc.open(file) as artifact:
        expected = artifact.state_dict()
    with STATES[name](), stackc.open(file) as artifact:
        before = state()
        values = iter(artifact.items())
        first, tensor = next(values)
        assert state() == before  # nothing is left set between two values
        found = {first: tensor, **dict(values)}
        whole = artifact.state_dict()
        model = stackc.load(file)
        assert stackc.repack(file, tmp_path / "again.stackc").after > 0
        assert state() == before
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(whole[name], tensor)
        assert not whole[name].is_inference()
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], expected[name]) for name in parameters)
    assert all(parameter.requires_grad for parameter in parameters.values())  # it may be trained further
    assert {parameter.device.type for parameter in parameters.values()} == {"cpu"}


def test_an_error_leaves_the_state_as_well() -> None:
    module = nn.Linear(3, 2)
    with default_dtype(torch.float64), torch.inference_mode():
        before = state()
        with pytest.raises(stackc.util.errors.StackcError):
            stackc.compress(module, {"stages": [{"use": "seed", "on": "nothing"}]})
        assert state() == before


def test_what_was_made_in_inference_mode_is_compressed_and_built(tiny_model: Path) -> None:
    with torch.inference_mode():
        module = nn.Linear(16, 16)
        reference = open_reference(str(tiny_model))
        model = reference.build({name: reference.tensor(name) for name in reference.specs})
    artifact, _ = stackc.compress(module, {"stages": ["zstd"]})
    assert torch.equal(artifact["weight"], module.weight)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_code_of_a_user_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets_a_dtype.py").write_text(
        "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
        "torch.set_default_device('meta')\n"
        "def build():\n    return torch.nn.ParameterDict({'weight': torch.ones(4, 4, device='cpu')})\n"
    )
    monkeypatch.chdir(tmp_path)
    before = state()
    artifact, _ = stackc.compress("sets_a_dtype:build", {"stages": ["zstd"]})
    assert artifact["weight"].dtype == torch.float64
    assert state() == before
    with contained():
        torch.set_default_dtype(torch.float16)
    assert torch.get_default_dtype() == torch.float32


def test_random_weights_draw_from_no_generator_of_the_program(tiny_model: Path) -> None:
    before = state()
    random_reference(open_reference(str(tiny_model)), seed=3)
    assert state() == before


@pytest.fixture
def host_lines() -> Iterator[list[str]]:
    """What the program logs, through a handler of its own."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Kept()
    logging.root.addHandler(handler)
    yield lines
    logging.root.removeHandler(handler)
    assert handler.filters == []


def test_threads_of_the_program_go_on_as_before(file: Path, tiny_model: Path, host_lines: list[str]) -> None:
    stackc.load(file)  # packages that are imported for the first time may add filters of their own
    number, told, ended = torch.get_num_threads(), 0, threading.Event()
    problems: list[Any] = []

    def use(work: Callable[[], object]) -> None:
        torch.set_num_threads(3)
        mine = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_device()
        for _ in range(3):
            work()
        if (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_device()) != mine:
            problems.append("a thread has another state")

    module = nn.Linear(16, 16)
    works: list[Callable[[], object]] = [
        lambda: stackc.load(file),
        lambda: stackc.compress(module, {"stages": ["int8", "zstd"]}),
        lambda: stackc.compress(str(tiny_model), {"stages": ["int8", "zstd"]}),
    ]
    before = state()
    threads = [threading.Thread(target=use, args=(work,)) for work in works for _ in range(2)]

    def program() -> None:
        nonlocal told
        while not ended.is_set():
            logging.getLogger("program").error("at work")
            told += 1
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                warnings.warn("heard", stacklevel=1)
            if [str(warning.message) for warning in caught] != ["heard"]:
                problems.append("a warning was lost")
            time.sleep(0.001)

    chatter = threading.Thread(target=program)
    for thread in [chatter, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    chatter.join()
    torch.set_num_threads(number)
    assert not problems
    assert told > 3
    assert host_lines.count("at work") == told
    assert state() == before


def test_a_thread_that_begins_meanwhile_has_the_number_of_the_program() -> None:
    number = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with one_thread_per_operation():
            assert in_a_thread(torch.get_num_threads) == 3
        results = map_ordered(lambda _: torch.get_num_threads(), range(6), 2)
        assert next(results) == 1
        assert torch.get_num_threads() == 3  # also while the reader works on a result
        assert in_a_thread(torch.get_num_threads) == 3
        assert set(results) == {1}
        assert in_a_thread(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(number)


def test_overlapping_threads_put_the_default_dtype_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with isolated():
            inside.set()
            leave.wait(20)

    with default_dtype(torch.float64):
        other = threading.Thread(target=stay)
        with isolated():
            other.start()
            inside.wait(20)
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32  # the other thread is not done
        leave.set()
        other.join()
        assert torch.get_default_dtype() == torch.float64


def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    (tmp_path / "other").touch()
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask of the process was changed"))
    write_weights(path, None, {"a": torch.ones(2)})
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_program_that_trains_with_accelerate_keeps_its_state(tiny_model: Path, tiny_task: dict[str, object]) -> None:
    from accelerate import Accelerator

    own = Accelerator(mixed_precision="bf16", cpu=True)
    stages = [{"use": "int", "on": "*.weight", "bits": 4}, HEAL, "zstd"]
    stackc.compress(str(tiny_model), {"task": tiny_task, "stages": stages}, evaluate=False)
    assert own.mixed_precision == "bf16"
    own.state._reset_state(True)
