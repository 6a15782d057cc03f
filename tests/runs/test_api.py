"""The Python interface: `compress`, `open`, `load`, `run`."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

import stackc
from stackc.util.errors import ModelError, OutputError, RecipeError, TensorError
from tests.helpers.models import tied, weights_file

RECIPE = {"stages": ["int8", "zstd"]}


def test_a_module_and_a_dictionary_give_an_artifact_and_a_report() -> None:
    module = tied()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    artifact, report = stackc.compress(module, RECIPE)
    assert isinstance(artifact, stackc.Artifact)
    assert isinstance(report, stackc.Report)
    assert report.file.bytes == artifact.file_bytes == artifact.path.stat().st_size
    assert set(artifact) == set(before)
    for name, x in module.state_dict().items():
        assert torch.equal(x, before[name])
    again = tied(seed=1)
    again.load_state_dict(artifact.state_dict())
    ids = torch.arange(20)
    assert torch.dist(again(ids), module(ids)) < 0.05 * torch.linalg.vector_norm(module(ids))


def test_without_a_path_the_file_lives_as_long_as_the_artifact() -> None:
    artifact, _ = stackc.compress(nn.Linear(3, 2), RECIPE)
    folder = artifact.path.parent
    assert artifact["weight"].shape == (2, 3)
    del artifact
    gc.collect()
    assert not folder.exists()


def test_with_a_path_the_file_stays_and_is_not_overwritten_unasked(tmp_path) -> None:
    path = tmp_path / "linear.stackc"
    stackc.compress(nn.Linear(3, 2), RECIPE, path)
    data = path.read_bytes()
    with pytest.raises(OutputError, match="exists already; choose another path, or say overwrite=True"):
        stackc.compress(nn.Linear(4, 4), RECIPE, path)
    assert path.read_bytes() == data
    with pytest.raises(TensorError):
        stackc.compress(_with_nan(), RECIPE, path, overwrite=True)
    assert path.read_bytes() == data
    artifact, _ = stackc.compress(nn.Linear(4, 4), RECIPE, path, overwrite=True)
    assert artifact["weight"].shape == (4, 4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["linear.stackc"]


def _with_nan() -> nn.Module:
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight[0, 0] = torch.nan
    return module


def test_a_folder_that_is_missing_is_noticed_before_any_work(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackc.runs.pipeline.settle", lambda *arguments: pytest.fail("work was done"))
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        stackc.compress(nn.Linear(3, 2), RECIPE, tmp_path / "no" / "linear.stackc")


def test_a_failure_leaves_no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(TensorError, match=r"stages\[0\] \(int\) on weight: 1 of 6 values is NaN"):
        stackc.compress(_with_nan(), RECIPE)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["lossless", Path("recipes/lossless.yaml"), {"stages": ["zstd"]}])
def test_recipes_by_name_file_and_content(recipe, tmp_path) -> None:
    model = str(weights_file(tmp_path / "model.safetensors"))
    artifact, report = stackc.compress(model, recipe, evaluate=False)
    assert report.final.weight_error == 0
    assert torch.equal(artifact["scalar"], torch.tensor(0.5))


def test_a_wrong_recipe() -> None:
    with pytest.raises(RecipeError, match=r"stages\[0\].bits \(recipe\)"):
        stackc.compress(nn.Linear(3, 2), {"stages": [{"use": "int", "bits": 20}]})


def test_open_gives_tensors_one_by_one(tmp_path) -> None:
    path = tmp_path / "tied.stackc"
    stackc.compress(tied(), {"stages": ["zstd"]}, path)
    with stackc.open(path) as artifact:
        assert torch.equal(artifact["output.weight"], tied().output.weight)
    assert torch.equal(stackc.open(path)["steps"], torch.tensor(3))


def test_load_builds_the_model_of_a_transformers_reference(tmp_path, tiny_model: Path) -> None:
    path = tmp_path / "model.stackc"
    stackc.compress(str(tiny_model), {"stages": ["zstd"]}, path)
    model = stackc.load(path)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert not model.training
    original = stackc.open(path).state_dict()
    assert all(torch.equal(x, original[name]) for name, x in model.state_dict().items() if name in original)
    stackc.compress(model, {"stages": ["zstd"]}, tmp_path / "again.stackc")
    assert type(stackc.load(tmp_path / "again.stackc")) is type(model)


def test_load_needs_an_architecture(tmp_path) -> None:
    path = tmp_path / "tied.stackc"
    stackc.compress(tied(), RECIPE, path)
    with pytest.raises(ModelError, match=r"holds tensors without an architecture .its reference was a module"):
        stackc.load(path)


def test_the_names_stay_functions_however_the_package_is_imported() -> None:
    import importlib
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(stackc.__path__)}
    assert not modules & set(stackc.__all__)
    importlib.import_module("stackc.runs.runner")
    assert callable(stackc.run)
    assert set(stackc.__all__) <= set(dir(stackc))
    with pytest.raises(AttributeError, match="module 'stackc' has no attribute 'compres'"):
        _ = stackc.compres
