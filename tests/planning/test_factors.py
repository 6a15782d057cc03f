"""Scales that a later stage would destroy are refused, with where, how many and what would work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stackc.api import compress
from stackc.util.errors import TensorError


def rows_of(magnitude: float, scales: Any, bits: int = 4) -> float:
    """Relative error of one row that is so much smaller than the others."""
    torch.manual_seed(0)
    module = nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.randn(32, 64))
        module.weight[0] *= magnitude
    artifact, _ = compress(module, {"stages": [{"use": "int", "bits": bits}, scales, "raw"]})
    row, decoded = module.weight.detach()[0].double(), artifact["weight"][0].double()
    return float((row - decoded).norm() / row.norm()) if magnitude else float(decoded.norm())


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-20, 1e-8, 1e-7, 1e-6, 1.0, 1e4, 1e9])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "scales",
    [
        {"use": "fp16", "on": "*/scale"},
        {"use": "bf16", "on": "*/scale"},
        {"use": "int", "on": "*/scale", "bits": 8, "granularity": "tensor"},
    ],
    ids=lambda stage: str(stage["use"]),
)
def test_a_row_is_kept_or_the_run_is_refused(magnitude: float, bits: int, scales: Any) -> None:
    try:
        error = rows_of(magnitude, scales, bits)
    except TensorError as refused:
        refusal, error = str(refused), 0.0
    else:
        refusal = ""
    assert error <= 0.3
    if refusal:
        assert magnitude not in (0.0, 1.0)
        assert refusal.startswith(f"stages[1] ({'int' if scales['use'] == 'int' else 'cast'}) on weight/scale: ")


def test_the_refusal_says_how_many_and_what_works() -> None:
    with pytest.raises(TensorError, match=r"on weight/scale: 1 of 32 scales, down to .* would become zero.*bf16 keeps"):
        rows_of(1e-8, {"use": "fp16", "on": "*/scale"})
    with pytest.raises(TensorError, match=r"\d+ of 32 scales, .* would be off by more than 25%"):
        rows_of(1e-8, {"use": "int", "on": "*/scale", "bits": 1, "granularity": "tensor"})
