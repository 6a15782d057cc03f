"""``context``: every setting exact in both decoders, near or below the entropy, never above raw, safe on damage."""

from __future__ import annotations

import itertools
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest import mock

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec, integer_range
from stackc.core.transform import Weighted
from stackc.testing import Plane
from stackc.testing.damage import damaged
from stackc.testing.planes import bell, random_integers, random_words, same_bits
from stackc.testing.strategies import plane_specs, planes
from stackc.transforms.context import stage as module
from stackc.transforms.context._settings import Settings
from stackc.transforms.shared.kernels import kernel
from stackc.util.errors import ArtifactError, TensorError
from tests.docs.second_decoder import PACKERS as SECOND
from tests.docs.second_decoder import Refused, Spec

context = find("context").stage()
raw = find("raw").stage()
ans = find("ans").stage()
INTEGERS = ["int8", "uint8", "int16", "int32", "int64"]
EVERY_SETTING = [
    Settings(*chosen)
    for chosen in itertools.product([False, True], [False, True], range(4), range(4), range(4), range(3))
]
SETTINGS = st.sampled_from(EVERY_SETTING)


def second(data: bytes, spec: PlaneSpec) -> torch.Tensor:
    lo, hi = (0, 1) if spec.dtype == "bool" else (spec.lo, spec.hi)
    decoded = SECOND["context", 1](data, Spec(spec.shape, spec.dtype, lo, hi))
    return torch.from_numpy(decoded.copy())


def forced(plane: Plane, chosen: Settings) -> bytes:
    """Bytes of a plane of at least two different values with given settings, however many they are."""
    spec, x = plane
    values = module._matrix(x, spec)
    least, most = int(values.min()), int(values.max())
    centre = module._centre(values, least, most)
    signs = 1 if least >= centre else 2 if most <= centre else 0
    with mock.patch.object(module, "candidates", return_value=[chosen]):
        return module._coded(values - numpy.int32(centre), centre, max(most - centre, centre - least), signs, 1 << 16)


def shortly(plane: Plane, chosen: Settings) -> bytes:
    """Bytes of a plane of small values behind a header of one byte with given settings."""
    values = module._matrix(plane.x, plane.spec)
    with mock.patch.object(module, "SHORT_SETTINGS", (chosen,)):
        data = module._coded_shortly(values, int(numpy.abs(values).max()))
    assert data is not None
    peak = (data[0] - 3) // 2
    return bytes([2 * (20 * peak + module.SHORT_SETTINGS.index(chosen)) + 3]) + data[1:]


def entropy_bytes(x: torch.Tensor) -> float:
    counts = torch.unique(x, return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum()) / 8


def codes(shape: tuple[int, ...], bits: int, tag: str = "codes") -> Plane:
    """Bell-shaped codes of so many bits, hardly any of them clipped."""
    top = (1 << (bits - 1)) - 1
    x = (bell(shape, 0, f"{tag} {bits}") * top * 4.2).round().clamp(-top, top).to(torch.int8)
    return Plane(PlaneSpec(shape, "int8", -top, top), x)


def uniform(count: int, tag: str) -> numpy.ndarray:
    return random_words(count, 0, tag).astype(numpy.float64) / 2.0**64


# Exactness


@st.composite
def bounds(draw: st.DrawFn) -> tuple[str, int, int]:
    dtype = draw(st.sampled_from(INTEGERS))
    least, most = (max(-(1 << 31), integer_range(dtype)[0]), min((1 << 31) - 1, integer_range(dtype)[1]))
    lo = draw(st.integers(least, most))
    width = draw(st.integers(0, 31))
    return dtype, lo, min(most, lo + (1 << width) - 1)


@st.composite
def structured(draw: st.DrawFn) -> Plane:
    """Planes of 0 to 4 axes as codes are: mostly small, a few large to extreme, empty rows and columns, one-sided ones."""
    dtype, lo, hi = draw(bounds())
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=4)))
    spec = PlaneSpec(shape, dtype, lo, hi)
    centre = draw(st.sampled_from([lo, hi, min(max(0, lo), hi), (lo + hi) // 2]))
    small = st.integers(max(lo, centre - 2), min(hi, centre + 2))
    value = st.one_of(st.just(centre), small, small, st.integers(lo, hi), st.sampled_from([lo, hi]))
    if spec.numel <= 80:
        x = numpy.array(draw(st.lists(value, min_size=spec.numel, max_size=spec.numel)), numpy.int64)
    else:
        x = numpy.array(draw(st.lists(value, min_size=7, max_size=7)), numpy.int64)
        x = x[(random_words(spec.numel, draw(st.integers(0, 99)), "structured") % 7).astype(numpy.int64)]
    rows = shape[0] if len(shape) > 1 else 1
    matrix = x.reshape(rows, -1)
    matrix[draw(st.lists(st.integers(0, rows - 1), max_size=3))] = centre
    matrix[:, draw(st.lists(st.integers(0, matrix.shape[1] - 1), max_size=3))] = centre
    return Plane(spec, torch.from_numpy(matrix.reshape(shape)).to(getattr(torch, dtype)))


@given(planes(plane_specs(dtypes=["int8", "uint8", "int16", "bool"], max_axes=4)))
def test_any_plane_comes_back_and_is_at_most_one_byte_above_raw(plane):
    spec, x = plane
    data = context.pack(x, spec)
    assert same_bits(context.unpack(data, spec), x)
    assert len(data) <= len(raw.pack(x, spec)) + 1
    assert 0 <= context.side_bytes(data, spec) <= len(data)


@given(structured(), SETTINGS)
@settings(max_examples=150)
def test_any_codes_come_back_with_any_settings_in_both_decoders(plane, chosen):
    spec, x = plane
    data = context.pack(x, spec)
    assert same_bits(context.unpack(data, spec), x)
    assert same_bits(second(data, spec), x)
    assert len(data) <= len(raw.pack(x, spec)) + 1
    if len(torch.unique(x)) > 1:
        data = forced(plane, chosen)
        assert data[0] != 1
        assert same_bits(context.unpack(data, spec), x)
        assert same_bits(second(data, spec), x)


def lively(shape: tuple[int, int], top: int) -> Plane:
    """Codes from tiny to extreme, so that every step of the activity and every kind of context is used."""
    rows, columns = shape
    octaves = (numpy.arange(rows)[:, None] * 13 % 17 + numpy.arange(columns) * 7 % 5) / 20 * top.bit_length()
    x = numpy.clip(bell(shape, 0, "lively").numpy().astype(numpy.float64) * 6 * 2.0**octaves, -top, top).round()
    x[1], x[:, 2] = 0, 0
    return Plane(PlaneSpec(shape, "int32", -top, top), torch.from_numpy(x.astype(numpy.int32)))


def test_every_combination_of_settings_is_written_and_read():
    plane = lively((13, 11), 60_000)
    results = {chosen: forced(plane, chosen) for chosen in EVERY_SETTING}
    assert len(results) == 768
    assert len(set(results.values())) == 768
    for chosen, data in results.items():
        assert module._Header.read(data, plane.spec).settings == chosen
        assert same_bits(context.unpack(data, plane.spec), plane.x)
    for data in list(results.values())[::16]:
        assert same_bits(second(data, plane.spec), plane.x)


@pytest.mark.parametrize("top", [1, 2, 3, 4, 7, 8, 15])
def test_every_short_header_is_written_and_read(top):
    plane = lively((13, 11), top)
    for chosen in module.SHORT_SETTINGS:
        data = shortly(plane, chosen)
        header = module._Header.read(data, plane.spec)
        assert (header.settings, header.size) == (chosen, 1)
        assert header.peak == min(peak for peak in (1, 2, 3, 5, 7, 15) if peak >= int(plane.x.abs().max()))
        assert context.side_bytes(data, plane.spec) == 1
        assert same_bits(context.unpack(data, plane.spec), plane.x)
        assert same_bits(second(data, plane.spec), plane.x)


@pytest.mark.parametrize("shape", [(40,), (300,), (8, 16), (16, 128)])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_small_planes_have_a_short_header_and_are_near_their_entropy(shape, bits):
    spec, x = codes(shape, bits)
    data = context.pack(x, spec)
    assert context.side_bytes(data, spec) == 1
    assert data[0] & 1
    assert len(data) <= entropy_bytes(x) * 1.01 + 6


def test_what_a_short_header_cannot_say_has_a_long_one():
    for x in (codes((30, 20), 6).x, codes((30, 20), 3).x + 20):
        spec = PlaneSpec((30, 20), "int8", -40, 40)
        assert context.side_bytes(context.pack(x, spec), spec) > 1


@pytest.mark.parametrize("chosen", EVERY_SETTING[::37], ids=str)
def test_longer_planes_agree_in_both_decoders(chosen):
    """Rows and columns beyond the 255th, where averages stop slowing down, and counts at their limits."""
    for plane in (lively((300, 6), 1000), lively((5, 290), 30)):
        data = forced(plane, chosen)
        assert same_bits(context.unpack(data, plane.spec), plane.x)
        assert same_bits(second(data, plane.spec), plane.x)


EXTREMES = {
    "from zero": (0, (1 << 31) - 1),
    "to minus one": (-(1 << 31), -1),
    "around zero": (-(1 << 30), (1 << 30) - 1),
    "nearly all negative": (-(1 << 31) + 5, 4),
}


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_magnitudes_take_the_longest_escape_codes(name, dtype):
    lo, hi = EXTREMES[name]
    near = min(max(lo, 0), hi)
    x = torch.tensor([near] * 40 + [lo, hi, near, lo + 1, hi - 1, near, hi, lo] * 3).reshape(16, 4)
    spec = PlaneSpec((16, 4), dtype, lo, hi)
    x = x.to(getattr(torch, dtype))
    for chosen in (Settings(), Settings(True, True, 1, 3, 0, 1), Settings(False, True, 2, 0, 3, 2)):
        data = forced(Plane(spec, x), chosen)
        assert same_bits(context.unpack(data, spec), x)
        assert same_bits(second(data, spec), x)
    assert same_bits(context.unpack(context.pack(x, spec), spec), x)


@pytest.mark.parametrize("value", [-(1 << 31), -70_000, -64, -1, 0, 1, 63, 64, 70_000, (1 << 31) - 1])
def test_one_value_costs_a_few_bytes(value):
    lo, hi = (value - 3, value) if value > 0 else (value, value + 3)
    spec = PlaneSpec((500, 20), "int64", lo, hi)
    x = torch.full((500, 20), value)
    data = context.pack(x, spec)
    assert len(data) <= 8
    assert context.side_bytes(data, spec) == len(data)
    assert same_bits(context.unpack(data, spec), x)
    assert same_bits(second(data, spec), x)


@pytest.mark.parametrize(("offset", "sign"), [(0, 1), (0, -1), (90, 1), (-90, -1), (-90, 1), (90, -1)])
def test_one_sided_codes_have_a_centre_that_suits_them(offset, sign):
    """Folded codes are counted from their end and have no signs; shifted ones from the middle, which is most frequent."""
    x = codes((60, 50), 4).x
    spec = PlaneSpec((60, 50), "int8", -128, 127)
    folded = offset + sign * x.abs()
    data = context.pack(folded, spec)
    if offset * sign >= 0:
        header = module._Header.read(data, spec)
        assert (header.centre, header.signs) == (offset, 1 if sign > 0 else 2)
    assert len(data) < 1.01 * entropy_bytes(folded) + 24
    assert same_bits(context.unpack(data, spec), folded)
    if offset:
        shifted = offset + sign * x
        data = context.pack(shifted, spec)
        header = module._Header.read(data, spec)
        assert header.signs == 0
        assert abs(header.centre - offset) <= 1
        assert len(data) < 1.01 * entropy_bytes(shifted) + 24
        assert same_bits(context.unpack(data, spec), shifted)


def test_noise_is_stored_raw():
    for spec in (PlaneSpec((3000,), "uint8", 0, 255), PlaneSpec((60, 50), "int8", -8, 7), PlaneSpec((999,), "int16")):
        x = random_integers(spec, 0, "noise")
        data = context.pack(x, spec)
        lo, hi = (spec.lo, spec.hi) if spec.lo is not None else integer_range(spec.dtype)
        assert data[0] == 1
        assert data[1:] == raw.pack(x, PlaneSpec(spec.shape, spec.dtype, lo, hi))
        assert context.side_bytes(data, spec) == 1


@pytest.mark.parametrize("spec", [PlaneSpec((0, 5), "int8", 0, 7), PlaneSpec((9,), "int16", 4, 4)])
def test_planes_without_information_have_no_bytes(spec):
    x = torch.full(spec.shape, spec.hi, dtype=getattr(torch, spec.dtype))
    assert context.pack(x, spec) == b""
    assert same_bits(context.unpack(b"", spec), x)
    with pytest.raises(ArtifactError, match="needs no bytes"):
        context.unpack(b"\0\0\1", spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PlaneSpec((3,), "float32"), "put int or tcq before it, or use floats"),
        (PlaneSpec((3,), "int64"), "use zstd"),
        (PlaneSpec((3,), "int32"), "use zstd"),
        (PlaneSpec((3,), "int64", 0, 1 << 31), "use zstd"),
        (PlaneSpec((3,), "int64", -(1 << 31) - 1, 0), "use zstd"),
        (PlaneSpec((3,), "int64", 1 << 31, 1 << 31), "use zstd"),
        (PlaneSpec((3,), "int64", -(1 << 30), 1 << 30), "use zstd"),
    ],
)
def test_other_planes_are_refused_with_what_would_fit(spec, message):
    assert message in context.refusal(spec)
    with pytest.raises(TensorError, match=message):
        context.pack(torch.zeros(3, dtype=getattr(torch, spec.dtype)), spec)
    with pytest.raises(ArtifactError, match=message):
        context.unpack(b"\0\0\1\1", spec)


def test_a_plane_that_does_not_fit_its_spec_is_refused():
    with pytest.raises(TensorError, match="does not fit"):
        context.pack(torch.tensor([4]), PlaneSpec((1,), "int64", 0, 3))


# Sizes


@pytest.mark.parametrize("shape", [(128, 128), (16, 1024), (1 << 14,)], ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_without_structure_take_their_entropy(bits, shape):
    spec, x = codes(shape, bits)
    assert len(context.pack(x, spec)) <= 1.01 * entropy_bytes(x) + 40
    noise = random_integers(spec, 0, "codes")
    assert len(context.pack(noise, spec)) <= 1.01 * entropy_bytes(noise) + 40 or bits == 2  # 3 of 4 values, stored raw


@pytest.mark.parametrize("axes", ["rows", "columns", "both"])
@pytest.mark.parametrize("bits", [3, 5])
def test_activity_of_rows_and_columns_brings_codes_below_their_entropy(axes, bits):
    top = (1 << (bits - 1)) - 1
    scale = torch.from_numpy(2.0 ** -(random_words(128, 0, "scales") % 5).astype(numpy.float32))
    x = bell((128, 128), 0, axes) * top * 8
    x = x * scale[:, None] if axes != "columns" else x
    x = x * scale.flip(0) if axes != "rows" else x
    x = x.round().clamp(-top, top).to(torch.int8)
    spec = PlaneSpec((128, 128), "int8", -top, top)
    data = context.pack(x, spec)
    assert len(data) < 0.92 * entropy_bytes(x)
    assert len(data) < 0.92 * len(ans.pack(x, spec))


@pytest.mark.parametrize("axis", [0, 1])
def test_empty_rows_and_columns_cost_almost_nothing(axis):
    """100 rows among 2,000 in ten runs: a byte for 60 of the others."""
    spec, x = codes((100, 64), 4)
    full = len(context.pack(x, spec))
    spread = torch.zeros((2000, 64), dtype=torch.int8)
    at = torch.arange(100) // 10 * 200 + torch.arange(100) % 10
    spread[at] = x
    spread = spread if axis == 0 else spread.T.contiguous()
    spec = PlaneSpec(tuple(spread.shape), "int8", spec.lo, spec.hi)
    data = context.pack(spread, spec)
    assert len(data) < full + 1900 / 60
    assert same_bits(context.unpack(data, spec), spread)


def test_masks_of_rows_cost_their_entropy():
    spec, x = codes((500, 64), 4)
    kept = torch.from_numpy(uniform(5000, "kept") < 0.1)
    count = int(kept.sum())
    spread = torch.zeros((5000, 64), dtype=torch.int8)
    spread[kept] = x.repeat(2, 1)[:count]
    spec = PlaneSpec((5000, 64), "int8", spec.lo, spec.hi)
    rows_alone = len(context.pack(spread[kept], PlaneSpec((count, 64), "int8", spec.lo, spec.hi)))
    assert len(context.pack(spread, spec)) < rows_alone + 1.05 * entropy_bytes(kept) + 8


@pytest.mark.parametrize("shape", [(16, 64), (1024,), (32, 64), (64, 64), (40, 100)], ids=str)
@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_small_planes_are_smaller_than_with_a_table(shape, bits):
    spec, x = codes(shape, bits)
    ours, theirs = len(context.pack(x, spec)), len(ans.pack(x, spec))
    assert ours <= theirs
    assert ours < theirs or x.numel() > 1024


@pytest.mark.parametrize("shape", [(512, 32), (64, 64), (1 << 12,), (1 << 14,)], ids=str)
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_sparse_codes_take_their_entropy_and_no_mask_that_does_not_pay(shape, density):
    shares = uniform(int(numpy.prod(shape)), "sparse")
    x = torch.from_numpy(numpy.select([shares < density / 2, shares < density], [-1, 1], 0).astype(numpy.int8))
    x = x.reshape(shape)
    spec = PlaneSpec(shape, "int8", -1, 1)
    assert len(context.pack(x, spec)) <= 1.025 * entropy_bytes(x) + 8
    mask = x != 0
    assert len(context.pack(mask, PlaneSpec.of(mask))) <= 1.025 * entropy_bytes(mask) + 8


def test_a_single_row_is_not_masked():
    x = torch.zeros(40_000, dtype=torch.int8)
    x[::9] = 1
    for shape in ((40_000,), (1, 40_000), (40_000, 1)):
        spec = PlaneSpec(shape, "int8", 0, 1)
        header = module._Header.read(context.pack(x.reshape(shape), spec), spec)
        assert (header.row_mask, header.column_mask) == (False, False)


def test_a_transposed_plane_costs_the_same():
    x = (bell((96, 80), 0, "order") * 30 * torch.arange(1, 97)[:, None] / 48).round().clamp(-15, 15).to(torch.int8)
    sizes = [len(context.pack(y, PlaneSpec(tuple(y.shape), "int8", -15, 15))) for y in (x, x.T.contiguous())]
    assert abs(sizes[0] - sizes[1]) < 0.005 * sizes[0]


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("step", [0.05, 0.1])
def test_codes_of_a_trellis_are_recognised(states, step):
    """Knowing the state tells which of the two quantisers has a zero; at coarse steps, all codes from -1 to 1, most of all."""
    weights = bell((96, 128), 0, "trellis")
    tcq = find("tcq").stage(step=step, states=states).settle({"x": Weighted(weights)})["x"]
    spec, x = tcq.plan(PlaneSpec.of(weights))["codes"], tcq.encode(weights)["codes"]
    data = context.pack(x, spec)
    assert module.STATES[module._Header.read(data, spec).settings.trellis] == states
    assert len(data) < (0.97 if step == 0.05 else 0.82) * entropy_bytes(x)
    assert same_bits(context.unpack(data, spec), x)
    assert same_bits(second(data, spec), x)
    shuffled = x.reshape(-1)[torch.from_numpy(numpy.argsort(random_words(x.numel(), 0, "shuffle")))].reshape(x.shape)
    assert module._Header.read(context.pack(shuffled, spec), spec).settings.trellis == 0


# Resources


def test_unpacking_takes_a_bounded_multiple_of_the_plane():
    x = codes((1000, 800), 4).x
    x[::3], x[:, ::2] = 0, 0
    for y in (x, x.T.contiguous(), x.reshape(-1)):
        spec = PlaneSpec(tuple(y.shape), "int8", -7, 7)
        data = context.pack(y, spec)
        context.unpack(data, spec)
        tracemalloc.start(1)
        try:
            back = context.unpack(data, spec)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert same_bits(back, y)
        assert peak < 16 * spec.nbytes


def test_few_columns_are_all_looked_at():
    """Scores of components: the first column is not like those in the middle, from which a choice was made once."""
    spread = torch.tensor([6.0] + [0.5] * 11)
    noise = bell((12_000, 12), 0, "scores")
    rows = torch.tensor([0.3, 3.0]).repeat(6000)[:, None]
    x = (noise / noise.std() * spread * rows).round().clamp(-60, 60).to(torch.int8)
    spec = PlaneSpec((12_000, 12), "int8", -60, 60)
    sizes = [
        len(forced(Plane(spec, x), Settings(order, mixture=mixture))) for order in (False, True) for mixture in range(4)
    ]
    assert len(context.pack(x, spec)) < 1.003 * min(sizes)
    assert max(sizes) > 1.15 * min(sizes), "a wrong choice must show"


def test_a_long_row_is_chosen_for_on_a_part_of_it():
    """What is tried out does not grow with the plane, however few rows it has."""
    x = (bell((1 << 20,), 0, "long") * 60).round().to(torch.int8)
    spec = PlaneSpec((1 << 20,), "int8", -15, 15)
    tried = []
    encode = kernel("context._encode_kernel").encode
    with mock.patch.object(
        kernel("context._encode_kernel"),
        "encode",
        side_effect=lambda values, *rest: tried.append(values.size) or encode(values, *rest),
    ):
        context.pack(x, spec)
    assert sorted(tried)[-1] == 1 << 20
    assert max(sorted(tried)[:-1]) <= 1 << 17


def test_threads_do_not_disturb_each_other():
    given_planes = [codes((50 + index, 61), 2 + index % 6, str(index)) for index in range(12)]
    alone = [context.pack(x, spec) for spec, x in given_planes]
    barrier = threading.Barrier(2)

    def pack_all(_: int) -> list[bytes]:
        barrier.wait(30)
        return [context.pack(x, spec) for spec, x in given_planes for _ in range(3)][::3]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(pack_all, range(2))) == [alone, alone]


# Damage

SPEC = PlaneSpec((12, 14), "int8", -20, 20)
SPARSE = codes((12, 14), 4, "sparse").x * torch.tensor([0, 1, 2] * 4)[:, None] // 2 * (torch.arange(14) % 5 != 3)
GOOD = {
    "masked": forced(Plane(SPEC, SPARSE.to(torch.int8)), Settings()),
    "transposed": forced(Plane(SPEC, SPARSE.to(torch.int8)), Settings(True, True, 2, 1, 0)),
    "trellis": forced(Plane(SPEC, codes((12, 14), 5).x), Settings(trellis=2)),
    "short": shortly(Plane(SPEC, codes((12, 14), 3).x), module.SHORT_SETTINGS[5]),
    "centre": forced(Plane(SPEC, codes((12, 14), 4).x.abs() - 9), Settings(mixture=3, resolution=3, memory=3)),
}


def read_by_both(data: bytes, spec: PlaneSpec) -> bool:
    """Whether both decoders take the bytes; they give the same plane or both refuse."""
    try:
        decoded = context.unpack(data, spec)
    except ArtifactError as error:
        assert "damaged" in str(error) or "above its upper bound" in str(error) or "needs" in str(error)  # noqa: PT017
        with pytest.raises(Refused):
            second(data, spec)
        return False
    assert spec.mismatch(decoded) is None
    assert same_bits(second(data, spec), decoded)
    return True


@pytest.mark.parametrize("name", GOOD)
def test_both_decoders_agree_on_damage(name):
    assert GOOD[name][0] != 1
    versions = [version for _, version in damaged(GOOD[name], 0)]
    taken = sum(read_by_both(version, SPEC) for version in versions[::5])
    assert 0 < taken < len(versions) / 5


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=12), st.sampled_from(sorted(GOOD)))
@settings(max_examples=150)
def test_both_decoders_agree_on_any_settings(first, rest, middle, name):
    data = GOOD[name]
    size = context.side_bytes(data, SPEC)
    for version in (bytes([first, rest]) + data[2:], bytes([first, rest]) + middle + data[size:]):
        read_by_both(version, SPEC)


def test_any_settings_are_read_in_bounded_time():
    """All of the first byte with a quarter of the second, peaks from small to largest: a plane or a sentence."""
    spec = PlaneSpec((40, 30), "int32", -(1 << 30), (1 << 30) - 1)
    words = random_words(4, 0, "settings").tobytes() + b"\1"
    context.unpack(GOOD["masked"], SPEC)
    begin, taken = time.perf_counter(), 0
    for first, second_byte in itertools.product(range(256), range(0, 256, 4)):
        peak = [b"\1", b"\x10", b"\xff\x7f", b"\xff\xff\xff\xff\x07"][(first + second_byte // 4) % 4]
        data = bytes([first, (second_byte + first) % 256]) + b"\0" * (first >> 7) + peak + words
        try:
            assert spec.mismatch(context.unpack(data, spec)) is None
            taken += 1
        except ArtifactError:
            continue
    assert taken > 100
    assert time.perf_counter() - begin < 60


WIDER = Plane(PlaneSpec((12, 14), "int8", -21, 21), codes((12, 14), 4).x.clamp(-3, 3) * 7)


def varint(number: int) -> bytes:
    return module._varint(number)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(forced(WIDER, Settings()), "out of its range", id="wider"),
        (b"", "too few"),
        (b"\0", "too few"),
        (b"\5", "missing or end in a zero"),
        (bytes([2 * 120 + 3]) + b"\1", "settings of a plane"),
        (b"\0\0", "too few"),
        (b"\1", "needs? .*bytes"),
        (b"\1" + bytes(127), "bytes"),
        (b"\1" + b"\xff" * 126, "out of its range"),
        (b"\x60\0\1\1", "settings of a plane"),
        (b"\0\xc0\1\1", "settings of a plane"),
        (b"\0\0" + varint(1 << 31) + b"\1", "settings of a plane"),
        (b"\0\0\x80\x80\x80\x80\x80\x01", "cut off"),
        (b"\0\0\x80", "cut off"),
        (b"\x80\0\1", "cut off"),
        (b"\x80\0" + varint(2 * 21) + b"\0", "centre of a plane"),
        (b"\x80\0" + varint(2 * 21 - 1) + b"\0", "centre of a plane"),
        (b"\x80\0" + varint((1 << 34) - 1) + b"\0", "centre of a plane"),
        (b"\0\0\0\1", "nothing needs"),
        (b"\0\0\3", "missing or end in a zero"),
        (b"\0\0\3\1\0", "missing or end in a zero"),
        (GOOD["masked"] + b"\1" * 400, "go on after"),
        (b"\x20\0\x15" + b"\1", "above its peak"),
    ],
)
def test_damaged_bytes_are_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        context.unpack(data, SPEC)


class Strict(numpy.ndarray):
    """An array that also refuses negative indices, which wrap around in Python and are out of bounds in compiled code."""

    def _check(self, index):
        for each in index if isinstance(index, tuple) else (index,):
            assert each >= 0, f"index {each}"

    def __getitem__(self, index):
        self._check(index)
        return super().__getitem__(index)

    def __setitem__(self, index, value):
        self._check(index)
        super().__setitem__(index, value)


class StrictNumpy:
    """numpy whose zeros are strict."""

    def __getattr__(self, name):
        return getattr(numpy, name)

    def zeros(self, *arguments):
        return numpy.zeros(*arguments).view(Strict)


@contextmanager
def interpreted() -> Iterator[None]:
    """The kernel as Python runs it, with every index checked."""
    with pytest.MonkeyPatch.context() as patch, numpy.errstate(over="ignore"):
        parts = ("shared._range_coder", "context._model", "context._encode", "context._decode")
        for part in (kernel(f"{name}_kernel") for name in parts):
            for attribute, value in list(vars(part).items()):
                if hasattr(value, "py_func"):
                    patch.setattr(part, attribute, value.py_func)
                elif isinstance(value, numpy.ndarray):
                    patch.setattr(part, attribute, value.view(Strict))
            patch.setattr(part, "np", StrictNumpy())
        yield


def kernel_inputs(data: bytes) -> tuple:
    header = module._Header.read(data, SPEC)
    stream = data[header.size :]
    rows, columns = SPEC.shape[::-1] if header.settings.columns_first else SPEC.shape
    return (
        numpy.zeros(SPEC.numel, numpy.int32),
        *(rows, columns),
        numpy.zeros(rows if header.row_mask else 0, numpy.uint8),
        numpy.zeros(columns if header.column_mask else 0, numpy.uint8),
        numpy.frombuffer(stream + b"\0" * (-len(stream) % 4 + 4), ">u4").astype(numpy.uint32),
        *(header.peak, header.signs),
        *module.kernel_arguments(header.settings),
    )


def damaged_words() -> list[bytes]:
    """Bytes with sound settings: good ones, words that are damaged, random or all ones, peaks that are too large."""
    made = []
    for index, (name, data) in enumerate(GOOD.items()):
        size = context.side_bytes(data, SPEC)
        noise = [random_words(12, seed, name).tobytes() + b"\1" for seed in range(3)]
        made += [data, *(data[:size] + words for words in (b"\xff" * 150, b"\1", *noise))]
        header = module._Header.read(data, SPEC)
        for peak in (1, 40, 5000, (1 << 31) - 2):
            for words in (noise[index % 3], b"\xff" * 40, bytes(60) + b"\1"):
                made.append(header._replace(peak=peak, size=0).write() + words)
    return made


def decoded_by_kernel(data: bytes, checked: bool) -> list:
    """What the kernel makes of bytes: words read, values and masks."""
    arguments = kernel_inputs(data)
    inputs = [each.view(Strict) if checked and isinstance(each, numpy.ndarray) else each for each in arguments]
    read = kernel("context._decode_kernel").decode(*inputs)
    return [int(read), *(arguments[place].tolist() for place in (0, 3, 4))]


def test_the_decoder_never_leaves_its_arrays_and_compiles_to_what_python_computes():
    compiled = [decoded_by_kernel(data, checked=False) for data in damaged_words()]
    with interpreted():
        assert [decoded_by_kernel(data, checked=True) for data in damaged_words()] == compiled
    assert len({str(result) for result in compiled}) > 20
    assert max(max(map(abs, values)) for _, values, *_ in compiled) >= (1 << 31) - 1


def test_the_encoder_never_leaves_its_arrays_and_compiles_to_what_python_computes():
    wide = Plane(PlaneSpec((4, 4), "int32", 0, (1 << 31) - 1), torch.tensor([[0, 0, (1 << 31) - 1, 5]] * 4).int())
    for spec, x in (Plane(SPEC, SPARSE.to(torch.int8)), lively((7, 6), 60_000), wide):
        for chosen in EVERY_SETTING[5::97]:
            compiled = forced(Plane(spec, x), chosen)
            with interpreted():
                assert forced(Plane(spec, x), chosen) == compiled
