"""The Hypothesis strategies give what they promise, and say what is missing where hypothesis is not installed."""

from __future__ import annotations

import sys

import pytest
from hypothesis import find as find_example
from hypothesis import given, settings

from stackc.core.spec import PlaneSpec
from stackc.testing.planes import non_finite_planes, standard_planes
from stackc.testing.strategies import plane_specs, planes
from stackc.util.errors import DependencyError


@given(planes())
@settings(max_examples=100, deadline=None)
def test_planes_fit_their_specs(plane):
    assert plane.spec.mismatch(plane.x) is None


@given(plane_specs(dtypes=["int8", "float32"], bounded=True, max_axes=2, max_length=3))
def test_specs_keep_their_limits(spec):
    assert len(spec.shape) <= 2
    assert max(spec.shape, default=0) <= 3
    assert (spec.lo is not None) == (spec.dtype == "int8")


@pytest.mark.parametrize(
    "wanted",
    [
        lambda plane: plane.spec.shape == (),
        lambda plane: plane.spec.numel == 0,
        lambda plane: plane.spec.lo is not None and plane.spec.lo == plane.spec.hi,
        lambda plane: plane.spec.bits > 32 and plane.spec.lo is not None,
        lambda plane: plane.spec.is_real and plane.x.isnan().any(),
    ],
    ids=["0-d", "empty", "one value", "wide", "NaN"],
)
def test_edge_cases_occur(wanted):
    find_example(planes(), lambda plane: bool(wanted(plane)), settings=settings(max_examples=5000, deadline=None))


@pytest.mark.parametrize("strategy", [plane_specs, planes])
def test_without_hypothesis_the_error_names_it(strategy, monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(DependencyError, match="pip install hypothesis"):
        strategy()


@pytest.mark.parametrize("seed", [0, 1])
def test_standard_planes_are_what_their_names_say(seed):
    named = standard_planes(seed)
    shapes = {name: tuple(plane.shape) for name, plane in named.items()}
    assert shapes["0-d"] == ()
    assert shapes["1xn"][0] == 1 == shapes["nx1"][1]
    assert 0 in shapes["empty"]
    assert not named["transposed"].is_contiguous()
    assert not named["strided"].is_contiguous()
    assert all(bool(plane.isfinite().all()) for plane in named.values())
    assert float(named["float16 large"].abs().max()) > 30_000
    assert named["large"].square().isinf().any()
    assert not named["tiny"].square().any()
    assert {PlaneSpec.of(plane).dtype for plane in named.values()} >= {
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "bool",
    }
    assert all(not bool(plane.isfinite().all()) for plane in non_finite_planes(seed).values())


def test_seeds_give_other_values():
    assert not standard_planes(0)["matrix"].equal(standard_planes(1)["matrix"])
