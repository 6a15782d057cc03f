"""Int has torchao's codes, and its error is within its bound for every shape and dtype."""

from __future__ import annotations

import logging
import math
import warnings

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known
from stackc.testing import transform_checks
from stackc.transforms.int import Int
from stackc.util.errors import SpecError, TensorError

BATTERY = {
    "4 bits in groups": Int(bits=4, granularity="group", group_size=16),
    "5 bits asymmetric": Int(bits=5, symmetric=False),
    "1 bit, one scale": Int(bits=1, granularity="tensor"),
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}: {check}") for name, int_ in BATTERY.items() for check in transform_checks(int_)],
)
def test_conformance(check):
    check()


# ---- the same codes as torchao ----


@pytest.fixture(scope="module")
def torchao():
    logging.disable(logging.WARNING)  # torchao warns about each of its kernels for other hardware
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("torchao.quantization", reason="torchao, which defines the codes, is missing")
    finally:
        logging.disable(logging.NOTSET)


def weight(dtype):
    """Rows of several scales, with zeros, a constant, an outlier, and rows of one sign."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(96, 64, generator=generator) * torch.logspace(-2, 1, 96)[:, None]
    x[5] = 0.0
    x[17] = 0.3
    x[18] = -0.3
    x[33, 7] = 50.0
    x[40] = x[40].abs()
    x[41] = -x[41].abs()
    return x.to(dtype)


def quantized(torchao, x, config):
    """The tensor that torchao's quantize_ makes of a linear layer with this weight, as float32.

    Of half precision torchao computes scales in that precision, in which those of small weights vanish.
    """
    x = x.float()
    linear = torch.nn.Linear(x.shape[1], x.shape[0], bias=False, dtype=x.dtype)
    linear.weight = torch.nn.Parameter(x.clone())
    model = torch.nn.Sequential(linear)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchao.quantize_(model, config)
    return model[0].weight


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@DTYPES
@pytest.mark.parametrize("granularity", ["row", "group"])
@pytest.mark.parametrize(
    ("bits", "symmetric"), [(bits, symmetric) for bits in range(1, 9) for symmetric in (True, False)][1:]
)
def test_codes_are_those_of_intx_weight_only(torchao, dtype, granularity, bits, symmetric):
    x = weight(dtype)
    config = torchao.IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=torchao.PerAxis(0) if granularity == "row" else torchao.PerGroup(16),
        mapping_type=torchao.MappingType.SYMMETRIC if symmetric else torchao.MappingType.ASYMMETRIC,
        scale_dtype=torch.float32,
    )
    theirs = quantized(torchao, x, config)
    ours = Int(
        bits=bits, symmetric=symmetric, granularity=granularity, group_size=16 if granularity == "group" else None
    )
    planes = ours.encode(x)
    offset = 0 if symmetric else 1 << (bits - 1)
    assert torch.equal(planes["codes"].int() - offset, theirs.qdata.int())
    nonzero = theirs.scale > torch.finfo(torch.float16).smallest_normal  # their floor for float16, ours is lower
    assert torch.equal(planes["scale"][nonzero], theirs.scale[nonzero])
    if not symmetric:
        assert torch.equal(planes["zero_point"].int() - offset, theirs.zero_point.int())
    assert torch.equal(ours.decode(planes, PlaneSpec.of(x)), theirs.dequantize().to(dtype))


@DTYPES
@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
def test_codes_are_those_of_int8_weight_only(torchao, dtype, granularity):
    x = weight(dtype)
    theirs = {"tensor": torchao.PerTensor(), "row": torchao.PerRow(), "group": torchao.PerGroup(16)}[granularity]
    tensor = quantized(torchao, x, torchao.Int8WeightOnlyConfig(granularity=theirs, set_inductor_config=False))
    ours = Int(granularity=granularity, group_size=16 if granularity == "group" else None)
    planes = ours.encode(x)
    assert torch.equal(planes["codes"], tensor.qdata)
    assert planes["scale"].shape == tensor.scale.shape
    assert torch.equal(ours.decode(planes, PlaneSpec.of(x)), tensor.dequantize().to(dtype))


def test_symmetric_int1_of_torchao_is_why_ours_differs(torchao):
    x = weight(torch.float32)
    theirs = quantized(torchao, x, torchao.IntxWeightOnlyConfig(weight_dtype=torch.int1))
    assert not theirs.dequantize().any()


# ---- one bit ----


@given(
    x=arrays.arrays("float32", (3, 7), elements=st.floats(-100, 100, width=32)).map(torch.from_numpy),
    nudge=st.floats(0.5, 1.5),
)
def test_one_bit_is_the_sign_times_the_best_magnitude(x, nudge):
    ours = Int(bits=1)
    planes = ours.encode(x)
    decoded = ours.decode(planes, PlaneSpec.of(x))
    assert torch.equal(decoded < 0, (x < 0) & (planes["scale"] > 0))
    nudged = ours.decode({**planes, "scale": planes["scale"] * nudge}, PlaneSpec.of(x))
    assert torch.dist(x, decoded) <= torch.dist(x, nudged) * (1 + 1e-5) + 1e-6


# ---- properties ----

TRANSFORMS = st.builds(
    lambda bits, symmetric, how: Int(bits=bits, symmetric=symmetric, granularity=how[0], group_size=how[1]),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([("tensor", None), ("row", None), ("group", 1), ("group", 3), ("group", 50)]),
)


@st.composite
def planes(draw):
    """Real planes of any small shape, dtype and scale."""
    dtype = draw(st.sampled_from(["float64", "float32", "float16", "bfloat16"]))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7))
    largest = draw(st.sampled_from([1e-30, 1e-6, 1.0, 6.5e4]))
    floats = draw(arrays.arrays("float64", shape, elements=st.floats(-largest, largest)))
    return torch.from_numpy(floats).to(getattr(torch, dtype))


@settings(max_examples=150)
@given(transform=TRANSFORMS, x=planes())
def test_error_is_within_the_bound_and_zeros_stay(transform, x):
    spec = PlaneSpec.of(x)
    encoded = transform.encode(x)
    for name, planned in transform.plan(spec).items():
        assert planned.mismatch(encoded[name]) is None
    decoded = transform.decode(encoded, spec)
    assert torch.dist(x.double(), decoded.double()) <= transform.error_bound(x)
    if transform.bits > 1 or not transform.symmetric:
        assert not decoded[x == 0].any()


@given(x=planes(), bits=st.integers(2, 8))
def test_group_as_long_as_a_row_is_a_row(x, bits):
    length = max(math.prod(x.shape[1:]), *x.shape, 1)
    row, group = Int(bits=bits), Int(bits=bits, granularity="group", group_size=length)
    a, b = row.encode(x), group.encode(x)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_bound_is_tight():
    x = torch.rand(64, 256, generator=torch.Generator().manual_seed(2)) - 0.5
    for transform in (
        Int(),
        Int(bits=4, granularity="group", group_size=32),
        Int(bits=3, symmetric=False),
        Int(bits=1),
    ):
        error = float(torch.dist(x.double(), transform.decode(transform.encode(x), PlaneSpec.of(x)).double()))
        assert error <= transform.error_bound(x) < 1.9 * error  # uniform error: sqrt(3) below the worst case


@pytest.mark.parametrize("bits", [2, 8])
def test_last_group_is_scaled_on_its_own(bits):
    x = torch.tensor([[1.0, -1.0, 0.5, 1000.0, 900.0]])
    encoded = Int(bits=bits, granularity="group", group_size=3).encode(x)
    tail = Int(bits=bits).encode(x[:, 3:])
    assert encoded["scale"].shape == (1, 2)
    assert torch.equal(encoded["scale"][:, 1:], tail["scale"])
    assert torch.equal(encoded["codes"][:, 3:], tail["codes"])


@pytest.mark.parametrize(
    "transform", [*BATTERY.values(), Int(), Int(bits=3, symmetric=False, granularity="tensor")], ids=repr
)
def test_decode_is_differentiable_in_the_scale(transform):
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    encoded = transform.encode(x)
    scale = encoded["scale"].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: transform.decode({**encoded, "scale": s}, PlaneSpec.of(x)), scale)


def test_largest_float16_decodes_to_something_finite():
    x = torch.tensor([[-65504.0, 3.0]], dtype=torch.float16)
    decoded = Int().decode(Int().encode(x), PlaneSpec.of(x))
    assert torch.isfinite(decoded).all()


def test_range_that_overflows_the_dtype_is_still_quantised():
    x = torch.tensor([-60000.0, 60000.0], dtype=torch.float16)
    transform = Int(symmetric=False)
    decoded = transform.decode(transform.encode(x), PlaneSpec.of(x))
    assert torch.allclose(decoded, x, rtol=0.01)


def test_scale_that_overflows_is_refused():
    huge = torch.tensor([-3e38, 3e38])
    with pytest.raises(TensorError, match="too large for a scale in float32; use more bits"):
        Int(bits=1, symmetric=False).encode(huge)


@pytest.mark.parametrize("dtype", ["int8", "bool", "int64"])
def test_integer_planes_are_refused(dtype):
    with pytest.raises(SpecError, match="int takes real planes"):
        Int().plan(PlaneSpec((2, 2), dtype))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"granularity": "group"}, "needs group_size"),
        ({"group_size": 8}, "group_size is for granularity: group"),
        ({"bits": 0}, ">= 1"),
        ({"bits": 9}, "else 1 to 8 fit"),
        ({"granularity": "group", "group_size": 0}, ">= 1"),
        ({"granularity": "channel"}, "channel"),
        ({"bit": 8}, "bit"),
    ],
)
def test_wrong_configuration_is_an_error(config, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(config, Int)


def test_preset():
    entry = find("int8")
    assert msgspec.convert(entry.fields, entry.stage) == Int(bits=8)


def test_rows_of_codes_and_scales_keep_their_weights():
    weights = torch.tensor([1.0, 2.0, 3.0])
    x = torch.randn(3, 4)
    by_row, whole = Int(symmetric=False), Int(granularity="tensor")
    assert list(by_row.carry(Known(weights), by_row.encode(x))) == ["codes", "scale", "zero_point"]
    assert list(whole.carry(Known(weights), whole.encode(x))) == ["codes"]
    assert list(by_row.carry(Known(weights), by_row.encode(x[:, 0]))) == ["codes"]


def test_rows_of_zeros_do_not_spoil_the_gradients_of_training():
    x = torch.tensor([[0.0, 0.0], [0.75, -1.0]], requires_grad=True)
    for transform in (Int(bits=4), Int(bits=4, symmetric=False), Int(bits=1)):
        planes = transform.encode(x)
        scale = planes["scale"].requires_grad_()
        shown = transform.decode(transform.relax(x, {**planes, "scale": scale}), PlaneSpec.of(x))
        for gradient in torch.autograd.grad(shown.square().sum(), [x, scale]):
            assert bool(gradient.isfinite().all())


def test_ties_are_rounded_in_training_as_in_the_file():
    x = torch.tensor([[-1.0, 14.0, 2.5, 3.5]])  # the zero point is 1, and steps are 1
    transform = Int(bits=4, symmetric=False)
    planes = transform.encode(x)
    assert planes["zero_point"].item() == 1
    assert transform.relax(x, planes)["codes"].tolist() == planes["codes"].tolist()
