"""What a stage turns to zero in side information is counted in the report, and said where it matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stackc.api import compress
from stackc.core.spec import PlaneSpec
from stackc.models import open_reference
from stackc.planning.encode import Walker
from stackc.planning.plan import plan_recipe
from stackc.planning.trained import Hardened
from stackc.planning.zeroed import zero_cautions, zeroed
from stackc.recipe.parse import recipe_from
from stackc.reporting.report import Report, ZeroedRow
from stackc.reporting.table import summary_lines
from stackc.runs.pipeline import compress_to_file


def reported(*stages: Any, magnitude: float = 1.0) -> Report:
    torch.manual_seed(0)
    module = nn.Linear(64, 48, bias=False)
    with torch.no_grad():
        module.weight.mul_(magnitude)
    return compress(module, {"stages": [*stages, "raw"]})[1]


def notes(report: Report) -> list[str]:
    return [line for line in summary_lines(report) if line.startswith("note: ") and "to zero" in line]


SEED = {"use": "seed", "rank": 8}
HALF = {"use": "fp16", "on": "*/{mean,basis}"}
COARSE = {"use": "int", "on": "*/basis", "granularity": "tensor"}


def test_a_mean_that_half_precision_turns_to_zero_is_counted_and_said() -> None:
    report = reported(SEED, HALF, magnitude=1e-9)
    assert [row.zeroed for row in report.stages] == [[], [ZeroedRow(plane="mean", zeroed=64, values=64, tensors=1)], []]
    said = "note: stages[1] (fp16) turned 64 of 64 numbers of mean in 1 tensor to zero; bf16 or float32, more bits"
    assert [line[: len(said)] for line in notes(report)] == [said]
    assert [row.zeroed for row in reported(SEED, HALF).stages] == [[], [], []]


@pytest.mark.parametrize(("bits", "said"), [(2, True), (5, False)])
def test_ordinary_rounding_is_counted_only(bits: int, said: bool) -> None:
    report = reported(SEED, {**COARSE, "bits": bits})
    (row,) = report.stages[1].zeroed
    assert (row.plane, row.values, row.tensors) == ("basis", 8 * 64, 1)
    assert row.zeroed > 0
    assert bool(notes(report)) == said


def test_what_is_made_of_side_information_counts_by_its_path() -> None:
    report = reported(SEED, {**SEED, "on": "*/basis", "rank": 2}, {**COARSE, "on": "*/basis/scores", "bits": 3})
    assert [row.plane for row in report.stages[2].zeroed] == ["basis/scores"]


def test_payload_does_not_count() -> None:
    report = reported(SEED, {**COARSE, "on": "*/scores", "bits": 2}, {"use": "fp16", "on": "*/basis"})
    assert [row.zeroed for row in report.stages] == [[], [], [], []]


def test_a_quick_run_has_the_counts_of_all_stages(tmp_path: Path) -> None:
    module = nn.Linear(64, 48, bias=False)
    with torch.no_grad():
        module.weight.mul_(1e-9)
    recipe = recipe_from({"stages": [SEED, HALF, "raw"]})
    report = compress_to_file(recipe, open_reference(module), tmp_path / "m.stackc", every_stage=False).report
    assert [row.zeroed[0].plane for row in report.stages] == ["mean"]
    assert notes(report)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("group", [None, "all"])
def test_a_codebook_that_narrows_its_own_entries_is_counted(dims: int, group: str | None) -> None:
    book = {"use": "codebook", "entries": 8, "dims": dims, "group": group, "dtype": "float16"}
    report = reported(book, magnitude=1e-9)
    (row,) = report.stages[0].zeroed
    assert (row.plane, row.tensors) == ("codebook", 1)
    assert row.zeroed == row.values > 0
    assert notes(report)
    assert reported({**book, "dtype": "float32"}, magnitude=1e-9).stages[0].zeroed == []
    assert reported(book).stages[0].zeroed == []


def test_an_entry_for_weights_that_are_zero_is_no_loss() -> None:
    module = nn.Linear(64, 48, bias=False)
    with torch.no_grad():
        module.weight[:20] = 0
    stages = [{"use": "codebook", "entries": 4096, "dtype": "float16"}, "raw"]
    artifact, report = compress(module, {"stages": stages})
    assert bool((artifact["weight"][:20] == 0).all())
    assert report.stages[0].zeroed == []


def test_a_long_row_matters_a_short_one_and_single_numbers_do_not() -> None:
    before = torch.rand(8, 16) + 1
    after = before.clone()
    after[:4, :8] = 0
    found = zeroed(0, "basis", before, after)
    assert found is not None
    assert (found.zeros, found.values, found.matters) == (32, 128, False)
    after[0] = 0
    found = zeroed(0, "basis", before, after)
    assert found is not None
    assert found.matters
    short = zeroed(0, "codebook", before.reshape(-1, 2), after.reshape(-1, 2))
    assert short is not None
    assert not short.matters
    assert zeroed(0, "basis", torch.zeros(2, 16), torch.zeros(2, 16)) is None


def trained(scale: torch.Tensor, basis: torch.Tensor) -> tuple[dict[int, str], list[tuple[str, int, bool]]]:
    """What is said and counted of a training that leaves these scales and this basis."""
    torch.manual_seed(0)
    x = torch.randn(6, 40)
    x[0] = 0  # has the smallest scale that there is
    recipe = recipe_from(
        {
            "stages": [
                {"use": "seed", "rank": 2, "center": False},
                {"use": "int", "on": "*/scores"},
                {"use": "bf16", "on": "*/scale"},
                {"use": "heal", "steps": 1},
            ],
        }
    )
    plan = plan_recipe(recipe, {"x": PlaneSpec.of(x)})
    walker = Walker(plan.tensors[0], x)
    for stage in range(3):
        walker.apply(stage)
    planes = {path: plane for path, (_, plane) in walker.planes.items()}
    planes["scores/scale/values"] = planes["scores/scale/values"] * scale[:, None].to(torch.bfloat16)
    planes["basis"] = planes["basis"] * basis[:, None]
    walker = Walker(plan.tensors[0], x, trained={3: {"x": Hardened({}, planes, {})}})
    for stage in range(4):
        walker.apply(stage)
    return zero_cautions(plan, walker.zeroed), [(one.path, one.zeros, one.matters) for one in walker.zeroed]


def test_a_scale_that_training_turns_to_zero_is_said() -> None:
    kept = torch.ones(6)
    assert trained(kept, torch.ones(2)) == ({}, [])
    said, counted = trained(torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0]), torch.ones(2))
    assert counted == [("scores/scale", 1, True)]
    assert said[3].startswith("stages[3] (heal) turned 1 of 5 numbers of scores/scale in 1 tensor to zero; bf16")


def test_a_basis_that_training_turns_to_zero_is_counted_only() -> None:
    assert trained(torch.ones(6), torch.tensor([0.0, 1.0])) == ({}, [("basis", 40, False)])
