"""Calibrated rounding lowers the error of a layer's outputs; a price of bits lowers their entropy at equal error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.core.entropy import entropy_bits
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.transforms.int import Int
from stackc.transforms.shared.calibrated import Grid, calibrated_codes
from stackc.util.errors import TensorError


def inputs(seed: int, columns: int = 48, count: int = 600) -> torch.Tensor:
    """Correlated inputs of unequal size, as activations are."""
    shared = torch.Generator().manual_seed(5)
    mix = torch.randn(columns, columns, generator=shared) * torch.logspace(0, -2, columns)[:, None]
    sizes = torch.logspace(-1, 1, columns)[torch.randperm(columns, generator=shared)]
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed)) @ mix * sizes + 0.3 * sizes


def second_moments(v: torch.Tensor) -> torch.Tensor:
    return v.double().T @ v.double() / len(v)


CALIBRATION, HELD_OUT = inputs(1), inputs(2)
MOMENTS = second_moments(CALIBRATION)
WEIGHT = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * 0.05


def output_error(transform: Int, moments: torch.Tensor | None) -> tuple[float, float]:
    """Error of the outputs on inputs that calibration has not seen, and bits per code."""
    if not transform.settled:
        transform = transform.settle({"x": Weighted(WEIGHT)})["x"]
    spec = PlaneSpec.of(WEIGHT)
    encoded = transform.encode(WEIGHT, Known(moments=moments))
    for name, planned in transform.plan(spec).items():
        assert planned.mismatch(encoded[name]) is None
    decoded = transform.decode(encoded, spec)
    assert torch.dist(WEIGHT.double(), decoded.double()) <= transform.error_bound(WEIGHT)
    return float(torch.linalg.vector_norm(HELD_OUT @ (WEIGHT - decoded).T)), float(entropy_bits(encoded["codes"]))


@pytest.mark.parametrize(
    "config",
    [
        {"bits": 3},
        {"bits": 4, "granularity": "tensor"},
        {"bits": 4, "granularity": "group", "group_size": 16},
        {"bits": 4, "granularity": "group", "group_size": 20},
        {"bits": 3, "symmetric": False},
        {"bits": 3, "symmetric": False, "granularity": "group", "group_size": 16},
        {"step": 0.03},
        {"step": 0.002},
    ],
    ids=str,
)
def test_the_error_of_outputs_falls_at_the_same_bits(config):
    plain, _ = output_error(Int(**config), None)
    calibrated, _ = output_error(Int(calibrated=True, **config), MOMENTS)
    assert calibrated < 0.6 * plain


def test_a_price_of_bits_lowers_the_entropy_at_equal_error():
    """The entropy at which each reaches the error of the other, on a curve of steps."""
    steps = [0.06 * 2 ** (-index / 4) for index in range(13)]
    plain = [output_error(Int(calibrated=True, step=step), MOMENTS) for step in steps]
    priced = [output_error(Int(calibrated=True, step=step, rdo=0.1), MOMENTS) for step in steps]

    def bits_at(curve: list[tuple[float, float]], error: float) -> float:
        below = max((point for point in curve if point[0] <= error), key=lambda point: point[0])
        above = min((point for point in curve if point[0] > error), key=lambda point: point[0])
        share = (error - below[0]) / (above[0] - below[0])
        return below[1] + share * (above[1] - below[1])

    saved = [bits_at(plain, error) - bits_at(priced, error) for error, _ in priced[2:9]]
    assert sum(saved) / len(saved) > 0.03 * WEIGHT.numel()


def test_signs_can_be_calibrated():
    plain, _ = output_error(Int(bits=1), None)
    calibrated, _ = output_error(Int(bits=1, calibrated=True), MOMENTS)
    assert calibrated < 0.85 * plain


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 140),
    bits=st.integers(2, 6),
    rdo=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_codes_stay_within_their_bits_whatever_the_moments(rows, columns, bits, rdo, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=draw)
    few = torch.randn(max(columns // 3, 1), columns, generator=draw) * torch.logspace(-6, 6, columns)
    transform = Int(bits=bits, rdo=rdo, calibrated=True)
    encoded = transform.encode(x, Known(moments=second_moments(few)))
    assert transform.plan(PlaneSpec.of(x))["codes"].mismatch(encoded["codes"]) is None


def test_uncorrelated_inputs_of_one_size_are_plain_rounding():
    identity, spec = 3 * torch.eye(48, dtype=torch.float64), PlaneSpec.of(WEIGHT)
    for config in ({"bits": 4}, {"bits": 3, "symmetric": False}, {"bits": 1}):
        plain, calibrated = Int(**config), Int(calibrated=True, **config)
        errors = [
            (transform.decode(planes, spec) - WEIGHT).abs()
            for transform, planes in (
                (plain, plain.encode(WEIGHT)),
                (calibrated, calibrated.encode(WEIGHT, Known(moments=identity))),
            )
        ]
        assert torch.allclose(*errors, rtol=1e-5, atol=1e-6)  # ties may fall either way


def test_inputs_that_are_always_zero_hand_on_nothing():
    dead = torch.tensor([3, 17, 40])
    v = CALIBRATION.clone()
    v[:, dead] = 0.0
    encoded = Int(bits=5, calibrated=True).encode(WEIGHT, Known(moments=second_moments(v)))
    assert torch.equal(encoded["codes"][:, dead], Int(bits=5).encode(WEIGHT)["codes"][:, dead])
    transform, spec = Int(bits=5), PlaneSpec.of(WEIGHT)
    assert torch.dist(v @ transform.decode(encoded, spec).T, v @ WEIGHT.T) < 0.7 * torch.dist(
        v @ transform.decode(transform.encode(WEIGHT), spec).T, v @ WEIGHT.T
    )


def test_error_feedback_by_hand():
    """Two inputs that are always equal: what the first weight loses the second one makes up for."""
    grid = Grid(torch.ones(1, 1), torch.tensor([[-8]]), torch.tensor([[7]]), 2)
    together = torch.ones(2, 2, dtype=torch.float64)
    codes = calibrated_codes(torch.tensor([[0.4, 0.4], [1.3, 2.3]]), grid, together)
    assert codes is not None
    assert codes.sum(1).tolist() == [1, 4]


@pytest.mark.parametrize("without", [None, torch.zeros(48, 48)], ids=["no moments", "only zeros"])
def test_without_inputs_it_is_plain_rounding(without):
    plain = Int(bits=4).encode(WEIGHT)
    calibrated = Int(bits=4, calibrated=True).encode(WEIGHT, Known(moments=without))
    assert all(torch.equal(plain[name], calibrated[name]) for name in plain)


@pytest.mark.parametrize("shape", [(), (48,), (0, 48), (3, 0)], ids=str)
def test_planes_without_columns_to_feed_back_to(shape):
    x = torch.ones(shape)
    encoded = Int(bits=4, calibrated=True).encode(x, Known(moments=torch.eye(shape[-1] if shape else 1)))
    assert torch.equal(encoded["codes"], Int(bits=4).encode(x)["codes"])


def test_moments_that_do_not_fit_are_refused():
    transform = Int(bits=4, calibrated=True)
    with pytest.raises(TensorError, match=r"rows of 48 values need second moments of 48x48, not of \(47, 47\)"):
        transform.encode(WEIGHT, Known(moments=torch.eye(47)))
    with pytest.raises(TensorError, match="not finite"):
        transform.encode(WEIGHT, Known(moments=torch.full((48, 48), float("nan"))))


def test_rows_that_matter_more_keep_more_bits():
    weights = torch.ones(64)
    weights[:32] = 30.0
    transform = Int(step=0.05, rdo=0.5, calibrated=True).settle({"x": Weighted(WEIGHT)})["x"]
    codes = transform.encode(WEIGHT, Known(weights, MOMENTS))["codes"]
    assert int((codes[:32] == 0).sum()) < 0.8 * int((codes[32:] == 0).sum())


def test_the_number_of_threads_and_the_memory_layout_change_nothing():
    transform = Int(bits=4, calibrated=True, rdo=0.1)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(transform.encode(WEIGHT.T.contiguous().T, Known(moments=MOMENTS))["codes"])
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], transform.encode(WEIGHT, Known(moments=MOMENTS))["codes"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype):
    x = WEIGHT.to(dtype)
    spec = PlaneSpec.of(x)
    errors = []
    for transform in (Int(bits=3), Int(bits=3, calibrated=True)):
        planes = transform.encode(x, Known(moments=MOMENTS))
        decoded = transform.decode(planes, spec)
        errors.append(float(torch.dist(HELD_OUT @ decoded.float().T, HELD_OUT @ WEIGHT.T)))
    assert errors[1] < 0.6 * errors[0]
