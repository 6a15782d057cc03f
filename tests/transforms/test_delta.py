"""Delta gives a tensor back from its base: rounded, or every bit of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known
from stackc.testing import transform_checks
from stackc.testing.planes import random_bits, random_integers, same_bits
from stackc.transforms.delta import Delta
from stackc.util.errors import SpecError, TensorError

REAL = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "int32", "int64")


@pytest.mark.parametrize("check", transform_checks(Delta(base="any")), ids=str)
def test_delta_conforms(check):
    check()


@pytest.mark.parametrize("check", transform_checks(Delta(base="any", exact=True)), ids=str)
def test_exact_delta_conforms(check):
    check()


def against(x: torch.Tensor, base: torch.Tensor, *, exact: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What comes back of a tensor, and the planes that it was made into."""
    delta = Delta(exact=exact)
    planes = delta.encode(x, Known(shared={"base": base}))
    for name, spec in delta.plan(PlaneSpec.of(x)).items():
        assert spec.mismatch(planes[name]) is None
    assert same_bits(planes["base"], base)
    return delta.decode(planes, PlaneSpec.of(x)), planes


@pytest.mark.parametrize("dtype", REAL)
def test_every_pair_of_bit_patterns_comes_back(dtype):
    spec = PlaneSpec((64, 65), dtype)
    x, base = random_bits(spec, 1, "x"), random_bits(spec, 2, "base")
    assert same_bits(against(x, base, exact=True)[0], x)


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_integers_come_back(dtype):
    spec = PlaneSpec((500,), dtype)
    x, base = random_integers(spec, 1, "x"), random_integers(spec, 2, "base")
    assert same_bits(against(x, base, exact=True)[0], x)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("start", [1.0, -1.0, 0.0, -0.0])
def test_neighbours_differ_by_small_numbers(dtype, start):
    base = torch.tensor([start], dtype=getattr(torch, dtype))
    up = torch.nextafter(base, base + 1)
    down = torch.nextafter(base, base - 1)
    steps = [int(against(x, base, exact=True)[1]["difference"]) for x in (base, up, down)]
    assert steps[0] == 0
    # Between the smallest numbers of both signs lie two zeros, of which nextafter knows one.
    assert steps[1:] == ([2, 1] if start else [2, 3] if math.copysign(1, start) > 0 else [4, 1])


def test_what_lies_far_apart_is_marked():
    base = torch.tensor([1.0, 1.0, -1.0])
    planes = against(torch.tensor([1.5, -1.0, 1.0]), base, exact=True)[1]
    assert planes["far"].tolist() == [False, True, True]


@given(
    st.lists(
        st.tuples(st.floats(-(2.0**90), 2.0**90, width=32), st.floats(-(2.0**90), 2.0**90, width=32)),
        min_size=1,
        max_size=20,
    )
)
def test_a_rounded_difference_comes_back_within_two_roundings(pairs):
    x, base = torch.tensor(pairs).unbind(1)
    decoded = against(x, base, exact=False)[0]
    bound = torch.finfo(torch.float32).eps * (x.double().abs() + base.double().abs()) + 2.0**-148
    assert bool(((decoded.double() - x.double()).abs() <= bound).all())
    near = (base.double() / 2 <= x.double()) & (x.double() <= 2 * base.double())  # Sterbenz 1974
    assert torch.equal(decoded[near], x[near])


def test_not_exact_takes_what_is_real_and_finite():
    with pytest.raises(SpecError, match="delta takes real tensors, this one is int64 3; with exact: true it takes all"):
        Delta().plan(PlaneSpec((3,), "int64"))
    with pytest.raises(TensorError, match="1 of 2 values is NaN"):
        against(torch.tensor([1.0, math.nan]), torch.zeros(2), exact=False)
    with pytest.raises(TensorError, match="the base holds NaN or infinity, or differs by more than float32 can hold"):
        against(torch.zeros(2), torch.tensor([1.0, math.inf]), exact=False)
    with pytest.raises(TensorError, match="differs by more than float16 can hold; exact: true takes"):
        against(torch.tensor([60000.0]).half(), torch.tensor([-60000.0]).half(), exact=False)


def test_gradients_reach_the_difference_alone():
    base, difference = torch.ones(3, 2), torch.zeros(3, 2, requires_grad=True)
    Delta().decode({"base": base, "difference": difference}, PlaneSpec((3, 2), "float32")).sum().backward()
    assert torch.equal(difference.grad, torch.ones(3, 2))


def test_what_is_known_of_the_tensor_is_known_of_the_difference():
    x, weights, moments = torch.ones(3, 2), torch.rand(3), torch.eye(2)
    known = Known(weights, moments)
    carried = Delta().carry(known, Delta().encode(x))["difference"]
    assert carried.weights is weights
    assert carried.moments is moments
    assert Delta(exact=True).carry(known, Delta(exact=True).encode(x)) == {}


@pytest.mark.parametrize("packer", ["zstd", "context", "raw", "auto"])
def test_packers_take_the_planes_of_exact_differences(packer):
    from stackc.core.registry import find_packer

    base = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))
    x = base + 1e-4 * torch.randn(50, 20, generator=torch.Generator().manual_seed(2))
    planes = Delta(exact=True).encode(x, Known(shared={"base": base}))
    specs = Delta(exact=True).plan(PlaneSpec.of(x))
    for name in ("difference", "far"):
        chosen, data = find_packer(packer).choose(planes[name], specs[name])
        assert same_bits(chosen.unpack(data, specs[name]), planes[name])
    assert packer == "raw" or len(data) < 200
