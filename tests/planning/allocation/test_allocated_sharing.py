"""The rate allocation beside planes that tensors share: what is shared is paid for once, and is no open choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stackc
from stackc.util.errors import PlanError


class Net(torch.nn.Module):
    """Three matrices with rows in one space of few dimensions, and one by itself."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(4, 48, generator=generator)
        for name in ("a", "b", "c"):
            rows = torch.randn(60, 4, generator=generator) @ basis
            self.register_buffer(name, rows + 0.05 * torch.randn(60, 48, generator=generator))
        self.register_buffer("d", torch.randn(50, 30, generator=generator))


SHARED = {"use": "seed", "on": ["a", "b", "c"], "rank": 6, "group": "all", "center": False}


def compress(stages: list[Any], **target: Any) -> tuple[Any, Any]:
    return stackc.compress(Net(), {"stages": stages}, **target)


@pytest.mark.parametrize("basis", [[], [{"use": "int", "on": "*/basis", "bits": 6}]])
def test_what_is_shared_counts_once(basis: list[Any]) -> None:
    stages = [SHARED, *basis, {"use": "int", "on": ["*/scores", "d"], "step": "auto"}, "context", "zstd"]
    artifact, report = compress(stages, target_bytes=2500 if basis else 3200)
    target = report.allocation.target_bytes
    assert 0.99 * target <= report.file.bytes <= target
    assert len(artifact.shared) == 1
    assert artifact.shared.usage.users == [3]
    (stage,) = report.allocation.choices
    assert {plane.partition("/")[0] for plane in report.allocation.choices[stage]} == {"a", "b", "c", "d"}
    for name, x in Net().state_dict().items():
        assert torch.dist(artifact[name], x) < 0.5 * x.norm()


def test_an_open_choice_for_a_shared_plane_is_refused() -> None:
    stages = [SHARED, {"use": "int", "on": ["*/basis", "*/scores"], "step": "auto"}, "zstd"]
    with pytest.raises(
        PlanError,
        match=r"stages\[1\] \(int\) leaves a choice to the rate allocation for @0\.all\.basis, a plane that several tensors "
        r"share; .* give the value for shared planes, in a stage of their own",
    ):
        compress(stages, target_bytes=4000)


def test_sharing_after_open_choices_is_refused() -> None:
    stages = [{"use": "prune", "on": ["a", "b", "c"], "rows": "auto"}, {**SHARED, "on": "*/values"}, "zstd"]
    message = r"stages\[1\] \(seed\): what its tensors share depends on what the rate allocation chooses for stages\[0\] \(prune\)"
    with pytest.raises(PlanError, match=message):
        compress(stages, target_bytes=20000)
