"""Int with a step: nothing is clipped, bits are what codes need, and files hold no more than with bits."""

from __future__ import annotations

import re

import msgspec
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stackc.core.entropy import entropy_bits
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Leaf, from_wire, to_wire
from stackc.core.transform import Weighted, config_fields
from stackc.recipe.parse import recipe_from
from stackc.testing import transform_checks
from stackc.transforms.int import Int
from stackc.transforms.raw import Raw
from stackc.util.errors import TensorError


def settled(transform: Int, x: torch.Tensor) -> Int:
    return transform.settle({"x": Weighted(x)})["x"]


BATTERY = {
    "stored": Int(bits=12, granularity="tensor"),
    "stored, 16 bits": Int(bits=16, granularity="tensor"),
    "rate-aware step": Int(bits=16, step=3.0, rdo=0.1),
    "rate-aware groups": Int(bits=4, granularity="group", group_size=16, rdo=0.2),
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}: {check}") for name, int_ in BATTERY.items() for check in transform_checks(int_)],
)
def test_conformance(check):
    check()


@st.composite
def planes(draw):
    """Real planes of any small shape and dtype."""
    dtype = draw(st.sampled_from(["float64", "float32", "float16", "bfloat16"]))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7))
    floats = draw(arrays.arrays("float64", shape, elements=st.floats(-100, 100)))
    return torch.from_numpy(floats).to(getattr(torch, dtype))


@settings(max_examples=150, deadline=None)
@given(x=planes(), step=st.floats(0.0031, 500))
def test_nothing_is_clipped_and_bits_are_as_few_as_can_be(x, step):
    spec = PlaneSpec.of(x)
    transform = settled(Int(step=step), x)
    encoded = transform.encode(x)
    for name, planned in transform.plan(spec).items():
        assert planned.mismatch(encoded[name]) is None
    assert torch.equal(encoded["scale"].reshape(-1), torch.tensor([step], dtype=encoded["scale"].dtype))
    if x.numel():
        exact = x.double() / encoded["scale"].double()
        assert float((encoded["codes"].double() - exact).abs().max()) <= 0.5 + 2**-6
        largest = int(encoded["codes"].int().abs().max())
        assert transform.bits in (max(2, 1 + largest.bit_length()), max(2, 1 + (largest + 1).bit_length()))
    decoded = transform.decode(encoded, spec)
    assert torch.dist(x.double(), decoded.double()) <= transform.error_bound(x)


@given(x=planes(), step=st.floats(0.0031, 500))
@settings(deadline=None)
def test_what_is_stored_decodes_the_same_and_forgets_the_step(x, step):
    transform = settled(Int(step=step, rdo=0.1, calibrated=True), x)
    stored = transform.stored
    assert stored == Int(bits=transform.bits, granularity="tensor")
    assert stored.plan(PlaneSpec.of(x)) == transform.plan(PlaneSpec.of(x))
    encoded = settled(Int(step=step), x).encode(x)
    if transform.bits == settled(Int(step=step), x).bits:
        assert torch.equal(stored.decode(encoded, PlaneSpec.of(x)), transform.decode(encoded, PlaneSpec.of(x)))
    assert config_fields(stored) == {
        "bits": transform.bits,
        "symmetric": True,
        "granularity": "tensor",
        "group_size": None,
    }


def test_the_wire_form_is_that_of_bits():
    transform = settled(Int(step=0.1), torch.tensor([[1.0, -3.0]]))
    stack = Branch(transform, {"codes": Leaf(Raw()), "scale": Leaf(Raw())})
    wire = to_wire(stack)
    assert wire[:3] == ["int", 2, {"bits": 6, "symmetric": True, "granularity": "tensor", "group_size": None}]
    again = from_wire(wire, PlaneSpec((1, 2), "float32"))
    assert isinstance(again, Branch)
    assert again.transform == transform.stored


def test_before_it_is_settled_the_plan_is_an_upper_bound():
    transform = Int(step=0.1)
    assert not transform.settled
    assert transform.plan(PlaneSpec((3, 2), "float32")) == {
        "codes": PlaneSpec((3, 2), "int16", -(1 << 15), (1 << 15) - 1),
        "scale": PlaneSpec((1, 1), "float32"),
    }
    with pytest.raises(TensorError, match=r"settle\(\) it first"):
        transform.encode(torch.zeros(2))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_step_that_is_named_works(dtype):
    x = torch.tensor([1.2345, -37.7], dtype=getattr(torch, dtype))
    with pytest.raises(TensorError, match=r"values up to 37.* need more than 16 bits at a step of 0.001") as caught:
        settled(Int(step=0.001), x)
    step = float(re.search(r"; (\S+) or more works", str(caught.value))[1])
    assert settled(Int(step=step), x).bits == 16
    with pytest.raises(TensorError):
        settled(Int(step=0.99 * step), x)


def test_steps_that_the_scale_cannot_hold_are_refused():
    with pytest.raises(TensorError, match="a step of 1e-42 does not fit the float32"):
        settled(Int(step=1e-42), torch.zeros(3))
    assert settled(Int(step=1e-42), torch.zeros(3, dtype=torch.float64)).bits == 2
    with pytest.raises(TensorError, match="NaN"):
        settled(Int(step=1.0), torch.tensor([float("nan")]))


def test_bits_that_are_given_are_a_limit():
    x = torch.tensor([1.0, -0.5])
    assert Int(step=0.1, bits=5).encode(x)["codes"].tolist() == [10, -5]
    with pytest.raises(TensorError, match=r"codes need 5 bits at a step of 0\.1, not 4"):
        Int(step=0.1, bits=4).encode(x)


def test_training_may_outgrow_the_bits():
    x = torch.tensor([0.3, -0.4], requires_grad=True)
    transform = settled(Int(step=0.1), x)
    planes = transform.encode(x)
    relaxed = transform.relax(10 * x, planes)
    y = transform.decode(relaxed, PlaneSpec.of(x))
    assert torch.allclose(y, 10 * x)
    y.sum().backward()
    assert x.grad.tolist() == [10, 10]
    hardened, stored = transform.harden(10 * x, planes)
    assert (transform.bits, hardened.bits) == (4, 7)
    assert stored["codes"].tolist() == [30, -40]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"step": 0.1, "granularity": "row"}, "remove granularity: row"),
        ({"step": 0.1, "granularity": "group"}, "remove granularity: group"),
        ({"step": 0.1, "group_size": 8}, "group_size is for granularity: group"),
        ({"step": 0.1, "symmetric": False}, "remove symmetric: false"),
        ({"step": 0.1, "bits": 1}, "2 to 16 bits"),
        ({"step": 0.0}, "> 0"),
        ({"step": float("inf")}, "finite"),
        ({"step": "automatic"}, "auto"),
        ({"bits": 9}, "goes with one scale for the tensor"),
        ({"bits": 17, "granularity": "tensor"}, "<= 16"),
        ({"bits": 9, "granularity": "tensor", "symmetric": False}, "goes with one scale"),
        ({"rdo": -0.1}, ">= 0"),
        ({"rdo": 0.1, "symmetric": False}, "no code of its own with symmetric: false"),
        ({"rdo": 0.1, "bits": 1}, "no code of its own with one bit"),
    ],
)
def test_wrong_configuration_is_an_error(config, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(config, Int)


# ---- the price of bits ----


@settings(max_examples=60, deadline=None)
@given(x=planes(), step=st.floats(0.0031, 500), rdo=st.sampled_from([0.02, 0.1, 1.0]))
def test_rate_aware_codes_are_never_further_from_zero_than_the_nearest(x, step, rdo):
    transform = settled(Int(step=step, rdo=rdo), x)
    planes = settled(Int(step=step), x).encode(x)
    nearest = planes["codes"].int()
    codes = transform.encode(x)["codes"].int()
    halfway_away = (x.abs().to(planes["scale"].dtype) / planes["scale"] + 0.5).int()  # of a tie both codes are nearest
    assert bool((codes.abs() <= torch.maximum(nearest.abs(), halfway_away)).all())
    assert bool((codes * nearest >= 0).all())
    decoded = transform.decode(transform.encode(x), PlaneSpec.of(x))
    assert torch.dist(x.double(), decoded.double()) <= transform.error_bound(x)


@pytest.mark.parametrize("config", [{"step": 0.5}, {"bits": 4}, {"bits": 4, "granularity": "group", "group_size": 64}])
def test_a_price_of_bits_is_worth_more_than_a_coarser_step(config):
    """At equal entropy, the error is lower than that of plain rounding with a coarser step, both at their best scale."""
    x = torch.distributions.Laplace(0.0, 0.5).icdf(torch.linspace(0.001, 0.999, 128 * 256))
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))].reshape(128, 256)

    def measured(transform: Int) -> tuple[float, float]:
        transform = settled(transform, x)
        encoded = transform.encode(x)
        decoded = transform.decode(encoded, PlaneSpec.of(x))
        decoded *= (x * decoded).sum() / (decoded * decoded).sum()
        return entropy_bits(encoded["codes"]), float(torch.dist(x, decoded))

    bits, error = measured(Int(rdo=0.1, **config))
    if "step" in config:
        curve = [measured(Int(step=config["step"] * factor)) for factor in (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4)]
        entropies, errors = zip(*reversed(curve), strict=True)
        assert error < 0.995 * float(numpy.interp(bits, entropies, errors))
    assert bits < 0.99 * measured(Int(**config))[0]


# ---- left to the rate allocation ----


def test_auto_offers_a_ladder_of_steps():
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    auto = Int(step="auto", rdo=0.1, calibrated=True)
    assert not auto.allocated
    assert not auto.settled
    options = auto.options(x)
    steps = [option.step for option in options]
    assert len(options) == 20
    assert steps == sorted(steps, reverse=True)
    assert steps[0] / steps[1] == pytest.approx(2**0.5)
    assert all(option.allocated and option.rdo == 0.1 and option.calibrated for option in options)
    bits = [settled(option, x).bits for option in options]
    assert bits == sorted(bits)
    assert 2 <= bits[0] <= 3
    assert bits[-1] >= 7
    with pytest.raises(TensorError, match="step: auto is chosen by the rate allocation"):
        settled(auto, x)


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.empty(0, 3), torch.full((2, 2), 1e-20)], ids=str)
def test_every_option_of_odd_planes_can_be_settled(x):
    options = Int(step="auto").options(x)
    assert options
    for option in options:
        settled(option, x).encode(x)


def test_no_option_needs_more_bits_than_there_are():
    x = torch.zeros(1000, 1000)
    x[3, 4] = 1e6
    options = Int(step="auto").options(x)
    assert options
    assert max(settled(option, x).bits for option in options) <= 16


# ---- how stages are described ----


@pytest.mark.parametrize(
    ("stage", "description"),
    [
        ("int", "int"),
        ({"use": "int", "step": 0.5}, "int(step=0.5)"),
        ({"use": "int", "step": "auto", "rdo": 0.1}, "int(step=auto, rdo=0.1)"),
        ({"use": "int", "bits": 8, "granularity": "tensor"}, "int(granularity=tensor)"),
        ({"use": "int", "bits": 10, "granularity": "tensor"}, "int(bits=10, granularity=tensor)"),
        ({"use": "int8", "calibrated": True}, "int8(calibrated=True)"),
    ],
)
def test_descriptions_hold_what_was_written(stage, description):
    assert recipe_from({"stages": [stage]}).stages[0].describe() == description
