"""Seed is the best approximation of its rank, in an orthonormal basis, whatever the matrix."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.testing import transform_checks
from stackc.transforms.seed import Seed
from stackc.transforms.seed._product import rows_in_basis
from stackc.util.errors import SpecError, TensorError

BATTERY = {
    "variance": Seed(variance=0.9),
    "uncentred": Seed(rank=1, center=False),
    "calibrated": Seed(rank=3, calibrated=True),
    "group": Seed(rank=2, group="all"),
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}: {check}") for name, seed in BATTERY.items() for check in transform_checks(seed)],
)
def test_conformance(check):
    check()


def matrix(rows, columns, rank=None):
    generator = torch.Generator().manual_seed(rows * columns)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if rank is not None:
        x = x[:, :rank] @ torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    return x


def round_trip(seed, x, weights=None):
    return seed.decode(seed.encode(x, Known(weights)), PlaneSpec.of(x))


SHAPES = pytest.mark.parametrize("shape", [(40, 12), (12, 40), (15, 15)], ids=str)


@SHAPES
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_error_is_that_of_the_discarded_singular_values(shape, rank):
    x = matrix(*shape)
    for seed, target in ((Seed(rank=rank), x - x.mean(0)), (Seed(rank=rank, center=False), x)):
        discarded = float(torch.linalg.norm(torch.linalg.svdvals(target)[rank:]))
        error = float(torch.dist(x, round_trip(seed, x)))
        assert error == pytest.approx(discarded, rel=1e-9, abs=1e-12)
        assert error <= seed.error_bound(x) <= discarded * (1 + 1e-6) + 1e-8


@SHAPES
def test_scores_have_decreasing_variance_and_no_correlation(shape):
    planes = Seed(rank=7).encode(matrix(*shape))
    gram = planes["scores"].T @ planes["scores"]
    assert torch.allclose(gram, gram.diag().diag(), atol=1e-8)
    assert bool((gram.diag().diff() <= 1e-9).all())


@SHAPES
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_float_rounding_is_within_the_bound_at_full_rank(shape, dtype):
    x = matrix(*shape).to(getattr(torch, dtype))
    seed = Seed(rank=12)
    error = float(torch.dist(x.double(), round_trip(seed, x).double()))
    assert error <= seed.error_bound(x)


DEGENERATE = {
    "zero": torch.zeros(6, 4),
    "constant": torch.full((4, 6), 3.0),
    "one row": torch.randn(1, 5, generator=torch.Generator().manual_seed(0)),
    "one column": torch.randn(5, 1, generator=torch.Generator().manual_seed(0)),
    "rank one, tall": matrix(9, 4, rank=1).float(),
    "rank one, wide": matrix(4, 9, rank=1).float(),
    "tiny": matrix(5, 4).float() * 1e-38,
    "huge": matrix(5, 4).float().clamp(-1, 1) * 1e38,
    "equal variances": torch.eye(5),
}


@pytest.mark.parametrize("x", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_basis_is_orthonormal_for_degenerate_matrices(x, center, weighted):
    seed = Seed(rank=min(x.shape), center=center)
    weights = torch.arange(float(x.shape[0])) if weighted else None
    planes = seed.encode(x, Known(weights))
    basis = planes["basis"].double()
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-6)
    assert all(torch.isfinite(plane).all() for plane in planes.values())
    decoded = seed.decode(planes, PlaneSpec.of(x))
    assert torch.allclose(decoded, x, rtol=1e-4, atol=1e-5 * float(x.abs().max()))
    assert bool((planes["basis"].gather(1, planes["basis"].abs().argmax(1, keepdim=True)) > 0).all())


@given(
    x=arrays.arrays("float32", (5, 4), elements=st.floats(-10, 10, width=32)).map(torch.from_numpy),
    rank=st.integers(1, 4),
    center=st.booleans(),
)
def test_error_is_within_the_bound(x, rank, center):
    seed = Seed(rank=rank, center=center)
    assert float(torch.dist(x.double(), round_trip(seed, x).double())) <= seed.error_bound(x)


def weighted_error(x, decoded, weights):
    return float((weights[:, None] * (x - decoded).square()).sum())


@SHAPES
@pytest.mark.parametrize("center", [True, False])
def test_weights_lead_to_the_smallest_weighted_error(shape, center):
    x = matrix(*shape)
    weights = torch.linspace(0, 3, shape[0], dtype=torch.float64).square()
    seed = Seed(rank=4, center=center)
    error = weighted_error(x, round_trip(seed, x, weights), weights)
    mean = (weights @ x) / weights.sum() if center else torch.zeros(shape[1], dtype=torch.float64)
    best = torch.linalg.svdvals(weights.sqrt()[:, None] * (x - mean))[4:].square().sum()
    assert error == pytest.approx(float(best), rel=1e-9)
    assert error < 0.9 * weighted_error(x, round_trip(seed, x), weights)


def test_rows_without_weight_are_still_projected():
    x = matrix(10, 6, rank=2)
    weights = torch.tensor([1.0] * 5 + [0.0] * 5)
    decoded = round_trip(Seed(rank=2, center=False), x, weights)
    assert torch.allclose(decoded, x)  # the weighted rows span the space of all


@pytest.mark.parametrize("scale", [1e-9, 7.0, 1e9])
def test_only_the_proportions_of_the_weights_matter(scale):
    x, weights = matrix(10, 6), torch.rand(10, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.allclose(round_trip(Seed(rank=2), x, weights), round_trip(Seed(rank=2), x, weights * scale))


def test_more_than_two_axes_are_flattened():
    x = matrix(8, 12)
    seed = Seed(rank=3)
    flat, cube = seed.encode(x), seed.encode(x.reshape(8, 3, 4))
    assert all(torch.equal(flat[name], cube[name]) for name in flat)
    assert torch.equal(seed.decode(cube, PlaneSpec((8, 3, 4), "float64")).reshape(8, 12), round_trip(seed, x))


# ---- variance ----


@given(share=st.floats(0.01, 1), center=st.booleans(), weighted=st.booleans())
def test_variance_chooses_the_smallest_rank_that_keeps_it(share, center, weighted):
    x = matrix(20, 8) * torch.logspace(0, -2, 8, dtype=torch.float64)
    weights = torch.arange(20.0, dtype=torch.float64) if weighted else None
    settled = Seed(variance=share, center=center).settle({"x": Weighted(x, weights)})["x"]
    assert settled == Seed(rank=settled.rank, center=center)
    w = torch.ones(20, dtype=torch.float64) if weights is None else weights
    mean = (w @ x) / w.sum() if center else torch.zeros(8, dtype=torch.float64)
    total = weighted_error(x, mean, w)
    lost = weighted_error(x, round_trip(settled, x, weights), w)
    assert lost <= (1 - share) * total + 1e-9 * total
    if settled.rank > 1:
        fewer = Seed(rank=settled.rank - 1, center=center)
        assert weighted_error(x, round_trip(fewer, x, weights), w) > (1 - share) * total - 1e-9 * total


def test_each_plane_gets_its_own_rank():
    planes = {"a": Weighted(matrix(30, 8, rank=2)), "b": Weighted(matrix(30, 8)), "zero": Weighted(torch.zeros(3, 4))}
    settled = Seed(variance=1.0).settle(planes)
    assert {name: seed.rank for name, seed in settled.items()} == {"a": 2, "b": 8, "zero": 1}


def test_unsettled_plan_is_an_upper_bound_and_encode_refuses():
    seed = Seed(variance=0.5)
    assert not seed.settled
    assert seed.plan(PlaneSpec((7, 4), "float32"))["scores"].shape == (7, 4)
    with pytest.raises(TensorError, match="settle"):
        seed.encode(torch.ones(7, 4))


# ---- the order of sums ----


def one_by_one(scores, basis, mean):
    """The format's definition, an element at a time: components from the first to the last, then the mean."""
    total = scores[:, :1] * basis[:1]
    for component in range(1, len(basis)):
        total = total + scores[:, component : component + 1] * basis[component]
    return total if mean is None else total + mean


@settings(deadline=None)
@given(
    rows=st.integers(1, 40),
    rank=st.integers(1, 40),
    columns=st.integers(1, 70),
    center=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_sums_are_added_in_the_order_of_the_format(rows, rank, columns, center, dtype):
    draw = torch.Generator().manual_seed(rows * rank * columns)
    scores, basis, mean = (
        torch.randn(shape, generator=draw, dtype=dtype) for shape in ((rows, rank), (rank, columns), (1, columns))
    )
    used = mean if center else None
    assert torch.equal(rows_in_basis(scores, basis, used), one_by_one(scores, basis, used))
    # neither the layout in memory nor the company of other rows changes a bit
    turned = rows_in_basis(scores.T.contiguous().T, basis.T.contiguous().T, used)
    assert torch.equal(turned, one_by_one(scores, basis, used))
    assert torch.equal(rows_in_basis(scores[-1:], basis, used), turned[-1:])


def test_a_sum_keeps_the_sign_of_zero():
    zero = torch.tensor([[-0.0]])
    assert torch.signbit(rows_in_basis(zero, torch.ones(1, 1), None)).all()


@pytest.mark.parametrize("threads", [1, 2, 4, 7])
def test_decode_does_not_depend_on_the_number_of_threads(threads):
    x = torch.randn(5000, 33, generator=torch.Generator().manual_seed(0))
    planes = Seed(rank=17).encode(x)
    spec = PlaneSpec.of(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decoded = Seed(rank=17).decode(planes, spec)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(decoded, one_by_one(planes["scores"], planes["basis"], planes["mean"]))


def test_training_sees_the_same_numbers_up_to_rounding():
    seed = Seed(rank=5)
    planes = seed.encode(matrix(40, 12).float())
    spec = PlaneSpec((40, 12), "float32")
    exact = seed.decode(planes, spec)
    trained = seed.decode({name: plane.clone().requires_grad_() for name, plane in planes.items()}, spec)
    assert trained.requires_grad
    assert torch.allclose(exact, trained, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(seed.decode({name: plane.requires_grad_() for name, plane in planes.items()}, spec), exact)


# ---- the rest ----


@pytest.mark.parametrize("center", [True, False])
def test_decode_is_differentiable_in_every_plane(center):
    seed = Seed(rank=2, center=center)
    planes = seed.encode(matrix(5, 4))
    spec = PlaneSpec((5, 2, 2), "float64")
    inputs = [plane.clone().requires_grad_() for plane in planes.values()]
    assert torch.autograd.gradcheck(lambda *values: seed.decode(dict(zip(planes, values, strict=True)), spec), inputs)


def test_approximation_that_overshoots_float16_stays_finite():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.9]]).mul(65504).half()
    decoded = round_trip(Seed(rank=1), x)
    assert torch.isfinite(decoded).all()


def test_scores_that_overflow_are_refused():
    x = torch.full((2, 100), 3e38)
    with pytest.raises(TensorError, match=r"overflow torch\.float32"):
        Seed(rank=1, center=False).encode(x)


def test_number_of_threads_changes_nothing():
    x = matrix(400, 300).float()
    before = torch.get_num_threads()
    planes = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        planes.append(Seed(rank=300).encode(x))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(torch.equal(planes[0][name], planes[1][name]) for name in planes[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PlaneSpec((8, 3), "float32"), "rank 4 does not fit a matrix of 8x3; 1 to 3 fit"),
        (PlaneSpec((3, 2, 4), "float32"), "rank 4 does not fit a matrix of 3x8; 1 to 3 fit"),
        (PlaneSpec((8,), "float32"), "two axes or more"),
        (PlaneSpec((8, 8), "int8", -7, 7), "real planes"),
        (PlaneSpec((0, 8), "float32"), "not empty"),
    ],
)
def test_plan_says_what_would_fit(spec, message):
    with pytest.raises(SpecError, match=message):
        Seed(rank=4).plan(spec)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "exactly one of rank and variance, not neither"),
        ({"rank": 3, "variance": 0.5}, "not both"),
        ({"rank": 0}, ">= 1"),
        ({"variance": 0.0}, "> 0"),
        ({"variance": 1.1}, "<= 1"),
    ],
)
def test_wrong_configuration_is_an_error(config, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(config, Seed)


def test_rows_of_scores_keep_their_weights():
    weights = torch.arange(5.0)
    carried = Seed(rank=2).carry(Known(weights), Seed(rank=2).encode(matrix(5, 4), Known(weights)))
    assert list(carried) == ["scores"]
    assert torch.equal(carried["scores"].weights, weights)


def moments_for(columns, spread=3.0):
    generator = torch.Generator().manual_seed(columns)
    v = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64)
    v = v * torch.logspace(0, -spread, columns, dtype=torch.float64) @ torch.linalg.qr(v[:columns]).Q
    return v.T @ v / len(v)


def damped(moments):
    return moments + 0.01 * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)


def cost(moments, difference):
    return float((difference @ moments * difference).sum())


@SHAPES
@pytest.mark.parametrize("rank", [1, 5, 12])
@pytest.mark.parametrize("center", [True, False])
def test_calibrated_components_cost_the_least_of_their_rank(shape, rank, center):
    x, moments = matrix(*shape), moments_for(shape[1])
    seed = Seed(rank=rank, center=center, calibrated=True)
    decoded = seed.decode(seed.encode(x, Known(moments=moments)), PlaneSpec.of(x))
    target = (x - x.mean(0) if center else x) @ torch.linalg.cholesky(damped(moments))
    least = float(torch.linalg.svdvals(target)[rank:].square().sum())
    assert cost(damped(moments), x - decoded) == pytest.approx(least, rel=1e-6, abs=1e-12)
    assert float(torch.dist(x, decoded)) <= seed.error_bound(x)


@SHAPES
def test_an_error_in_a_calibrated_score_costs_the_same_in_all_of_them(shape):
    x, moments = matrix(*shape), moments_for(shape[1])
    basis = Seed(rank=6, calibrated=True).encode(x, Known(moments=moments))["basis"]
    seen = basis @ damped(moments) @ basis.T
    scale = torch.linalg.det(damped(moments)) ** (1 / len(moments))  # the root of the metric has determinant one
    torch.testing.assert_close(seen, scale * torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6 * float(scale))


def test_row_weights_and_moments_go_together():
    x, moments = matrix(40, 12), moments_for(12)
    weights = torch.linspace(0, 1, 40, dtype=torch.float64) ** 4
    seed = Seed(rank=3, calibrated=True)

    def paid(given):
        decoded = seed.decode(seed.encode(x, Known(given, moments)), PlaneSpec.of(x))
        return float(((x - decoded) @ damped(moments) * (x - decoded)).sum(1) @ weights)

    assert paid(weights) < 0.9 * paid(None)


def test_equal_moments_or_none_give_plain_components():
    x = matrix(40, 12)
    plain, seed = Seed(rank=5).encode(x), Seed(rank=5, calibrated=True)
    for moments in (None, torch.eye(7, dtype=torch.float64)):  # of rows of another length
        assert all(torch.equal(plane, plain[name]) for name, plane in seed.encode(x, Known(moments=moments)).items())
    for moments in (2 * torch.eye(12, dtype=torch.float64), torch.zeros(12, 12, dtype=torch.float64)):
        found = seed.encode(x, Known(moments=moments))
        assert all(torch.allclose(plane, plain[name], atol=1e-9) for name, plane in found.items())


def test_a_calibrated_basis_holds_all_rows_at_full_rank():
    x = matrix(40, 12)
    seed = Seed(rank=12, calibrated=True)
    planes = seed.encode(x, Known(moments=moments_for(12)))
    held = seed.hold(x, planes)
    assert torch.allclose(held["scores"], planes["scores"], atol=1e-6)
    assert torch.allclose(seed.decode(seed.hold(2 * x, planes), PlaneSpec.of(x)), 2 * x)


def test_files_do_not_tell_that_components_were_calibrated():
    assert Seed(rank=5, calibrated=True).stored == Seed(rank=5)


def test_moments_that_cannot_be_used_are_refused():
    x, moments = matrix(40, 12), moments_for(12)
    moments[3, 3] = float("inf")
    with pytest.raises(TensorError, match="second moments are not finite"):
        Seed(rank=2, calibrated=True).encode(x, Known(moments=moments))
    with pytest.raises(ValueError, match="calibrated goes with rank"):
        Seed(variance=0.9, calibrated=True)


def test_plain_and_calibrated_components_are_kept_apart():
    x, moments = matrix(40, 12), moments_for(12)
    options = [Seed(rank=3), Seed(rank=3, calibrated=True), Seed(rank=5, calibrated=True), Seed(rank=5)]
    for option, planes in zip(options, options[0].encode_each(x, options, Known(moments=moments)), strict=True):
        alone = option.encode(x, Known(moments=moments))
        assert all(torch.equal(plane, alone[name]) for name, plane in planes.items())
    plain, calibrated = (option.encode(x, Known(moments=moments))["basis"] for option in options[1:3])
    assert torch.equal(plain, calibrated[:3])
