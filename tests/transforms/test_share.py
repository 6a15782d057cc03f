"""Share takes out what tensors have in common, and loses nothing but rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

import stackc
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Ref, describe
from stackc.core.transform import Known, Weighted
from stackc.healing.latents import SharedTensor, Start, TrainedTensor
from stackc.planning.plan import Plan, plan_recipe
from stackc.recipe.parse import recipe_from
from stackc.testing import transform_checks
from stackc.transforms.share import Share
from stackc.util.errors import PlanError, RecipeError, SpecError, TensorError

BATTERY = {
    "difference": Share(),
    "one": Share(difference=False, group="all"),
    "first": Share(take="first", group=("*.0", "b*")),
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}: {check}") for name, each in BATTERY.items() for check in transform_checks(each)],
)
def test_conformance(check):
    check()


def matrices(count=3, rows=4, columns=3, dtype=torch.float32):
    draw = torch.Generator().manual_seed(count)
    return {f"layer.{i}.w": torch.randn(rows, columns, generator=draw).to(dtype) for i in range(count)}


def round_trip(share, x, common):
    return share.decode(share.encode(x, Known(shared=common)), PlaneSpec.of(x))


# ---- what is in common ----


def weighted(tensors, weights=None):
    given = weights or [None] * len(tensors)
    return {name: Weighted(x, rows) for (name, x), rows in zip(tensors.items(), given, strict=True)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_mean_is_common(dtype):
    tensors = matrices(dtype=dtype)
    common = Share().find_common(weighted(tensors))["common"]
    mean = torch.stack([x.double() for x in tensors.values()]).mean(0)
    assert common.dtype == dtype
    assert torch.allclose(common.double(), mean, rtol=torch.finfo(dtype).eps, atol=1e-15)


def test_rows_count_by_their_weights():
    tensors = matrices()
    weights = [torch.tensor(rows) for rows in ([1.0, 0.0, 0.0, 2.0], [1.0, 0.0, 3.0, 2.0], [2.0, 0.0, 1.0, 0.0])]
    common = Share().find_common(weighted(tensors, weights))["common"]
    shares = torch.stack(weights)
    shares[:, 1] = 1.0  # nothing is known of rows that count nowhere
    expected = torch.einsum("mr,mrc->rc", shares / shares.sum(0), torch.stack(list(tensors.values())))
    assert torch.allclose(common, expected, atol=1e-6)


def test_the_mean_of_the_largest_numbers_is_finite():
    largest = torch.finfo(torch.float64).max
    planes = {str(number): Weighted(torch.full((2, 2), largest, dtype=torch.float64)) for number in range(5)}
    assert float(Share().find_common(planes)["common"].max()) == pytest.approx(largest)


def test_the_first_is_common_to_the_bit():
    tensors = matrices()
    share = Share(take="first")
    common = share.find_common(weighted(tensors))
    first = next(iter(tensors.values()))
    assert torch.equal(common["common"], first)
    assert not share.encode(first, Known(shared=common))["difference"].any()


# ---- what is lost ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(pair=arrays.arrays("float32", (2, 6), elements=st.floats(-6e4, 6e4, width=32)))
def test_no_more_is_lost_than_two_roundings(dtype, pair):
    x, common = torch.from_numpy(pair).to(dtype).clamp(-3e4, 3e4)
    planes = Share().encode(x, Known(shared={"common": common}))
    decoded = Share().decode(planes, PlaneSpec.of(x))
    limits = torch.finfo(dtype)
    lost = (decoded.double() - x.double()).abs()
    roundings = limits.eps / 2 * (planes["difference"].double().abs() + decoded.double().abs())
    assert bool((lost <= roundings + limits.smallest_normal * limits.eps).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(data=st.data())
def test_nothing_is_lost_between_half_and_twice_the_common_number(dtype, data):
    common = torch.tensor(data.draw(st.lists(st.floats(0.25, 1e3), min_size=1, max_size=8))).to(dtype)
    factors = data.draw(st.lists(st.floats(0.51, 1.98), min_size=len(common), max_size=len(common)))
    x = (common.double() * torch.tensor(factors, dtype=torch.float64)).to(dtype)
    assert torch.equal(round_trip(Share(), x, {"common": common}), x)


def test_a_difference_that_overflows_is_refused():
    common = torch.tensor([-60000.0], dtype=torch.float16)
    with pytest.raises(TensorError, match=r"up to 60000 differ .* more than torch.float16 holds; leave"):
        Share().encode(-common, Known(shared={"common": common}))


def test_without_differences_all_are_the_common_plane():
    tensors = matrices()
    share = Share(difference=False)
    common = share.find_common(weighted(tensors))
    for x in tensors.values():
        assert torch.equal(round_trip(share, x, common), common["common"])


def test_integers_are_refused():
    with pytest.raises(SpecError, match="takes real planes"):
        Share().plan(PlaneSpec((3,), "int8"))


def test_weights_and_moments_reach_the_difference():
    known = Known(torch.arange(4.0), torch.eye(3))
    x = matrices()["layer.0.w"]
    carried = Share().carry(known, Share().encode(x, known))["difference"]
    assert carried.weights is known.weights
    assert carried.moments is known.moments


# ---- planning ----

SPECS = {
    "embeddings.weight": PlaneSpec((9, 4), "float32"),
    **{f"layer.{number}.key": PlaneSpec((4, 4), "float32") for number in range(3)},
    **{f"layer.{number}.value": PlaneSpec((4, 4 if number else 5), "float32") for number in range(3)},
}


def plan(*stages: Any) -> Plan:
    return plan_recipe(recipe_from({"stages": list(stages)}), SPECS)


def test_names_that_are_alike_share_and_what_is_alone_stays_as_it_is() -> None:
    planned = plan("share", {"use": "int8", "on": "*/common"}, "zstd")
    stacks = {tensor.name: describe(tensor.stacks[-1]) for tensor in planned.everything}
    alone = {"embeddings.weight", "layer.0.value"}
    assert stacks == {
        **dict.fromkeys(alone, "zstd"),
        **dict.fromkeys((f"layer.{n}.key" for n in range(3)), "share(common: @0.layer.N.key.common, difference: zstd)"),
        **dict.fromkeys(
            (f"layer.{n}.value" for n in (1, 2)), "share(common: @0.layer.N.value.common, difference: zstd)"
        ),
        "@0.layer.N.key.common": "int(codes: zstd, scale: zstd)",
        "@0.layer.N.value.common": "int(codes: zstd, scale: zstd)",
    }
    assert {skipped.plane for skipped in planned.stages[0].skipped} == alone
    assert "no other plane of its group has its shape" in planned.stages[0].skipped[0].reason


def test_one_group_for_all_is_one_for_each_shape() -> None:
    planned = plan({"use": "share", "group": "all"})
    assert [len(shared.users) for shared in planned.shared] == [5]
    assert {skipped.plane for skipped in planned.stages[0].skipped} == {"embeddings.weight", "layer.0.value"}


@pytest.mark.parametrize("stage", [{"on": "embeddings.weight"}, {"on": "*.value", "group": ["*.0.*", "*.1.*"]}])
def test_nothing_to_share_is_an_error(stage: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="no other plane of its group has its shape"):
        plan({"use": "share", **stage})


def test_a_group_is_named() -> None:
    with pytest.raises(RecipeError, match="group"):
        recipe_from({"stages": [{"use": "share", "group": None}]})


# ---- files and training ----


class Layers(nn.Module):
    """Three layers of one shape."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layer = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))


def test_the_file_of_layers_that_are_one_holds_one(tmp_path: Path) -> None:
    model = Layers()
    artifact, _ = stackc.compress(model, {"stages": [{"use": "share", "difference": False}, "raw"]}, tmp_path / "one")
    with artifact:
        layer = sum(x.numel() * 4 for x in model.layer[0].state_dict().values())
        assert layer < artifact.file_bytes < 1.2 * layer
        mean = torch.stack([one.weight.detach().double() for one in model.layer]).mean(0).float()
        for number in range(3):
            assert torch.allclose(artifact[f"layer.{number}.weight"], mean, rtol=1e-6)
            assert not artifact.planes(f"layer.{number}.weight")


def test_differences_give_the_layers_back(tmp_path: Path) -> None:
    model = Layers()
    stages = ["share", {"use": "int", "on": "*/difference", "bits": 8}, "zstd"]
    artifact, _ = stackc.compress(model, {"stages": stages}, tmp_path / "layers")
    with artifact:
        for name, x in model.state_dict().items():
            assert float((artifact[name] - x).abs().max()) <= float(x.abs().max()) / 100


@pytest.mark.parametrize("latent", ["planes", "dense"])
@pytest.mark.parametrize("difference", [True, False])
def test_the_common_plane_gets_the_gradients_of_all_who_use_it(latent, difference) -> None:
    tensors = matrices()
    share = Share(difference=difference)
    common = share.find_common(weighted(tensors))["common"]
    planned = plan_recipe(
        recipe_from({"stages": [{"use": "share", "difference": difference}]}),
        {name: PlaneSpec.of(x) for name, x in tensors.items()},
    )
    (shared,) = planned.shared
    form = TrainedTensor(shared.stacks[-1], shared.spec, Start({"": common}, {}), latent)
    plane = SharedTensor(form)
    users = []
    for tensor in planned.tensors:
        x = tensors[tensor.name]
        made = share.encode(x, Known(shared={"common": common}))
        own = {name: value for name, value in made.items() if name != "common"}
        users.append(TrainedTensor(tensor.stacks[-1], tensor.spec, Start(own, {"": x}, {shared.name: plane}), latent))
    assert isinstance(planned.tensors[0].stacks[-1].planes["common"], Ref)
    weights = (1.0, 2.0, 5.0)
    sum(weight * user.value().sum() for weight, user in zip(weights, users, strict=True)).backward()
    own = [value.grad for user in users for value in user.parameters.values()]
    if not difference:
        assert own == []
    else:
        assert [float(gradient.mean()) for gradient in own] == list(weights)
    if latent == "planes" or not difference:
        (parameter,) = form.parameters.values()
        assert torch.equal(parameter.grad, torch.full_like(common, sum(weights)))
