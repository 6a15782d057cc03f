"""Stages agree on what a row is: of three or more axes, all that belongs to one place of the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stackc.core.spec import PlaneSpec, as_matrix
from stackc.transforms.codebook import Codebook
from stackc.transforms.int import Int
from stackc.transforms.prune import Prune
from stackc.transforms.seed import Seed

STAGES = [
    Int(bits=4),
    Int(bits=1),
    Int(bits=4, symmetric=False, granularity="group", group_size=5),
    Int(bits=8, granularity="tensor"),
    Codebook(entries=8, dims=4),
    Codebook(entries=8),
    Prune(columns=0.5),
    Seed(rank=3),
]


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("shape", [(6, 4, 1, 1), (6, 2, 3, 3), (5, 3, 7)])
def test_a_convolution_is_the_matrix_of_its_flattened_rows(stage: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    flat = x.reshape(as_matrix(shape))
    planes, matrix = stage.encode(x), stage.encode(flat)
    for name, spec in stage.plan(PlaneSpec.of(x)).items():
        assert spec.mismatch(planes[name]) is None
        assert torch.equal(planes[name].reshape(matrix[name].shape), matrix[name])
    decoded = stage.decode(planes, PlaneSpec.of(x))
    assert torch.equal(decoded.reshape(flat.shape), stage.decode(matrix, PlaneSpec.of(flat)))


def test_a_kernel_of_one_place_has_one_scale_per_channel() -> None:
    x = torch.randn(16, 8, 1, 1)
    assert Int(bits=8).encode(x)["scale"].shape == (16, 1)
    assert Int(bits=8, granularity="group", group_size=4).encode(x)["scale"].shape == (16, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("magnitude", [1.0, 1e-5, 3e-7])
def test_scales_of_half_precision_are_those_of_the_plane_as_float32(
    dtype: torch.dtype, symmetric: bool, magnitude: float
) -> None:
    """3e-7 in float16 is five of its smallest steps; a scale of that in float16 would be none."""
    torch.manual_seed(0)
    x = (torch.randn(4, 16) * magnitude).to(dtype)
    stage = Int(bits=8, symmetric=symmetric)
    planes, wide = stage.encode(x), stage.encode(x.float())
    assert all(torch.equal(planes[name], wide[name]) for name in planes)
    error = torch.dist(stage.decode(wide, PlaneSpec.of(x.float())), x.float()) / torch.linalg.vector_norm(x.float())
    assert error < 0.02
