"""Cast rounds to half precision, within its bound, or says what does not fit."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known
from stackc.testing import transform_checks
from stackc.transforms.cast import Cast
from stackc.util.errors import SpecError, TensorError

TARGETS = ("float16", "bfloat16")


@pytest.mark.parametrize("check", transform_checks(Cast(to="float16")), ids=str)
def test_float16_conforms(check):
    check()


@pytest.mark.parametrize("check", transform_checks(Cast(to="bfloat16")), ids=str)
def test_bfloat16_conforms(check):
    check()


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_error_is_within_the_bound_down_to_subnormals(to, dtype, data):
    width = 32 if dtype == "float32" else 64
    values = data.draw(st.lists(st.floats(-65000, 65000, width=width), min_size=1, max_size=20))
    x = torch.tensor(values, dtype=getattr(torch, dtype))
    cast = Cast(to=to)
    decoded = cast.decode(cast.encode(x), PlaneSpec.of(x))
    assert torch.dist(x.double(), decoded.double()) <= cast.error_bound(x)


@pytest.mark.parametrize("to", TARGETS)
def test_bound_is_tight(to):
    limits = torch.finfo(getattr(torch, to))
    half_way = torch.full((100,), 1.0 + limits.eps / 2, dtype=torch.float64)
    cast = Cast(to=to)
    error = float(torch.dist(half_way, cast.decode(cast.encode(half_way), PlaneSpec.of(half_way))))
    assert error <= cast.error_bound(half_way) < 1.02 * error


def test_subnormals_are_bounded_by_their_spacing():
    x = torch.full((4,), 2.0**-25)  # half of the smallest float16
    cast = Cast(to="float16")
    assert torch.dist(x, cast.decode(cast.encode(x), PlaneSpec.of(x))) == 2 * 2.0**-25
    assert cast.error_bound(x) >= 2 * 2.0**-25


@pytest.mark.parametrize("to", TARGETS)
def test_gradient_is_that_of_a_copy(to):
    values = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    spec = PlaneSpec((3, 2), "float64")
    assert torch.autograd.gradcheck(lambda v: Cast(to=to).decode({"values": v}, spec), values)


@pytest.mark.parametrize(
    ("to", "dtype"),
    [
        ("float16", "bfloat16"),
        ("bfloat16", "float16"),
        ("float16", "float16"),
        ("float16", "int8"),
        ("bfloat16", "bool"),
    ],
)
def test_planes_that_are_not_wider_are_refused(to, dtype):
    with pytest.raises(SpecError, match=f"takes float32 and float64 planes, this one is {dtype}"):
        Cast(to=to).plan(PlaneSpec((2,), dtype))


def test_overflow_of_float16_names_bfloat16():
    x = torch.tensor([1.0, 65520.0, -1e9])
    with pytest.raises(TensorError, match="2 of 3 values exceed the largest float16, 65504; cast to bfloat16 instead"):
        Cast(to="float16").encode(x)
    Cast(to="bfloat16").encode(x)


def test_overflow_of_bfloat16_is_refused_too():
    with pytest.raises(TensorError, match="leave this tensor in float32"):
        Cast(to="bfloat16").encode(torch.tensor([torch.finfo(torch.float32).max]))


def test_presets():
    for name, to in (("fp16", "float16"), ("bf16", "bfloat16")):
        entry = find(name)
        assert msgspec.convert(entry.fields, entry.stage) == Cast(to=to)


def test_rows_keep_their_weights():
    weights = torch.tensor([1.0, 2.0])
    x = torch.randn(2, 3)
    assert torch.equal(
        Cast(to="float16").carry(Known(weights), Cast(to="float16").encode(x))["values"].weights, weights
    )
