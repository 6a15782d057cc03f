"""The adaptive range coder: exactly the interval arithmetic of unbounded integers, carries and shortest ends included."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.testing.planes import random_words
from stackc.transforms.shared.kernels import kernel
from tests.docs.second_decoder import RangeDecoder

coder = kernel("shared._range_coder_kernel")
u64 = numpy.uint64
LIMIT = 255


class Bit(NamedTuple):
    """One decision with a fixed chance of 1, in units of ``2**-16``."""

    probability: int
    value: int


class Plain(NamedTuple):
    """Several bits without a context."""

    bits: int
    value: int


class Interval:
    """What the coder does, in numbers of any length: ``[low, low + width)`` after ``32 * words`` bits."""

    def __init__(self) -> None:
        self.low, self.width, self.words = 0, 2**64 - 1, 0

    def narrow(self, step: Bit | Plain) -> None:
        if isinstance(step, Bit):
            bound = (self.width >> 16) * step.probability
            self.low, self.width = (self.low, bound) if step.value else (self.low + bound, self.width - bound)
        else:
            self.width >>= step.bits
            self.low += self.width * step.value
        if self.width < 2**32:
            self.low, self.width, self.words = self.low << 32, self.width << 32, self.words + 1


def buffered(steps: list[Bit | Plain]) -> numpy.ndarray:
    """What the encoder takes: one integer each; nothing for no bits."""
    entries = [
        coder.decision(step.probability << 16, step.value)
        if isinstance(step, Bit)
        else coder.plain(step.value, step.bits)
        for step in steps
        if isinstance(step, Bit) or step.bits
    ]
    return numpy.array(entries, u64)


def put(steps: list[Bit | Plain], words: numpy.ndarray, at_once: int = 7) -> int:
    """Code into words, a few at a time; returns their number."""
    decisions, low, width, written = buffered(steps), 0, 2**64 - 1, 0
    for begin in range(0, decisions.size, at_once):
        part = decisions[begin : begin + at_once]
        low, width, written = coder.put_all(part, part.size, words, u64(low), u64(width), written)
    return coder.finish(words, u64(low), u64(width), written)


def coded(steps: list[Bit | Plain], room: int = 1000) -> tuple[bytes, int]:
    """The compiled coder's words as bytes, zero bytes at the end cut off, and their number."""
    words = numpy.zeros(room, numpy.uint32)
    count = put(steps, words)
    return words[:count].astype(">u4").tobytes().rstrip(b"\0"), count


def decoded(data: bytes, steps: list[Bit | Plain]) -> list[int]:
    """What the compiled decoder makes of words, given everything but the values."""
    words = numpy.frombuffer(data + b"\0" * (-len(data) % 4 + 4), ">u4").astype(numpy.uint32)
    code, width, read = coder.begin(words), 2**64 - 1, 2
    values = []
    for step in steps:
        state = (u64(code), u64(width), read, words[min(read, words.size - 1)])
        if isinstance(step, Bit):
            value, code, width, read = coder.get(*state, step.probability << 16)
        else:
            value, code, width, read = coder.get_plain(*state, step.bits)
        values.append(value)
    return values


def plainly_decoded(data: bytes, steps: list[Bit | Plain]) -> list[int]:
    """The same from the decoder that the format page describes."""
    reader = RangeDecoder(data)
    return [
        reader.bit([64 * step.probability, 0], 0) if isinstance(step, Bit) else reader.plain(step.bits)
        for step in steps
    ]


BITS = st.builds(Bit, st.one_of(st.sampled_from([16, 65520, 32768]), st.integers(16, 65520)), st.integers(0, 1))
PLAIN = st.integers(0, 31).flatmap(
    lambda bits: st.builds(
        Plain, st.just(bits), st.one_of(st.just(0), st.just((1 << bits) - 1), st.integers(0, (1 << bits) - 1))
    )
)
STEPS = st.lists(st.one_of(BITS, PLAIN), max_size=120)


def shortest(low: int, width: int) -> int:
    """The number of an interval that has the most zero bits at its end."""
    zeros = width.bit_length()
    while True:
        number = -(-low >> zeros) << zeros
        if number < low + width:
            return number
        zeros -= 1


@given(STEPS)
@settings(max_examples=30)
def test_the_words_are_the_shortest_number_of_the_interval(steps):
    interval = Interval()
    for step in steps:
        interval.narrow(step)
    data, count = coded(steps)
    assert count == interval.words + 2
    number = int.from_bytes(data.ljust(4 * count, b"\0"), "big")
    assert interval.low <= number < interval.low + interval.width
    assert number == shortest(interval.low, interval.width)
    assert not data.endswith(b"\0")
    information = 64 - math.log2(interval.width) + 32 * interval.words
    assert 8 * len(data) < information + 8


@given(STEPS)
@settings(max_examples=30)
def test_the_price_is_what_the_interval_shrinks_by(steps):
    interval, decisions = Interval(), buffered(steps)
    for step in steps:
        interval.narrow(step)
    information = 64 - math.log2(interval.width) + 32 * interval.words
    assert abs(coder.price_all(decisions, decisions.size) / 4096 - information) < 0.02 + 0.001 * len(steps)


@given(STEPS)
@settings(max_examples=30)
def test_both_decoders_give_the_values_back(steps):
    data, _ = coded(steps)
    values = [step.value for step in steps]
    assert decoded(data, steps) == values
    if data:
        assert plainly_decoded(data, steps) == values


def steps_around(target: int, words: int, probabilities: list[int]) -> tuple[list[Bit | Plain], Interval]:
    """Bits whose interval has ``target``, a share of ``2**64``, strictly inside after so many words."""
    interval, steps = Interval(), []
    while interval.words < words:
        probability = probabilities[len(steps) % len(probabilities)]
        bound = (interval.width >> 16) * probability
        step = Bit(probability, int(interval.low + bound > target << 32 * interval.words))
        interval.narrow(step)
        steps.append(step)
        assert interval.low < target << 32 * interval.words < interval.low + interval.width
    return steps, interval


@pytest.mark.parametrize("probabilities", [[32767], [16, 65520, 999], [40000, 21, 60000]], ids=str)
@pytest.mark.parametrize("target", [1 << 63, 1 << 40, 5 << 32])
def test_a_carry_runs_through_words_of_ones(probabilities, target):
    """The interval straddles a round number: what was written is all ones, until the end turns it into zeros."""
    steps, interval = steps_around(target, 3, probabilities)
    low = interval.low.to_bytes(4 * interval.words + 8, "big")
    assert low[8 : 4 * interval.words] == b"\xff" * (4 * interval.words - 8)
    data, count = coded(steps)
    assert count == interval.words + 2
    assert data == target.to_bytes(8, "big").rstrip(b"\0")
    # a bit that lies above the round number carries before the end
    steps_up = [*steps]
    while interval.low < target << 32 * interval.words:
        step = Bit(64, 0)
        interval.narrow(step)
        steps_up.append(step)
    data, count = coded(steps_up)
    assert int.from_bytes(data.ljust(4 * count, b"\0"), "big") == shortest(interval.low, interval.width)
    for each in (steps, steps_up):
        assert decoded(coded(each)[0], each) == [step.value for step in each]
    # so do plain bits: the last of many values
    with_plain = [*steps, Plain(31, (1 << 31) - 1), Plain(31, 7)]
    assert decoded(coded(with_plain)[0], with_plain) == [step.value for step in with_plain]


def test_a_carry_through_given_words():
    words = numpy.array([5, 0xFFFFFFFF, 0xFFFFFFFF, 9], numpy.uint32)
    low, width, written = coder.put_all(buffered([Bit(32768, 0)]), 1, words, u64(2**64 - 1), u64(2**63), 3)
    assert words.tolist() == [6, 0, 0, 9]
    assert (low, width, written) == (2**62 - 1, 2**62, 3)
    words = numpy.array([0xFFFFFFFE, 0xFFFFFFFF, 0, 0], numpy.uint32)
    assert coder.finish(words, u64(2**64 - 2**40), u64(2**41), 2) == 4
    assert words.tolist() == [0xFFFFFFFF, 0, 0, 0]


def test_nothing_costs_nothing_and_certain_bits_next_to_nothing():
    assert coded([]) == (b"", 2)
    assert coded([Bit(65520, 1)] * 1000)[0] == b""
    assert len(coded([Bit(16, 0)] * 1000)[0]) == 1


def test_too_few_words_are_counted_and_not_overrun():
    steps = [Bit(20000, int(index % 3 == 0)) for index in range(2000)] + [Plain(31, 12345)] * 40
    _, count = coded(steps)
    assert count > 90
    for room in (0, 1, 2, count - 1):
        guarded = numpy.full(room + 8, 77, numpy.uint32)
        assert put(steps, guarded[:room], 100) == count
        assert (guarded[room:] == 77).all()


@given(st.lists(st.integers(0, 1), max_size=400), st.sampled_from([60, 127, 255, 1000]))
@settings(max_examples=20)
def test_contexts_learn_as_the_page_says(bits, limit):
    reader, context, ours = RangeDecoder(b"\1"), [2**21, 0], coder.EVEN
    for bit in bits:
        reader.width, reader.code = 2**64 - 1, 0 if bit else 2**64 - 2
        assert reader.bit(context, limit) == bit
        ours = coder.learned(ours, bit, limit)
        assert [ours >> 10, ours & 1023] == context
        assert 16 << 6 <= context[0] <= 65520 << 6
    assert ours != 0, "0 stands for a context that was never used"


@pytest.mark.parametrize("limit", [255, 1000])
@pytest.mark.parametrize("chance", [0.5, 0.2, 0.05, 0.01])
def test_a_context_finds_the_chance_of_its_bits(chance, limit):
    bits = (random_words(20000, 0, "chance").astype(numpy.float64) / 2.0**64 < chance).astype(int)
    context, found = coder.EVEN, []
    for bit in bits.tolist():
        context = coder.learned(context, bit, limit)
        found.append((context >> 10) / 2**22)
    assert abs(float(numpy.mean(found[1000:])) / float(bits[1000:].mean()) - 1) < 0.02


@given(st.binary(min_size=1, max_size=40).filter(lambda data: data[-1]), STEPS)
@settings(max_examples=30)
def test_any_words_decode_to_something_in_both_decoders(data, steps):
    values = decoded(data, steps)
    assert values == plainly_decoded(data, steps)
    for step, value in zip(steps, values, strict=True):
        assert 0 <= value < (2 if isinstance(step, Bit) else 1 << step.bits)
