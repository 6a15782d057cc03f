"""A decoder written from the format document alone reads what the packers write."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from stackc.core.planes import to_bytes
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.testing import Plane
from stackc.testing.packers import mask_planes, skewed_planes
from stackc.testing.planes import random_bits
from stackc.testing.strategies import plane_specs, planes
from tests.packers import packer_decoder

DECODERS = {
    "raw": packer_decoder.raw_integers,
    "zstd": packer_decoder.zstd_integers,
    "ans": packer_decoder.ans_integers,
}
BOUNDED = {**skewed_planes(), **mask_planes()}
BOUNDED = {name: plane for name, plane in BOUNDED.items() if plane.spec.lo is not None}


def decoded_alike(name: str, plane: Plane) -> bool:
    spec, x = plane
    data = find(name).stage().pack(x, spec)
    return DECODERS[name](data, spec.numel, spec.lo, spec.hi) == x.reshape(-1).long().tolist()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("plane", BOUNDED)
def test_packer_decoder_reads_planes_as_quantisers_make_them(name, plane):
    assert decoded_alike(name, BOUNDED[plane])


@pytest.mark.parametrize("name", ["raw", "zstd"])
@given(planes(plane_specs(dtypes=["int8", "uint8", "int16", "int32", "int64", "bool"], bounded=True)))
@settings(max_examples=40, deadline=None)
def test_packer_decoder_reads_any_bounded_plane(name, plane):
    assert decoded_alike(name, plane)


@given(planes(plane_specs(dtypes=["int8", "uint8", "bool"], bounded=True, max_axes=2, max_length=40)))
@settings(max_examples=60, deadline=None)
def test_packer_decoder_reads_any_small_alphabet_from_ans(plane):
    assert decoded_alike("ans", plane)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int16", "int64"])
@pytest.mark.parametrize("kind", ["random", "smooth"])
def test_packer_decoder_reads_unbounded_planes_from_zstd(dtype, kind):
    spec = PlaneSpec((3000,), dtype)
    bits = random_bits(PlaneSpec((3000,), "float64"), 0, dtype).view(torch.uint8)
    x = (
        bits[: spec.nbytes].view(getattr(torch, dtype))
        if kind == "random"
        else torch.arange(3000).to(getattr(torch, dtype))
    )
    data = find("zstd").stage().pack(x, spec)
    assert packer_decoder.zstd_content(data, spec.nbytes, spec.item_bytes, spec.numel)[1] == to_bytes(x)
