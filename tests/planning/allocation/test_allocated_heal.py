"""Allocation beside the other parts of a recipe: training afterwards, and stages that mean what the planner says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import stackc
from stackc.core.spec import PlaneSpec
from stackc.core.stack import describe
from stackc.planning.allocation.tree import Closed, Explorer
from stackc.planning.encode import Walker, encode_tensor
from stackc.planning.program import Program
from stackc.recipe.parse import load_recipe, recipe_from

SEED = {"use": "seed", "on": "*word_embeddings.weight", "rank": "auto", "calibrated": True}
SCORES = {"use": "int", "on": "*/scores", "step": "auto"}
MATRICES = {"use": "int", "on": ["*.weight", "!*/{scale,mean}"], "step": "auto", "calibrated": True}
HEAL = {"use": "heal", "steps": 30, "batch_size": 16, "holdout": 20, "evaluations": 8}
STAGES = [SEED, SCORES, {"use": "int8", "on": "*/basis"}, MATRICES, HEAL, "context", "floats"]


@pytest.fixture
def recipe(tiny_model: Path, tiny_task: dict[str, object]) -> dict[str, Any]:
    """All but the stages."""
    return {"model": str(tiny_model), "task": tiny_task, "calibration": {"rows": 16}, "allocate": {"ratio": 5}}


def test_an_allocated_calibrated_healed_file_reaches_its_size(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = stackc.run({**recipe, "stages": STAGES}, output=tmp_path / "run")
    target = int(run.report.model.bytes / 5)
    assert run.report.allocation.target_bytes == target
    assert 0.9 * target <= run.report.file.bytes <= target
    assert not run.report.notes
    (healing,) = run.report.healing
    assert healing.price > 0, "a heal stage without a size of its own keeps to that of the allocation"
    assert [stage.use for stage in run.report.stages] == ["seed", "int", "int8", "int", "heal", "context", "floats"]
    again = stackc.run(load_recipe(run.folder / "recipe.lock.yaml"), output=tmp_path / "again", every_stage=False)
    assert again.artifact.read_bytes() == run.artifact.read_bytes()


def test_a_heal_stage_with_a_size_of_its_own_aims_at_that(recipe: dict[str, Any], tmp_path: Path) -> None:
    heal = {**HEAL, "bytes": 2000, "steps": 5, "evaluations": 1}
    stages = [*STAGES[:4], heal, *STAGES[5:]]
    report = stackc.run({**recipe, "stages": stages}, output=tmp_path / "run", every_stage=False).report
    assert report.file.bytes > 2000, "five steps are too few for it"
    assert [note for note in report.notes if "bytes above the 2,000 that it was to have" in note]


def test_the_allocation_stores_planes_as_the_planner_says() -> None:
    """A later stage of the same kind without planes in 'on' does not mean the scales of what is quantised already."""
    stages = [{"use": "int", "bits": 4, "on": "w"}, {"use": "heal", "steps": 1}, {"use": "int", "bits": 8}, "zstd"]
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    recipe = recipe_from({"stages": stages})
    program = Program.of(recipe, {"w": PlaneSpec.of(x), "b": PlaneSpec((40,), "float32")})
    plan = program.plan.tensors[0]
    assert describe(plan.stacks[-1]) == "int(codes: zstd, scale: zstd)"
    found = Explorer(program, plan).begin(x)
    assert isinstance(found, Closed)
    assert found.size == sum(map(len, encode_tensor(Walker(plan, x)).stages[-1]))
