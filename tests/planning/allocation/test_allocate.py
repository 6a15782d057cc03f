"""Whole runs with a target."""

from __future__ import annotations

import msgspec
import pytest
import torch

import stackc
from stackc.recipe.parse import load_recipe, recipe_from
from stackc.reporting.report import read_report
from stackc.util.errors import DataError, PlanError, RecipeError

_INT = {"use": "int", "on": "*.weight", "step": "auto"}


class Net(torch.nn.Module):
    """Layers of very different scale, and one that is nearly of low rank."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wide = torch.nn.Linear(96, 128)
        self.small = torch.nn.Linear(128, 64, bias=False)
        self.low = torch.nn.Linear(64, 96)
        with torch.no_grad():
            self.wide.weight.copy_(torch.randn(128, 96, generator=generator))
            self.small.weight.copy_(0.01 * torch.randn(64, 128, generator=generator))
            rank = torch.randn(96, 6, generator=generator) @ torch.randn(6, 64, generator=generator)
            self.low.weight.copy_(0.1 * rank + 0.003 * torch.randn(96, 64, generator=generator))


def compressed(stages, **target):
    artifact, report = stackc.compress(Net(), {"stages": stages}, **target)
    artifact.close()
    return report


@pytest.mark.parametrize("ratio", [5, 8, 15, 30])
def test_the_file_is_within_one_percent_below_the_target(ratio):
    report = compressed([_INT, {"use": "ans", "on": "*/codes"}, "zstd"], target_ratio=ratio)
    target = int(report.model.bytes / ratio)
    assert 0.99 * target <= report.file.bytes <= target
    assert report.allocation.target_bytes == target
    assert report.allocation.bytes == report.file.bytes
    assert report.allocation.sensitivity == "weight-error"


def test_estimated_weight_error_is_the_measured_one():
    """With one choice in each tensor nothing is added up by assumption."""
    report = compressed([_INT, "zstd"], target_bytes="14kB")
    assert report.allocation.estimated_loss == pytest.approx(report.final.weight_error**2, rel=0.01)


def test_allocation_beats_the_best_uniform_bits_of_the_same_bytes():
    stages = [{"use": "ans", "on": "*/codes"}, "zstd"]
    for bits in (3, 5):
        uniform = compressed([{"use": "int", "on": "*.weight", "bits": bits}, *stages])
        allocated = compressed([_INT, *stages], target_bytes=uniform.file.bytes)
        assert allocated.file.bytes <= uniform.file.bytes
        assert allocated.final.weight_error < 0.9 * uniform.final.weight_error


def test_steps_are_those_of_the_theory():
    """At a high rate equal slopes mean equal steps, whatever the scale of a tensor (reverse water-filling)."""
    report = compressed([_INT, {"use": "ans", "on": "*/codes"}, "zstd"], target_ratio=4.5)
    steps = {plane: fields["step"] for plane, fields in report.allocation.choices["stages[0]"].items()}
    assert steps["wide.weight"] == pytest.approx(steps["low.weight"], rel=0.35)
    assert steps["small.weight"] == pytest.approx(steps["low.weight"], rel=0.35)


def test_ranks_and_shares_are_chosen_too():
    stages = [
        {"use": "prune", "on": "wide.weight", "sparsity": "auto"},
        {"use": "seed", "on": "low.weight", "rank": "auto", "center": False},
        {"use": "int", "on": ["*.weight", "!*/mask"], "step": "auto"},
        {"use": "ans", "on": "*/{codes,mask}"},
        "zstd",
    ]
    report = compressed(stages, target_ratio=10)
    choices = report.allocation.choices
    assert 0.99 * report.model.bytes / 10 <= report.file.bytes <= report.model.bytes / 10
    assert 4 <= choices["stages[1]"]["low.weight"]["rank"] <= 16
    assert set(choices["stages[2]"]) == {
        "wide.weight/values",
        "small.weight",
        "low.weight/basis",
        "low.weight/scores",
    }
    assert len(report.stages) == len(stages)


def test_a_lock_gives_the_same_bytes_without_allocating(tmp_path, tiny_model, tiny_task):
    recipe = {"task": tiny_task, "allocate": {"ratio": 6}, "stages": [{**_INT, "on": "*"}, "zstd"]}
    first = stackc.run(recipe, str(tiny_model), output=tmp_path / "first")
    assert first.report.allocation.sensitivity == "fisher"
    assert 0.99 * first.report.allocation.target_bytes <= first.report.file.bytes
    again = stackc.run(load_recipe(first.folder / "recipe.lock.yaml"), output=tmp_path / "again")
    assert again.artifact.read_bytes() == first.artifact.read_bytes()
    assert again.report.allocation is None
    assert read_report(first.folder / "report.json") == first.report


def test_runs_give_the_same_bytes(tmp_path, tiny_model, tiny_task):
    recipe = {"task": tiny_task, "allocate": {"ratio": 5}, "stages": [{**_INT, "on": "*"}, "zstd"]}
    files = [
        stackc.run(recipe, str(tiny_model), output=tmp_path / name, evaluate=False).artifact.read_bytes()
        for name in ("one", "two")
    ]
    assert files[0] == files[1]


def test_a_lock_with_another_target_is_refused(tmp_path, tiny_model):
    recipe = {"allocate": {"ratio": 6}, "stages": [{**_INT, "on": "*"}, "zstd"]}
    done = stackc.run(recipe, str(tiny_model), output=tmp_path / "run")
    with pytest.raises(RecipeError, match="changed after it was locked"):
        stackc.run(load_recipe(done.folder / "recipe.lock.yaml"), output=tmp_path / "other", target_ratio=7)


def test_a_lock_without_its_choices_is_refused(tmp_path, tiny_model):
    recipe = {"allocate": {"ratio": 6}, "stages": [{**_INT, "on": "*"}, "zstd"]}
    done = stackc.run(recipe, str(tiny_model), output=tmp_path / "run")
    locked = load_recipe(done.folder / "recipe.lock.yaml")
    emptied = msgspec.structs.replace(locked, lock=msgspec.structs.replace(locked.lock, choices={}))
    with pytest.raises(RecipeError, match=r"the lock holds no choices for stages\[0\] \(int\); remove the 'lock' key"):
        stackc.run(emptied, output=tmp_path / "other")


@pytest.mark.parametrize(("size", "what"), [(1200, "1,200"), (160_000, "160,000")])
def test_targets_out_of_reach_are_refused_with_the_range(size, what):
    with pytest.raises(PlanError, match=f"a file of {what} bytes is out of reach: .* makes files of about .*B to .*B"):
        compressed([_INT, "zstd"], target_bytes=size)


def test_fisher_without_training_rows_is_refused(tiny_model, tiny_task):
    task = {key: value for key, value in tiny_task.items() if key != "train"}
    with pytest.raises(DataError, match=r"allocate: the task has no training texts: .*sensitivity: weight-error"):
        stackc.compress(str(tiny_model), {"task": task, "stages": [_INT]}, target_ratio=5)


def test_weight_error_needs_no_training_rows(tiny_model, tiny_task):
    task = {key: value for key, value in tiny_task.items() if key != "train"}
    recipe = {
        "task": task,
        "allocate": {"ratio": 5, "sensitivity": "weight-error"},
        "stages": [{**_INT, "on": "*"}, "zstd"],
    }
    artifact, report = stackc.compress(str(tiny_model), recipe, evaluate=False)
    artifact.close()
    assert report.allocation.sensitivity == "weight-error"


def test_stages_around_the_open_ones_settle():
    """A rank from a share of variance in front, and steps whose bits depend on the data behind."""
    stages = [
        {"use": "seed", "on": "low.weight", "variance": 0.95},
        {"use": "int", "on": ["wide.weight", "*/scores"], "step": "auto"},
        {"use": "int", "on": ["small.weight", "*/basis"], "step": 0.001},
        "zstd",
    ]
    report = compressed(stages, target_ratio=6)
    assert set(report.allocation.choices) == {"stages[1]"}
    assert set(report.allocation.choices["stages[1]"]) == {"wide.weight", "low.weight/scores"}
    assert report.file.bytes <= report.model.bytes / 6


def test_a_bundled_tokenizer_counts(tiny_model, tiny_task):
    recipe = {"task": tiny_task, "bundle": ["tokenizer"], "stages": [{**_INT, "on": "*"}, "zstd"]}
    artifact, report = stackc.compress(str(tiny_model), recipe, target_bytes=9_000, evaluate=False)
    artifact.close()
    assert report.file.bytes == report.file.self_contained_bytes
    assert 8_910 <= report.file.bytes <= 9_000


def test_the_key_is_part_of_the_recipe():
    recipe = recipe_from({"allocate": {"bytes": "3kB"}, "stages": [_INT]})
    assert recipe.allocate.budget(0) == 3000
