"""The estimate of bits follows the packer's bytes, and its gradient says what zeros would save."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.core.rate import CodeBits, code_bits, rounded, stepped
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def packed_bits(codes: torch.Tensor) -> int:
    most = int(codes.abs().max()) + 1
    spec = PlaneSpec(tuple(codes.shape), "int16", -most, most)
    return 8 * len(find_packer("context").pack(codes.to(torch.int16), spec))


#: Codes as training leaves them, by how far the estimate may be from the packed bytes.
CODES: dict[str, tuple[float, Callable[[], torch.Tensor]]] = {
    "dense, mostly zeros": (0.02, lambda: 0.7 * normal(256, 64)),
    "dense": (0.02, lambda: 3 * normal(256, 64)),
    "dense, large": (0.02, lambda: 20 * normal(256, 64)),
    "empty rows": (0.02, lambda: 2 * normal(4000, 8) * (uniform(4000, 1) < 0.15)),
    "rows of many sizes": (0.02, lambda: normal(2000, 8) * 10 ** (1 - 2.5 * uniform(2000, 1))),
    "scores of falling size": (0.06, lambda: normal(3000, 12) * torch.logspace(1, -1, 12)),
    "scores with empty rows": (0.06, lambda: normal(9000, 12) * torch.logspace(0.5, -1, 12) * (uniform(9000, 1) < 0.3)),
    "scattered": (0.02, lambda: normal(512, 256).sign() * (uniform(512, 256) < 0.05)),
    "vector": (0.02, lambda: 3 * normal(3000)),
    "one row": (0.02, lambda: 3 * normal(1, 3000)),
    "one column": (0.02, lambda: 3 * normal(3000, 1)),
    "three axes": (0.02, lambda: 3 * normal(16, 12, 64)),
    "small matrix": (0.05, lambda: 2 * normal(16, 16)),
    "bias": (0.1, lambda: 5 * normal(128)),
}


@pytest.mark.parametrize("name", CODES)
def test_the_estimate_is_near_what_is_packed(name: str) -> None:
    bound, make = CODES[name]
    codes = make().round()
    packed = packed_bits(codes)
    assert float(code_bits(codes)) == pytest.approx(packed, rel=bound)


def test_empty_rows_cost_next_to_nothing() -> None:
    codes = (2 * normal(100, 16)).round()
    spread_out = torch.zeros(1000, 16)
    spread_out[::10] = codes
    flags = 1000 * 0.469  # the entropy of one in ten
    assert float(code_bits(spread_out)) - float(code_bits(codes)) == pytest.approx(flags, rel=0.1)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (3, 0, 2)])
def test_nothing_costs_nothing(shape: tuple[int, ...]) -> None:
    codes = torch.zeros(shape, requires_grad=True)
    bits = code_bits(codes)
    assert bits.shape == ()
    assert float(bits.detach()) == 0
    bits.backward()
    assert codes.grad is not None
    assert codes.grad.shape == shape


@pytest.mark.parametrize("shape", [(), (1,), (40,), (40, 1), (1, 40), (40, 8), (5, 8, 3)])
def test_zeros_cost_next_to_nothing_and_the_first_one_much(shape: tuple[int, ...]) -> None:
    codes = torch.zeros(shape)
    count = max(codes.numel(), 1)
    like = CodeBits.like(codes)
    assert 0 <= float(like(codes)) < 16
    one = codes.clone().reshape(-1)
    one[0] = 1
    assert float(like(one.reshape(shape))) >= float(like(codes)) + torch.log2(torch.tensor(float(count)))


@pytest.mark.parametrize("name", CODES)
def test_the_gradient_is_the_price_of_the_next_unit(name: str) -> None:
    codes = CODES[name][1]().round().requires_grad_()
    like = CodeBits.like(codes)
    like(codes).backward()
    gradient = codes.grad
    assert gradient is not None
    used = codes.detach() != 0
    prices = gradient[used] * codes.detach()[used].sign()
    assert float(prices.mean()) > 0, "a code pays for its magnitude"
    # Where there are hardly any zeros, a zero is dearer than a one.
    assert bool((prices > 0).all()) or float(used.double().mean()) > 0.7
    assert not bool(gradient[~used].any()), "a zero pays nothing, in neither direction"
    # One code towards zero by one saves what its gradient says.
    before = float(like(codes.detach()))
    for place in codes.detach().abs().reshape(-1).argsort(descending=True)[[0, 7]].tolist():
        fewer = codes.detach().clone().reshape(-1)
        slope = float(gradient.reshape(-1)[place].abs())
        fewer[place] -= fewer[place].sign()
        assert before - float(like(fewer.reshape(codes.shape))) == pytest.approx(
            slope, rel=0.02, abs=0.01 * before**0.5
        )


@pytest.mark.parametrize("name", CODES)
def test_coarser_codes_cost_less(name: str) -> None:
    real = CODES[name][1]()
    costs = [float(code_bits((real / step).round())) for step in (1.0, 1.5, 2.0, 3.0, 5.0)]
    assert all(finer >= coarser for finer, coarser in itertools.pairwise(costs))
    assert costs[0] > costs[-1]


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    size=st.floats(0, 40),
    seed=st.integers(0, 99),
)
def test_any_codes_have_a_finite_price(rows: int, columns: int, size: float, seed: int) -> None:
    codes = (size * normal(rows, columns, seed=seed)).round()
    like = CodeBits.like(codes)
    bits = float(like(codes))
    assert 0 <= bits < float("inf")
    assert like.first.shape == like.further.shape == codes.shape
    assert bool(like.first.isfinite().all())
    assert bool((like.further >= 0).all())


def test_the_estimate_is_for_any_dtype() -> None:
    codes = (3 * normal(40, 8)).round()
    assert float(code_bits(codes.double())) == pytest.approx(float(code_bits(codes)), rel=1e-5)
    assert float(CodeBits.like(codes.to(torch.int8))(codes)) == float(code_bits(codes))


def test_last_estimates_serve_for_codes_that_have_changed() -> None:
    """What training does between two looks at the codes."""
    real = 3 * normal(256, 64)
    like = CodeBits.like(real.round())
    later = (0.9 * real + 0.1 * normal(256, 64, seed=5)).round()
    assert float(like(later)) == pytest.approx(packed_bits(later), rel=0.05)


def test_rounding_is_to_even_and_hands_gradients_on() -> None:
    x = torch.tensor([0.5, 1.5, -2.5, 0.2], requires_grad=True)
    (rounded(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert rounded(x).tolist() == [0, 2, -2, 0]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", CODES)
def test_the_compiled_price_is_that_of_torch(name: str) -> None:
    """Other devices and dtypes go through torch."""
    codes = CODES[name][1]().round()
    like = CodeBits.like(codes)
    wide = CodeBits(like.fixed, like.first.double(), like.further.double())
    found = []
    for estimate, dtype in ((like, torch.float32), (wide, torch.float64)):
        own = codes.to(dtype, copy=True).requires_grad_()
        bits = estimate(own)
        bits.backward()
        assert own.grad is not None
        found.append((float(bits.detach()), own.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1].double(), found[1][1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (6, 5), (3, 4, 5)])
def test_stepped_codes_and_gradients_are_those_of_the_long_way(shape: tuple[int, ...]) -> None:
    found = []
    for way in (lambda x, step: stepped(x, step, 100), lambda x, step: rounded(x / step.reshape(()))):
        x = (3 * normal(math.prod(shape)).reshape(shape)).double().requires_grad_()
        step = torch.full((1,) * max(len(shape), 1), 0.3, dtype=torch.float64, requires_grad=True)
        codes = way(x, step)
        (codes * step.reshape(()) * uniform(math.prod(shape)).reshape(shape)).sum().backward()
        assert x.grad is not None
        assert step.grad is not None
        found.append((codes.detach(), x.grad, step.grad))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other)


def test_no_stepped_code_is_larger_than_the_most() -> None:
    assert stepped(torch.tensor([50.0, -50.0, 1.0]), torch.tensor([1.0]), 7).tolist() == [7, -7, 1]
