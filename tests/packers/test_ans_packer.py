"""``ans``: close to the order-0 entropy, small tables, never above raw, exact integer models, damaged tables refused."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.testing.packers import skewed_planes
from stackc.testing.planes import bell, random_integers, random_words, same_bits
from stackc.testing.strategies import plane_specs, planes
from stackc.transforms.shared.frequency_table import _log2, frequencies, nearest_levels, read_table, write_table
from stackc.util.errors import ArtifactError, TensorError

ans = find("ans").stage()
raw = find("raw").stage()


def entropy_bytes(x: torch.Tensor) -> float:
    counts = torch.unique(x, return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum()) / 8


def uniform(count: int, tag: str) -> numpy.ndarray:
    return random_words(count, 0, tag).astype(numpy.float64) / 2.0**64


def ternary(count: int) -> torch.Tensor:
    shares = uniform(count, "ternary")
    return torch.from_numpy(numpy.select([shares < 0.05, shares < 0.1], [-1, 1], 0).astype(numpy.int8))


def test_ternary_codes_at_ten_percent_density():
    x = ternary(200_000)
    data = ans.pack(x, PlaneSpec((200_000,), "int8", -1, 1))
    bits = 8 * len(data) / x.numel()
    assert bits <= 0.575
    assert bits >= 8 * entropy_bytes(x) / x.numel()


@pytest.mark.parametrize(
    ("scale", "top", "count", "table"),
    [
        (400, 127, 1 << 10, 80),
        (400, 127, 1 << 12, 100),
        (400, 127, 1 << 17, 200),
        (25, 7, 1 << 10, 16),
        (25, 7, 1 << 17, 32),
    ],
)
def test_bell_shaped_codes_are_within_one_percent_of_entropy_beside_a_small_table(scale, top, count, table):
    x = (bell((count,), 0, "codes") * scale).round().clamp(-top, top).to(torch.int8)
    spec = PlaneSpec((count,), "int8", -top, top)
    data = ans.pack(x, spec)
    side = ans.side_bytes(data, spec)
    assert 1 < side <= table
    assert len(data) - side <= 1.01 * entropy_bytes(x) + 8 + (0.02 * len(data) if count < 1 << 12 else 0)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_masks_are_within_one_percent_of_entropy(density):
    x = torch.from_numpy(uniform(50_000, "mask") < density)
    data = ans.pack(x, PlaneSpec.of(x))
    assert len(data) <= 1.01 * entropy_bytes(x) + 12


def test_few_symbols_of_a_large_alphabet_get_a_small_table():
    spec, x = skewed_planes()["five of 60,001"]
    data = ans.pack(x, spec)
    assert ans.side_bytes(data, spec) <= 24
    assert len(data) <= 1.01 * entropy_bytes(x) + 32


def test_a_single_symbol_costs_no_payload():
    for value in (0, 3, 100):
        spec = PlaneSpec((100_000,), "int8", 0, 100)
        x = torch.full((100_000,), value, dtype=torch.int8)
        data = ans.pack(x, spec)
        assert len(data) == 2 == ans.side_bytes(data, spec)
        assert same_bits(ans.unpack(data, spec), x)


@given(planes(plane_specs(dtypes=["int8", "uint8", "int16", "bool"], bounded=True, max_axes=2, max_length=60)))
@settings(max_examples=150, deadline=None)
def test_any_plane_comes_back_and_is_at_most_one_byte_above_raw(plane):
    spec, x = plane
    data = ans.pack(x, spec)
    assert same_bits(ans.unpack(data, spec), x)
    assert len(data) <= len(raw.pack(x, spec)) + 1
    assert 0 <= ans.side_bytes(data, spec) <= len(data)


@pytest.mark.parametrize("count", [(1 << 20) - 1, 1 << 20, (1 << 21) + 5])
def test_planes_of_several_chunks_come_back(count):
    x = ternary(count)
    spec = PlaneSpec((count,), "int8", -1, 1)
    assert torch.equal(ans.unpack(ans.pack(x, spec), spec), x)


def test_an_alphabet_of_65536_is_taken_and_a_larger_one_refused():
    spec = PlaneSpec((300_000,), "int32", -5, 65530)
    x = (random_integers(spec, 0, "a").long() * random_integers(spec, 0, "b").long() // 70_000).clamp(-5, 65530).int()
    data = ans.pack(x, spec)
    assert data[0] < 0x20
    assert torch.equal(ans.unpack(data, spec), x)
    wider = PlaneSpec((300_000,), "int32", -5, 65531)
    assert "65,536 symbols" in ans.refusal(wider)
    with pytest.raises(TensorError, match="65,536 symbols"):
        ans.pack(x, wider)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int64"])
def test_real_and_unbounded_planes_are_refused_with_what_would_fit(dtype):
    assert "zstd" in ans.refusal(PlaneSpec((3,), dtype))


@given(st.lists(st.integers(0, 3000), min_size=2, max_size=300).filter(lambda counts: sum(map(bool, counts)) >= 2))
@settings(max_examples=100, deadline=None)
def test_tables_read_back_and_are_followed_by_what_follows(counts):
    data, table, _ = write_table(numpy.array(counts))
    for rest in (b"", b"\xff" * 9, b"\0" * 9):
        read, length = read_table(data + rest, len(counts))
        assert length == len(data)
        assert read.symbols.tolist() == table.symbols.tolist() == [s for s, count in enumerate(counts) if count]
        assert read.frequencies.tolist() == table.frequencies.tolist()
    assert int(table.frequencies.min()) >= 1
    assert int(table.frequencies.sum()) == 1 << 20


@given(st.lists(st.integers(1, 1 << 40), min_size=2, max_size=50), st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_levels_keep_the_ratios_of_counts(counts, mantissa_bits):
    ratios = numpy.maximum(numpy.array(counts, float), max(counts) / 2.0**16)
    got = frequencies(nearest_levels(numpy.array(counts), mantissa_bits), mantissa_bits) - 1
    error = 2.0 ** -(mantissa_bits + 1)
    shares, expected = got / got.sum(), ratios / ratios.sum()
    assert (shares <= expected * (1 + error) / (1 - error) + 2.0**-19).all()
    assert (shares >= expected * (1 - error) / (1 + error) - 2.0**-19).all()


def test_the_model_is_exact_at_the_limits_of_its_arithmetic():
    levels = numpy.full(65_536, (16 << 7) + 1)
    assert int(frequencies(levels, 7).sum()) == 1 << 20
    levels[1:] = 1
    extreme = frequencies(levels, 7)
    assert int(extreme.sum()) == 1 << 20
    assert int(extreme.min()) >= 1


def test_costs_are_compared_with_integer_logarithms():
    values = numpy.array([1, 2, 3, 5, 1000, 65_535, 65_536, 1 << 20])
    assert _log2(values).tolist() == [math.floor(4096 * math.log2(value)) for value in values.tolist()]


SPEC = PlaneSpec((5000,), "int8", -7, 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"\x60", "header"),
        (b"\x80\x00\x00", "header"),
        (b"\x21" + bytes(2500), "header"),
        (b"\x07", "header"),
        (b"\x00\x10\xff", "header"),
        (b"\x07\x00" + bytes(40), "cut off"),
        (b"\x07\x0f\xff", "cut off"),
        (b"\x10\x00\xff\xff" + b"\xff" * 100, "lists 65536 of 15"),
        (b"\x10\x00\x00\x00" + b"\xff" * 100, "lists 1 of 15"),
        (b"\x10\x40\x02\x00\x3f\xf0\x03", "lists the symbol 29 of 15"),
        (b"\x00\x00\xff\x7f", "out of range"),
        (b"\x00\x00\xff\xff", "padding"),
        (b"\x00\x05" + b"\xff" * 11 + b"\x03", "out of range"),
        (b"\x40", "one repeated symbol"),
        (b"\x40\x00\x00", "one repeated symbol"),
        (b"\x40\x0f", "above its upper bound"),
        (b"\x20" + bytes(2499), "need 2500 bytes"),
        (b"\x20" + b"\xff" * 2500, "above its upper bound"),
    ],
)
def test_damaged_tables_are_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        ans.unpack(data, SPEC)


def test_a_damaged_stack_is_refused():
    x = random_integers(SPEC, 0, "stack") // 3 * 2
    data = ans.pack(x, SPEC)
    length = ans.side_bytes(data, SPEC)
    assert 1 < length < 20
    for stack in (
        b"",
        data[length:-1],
        data[length:] + b"\0",
        data[length:] + b"\1",
        data[length + 4 :],
        b"\1" + data[length:],
    ):
        with pytest.raises(ArtifactError, match="ANS stack"):
            ans.unpack(data[:length] + stack, SPEC)
    refused = 0
    for position in range(length, len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x10
        try:
            ans.unpack(bytes(changed), SPEC)
        except ArtifactError:
            refused += 1
    assert refused == len(data) - length, "the end of the stack tells of every change before it"
