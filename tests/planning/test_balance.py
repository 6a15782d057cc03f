"""A stage whose side information outweighs its payload says so, before the run and after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stackc.api import compress
from stackc.core.spec import PlaneSpec
from stackc.planning.balance import cautions, fixed_width
from stackc.planning.plan import plan_recipe
from stackc.recipe.parse import recipe_from


def planned(*stages: Any) -> dict[int, str]:
    recipe = recipe_from({"stages": list(stages)})
    return cautions(plan_recipe(recipe, {"w": PlaneSpec((64, 32, 3, 3), "float32")}), fixed_width)


GROUPS = {"use": "int", "bits": 4, "granularity": "group", "group_size": 4}


def test_small_groups_are_named_in_the_plan() -> None:
    assert planned({"use": "int", "bits": 4}) == {}
    assert planned({**GROUPS, "group_size": 32}) == {}
    assert list(planned(GROUPS)) == [0]
    assert planned(GROUPS)[0].startswith(
        "stages[0] (int) stores more side information (scale: 18.4 kB) than payload (9.2"
    )
    assert "larger group_size" in planned(GROUPS)[0]


def test_what_later_stages_make_of_side_information_counts() -> None:
    rank = {"use": "seed", "rank": 8}
    assert list(planned(rank)) == [0]
    assert list(planned(rank, {"use": "int", "on": "*/basis", "bits": 1, "granularity": "tensor"})) == []


@pytest.mark.parametrize(("size", "said"), [(2, True), (64, False)])
def test_the_report_says_it_of_the_bytes_in_the_file(size: int, said: bool) -> None:
    torch.manual_seed(0)
    stages = [{**GROUPS, "group_size": size}, "raw"]
    report = compress(nn.Conv2d(16, 32, 3, bias=False), {"stages": stages})[1]
    assert [bool(row.caution) for row in report.stages] == [said, False]
    side = sum(row.bytes for row in report.bytes if row.role == "side")
    payload = sum(row.bytes for row in report.bytes if row.role == "payload")
    assert (side > payload) == said
