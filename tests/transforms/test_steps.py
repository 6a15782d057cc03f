"""What quantisers with absolute steps share: sums that are taken part by part, and looks at the ends of a plane."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.core.transform import require_finite
from stackc.testing.planes import bell
from stackc.transforms.shared.steps import MOST_STRETCH, largest_magnitude, stretch
from stackc.util.errors import TensorError


@pytest.mark.parametrize("shape", [(3, 40_000), (700, 130), (90_001,), (2, 5)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_stretch_of_a_plane_is_that_of_the_whole(shape, weighted):
    x = bell(shape, 0, "stretch")
    decoded = torch.where(x.abs() > 0.7 * x.std(), x * 0.9, 0.0)
    weights = torch.linspace(0.1, 3, shape[0]) if weighted else None
    rows = x.double().reshape(shape[0], -1)
    counted = rows * (1 if weights is None else weights.double()[:, None])
    expected = float((counted * rows).sum() / (counted * decoded.reshape(rows.shape)).sum())
    assert 1.05 < expected < MOST_STRETCH
    assert stretch(x, decoded, weights) == pytest.approx(expected, abs=2e-6)


def test_there_is_nothing_to_stretch():
    assert stretch(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0)) == 1.0
    assert stretch(torch.ones(4), torch.zeros(4)) == 1.0
    assert stretch(torch.ones(4), torch.full((4,), 1e-3)) == MOST_STRETCH


@given(st.lists(st.floats(width=32), max_size=30), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@settings(max_examples=60)
def test_any_value_that_is_not_finite_is_found(values, dtype):
    x = torch.tensor(values, dtype=dtype)
    bad = [index for index, value in enumerate(x.tolist()) if not torch.isfinite(torch.tensor(value))]
    if not bad:
        require_finite(x)
        assert largest_magnitude(x) == (float(x.abs().max()) if values else 0.0)
        return
    with pytest.raises(TensorError, match=rf"^{len(bad)} of {len(values)} values .* position {bad[0]}\)"):
        require_finite(x)
