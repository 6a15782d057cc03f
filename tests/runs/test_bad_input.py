"""Bad input of every kind: one sentence that says what and where, and nothing written or overwritten.

The details of each kind are tested where it is checked; this is the list of issue 2, from recipe to file.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import stackc
from stackc.util.errors import (
    ArtifactError,
    DataError,
    DependencyError,
    ModelError,
    OutputError,
    PlanError,
    RecipeError,
    StackcError,
    TensorError,
)
from tests.helpers.models import weights_file

TASK = "task: {name: text-classification, data: no-such-file.tsv}\n"

RECIPES: dict[str, tuple[str, type[StackcError], str]] = {
    "wrong type": (
        "stages:\n- {use: int, bits: four}\n",
        RecipeError,
        "stages[0].bits (line 2 of bad.yaml): expected 'int | null'",
    ),
    "out of range": (
        "stages:\n- {use: int, bits: 9}\n",
        RecipeError,
        "stages[0] (line 2 of bad.yaml): bits: 9 goes with one scale for the tensor",
    ),
    "unknown key": ("stages:\n- {use: int, bitz: 4}\n", RecipeError, "did you mean 'bits'?"),
    "duplicate key": (
        "stages:\n- {use: int, bits: 4, bits: 8}\n",
        RecipeError,
        "is given twice, first on line 2; keep one",
    ),
    "unknown stage": ("stages:\n- zsdt\n", RecipeError, "unknown stage 'zsdt', did you mean 'zstd'?"),
    "not yaml": ("stages: [\n", RecipeError, "bad.yaml is not YAML"),
    "empty": ("", RecipeError, "bad.yaml is empty"),
    "newer recipe": (
        "stackc: 9\nstages: [raw]\n",
        RecipeError,
        "recipe format 9 is not known; this release reads format 1",
    ),
    "matches nothing": ("stages: [{use: int8, on: '*.wieght'}]\n", PlanError, "did you mean 'bad.weight'?"),
    "impossible order": (
        "stages: [int8, {use: seed, rank: 2, on: '*/codes'}]\n",
        PlanError,
        "put it before the stages",
    ),
    "packed already": (
        "stages: [zstd, int8]\n",
        PlanError,
        "is already packed by stages[0] (zstd); put int8 before it",
    ),
    "does not fit": (
        "stages: [{use: seed, rank: 2, on: layer.bias}]\n",
        PlanError,
        "stages[0] (seed) does not fit layer.bias",
    ),
    "nan": (
        "stages: [{use: int8, on: bad.weight}, zstd]\n",
        TensorError,
        "stages[0] (int) on bad.weight: 1 of 4 values is NaN",
    ),
    "missing data": (TASK + "stages: [zstd]\n", DataError, "no-such-file.tsv"),
    "missing row weights": (
        "stages: [{use: int8, on: layer.*, weights: no.npy}]\n",
        DataError,
        "stages[0] (int8): the source of row weights 'no.npy' is not there",
    ),
    "tokenizer of a bare file": ("task: none\nbundle: [tokenizer]\nstages: [zstd]\n", ModelError, "has no tokenizer"),
}


@pytest.fixture
def model(tmp_path) -> str:
    nan = torch.tensor([1.0, float("nan"), 2.0, 3.0])
    return str(weights_file(tmp_path / "model.safetensors", bad__weight=nan))


def one_sentence(error: StackcError) -> str:
    message = str(error)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", RECIPES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_bad_recipes_and_bad_weights(tmp_path, model: str, tiny_model, case: str, overwrite: bool) -> None:
    text, kind, words = RECIPES[case]
    if case == "missing data":  # the task of a bare weights file is not run
        model = str(tiny_model)
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text)
    output = tmp_path / "out"
    if overwrite:
        stackc.run({"stages": ["raw"]}, model, output=output)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(kind) as caught:
        stackc.run(recipe, model, output=output, overwrite=overwrite)
    assert words in one_sentence(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert output.exists() == overwrite


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/folder", "does not exist"),
        ("model.bin", "model.bin"),
        ("text.safetensors", "text.safetensors"),
        ("cut.safetensors", "cut.safetensors"),
    ],
)
def test_bad_models(tmp_path, model: str, monkeypatch: pytest.MonkeyPatch, source: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.bin").write_bytes(b"\x80\x04")
    Path("text.safetensors").write_text("these are no weights")
    Path("cut.safetensors").write_bytes(Path(model).read_bytes()[:-10])
    with pytest.raises(StackcError) as caught:
        stackc.run({"stages": ["raw"]}, source, output="out")
    assert words in one_sentence(caught.value)
    assert not Path("out").exists()


def flip(position: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = int(position * (len(data) - 1))
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    return change


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[:100], lambda data: data[:3], *map(flip, (0, 0.01, 0.5, 1))]
)
def test_bad_files(tmp_path, model: str, change: Callable[[bytes], bytes]) -> None:
    path = stackc.run({"stages": ["zstd"]}, model, output=tmp_path / "out").artifact
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises((ArtifactError, DependencyError)) as caught:
        stackc.open(path).state_dict()
    assert "model.stackc" in one_sentence(caught.value)


def test_a_full_disk(tmp_path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stackc.artifact.writer.os.fsync", no_space)
    with pytest.raises(OutputError) as caught:
        stackc.run({"stages": ["raw"]}, model, output=tmp_path / "out")
    assert "the disk is full; free some space or choose another --output" in one_sentence(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
