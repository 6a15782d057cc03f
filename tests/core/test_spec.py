"""What is known about planes before data is read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.core.spec import ITEM_BYTES, PlaneSpec, integer_range, smallest_integer_dtype, total_bytes
from stackc.util.errors import SpecError


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_sizes_are_those_of_torch(dtype: str) -> None:
    x = torch.zeros(2, 3, dtype=getattr(torch, dtype))
    spec = PlaneSpec.of(x)
    assert (spec.shape, spec.dtype, spec.numel) == ((2, 3), dtype, 6)
    assert (spec.item_bytes, spec.nbytes) == (x.element_size(), x.numel() * x.element_size())
    assert spec.is_real == x.is_floating_point()
    assert spec.mismatch(x) is None
    if not spec.is_real:
        least, most = (0, 1) if dtype == "bool" else (torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max)
        assert integer_range(dtype) == (least, most)


@pytest.mark.parametrize(
    ("spec", "bits"),
    [
        (PlaneSpec((1,), "float16"), 16),
        (PlaneSpec((1,), "int32"), 32),
        (PlaneSpec((1,), "bool"), 1),
        (PlaneSpec((1,), "int8", 3, 3), 0),
        (PlaneSpec((1,), "int8", -1, 1), 2),
        (PlaneSpec((1,), "uint8", 0, 255), 8),
        (PlaneSpec((1,), "int64", -(1 << 63), (1 << 63) - 1), 64),
    ],
)
def test_bits_at_fixed_width(spec: PlaneSpec, bits: int) -> None:
    assert spec.bits == bits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1,), "float8"), "dtype 'float8' is not supported; supported are float64"),
        (((2, -1), "int8"), r"shape \(2, -1\) has a negative length"),
        (((1,) * 65, "int8"), "a plane of 65 axes is not supported; 64 or fewer fit"),
        (((1,), "int8", 0), "give lo and hi together"),
        (((1,), "int8", None, 1), "give lo and hi together"),
        (((1,), "float32", 0, 1), "bounds are for integer planes, not for float32"),
        (((1,), "int8", 0, 128), r"bounds 0..128 do not fit int8, which holds -128..127"),
        (((1,), "uint8", -1, 3), "do not fit uint8"),
        (((1,), "int8", 2, 1), "do not fit int8"),
    ],
)
def test_specs_that_cannot_be(arguments: tuple, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PlaneSpec(*arguments)


@pytest.mark.parametrize(
    ("spec", "tensor", "difference"),
    [
        (PlaneSpec((2,), "int8"), torch.zeros(3, dtype=torch.int8), "expected int8 2, got int8 3"),
        (PlaneSpec((), "int8"), torch.zeros((), dtype=torch.uint8), "expected int8 0-d, got uint8 0-d"),
        (PlaneSpec((2,), "int8", -1, 1), torch.tensor([0, 2], dtype=torch.int8), "expected values in -1..1, got 0..2"),
        (
            PlaneSpec((2,), "int8", -1, 1),
            torch.tensor([-2, 0], dtype=torch.int8),
            "expected values in -1..1, got -2..0",
        ),
        (PlaneSpec((2,), "int8", -1, 1), torch.tensor([-1, 1], dtype=torch.int8), None),
        (PlaneSpec((0,), "int8", 5, 5), torch.zeros(0, dtype=torch.int8), None),
        (PlaneSpec((1,), "bool"), torch.ones(1, dtype=torch.bool), None),
    ],
)
def test_mismatch(spec: PlaneSpec, tensor: torch.Tensor, difference: str | None) -> None:
    assert spec.mismatch(tensor) == difference


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
def test_the_smallest_dtype_holds_the_bounds_and_none_smaller_does(a: int, b: int) -> None:
    lo, hi = sorted((a, b))
    dtype = smallest_integer_dtype(lo, hi)
    assert PlaneSpec((1,), dtype, lo, hi).bits <= 8 * ITEM_BYTES[dtype]
    for other in ("int8", "uint8", "int16", "int32"):
        if ITEM_BYTES[other] < ITEM_BYTES[dtype]:
            with pytest.raises(SpecError):
                PlaneSpec((1,), other, lo, hi)


def test_no_dtype_holds_more_than_64_bits() -> None:
    with pytest.raises(SpecError, match="no integer dtype holds"):
        smallest_integer_dtype(0, 1 << 64)


def test_total_bytes() -> None:
    assert total_bytes([PlaneSpec((3,), "float32"), PlaneSpec((), "int8"), PlaneSpec((0, 5), "float64")]) == 13
