"""``raw``: exact sizes, the documented bit order, bounded memory, and refusal of bytes that no plane packs to."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given, settings

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.testing.planes import random_integers, same_bits
from stackc.testing.strategies import plane_specs, planes
from stackc.util.errors import ArtifactError, TensorError

raw = find("raw").stage()


@given(planes(plane_specs(max_length=20)))
@settings(max_examples=150, deadline=None)
def test_any_plane_comes_back_and_takes_the_bits_of_its_bounds(plane):
    spec, x = plane
    data = raw.pack(x, spec)
    assert len(data) == -(-spec.numel * spec.bits // 8)
    assert same_bits(raw.unpack(data, spec), x)


def test_bits_are_least_significant_first():
    spec = PlaneSpec((5,), "int16", lo=-2, hi=5)
    x = torch.tensor([-2, -1, 0, 5, 2], dtype=torch.int16)  # 0 1 2 7 4 in three bits each
    assert raw.pack(x, spec) == (0 | 1 << 3 | 2 << 6 | 7 << 9 | 4 << 12).to_bytes(2, "little")


def test_unbounded_integers_and_floats_are_little_endian():
    assert raw.pack(torch.tensor([1, -2], dtype=torch.int32), PlaneSpec((2,), "int32")).hex() == "01000000feffffff"
    assert raw.pack(torch.tensor([1.5]), PlaneSpec((1,), "float32")).hex() == "0000c03f"


def test_masks_take_one_bit():
    assert raw.pack(torch.tensor([True, False, True]), PlaneSpec((3,), "bool")) == b"\x05"


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00"])
def test_wrong_length_is_refused(data):
    with pytest.raises(ArtifactError, match="need 2 bytes"):
        raw.unpack(data, PlaneSpec((5,), "int16", lo=-2, hi=5))


def test_set_padding_bit_is_refused():
    with pytest.raises(ArtifactError, match="bit after the last"):
        raw.unpack(b"\x00\x80", PlaneSpec((5,), "int16", lo=-2, hi=5))


def test_value_above_the_upper_bound_is_refused():
    with pytest.raises(ArtifactError, match="holds the value 7"):
        raw.unpack(b"\x38", PlaneSpec((2,), "int8", lo=0, hi=6))


@pytest.mark.parametrize(
    ("x", "spec"),
    [
        (torch.tensor([0, 9]), PlaneSpec((2,), "int64", lo=0, hi=8)),
        (torch.tensor([-1, 0]), PlaneSpec((2,), "int64", lo=0, hi=8)),
        (torch.tensor([0, 1, 2]), PlaneSpec((2,), "int64", lo=0, hi=8)),
        (torch.tensor([0.0]), PlaneSpec((1,), "float64")),
        (torch.tensor([True, False]), PlaneSpec((2,), "bool", lo=1, hi=1)),
    ],
    ids=["above", "below", "shape", "dtype", "mask"],
)
@pytest.mark.parametrize("name", ["raw", "zstd", "ans"])
def test_a_plane_that_does_not_fit_its_spec_is_refused_by_all_packers(name, x, spec):
    with pytest.raises(TensorError):
        find(name).stage().pack(x, spec)


@pytest.mark.parametrize("name", ["raw", "zstd", "ans"])
@pytest.mark.parametrize(
    "spec", [PlaneSpec((3_000_000,), "int8", -3, 3), PlaneSpec((3_000_000,), "int32", 0, 9999)], ids=str
)
def test_large_planes_are_packed_in_bounded_memory(name, spec):
    packer = find(name).stage(level=1) if name == "zstd" else find(name).stage()
    x = random_integers(spec, 0, "large")
    packer.unpack(
        packer.pack(x[:1000], PlaneSpec((1000,), spec.dtype, spec.lo, spec.hi)),
        PlaneSpec((1000,), spec.dtype, spec.lo, spec.hi),
    )
    tracemalloc.start(1)
    try:
        data = packer.pack(x, spec)
        packed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        back = packer.unpack(data, spec)
        unpacked = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(back, x)
    assert packed < 4 * spec.nbytes + 32 * 2**20
    assert unpacked < 4 * spec.nbytes + 32 * 2**20
