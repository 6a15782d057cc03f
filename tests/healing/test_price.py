"""The price of a bit: as it was given, or steered until the file has its size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from stackc.core.registry import find, find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Leaf
from stackc.healing.latents import Start, TrainedTensor
from stackc.healing.price import Pricing, Size
from stackc.healing.settings import Heal
from stackc.testing.planes import bell

STEPS = 1000


def tensor(bits: int = 8) -> TrainedTensor:
    x = 8 * bell((128, 16), 0, "weights")
    step = find("int").stage(step=0.05, bits=bits)
    raw = Leaf(find_packer("raw"))  # type: ignore[arg-type]
    return TrainedTensor(
        Branch(step, {"codes": raw, "scale": raw}),  # type: ignore[arg-type]
        PlaneSpec.of(x),
        Start(step.encode(x), {"": x}),  # type: ignore[union-attr]
        "planes",
    )


# ---- a price that is given ----


def test_a_given_price_rises_to_its_height_and_stays() -> None:
    pricing = Pricing(Heal(rate=2e-6), {}, STEPS)
    prices = [pricing.update(step, 1e6, 1.0) for step in range(STEPS)]
    assert prices[0] == 0
    assert all(later >= earlier for earlier, later in itertools.pairwise(prices))
    assert prices[150] == pytest.approx(1e-6)
    assert prices[300] == prices[-1] == 2e-6


def test_without_rate_or_bytes_bits_are_free() -> None:
    assert not Pricing(Heal(), {}, STEPS).active
    assert Pricing(Heal(rate=1e-9), {}, STEPS).active
    assert Pricing(Heal(bytes=1), {}, STEPS).active


# ---- estimated and packed ----


def test_after_measuring_the_estimate_is_what_was_packed() -> None:
    pricing = Pricing(Heal(rate=1e-6), {"x": tensor()}, STEPS)
    before = float(pricing.bits().detach()) / 8
    assert pricing.measured(Size(file=5000, priced={"x/codes": 1234})) == pytest.approx(before)
    assert float(pricing.bits().detach()) / 8 == pytest.approx(1234)
    # The next time it is the whole file that was estimated.
    assert pricing.measured(Size(file=5000, priced={"x/codes": 1234})) == pytest.approx(5000)
    assert pricing.measured(Size(file=6000, priced={"x/codes": 2234})) == pytest.approx(5000)
    assert float(pricing.bits().detach()) / 8 == pytest.approx(2234)


def test_nothing_that_has_a_price_is_no_reason_to_divide_by_it() -> None:
    pricing = Pricing(Heal(rate=1e-6), {}, STEPS)
    assert pricing.measured(Size(file=5000, priced={})) == 0
    assert pricing.measured(Size(file=5000, priced={})) == 5000
    assert float(pricing.bits()) == 0


def test_bits_have_gradients_and_follow_the_codes_between_looks() -> None:
    trained = tensor()
    pricing = Pricing(Heal(rate=1e-6), {"x": trained}, STEPS)
    bits = pricing.bits()
    bits.backward()
    gradient = trained.parameters[""].grad
    assert gradient is not None
    assert bool(gradient.any())
    before = float(bits.detach())
    with torch.no_grad():
        trained.parameters[""].mul_(0.5)
    assert float(pricing.bits().detach()) < before
    pricing.refresh()
    anew = float(pricing.bits().detach())
    fresh = Pricing(Heal(rate=1e-6), {"x": trained}, STEPS)
    assert anew == pytest.approx(float(fresh.bits().detach()))


# ---- steering ----


class Codes:
    """Codes that answer to a price as those of a network do: late, the less the lower the learning rate, and not below
    what they need.

    The size that a price leads to falls by ``elasticity`` powers of the price, once that is near ``worth``.
    """

    def __init__(self, begin: float, worth: float, elasticity: float) -> None:
        self.begin, self.worth, self.elasticity = begin, worth, elasticity
        self.size = math.log(begin)

    @property
    def bytes(self) -> float:
        return math.exp(self.size)

    def step(self, price: float, pace: float) -> None:
        rest = math.log(self.begin) - self.elasticity * math.log1p(price / self.worth)
        self.size += 10 / STEPS * pace * (rest - self.size)


def steer(target: int, codes: Codes, *, rest: int = 400, seed: int = 0) -> tuple[list[float], list[float]]:
    """Sizes of the file at the evaluations, and prices at all steps; what is estimated is off by a few per cent."""
    pricing = Pricing(Heal(bytes=target), {}, STEPS)
    draw = torch.Generator().manual_seed(seed)
    files: list[float] = []
    prices: list[float] = []
    for step in range(STEPS):
        if step % 50 == 0:
            size = Size(file=round(codes.bytes) + rest, priced={"x/codes": round(codes.bytes)})
            pricing.measured(size)
            files.append(size.file)
            drift = 0.02 * float(torch.randn((), generator=draw))
        # Just after it was set right the estimate is good, then it drifts away.
        pace = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        prices.append(pricing.update(step, 8 * codes.bytes * (1 + drift * (step % 50) / 50), pace))
        codes.step(prices[-1], pace)
    files.append(codes.bytes + rest)
    return files, prices


@pytest.mark.parametrize("elasticity", [0.4, 0.8])
@pytest.mark.parametrize("worth", [1e-8, 1e-7, 1e-6])
@pytest.mark.parametrize("smaller", [2, 6])
def test_the_size_is_reached(elasticity: float, worth: float, smaller: int) -> None:
    target = 60_000 // smaller
    files, prices = steer(target, Codes(60_000, worth, elasticity))
    assert 0.975 * target < files[-1] <= target
    assert all(math.isfinite(price) and price >= 0 for price in prices)


def test_the_price_is_steered_from_the_size_that_there_is() -> None:
    files, _ = steer(10_000, Codes(60_000, 1e-7, 0.6))
    middle = files[len(files) // 4]
    assert files[0] > middle > 12_000, "the size falls step by step, and not at once"


def test_a_target_that_is_met_already_needs_hardly_a_price() -> None:
    _, free = steer(100_000, Codes(60_000, 1e-7, 0.6))
    _, dear = steer(10_000, Codes(60_000, 1e-7, 0.6))
    assert free[-1] < dear[-1] / 30


def test_the_further_behind_a_size_stays_the_faster_the_price_rises() -> None:
    def rise(begin: float) -> float:
        pricing = Pricing(Heal(bytes=10_000), {}, STEPS)
        prices = [pricing.update(step, 8 * begin, 1.0) for step in range(STEPS // 5)]
        return prices[-1] / prices[0]

    assert rise(60_000) > 200 > 20 > rise(14_000)
    assert math.isfinite(rise(1e12))


def test_a_file_that_is_far_too_small_pays_nothing() -> None:
    pricing = Pricing(Heal(bytes=10_000), {}, STEPS)
    assert pricing.update(0, 8 * 20_000.0, 1.0) > 0
    assert pricing.update(1, 8 * 5_000.0, 1.0) == 0
    assert pricing.update(2, 8 * 9_700.0, 1.0) > 0


def test_a_target_below_what_no_price_can_lower_keeps_the_price_finite() -> None:
    _, prices = steer(300, Codes(60_000, 1e-7, 0.6), rest=400)
    assert all(math.isfinite(price) for price in prices)


# ---- checkpoints ----


def test_a_state_is_gone_back_to() -> None:
    pricing = Pricing(Heal(bytes=2000), {"x": tensor()}, STEPS)
    pricing.measured(Size(file=5000, priced={"x/codes": 1234}))
    for step in range(100):
        pricing.update(step, 2e4, 1.0)
    other = Pricing(Heal(bytes=2000), {"x": tensor()}, STEPS)
    other.restore(pricing.state())
    assert float(other.bits().detach()) == float(pricing.bits().detach())
    assert [other.update(step, 1.9e4, 1.0) for step in range(100, 120)] == [
        pricing.update(step, 1.9e4, 1.0) for step in range(100, 120)
    ]
