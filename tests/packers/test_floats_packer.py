"""``floats``: every bit back, below byte planes with Zstandard on weights, never far above raw or Zstandard, safe on damage."""

from __future__ import annotations

import math
import tracemalloc

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.core.planes import to_bytes
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.testing.damage import damaged
from stackc.testing.planes import bell, random_bits, random_words, same_bits
from stackc.testing.strategies import plane_specs, planes
from stackc.transforms.floats._classes import Classes, choose_classes, contexts_of
from stackc.transforms.floats._split import LAYOUTS, read_split, write_split
from stackc.transforms.floats._stream import read_stream, write_stream
from stackc.util.errors import ArtifactError, TensorError
from tests.docs.second_decoder import PACKERS as SECOND
from tests.docs.second_decoder import Refused, Spec

floats = find("floats").stage()
zstd = find("zstd").stage()
RAW, ZSTD, SPLIT = range(3)
REAL = ["float32", "bfloat16", "float16", "float64"]


def weights(shape: tuple[int, ...], tag: str, dtype: str = "float32") -> torch.Tensor:
    """Bell-shaped values with random bits all the way down, whose rows and columns differ in scale."""
    x = math.prod(bell(shape, 0, f"{tag} {factor}").double() for factor in range(2))
    x = x + bell(shape, 1, tag).double()
    for axis, length in enumerate(shape):
        scale = torch.from_numpy(random_words(length, axis, tag) % 7).double() / 4
        x = x * (2.0**scale).reshape([length if i == axis else 1 for i in range(len(shape))])
    return x.to(getattr(torch, dtype))


def pack(x: torch.Tensor) -> bytes:
    """Bytes of a plane, after both decoders gave it back."""
    spec = PlaneSpec.of(x)
    data = floats.pack(x, spec)
    assert same_bits(floats.unpack(data, spec), x)
    return data


def second(data: bytes, spec: PlaneSpec) -> bytes:
    decoded = SECOND["floats", 1](data, Spec(spec.shape, spec.dtype))
    return to_bytes(torch.from_numpy(decoded.copy()).to(getattr(torch, spec.dtype)))


@given(planes(plane_specs(dtypes=REAL, max_length=40)))
@settings(max_examples=150, deadline=None)
def test_any_plane_comes_back_and_is_at_most_one_byte_above_raw(plane):
    spec, x = plane
    data = floats.pack(x, spec)
    assert same_bits(floats.unpack(data, spec), x)
    assert len(data) <= spec.nbytes + 1
    assert bool(data) == bool(spec.numel)
    assert floats.side_bytes(data, spec) == min(1, len(data))


@given(
    st.sampled_from(REAL),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans()), min_size=20, max_size=400),
    st.integers(1, 60),
)
@settings(max_examples=80, deadline=None)
def test_the_split_form_alone_is_exact_for_any_bits(dtype, runs, width):
    """Few exponents, zeros of both signs, NaN payloads and tops that cluster, in rows of any width."""
    layout = LAYOUTS[dtype]
    power, top, negative = (numpy.array(column, layout.word) for column in zip(*runs, strict=True))
    words = (power << layout.exponent_shift) | (top << layout.top_shift) | (negative << layout.sign_shift)
    words |= numpy.where(power % 3 == 1, random_words(power.size, 0, dtype), 0).astype(layout.word) & 0x1F
    data = write_split(words, layout, min(width, words.size))
    if data is None:
        assert not words.any()
        return
    assert (read_split(data, words.size, layout) == words).all()


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("shape", [(90, 70), (5000,), (20, 6, 5, 5), (4095,), (4097, 1)], ids=str)
def test_a_decoder_written_from_the_page_agrees(dtype, shape):
    x = weights(shape, "page", dtype)
    data = pack(x)
    assert data[0] == SPLIT
    assert second(data, PlaneSpec.of(x)) == to_bytes(x)


@pytest.mark.parametrize(
    ("dtype", "bits"), [("float32", 26.55), ("bfloat16", 10.55), ("float16", 13.55), ("float64", 55.6)]
)
def test_weights_take_the_entropy_of_their_exponents_and_little_more(dtype, bits):
    """Sign and low bits are noise; a bell in the scale of its row and column leaves 2.55 bits of an exponent."""
    x = weights((400, 300), "entropy", dtype)
    data = pack(x)
    assert 8 * len(data) / x.numel() <= bits
    assert len(data) < 0.99 * len(zstd.pack(x, PlaneSpec.of(x)))


def order_0(x: torch.Tensor) -> float:
    """Bits that an exponent of a bfloat16 plane takes on its own."""
    shares = torch.unique((x.view(torch.int16) >> 7) & 255, return_counts=True)[1].double() / x.numel()
    return float(-(shares * shares.log2()).sum())


@pytest.mark.parametrize("axes", ["rows", "columns", "both"])
def test_scales_of_rows_and_columns_make_exponents_cheaper(axes):
    plain = bell((256, 256), 0, "scales").bfloat16()
    octaves = -(torch.from_numpy(random_words(256, 0, "octaves") % 12).to(torch.bfloat16))
    x = plain.clone()
    if axes != "columns":
        x = x * 2.0 ** octaves[:, None]
    if axes != "rows":
        x = x * 2.0 ** octaves.flip(0)
    more = order_0(x) - order_0(plain)
    assert more > 1
    assert 8 * (len(pack(x)) - len(pack(plain))) / x.numel() < 0.2 * more


def test_a_common_sign_costs_nothing():
    x = weights((3000,), "sign").abs()
    signed = torch.where(bell((3000,), 0, "negative") > 0, x, -x)
    assert 3000 / 8 - 20 < len(pack(signed)) - len(pack(x)) < 3000 / 8 + 20


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_zeros_cost_their_mask_alone(share):
    x = weights((300, 200), "sparse")
    kept = torch.from_numpy(random_words(60_000, 0, "mask").astype(numpy.float64) / 2.0**64).reshape(300, 200) > share
    count = int(kept.sum())
    entropy = -sum(p * math.log2(p) for p in (count / 60_000, 1 - count / 60_000))
    data = pack(torch.where(kept, x, 0.0))
    assert len(data) <= 60_000 * entropy / 8 * 1.03 + count * 27.4 / 8 + 150
    assert len(data) < len(zstd.pack(torch.where(kept, x, 0.0), PlaneSpec.of(x)))


FAVOURABLE = {
    "zeros": torch.zeros(200, 100),
    "negative zeros": -torch.zeros(200, 100),
    "one value": torch.full((50_000,), 0.3),
    "not a number": torch.full((1000,), float("nan")),
    "few values": weights((16,), "few")[torch.from_numpy((random_words(30_000, 0, "few") % 16).astype(numpy.int64))],
    "repeated rows": weights((3, 1000), "repeat").repeat(40, 1),
    "half the rows repeated": weights((100, 300), "half")[torch.arange(200) % 100],
    "integers": torch.arange(20_000).float(),
    "identity": torch.eye(150),
    "ramp": torch.linspace(0, 1, 20_000),
}


@pytest.mark.parametrize("name", FAVOURABLE)
def test_planes_that_suit_zstd_are_left_to_it(name):
    x = FAVOURABLE[name]
    assert len(pack(x)) <= len(zstd.pack(x, PlaneSpec.of(x))) + 1


@pytest.mark.parametrize("from_dtype", ["float16", "bfloat16"])
def test_widened_halves_cost_what_halves_cost(from_dtype):
    x = weights((200, 150), "widened", from_dtype)
    assert len(pack(x.float())) < 1.03 * len(pack(x)) + 60


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 100])
def test_tiny_planes_are_at_most_one_byte_above_raw(count):
    for dtype in REAL:
        x = random_bits(PlaneSpec((count,), dtype), 0, "tiny")
        assert len(pack(x)) == x.element_size() * count + 1


def test_scales_of_a_few_hundred_rows_are_worth_it():
    x = weights((384,), "scale").abs() + 0.2
    assert len(pack(x)) < 0.97 * len(zstd.pack(x, PlaneSpec.of(x)))


def test_bounded_memory_and_a_large_plane():
    x = weights((1500, 1000), "large", "bfloat16")
    spec = PlaneSpec.of(x)
    floats.unpack(floats.pack(x[:9].contiguous(), PlaneSpec.of(x[:9])), PlaneSpec.of(x[:9]))
    tracemalloc.start(1)
    try:
        data = floats.pack(x, spec)
        packed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        back = floats.unpack(data, spec)
        unpacked = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert same_bits(back, x)
    assert packed < 10 * spec.nbytes + 32 * 2**20
    assert unpacked < 10 * spec.nbytes


@pytest.mark.parametrize("spec", [PlaneSpec((3,), "int8", 0, 3), PlaneSpec((3,), "int64"), PlaneSpec((2,), "bool")])
def test_planes_that_are_not_real_are_refused_with_what_would_fit(spec):
    assert "use zstd" in floats.refusal(spec)
    with pytest.raises(TensorError, match="use zstd"):
        floats.pack(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)), spec)
    with pytest.raises(ArtifactError, match="use zstd"):
        floats.unpack(b"\0", spec)


def test_a_plane_that_does_not_fit_its_spec_is_refused():
    with pytest.raises(TensorError, match="expected float32 3"):
        floats.pack(torch.zeros(4), PlaneSpec((3,), "float32"))


# Adaptive streams


@given(st.integers(1, 256), st.integers(1, 256), st.integers(0, 6000), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_streams_come_back_and_end_where_they_end(alphabet, context_count, count, seed):
    draws = random_words(count, seed, "stream")
    contexts = (draws % context_count).astype(numpy.uint8)
    symbols = ((draws >> 40) % alphabet * ((draws >> 9) % 5 == 0)).astype(numpy.uint8)
    data = write_stream(symbols, alphabet, contexts, context_count)
    around = numpy.frombuffer(b"before" + data + b"after", numpy.uint8)
    read, end = read_stream(around, 6, count, alphabet, contexts, context_count)
    assert (read == symbols).all()
    assert end == 6 + len(data)


@pytest.mark.parametrize("count", [4095, 4096, 100_000])
def test_streams_are_close_to_the_entropy_and_follow_change(count):
    shares = random_words(count, 0, "entropy").astype(numpy.float64) / 2.0**64
    symbols = numpy.searchsorted([0.5, 0.75, 0.875], shares).astype(numpy.uint8)
    assert 1.75 * count / 8 * 0.98 < len(write_stream(symbols, 4)) < 1.75 * count / 8 * 1.01 + 30


def test_streams_follow_change():
    shares = random_words(60_000, 0, "change").astype(numpy.float64) / 2.0**64
    symbols = numpy.searchsorted([0.9, 0.95, 0.98], shares).astype(numpy.uint8)
    changing = numpy.concatenate([symbols, 3 - symbols, symbols, 3 - symbols])
    shares_of_all = numpy.bincount(changing) / changing.size
    assert len(write_stream(changing, 4)) < 0.7 * -(shares_of_all * numpy.log2(shares_of_all)).sum() * changing.size / 8


def test_streams_of_one_symbol_cost_their_states():
    assert len(write_stream(numpy.zeros(4095, numpy.uint8), 1)) == 4
    assert len(write_stream(numpy.zeros(4096, numpy.uint8), 1)) == 16


def test_every_change_of_a_stream_shows():
    symbols = (random_words(5000, 0, "damage") % 11).astype(numpy.uint8)
    data = write_stream(symbols, 11)
    for description, version in damaged(data, 0):
        if version.startswith(data):
            continue
        array = numpy.frombuffer(version, numpy.uint8)
        try:
            end = read_stream(array, 0, 5000, 11)[1]
        except ArtifactError:
            continue
        assert end != array.size, description


# Classes


def test_classes_are_left_out_where_they_tell_nothing():
    exponents = (random_words(40_000, 0, "classes") % 4).astype(numpy.uint8)
    assert choose_classes(exponents, 4, (exponents + 1).astype(numpy.uint16) * 8, 100) == (100, None, None)


def test_an_incomplete_last_row_has_a_class():
    rows, columns = numpy.arange(3, dtype=numpy.uint8), numpy.array([0, 4], numpy.uint8)
    assert contexts_of(Classes(2, rows, columns), 5).tolist() == [0, 4, 1, 5, 2]
    steps = numpy.repeat(numpy.arange(41, dtype=numpy.uint8) % 9, 100)[:4030]
    classes = choose_classes(steps, 9, (steps + 1).astype(numpy.uint16) * 8, 100)
    assert classes.rows.size == 41
    assert classes.columns is None
    assert len(set(classes.rows[:9].tolist())) > 4


# Damage

SPEC = PlaneSpec((50, 40), "float32")
GOOD = floats.pack(weights((50, 40), "good"), SPEC)


def test_damage_to_the_plane_gives_a_plane_or_a_sentence_and_both_decoders_agree():
    refused = 0
    versions = [version for _, version in damaged(GOOD, 0)][::3]
    for version in versions:
        try:
            decoded = to_bytes(floats.unpack(version, SPEC))
        except ArtifactError as error:
            refused += 1
            assert "damaged" in str(error) or "holds" in str(error)  # noqa: PT017
            with pytest.raises(Refused):
                second(version, SPEC)
        else:
            assert decoded == second(version, SPEC)
    assert refused > len(versions) // 3


EXPONENTS = b"\x78\x01\x03"
STATE = (1 << 16).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "form of no bytes"),
        (b"\x03", "form 3"),
        (b"\x00\x00", "needs 8000 bytes"),
        (b"\x01", "layout of no bytes"),
        (b"\x02", "flags"),
        (b"\x02\x10", "flags"),
        (b"\x02\x01", "cut off or too long"),
        (b"\x02\x01\x00" + EXPONENTS, "rows of 0"),
        (b"\x02\x02\xd1\x0f" + EXPONENTS, "rows of 2001"),
        (b"\x02\x01" + b"\x80" * 9 + b"\x01", "cut off or too long"),
        (b"\x02\x00\xff\x01\x01\x03", "exponents of split floats are cut off or too large"),
        (b"\x02\x00\x00\xff\x01" + b"\xff" * 31, "exponents of split floats are cut off or too large"),
        (b"\x02\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f\x01", "exponents of split floats are cut off or too large"),
        (b"\x02\x00\x78\x01\x02", "wrong ends"),
        (b"\x02\x00\x78\x01\x01", "wrong ends"),
        (b"\x02\x00\x78\x01\x07", "wrong ends"),
        (b"\x02\x04\x00\xff\x01" + b"\xff" * 32, "256 exponents"),
        (b"\x02\x00" + EXPONENTS, "adaptive stream of 2000"),
        (b"\x02\x00" + EXPONENTS + b"\xff\xff\x00\x00", "adaptive stream of 2000"),
        (b"\x02\x01\x28" + EXPONENTS + STATE, "adaptive stream of 50"),
        (GOOD + b"\0", "1 bytes follow"),
        (GOOD[:-1], "cut off"),
    ],
)  # fmt: skip
def test_damaged_headers_are_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        floats.unpack(data, SPEC)


def header_and_signs(count: int, zeros: int = 0) -> bytes:
    """A split plane of one exponent up to its nibbles, every top 0."""
    symbols = numpy.full(count, zeros, numpy.uint8)
    tops = write_stream(numpy.zeros(count, numpy.uint8), 16)
    return bytes([SPLIT, 4 * zeros, 127, 0, 1]) + write_stream(symbols, 1 + zeros) + tops


def test_damaged_rests_are_refused():
    spec, count = PlaneSpec((33,), "float32"), 33
    begin, low = header_and_signs(count), b"\0" + bytes(count)
    good = begin + bytes(17) + low + low
    assert floats.unpack(good, spec).tolist() == [1.0] * count
    for data, message in [
        (begin + bytes(16), "nibbles"),
        (begin + bytes(16) + b"\x10" + low + low, "nibbles"),
        (begin + bytes(17) + low, "cut off"),
        (begin + bytes(17) + low + low[:-1], "byte plane"),
        (begin + bytes(17) + low + b"\x21" + bytes(33), "byte plane"),
        (begin + bytes(17) + low + b"\x05" + bytes(5), "zstd frame"),
        (good + b"\0", "1 bytes follow"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            floats.unpack(data, spec)
    half = PlaneSpec((33,), "float16")
    with pytest.raises(ArtifactError, match="without nibbles"):
        floats.unpack(b"\x02\x08\x0f\x00\x01", half)
    everything = bytes([SPLIT, 4, 127, 0, 1]) + write_stream(numpy.zeros(33, numpy.uint8), 2)
    with pytest.raises(ArtifactError, match="all zero"):
        floats.unpack(everything + STATE + low + low, spec)


def test_no_bytes_for_an_empty_plane():
    spec = PlaneSpec((0, 3), "float16")
    assert floats.pack(torch.empty((0, 3), dtype=torch.float16), spec) == b""
    assert floats.unpack(b"", spec).shape == (0, 3)
    with pytest.raises(ArtifactError, match="needs no bytes"):
        floats.unpack(b"\0", spec)
