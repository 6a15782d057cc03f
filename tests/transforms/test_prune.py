"""Prune keeps exactly what it should: the largest, the first of equals, the asked number."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.testing import transform_checks
from stackc.transforms.prune import Prune
from stackc.util.errors import ArtifactError, SpecError, TensorError

BATTERY = {
    "rows": Prune(rows=0.7),
    "columns": Prune(columns=0.3),
    "global": Prune(sparsity=0.9, scope="global"),
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}: {check}")
        for name, prune in BATTERY.items()
        for check in transform_checks(prune)
    ],
)
def test_conformance(check):
    check()


SHARES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
ROW_WEIGHTS = st.lists(st.sampled_from([0.0, 0.25, 1.0, 9.0]), min_size=6, max_size=6).map(torch.tensor)


def matrices(rows=6, columns=5):
    """Few distinct values, so that ties abound."""
    elements = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 1e-20, 1e20])
    return arrays.arrays("float32", (rows, columns), elements=elements).map(torch.from_numpy)


def first_largest(scores, count):
    """Reference: a stable sort in plain Python."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return {*order[:count]}


@given(x=matrices(), share=SHARES, weights=st.none() | ROW_WEIGHTS)
def test_kept_weights_are_the_first_largest(x, share, weights):
    prune = Prune(sparsity=share)
    planes = prune.encode(x, Known(weights))
    rows = torch.ones(6) if weights is None else weights
    scores = (x.abs().double() * rows.double().sqrt()[:, None]).reshape(-1).tolist()
    count = 30 - round(share * 30)
    assert {*planes["mask"].reshape(-1).nonzero()[:, 0].tolist()} == first_largest(scores, count)
    decoded = prune.decode(planes, PlaneSpec.of(x))
    assert torch.equal(decoded, torch.where(planes["mask"], x, torch.zeros(())))


@given(x=matrices(), share=SHARES, weights=st.none() | ROW_WEIGHTS)
def test_kept_rows_are_exact_and_dropped_ones_are_their_mean(x, share, weights):
    prune = Prune(rows=share)
    planes = prune.encode(x, Known(weights))
    mask = planes["mask"]
    rows = torch.ones(6) if weights is None else weights
    scaled = x.double() / max(float(x.abs().max()), 1e-300)
    assert {*mask.nonzero()[:, 0].tolist()} == first_largest(
        (scaled.square() * rows[:, None]).sum(1).tolist(), 6 - round(share * 6)
    )
    decoded = prune.decode(planes, PlaneSpec.of(x))
    assert torch.equal(decoded[mask], x[mask])
    assert torch.equal(decoded[~mask], planes["fallback"].expand(6, 5)[~mask])
    dropped = rows[~mask] if bool(rows[~mask].any()) else torch.ones(6)[~mask]
    expected = (x[~mask].double() * dropped[:, None]).sum(0) / max(float(dropped.sum()), 1.0e-9)
    assert torch.allclose(planes["fallback"][0].double(), expected, rtol=1e-5, atol=1e-20 * float(x.abs().max()))


@given(x=matrices(), share=SHARES)
def test_columns_are_the_rows_of_the_transpose(x, share):
    by_row = Prune(rows=share).encode(x.T.contiguous())
    by_column = Prune(columns=share).encode(x)
    assert torch.equal(by_column["mask"], by_row["mask"])
    assert torch.equal(by_column["values"], by_row["values"].T)
    assert torch.allclose(by_column["fallback"], by_row["fallback"].T)


def test_row_weights_decide_which_columns_matter():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    prune = Prune(columns=0.5)
    assert prune.encode(x)["mask"].tolist() == [False, True]
    assert prune.encode(x, Known(torch.tensor([9.0, 1.0])))["mask"].tolist() == [True, False]


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_more_than_two_axes(axis):
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(3))
    prune = Prune(rows=0.5) if axis == "rows" else Prune(columns=0.4)
    planes = prune.encode(x)
    seen, dimension, keep = (x, 0, 2) if axis == "rows" else (x.flatten(1), 1, 9)  # a column is a place in the row
    norms = seen.square().sum([other for other in range(seen.ndim) if other != dimension])
    assert {*planes["mask"].nonzero()[:, 0].tolist()} == {*norms.topk(keep).indices.tolist()}
    dropped = seen.index_select(dimension, (~planes["mask"]).nonzero()[:, 0])
    assert torch.allclose(planes["fallback"], dropped.mean(dimension, keepdim=True))
    decoded = prune.decode(planes, PlaneSpec.of(x))
    assert float(torch.dist(x.double(), decoded.double())) == pytest.approx(prune.error_bound(x), rel=1e-6)


# ---- one threshold for all ----


class OneAtATime(Mapping[str, Weighted]):
    """A lazy mapping that fails if a plane is loaded while the one before is still in memory."""

    def __init__(self, planes, weights):
        self.planes, self.weights = planes, weights
        self.walks = 0
        self._alive = []

    def __getitem__(self, name):
        assert not [plane for plane in self._alive if plane() is not None]
        plane = self.planes[name].clone()
        self._alive = [weakref.ref(plane)]
        return Weighted(plane, self.weights.get(name))

    def __iter__(self):
        self.walks += 1
        return iter(self.planes)

    def __len__(self):
        return len(self.planes)


@settings(max_examples=40)
@given(
    planes=st.dictionaries(st.sampled_from("abcd"), matrices(), max_size=4),
    share=SHARES,
    weights=st.dictionaries(st.sampled_from("abcd"), ROW_WEIGHTS),
)
def test_global_threshold_keeps_exactly_the_share(planes, share, weights):
    lazy = OneAtATime(planes, weights)
    settled = Prune(sparsity=share, scope="global").settle(lazy)
    assert list(settled) == list(planes)
    assert lazy.walks <= 3
    scores = []
    for name, x in planes.items():
        rows = weights.get(name, torch.ones(6)).double().sqrt()[:, None]
        scores += [(name, score) for score in (x.abs().double() * rows).float().reshape(-1).tolist()]
    kept = first_largest([score for _, score in scores], len(scores) - round(share * len(scores)))
    for name, prune in settled.items():
        assert prune.settled
        assert prune.keep == sum(scores[index][0] == name for index in kept)


def test_global_threshold_of_real_numbers_is_exact():
    generator = torch.Generator().manual_seed(5)
    planes = {str(scale): torch.randn(64, 64, generator=generator) * scale for scale in (0.01, 1.0, 3.0)}
    settled = Prune(sparsity=0.7, scope="global").settle({name: Weighted(x) for name, x in planes.items()})
    magnitudes = torch.cat([x.abs().reshape(-1) for x in planes.values()])
    threshold = magnitudes.sort(descending=True).values[len(magnitudes) - round(0.7 * len(magnitudes)) - 1]
    for name, x in planes.items():
        assert torch.equal(settled[name].encode(x)["mask"], x.abs() >= threshold)


def test_settling_reports_bad_weights():
    with pytest.raises(TensorError, match="NaN"):
        Prune(sparsity=0.5, scope="global").settle({"a": Weighted(torch.tensor([1.0, float("nan")]))})


def test_unsettled_plan_is_an_upper_bound_and_encode_refuses():
    prune = Prune(sparsity=0.5, scope="global")
    assert not prune.settled
    assert prune.plan(PlaneSpec((3, 4), "float32"))["values"].shape == (12,)
    with pytest.raises(TensorError, match="settle"):
        prune.encode(torch.ones(3, 4))


# ---- errors and gradients ----


@given(x=matrices(), share=SHARES, what=st.sampled_from(["sparsity", "rows", "columns"]), half=st.booleans())
def test_error_is_within_the_bound(x, share, what, half):
    prune = Prune(**{what: share})
    x = x.clamp(-10, 10).half() if half else x
    decoded = prune.decode(prune.encode(x), PlaneSpec.of(x))
    error = float(torch.dist(x.double(), decoded.double()))
    assert error <= prune.error_bound(x) <= error * (1 + 1e-9)


@pytest.mark.parametrize(
    "prune", [Prune(sparsity=0.5), Prune(rows=0.5), Prune(columns=0.5)], ids=["weights", "rows", "columns"]
)
def test_decode_is_differentiable_in_every_real_plane(prune):
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spec = PlaneSpec.of(x)
    planes = prune.encode(x)
    real = [name for name in planes if planes[name].is_floating_point()]

    def decode(*values):
        return prune.decode({**planes, **dict(zip(real, values, strict=True))}, spec)

    assert torch.autograd.gradcheck(decode, [planes[name].clone().requires_grad_() for name in real])


@pytest.mark.parametrize("prune", [Prune(sparsity=0.5), Prune(rows=0.5)], ids=["weights", "rows"])
def test_mask_that_does_not_fit_the_values_is_an_error(prune):
    x = torch.randn(4, 6)
    planes = prune.encode(x)
    with pytest.raises(ArtifactError, match="marks"):
        prune.decode({**planes, "mask": torch.ones_like(planes["mask"])}, PlaneSpec.of(x))


@pytest.mark.parametrize(
    ("prune", "spec", "message"),
    [
        (Prune(sparsity=0.5), PlaneSpec((3,), "int8", 0, 7), "takes real planes"),
        (Prune(rows=0.5), PlaneSpec((3,), "float32"), "two axes or more.*sparsity fits"),
        (Prune(columns=0.5), PlaneSpec((), "float32"), "two axes or more"),
        (Prune(sparsity=0.5, scope="global", keep=9), PlaneSpec((2, 4), "float32"), "8 or fewer fit"),
    ],
)
def test_plan_says_what_would_fit(prune, spec, message):
    with pytest.raises(SpecError, match=message):
        prune.plan(spec)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "exactly one of sparsity, rows and columns, not none"),
        ({"rows": 0.5, "columns": 0.1}, "not rows and columns"),
        ({"rows": 0.5, "scope": "global"}, "goes with sparsity"),
        ({"sparsity": 0.5, "keep": 3}, "keep goes with scope: global"),
        ({"sparsity": 1.5}, "<= 1"),
        ({"rows": -0.1}, ">= 0"),
        ({"sparsity": 0.5, "scope": "global", "keep": -1}, ">= 0"),
    ],
)
def test_wrong_configuration_is_an_error(config, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(config, Prune)


def test_kept_rows_keep_their_weights():
    x = torch.tensor([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    weights = torch.tensor([1.0, 1.0, 5.0, 1.0])
    prune = Prune(rows=0.5)
    assert prune.carry(Known(weights), prune.encode(x, Known(weights)))["values"].weights.tolist() == [1.0, 5.0]
    prune = Prune(columns=0.5)
    assert prune.carry(Known(weights), prune.encode(x, Known(weights)))["values"].weights.tolist() == weights.tolist()


def test_a_fallback_that_overshoots_half_precision_stays_finite() -> None:
    """An approximated fallback, above the largest float16, must not decode to infinity."""
    spec = PlaneSpec((2, 1), "float16")
    planes = {
        "mask": torch.tensor([True, False]),
        "values": torch.tensor([[1.0]], dtype=torch.float16),
        "fallback": torch.tensor([[70000.0]]),
    }
    assert Prune(rows=0.5).decode(planes, spec).tolist() == [[1.0], [65504.0]]
