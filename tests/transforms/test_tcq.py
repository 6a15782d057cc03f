"""Tcq finds the cheapest sequence of codes, decodes as its tables say, and beats a uniform grid at equal error."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.testing import transform_checks
from stackc.testing.planes import bell, random_words
from stackc.transforms.shared.trellis import NEXT_STATE, QUANTISER
from stackc.transforms.tcq import Tcq, quantisers
from stackc.util.errors import SpecError, TensorError

STATES = pytest.mark.parametrize("states", [4, 8])

BATTERY = {
    "8 states": Tcq(step=0.02),
    "4 states": Tcq(step=0.02, states=4),
    "clipped": Tcq(step=0.01, rdo=0.5, bits=4),
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}: {check}") for name, tcq in BATTERY.items() for check in transform_checks(tcq)],
)
def test_conformance(check):
    check()


def settled(tcq, x, weights=None):
    return tcq.settle({"x": Weighted(x, weights)})["x"]


def walk(codes, states):
    """Quantiser of each code, by the tables."""
    state, found = 0, []
    for code in codes:
        found.append(QUANTISER[states][state])
        state = NEXT_STATE[states][state][code & 1]
    return found


def reconstructed(codes, states):
    """Values in steps, by the tables."""
    return [2 * k - int(np.sign(k)) * q for k, q in zip(codes, walk(codes, states), strict=True)]


def samples(count, shape, tag="tcq"):
    """Gaussian or Laplacian values of variance 1, float32."""
    uniform = ((random_words(count, 0, tag) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    if shape == "laplace":
        x = np.sign(uniform - 0.5) * -np.log1p(-2 * np.abs(uniform - 0.5)) / math.sqrt(2)
    else:
        other = ((random_words(count, 1, tag) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        x = np.sqrt(-2 * np.log(uniform)) * np.cos(2 * np.pi * other)
    return torch.from_numpy(x.astype(np.float32))


def entropy(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


# ---- the machines ----


@STATES
def test_the_machines_are_trellises(states):
    """Every state leads to two others and is reached from two, and half of the states belong to each quantiser."""
    successors = [successor for pair in NEXT_STATE[states] for successor in pair]
    assert all(len(set(pair)) == 2 for pair in NEXT_STATE[states])
    assert sorted(successors) == sorted([*range(states), *range(states)])
    assert QUANTISER[states] == (0,) * (states // 2) + (1,) * (states // 2)


def test_the_machine_of_4_states_is_that_of_vvc():
    assert NEXT_STATE[4] == ((0, 2), (2, 0), (1, 3), (3, 1))


@STATES
@given(codes=st.lists(st.integers(-128, 127), max_size=60))
def test_running_parities_give_the_quantisers_of_the_tables(states, codes):
    found = quantisers(torch.tensor(codes, dtype=torch.int8), states)
    assert found.tolist() == walk(codes, states)


@STATES
def test_quantisers_of_a_long_plane(states):
    """Longer than where running sums of bytes wrap around."""
    codes = torch.from_numpy((random_words(40_000, 0, "codes") >> np.uint64(60)).astype(np.int16)) - 8
    assert quantisers(codes, states).tolist() == walk(codes.tolist(), states)


@STATES
@pytest.mark.parametrize("bits", [8, 16])
def test_decode_follows_the_tables_for_all_codes(states, bits):
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    codes = torch.tensor([least, most, -1, 0, 1, 5, most, least, 2, 3, -7, least, 0, most, 0, -1, -1, 4])
    planes = {"codes": codes.to(torch.int8 if bits == 8 else torch.int16).reshape(3, 6), "scale": torch.tensor(0.25)}
    decoded = Tcq(bits=bits, states=states).decode(planes, PlaneSpec((3, 6), "float32"))
    assert (decoded.reshape(-1) * 4).tolist() == reconstructed(codes.tolist(), states)


# ---- the search ----


def cheapest(x, states):
    """Smallest squared error over all sequences of codes, by dynamic programming over the tables, in steps."""
    costs = {0: 0.0}
    for value in x:
        reached: dict[int, float] = {}
        for state, cost in costs.items():
            for code in range(math.floor(value / 2) - 3, math.floor(value / 2) + 5):
                point = 2 * code - int(np.sign(code)) * QUANTISER[states][state]
                successor = NEXT_STATE[states][state][code & 1]
                reached[successor] = min(reached.get(successor, math.inf), cost + (value - point) ** 2)
        costs = reached
    return min(costs.values())


@STATES
@given(x=arrays.arrays("float32", st.integers(1, 40), elements=st.floats(-20, 20, width=32)))
@settings(deadline=None, max_examples=40)
def test_no_sequence_of_codes_has_a_smaller_error(states, x):
    tcq = settled(Tcq(step=1.0, rdo=0.0, states=states), torch.from_numpy(x))
    codes = tcq.encode(torch.from_numpy(x))["codes"].tolist()
    error = float(np.square(np.array(reconstructed(codes, states)) - x.astype(np.float64)).sum())
    assert error == pytest.approx(cheapest(x.astype(np.float64).tolist(), states), rel=1e-4, abs=1e-4)


@STATES
@given(x=arrays.arrays("float32", (5, 9), elements=st.floats(-300, 300, width=32)), rdo=st.floats(0, 2))
@settings(deadline=None, max_examples=40)
def test_errors_are_within_the_bound(states, x, rdo):
    x = torch.from_numpy(x)
    tcq = settled(Tcq(step=0.7, rdo=rdo, states=states), x)
    error = x.double() - tcq.decode(tcq.encode(x), PlaneSpec.of(x)).double()
    assert float(torch.linalg.vector_norm(error)) <= tcq.error_bound(x)
    if rdo == 0:
        assert float(error.abs().max()) <= 2 * 0.7 * (1 + 1e-4)


@STATES
def test_mean_squared_error_is_far_below_that_of_one_grid(states):
    """Of a fine step: 0.24 squared steps, where each grid alone has 4 / 12."""
    x = samples(20_000, "gauss")
    tcq = settled(Tcq(step=0.05, rdo=0.0, states=states), x)
    error = float((x - tcq.decode(tcq.encode(x), PlaneSpec.of(x))).square().mean()) / 0.05**2
    assert 0.22 < error < (0.265 if states == 4 else 0.26)


def tcq_point(x, step, states=8, rdo=0.25):
    """Bits per value (order-0 entropy in each quantiser) and mean squared error."""
    tcq = settled(Tcq(step=step, states=states, rdo=rdo), x)
    planes = tcq.encode(x)
    error = float((x - tcq.decode(planes, PlaneSpec.of(x))).square().mean())
    codes, quantiser = planes["codes"].numpy(), quantisers(planes["codes"], states).numpy()
    return sum(entropy(codes[quantiser == q]) for q in (0, 1)) / len(codes), error


def uniform_point(x, step, multiplier):
    """The same for a uniform grid with rate-distortion optimised rounding against its own entropy."""
    codes = np.rint(x / step).astype(int)
    for _ in range(8):
        most = int(np.abs(codes).max()) + 1
        counts = np.bincount(np.abs(codes), minlength=most + 1) + 0.2
        bits = -np.log2(counts / counts.sum()) + (np.arange(most + 1) > 0)
        near = np.floor(np.abs(x) / step).astype(int)[:, None] + np.array([-1, 0, 1])
        near = np.concatenate([near.clip(0, most), np.zeros((len(x), 1), int)], 1)
        cost = (np.abs(x)[:, None] / step - near) ** 2 + multiplier * bits[near]
        codes = np.sign(x).astype(int) * near[np.arange(len(x)), cost.argmin(1)]
    return entropy(codes) / len(x), float(np.square(x - codes * step).mean())


@pytest.mark.parametrize(("shape", "step"), [("gauss", 0.3), ("gauss", 0.6), ("laplace", 0.3), ("laplace", 0.55)])
def test_fewer_bits_than_the_best_uniform_grid_at_equal_error(shape, step):
    x = samples(30_000, shape)
    bits, error = tcq_point(x, step)
    assert 1.9 < bits < 3.2
    saved = []
    for multiplier in (0.06, 0.1, 0.14):
        points = [uniform_point(x.double().numpy(), step * factor, multiplier) for factor in (1.4, 1.6, 1.8, 2.0)]
        points.sort(key=lambda point: point[1])
        assert points[0][1] < error < points[-1][1]
        logarithms = np.log([point[1] for point in points])
        saved.append(float(np.interp(math.log(error), logarithms, [point[0] for point in points])) - bits)
    assert min(saved) > 0.06


def test_8_states_are_better_than_4():
    x = samples(50_000, "gauss")
    (bits8, error8), (bits4, error4) = tcq_point(x, 0.4, 8), tcq_point(x, 0.4, 4)
    assert bits8 + math.log2(error8) / 2 < bits4 + math.log2(error4) / 2 - 0.01


@STATES
def test_larger_multipliers_trade_error_for_bits(states):
    x = samples(20_000, "laplace")
    points = [tcq_point(x, 0.5, states, rdo) for rdo in (0.0, 0.1, 0.3, 1.0, 10.0)]
    bits, errors = zip(*points, strict=True)
    assert list(bits) == sorted(bits, reverse=True)
    assert list(errors) == sorted(errors)
    assert bits[-1] < 0.1


def test_rows_that_matter_more_have_smaller_errors():
    """The weighted error is that of all rows at a coarser step, in fewer bits: light rows are mostly zeros."""
    x = samples(40_000, "gauss").reshape(40, 1000)
    weights = torch.where(torch.arange(40) % 2 == 0, 4.0, 0.1)

    def point(step, given):
        tcq = settled(Tcq(step=step), x)
        planes = tcq.encode(x, Known(given))
        errors = (x - tcq.decode(planes, PlaneSpec.of(x))).square().mean(1)
        return float(errors @ weights), sum(entropy(planes["codes"][rows::2].numpy()) for rows in (0, 1))

    error, bits = point(0.5, None)
    weighted_error, weighted_bits = point(0.37, weights)
    assert weighted_error < error
    assert weighted_bits < 0.95 * bits


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e6])
def test_only_the_proportions_of_the_weights_matter(factor):
    x, weights = bell((30, 40), 0, "rows"), torch.arange(30.0)
    tcq = settled(Tcq(step=0.03), x)
    codes = tcq.encode(x, Known(weights * factor))["codes"]
    assert torch.equal(codes, tcq.encode(x, Known(weights))["codes"])
    assert not codes[0].any()  # its weight is 0: the cheapest codes are as good as any
    assert torch.equal(tcq.encode(x, Known(torch.full((30,), factor)))["codes"], tcq.encode(x)["codes"])


def test_sampled_statistics_are_as_good_as_those_of_the_whole_plane(monkeypatch):
    from stackc.transforms.tcq import _trellis_search

    x = samples(100_000, "laplace")
    costs = []
    for size in (_trellis_search._SAMPLE, 1 << 20):
        monkeypatch.setattr(_trellis_search, "_SAMPLE", size)
        bits, error = tcq_point(x, 0.5)
        costs.append(error / 0.25 + 0.25 * bits)
    assert costs[0] < 1.002 * costs[1]


# ---- bits, steps and what is stored ----


@pytest.mark.parametrize(("largest", "bits", "dtype"), [(0.0, 2, "int8"), (9.0, 4, "int8"), (500.0, 9, "int16")])
def test_settle_finds_the_bits_that_hold_the_codes(largest, bits, dtype):
    x = torch.linspace(-largest, largest, 50)
    tcq = settled(Tcq(step=1.0), x)
    assert tcq == Tcq(step=1.0, bits=bits)
    spec = tcq.plan(PlaneSpec.of(x))["codes"]
    assert spec == PlaneSpec((50,), dtype, -(1 << bits - 1), (1 << bits - 1) - 1)
    assert spec.mismatch(tcq.encode(x)["codes"]) is None


@STATES
@given(x=arrays.arrays("float32", (3, 5), elements=st.floats(-60000, 60000, width=32)), step=st.floats(0.95, 900))
@settings(deadline=None, max_examples=40)
def test_settled_bits_clip_nothing(states, x, step):
    x = torch.from_numpy(x)
    tcq = settled(Tcq(step=step, states=states, rdo=0.0), x)
    wide = msgspec.structs.replace(tcq, bits=16)
    assert torch.equal(tcq.encode(x)["codes"].short(), wide.encode(x)["codes"])


def test_values_out_of_range_become_the_largest_codes():
    x = torch.tensor([1e30, -1e30, 3.0, -70.0])
    tcq = Tcq(step=1.0, rdo=0.0, bits=4)
    decoded = tcq.decode(tcq.encode(x), PlaneSpec.of(x))
    assert bool((decoded[[0, 1, 3]].abs() >= 11).all())
    assert decoded.sign().tolist() == [1, -1, 1, -1]
    assert float(torch.dist(x.double(), decoded.double())) <= tcq.error_bound(x)


def test_a_step_that_is_too_fine_is_refused_with_one_that_fits():
    x = torch.tensor([1e6])
    with pytest.raises(TensorError, match=r"codes of 24 bits at step 0\.1, and 16 fit; a step of 15 or more would do"):
        settled(Tcq(step=0.1), x)
    settled(Tcq(step=15.4), x)


def test_the_file_stores_states_and_bits_alone():
    tcq = Tcq(step=0.1, states=4, rdo=0.7, bits=5)
    assert tcq.stored == Tcq(states=4, bits=5)
    assert tcq.stored.settled
    assert tcq.stored.plan(PlaneSpec((3,), "float32")) == tcq.plan(PlaneSpec((3,), "float32"))
    with pytest.raises(TensorError, match="give it a step"):
        tcq.stored.encode(torch.zeros(3))


def test_options_are_a_ladder_of_steps_from_coarse_to_fine():
    x = samples(1000, "gauss") * 0.07
    auto = Tcq(step="auto", states=4)
    assert not auto.allocated
    assert not auto.settled
    options = auto.options(x)
    steps = [option.step for option in options]
    size = float(x.double().square().mean().sqrt())
    assert len(steps) == 19
    assert steps[0] == pytest.approx(4 * size, rel=1e-6)
    assert steps[-1] == pytest.approx(size / 128, rel=1e-6)
    assert all(option.allocated and option.states == 4 and settled(option, x).settled for option in options)
    assert Tcq(step=0.1).options(x) == (Tcq(step=0.1),)
    with pytest.raises(TensorError, match="auto"):
        settled(auto, x)


@pytest.mark.parametrize(
    "x", [torch.zeros(5), torch.empty(0), torch.tensor([1e30] + [1e-3] * 20_000), torch.full((3,), 1e-38)], ids=len
)
def test_options_of_unusual_planes_can_be_settled(x):
    options = Tcq(step="auto").options(x)
    assert options
    for option in options:
        settled(option, x).encode(x)


# ---- the rest ----


def test_decode_is_differentiable_in_the_scale():
    x = bell((7, 6), 0, "gradient").double()
    tcq = settled(Tcq(step=0.03), x)
    planes = tcq.encode(x)
    scale = planes["scale"].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: tcq.decode({**planes, "scale": s}, PlaneSpec.of(x)), [scale])
    steps = tcq.decode({**planes, "scale": torch.ones(())}, PlaneSpec.of(x))
    (gradient,) = torch.autograd.grad(tcq.decode({**planes, "scale": scale}, PlaneSpec.of(x)).sum(), scale)
    assert float(gradient) == float(steps.sum())


def test_overshoot_of_float16_stays_finite():
    x = torch.full((9,), 65504.0).half()
    tcq = settled(Tcq(step=30000.0), x)
    assert bool(tcq.decode(tcq.encode(x), PlaneSpec.of(x)).isfinite().all())


@pytest.mark.parametrize("spec", [PlaneSpec((8,), "int8", -7, 7), PlaneSpec((8,), "bool", 0, 1)])
def test_integer_planes_are_refused(spec):
    with pytest.raises(SpecError, match="tcq takes real planes"):
        Tcq(step=0.1).plan(spec)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "tcq needs a step"),
        ({"step": 0.0}, ">="),
        ({"step": "fine"}, "fine"),
        ({"step": 0.1, "states": 6}, "6"),
        ({"step": 0.1, "rdo": -0.1}, ">= 0"),
        ({"step": 0.1, "bits": 1}, ">= 2"),
        ({"step": 0.1, "bits": 17}, "<= 16"),
    ],
)
def test_wrong_configuration_is_an_error(config, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(config, Tcq)


def test_rows_of_codes_keep_their_weights():
    weights = torch.arange(5.0)
    tcq = Tcq(step=0.1, bits=8)
    carried = tcq.carry(Known(weights), tcq.encode(torch.ones(5, 4), Known(weights)))
    assert list(carried) == ["codes"]
    assert torch.equal(carried["codes"].weights, weights)
