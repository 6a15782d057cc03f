"""Training forms: what they decode to is what the file will, gradients reach all that is trained, rows are rows."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import pytest
import torch

from stackc.core.rate import code_bits
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, decode, with_transforms
from stackc.healing.latents import TrainedTensor
from stackc.healing.nodes import Start
from stackc.planning.encode import Walker
from stackc.planning.program import Program
from stackc.planning.settle import settle
from stackc.planning.trained import Hardened
from stackc.recipe.parse import recipe_from
from stackc.testing.planes import bell
from tests.helpers.programs import session_of

Latent = Literal["planes", "dense"]
LATENTS: tuple[Latent, ...] = ("planes", "dense")


class Stored(NamedTuple):
    """One tensor as a recipe stores it."""

    stack: Stack
    spec: PlaneSpec
    start: Start

    def trained(self, latent: Latent) -> TrainedTensor:
        return TrainedTensor(self.stack, self.spec, self.start, latent)

    def decoded(self, planes: Any = None, transforms: Any = None) -> torch.Tensor:
        """What a file with these planes would decode to."""
        planes = self.start.planes if planes is None else planes
        stack = with_transforms(self.stack, transforms or {})
        return decode(stack, self.spec, lambda path, spec, leaf: as_stored(planes[path], spec))


def as_stored(plane: torch.Tensor, spec: PlaneSpec) -> torch.Tensor:
    assert spec.mismatch(plane) is None
    return plane


def stored(*stages: Any, x: torch.Tensor | None = None) -> Stored:
    """A tensor after the stages, with what every transform was given."""
    x = 8 * bell((64, 16), 0, "weights") if x is None else x
    recipe = recipe_from({"stages": list(stages)})
    plan = settle(Program.of(recipe, {"x": PlaneSpec.of(x)}), session_of({"x": x})).plan
    walker = Walker(plan.tensors[0], x, keep_inputs=True)
    for stage in range(len(stages)):
        walker.apply(stage)
    planes = {path: plane for path, (_, plane) in walker.planes.items()}
    return Stored(plan.tensors[0].stacks[-1], plan.tensors[0].spec, Start(planes, walker.inputs))


STACKS: dict[str, tuple[Any, ...]] = {
    "prune rows, seed, int step": (
        {"use": "prune", "rows": 0.25},
        {"use": "seed", "on": "*/values", "rank": 4},
        {"use": "int", "on": "*/{scores,basis}", "step": 0.02},
        {"use": "cast", "on": "*/mean", "to": "float16"},
    ),
    "prune columns, int": ({"use": "prune", "columns": 0.25}, {"use": "int", "bits": 4}),
    "prune sparsity, int": ({"use": "prune", "sparsity": 0.75}, {"use": "int", "on": "*/values", "bits": 4}),
    "prune over all, int": (
        {"use": "prune", "sparsity": 0.5, "scope": "global"},
        {"use": "int", "on": "*/values", "step": 0.05},
    ),
    "seed, tcq": ({"use": "seed", "rank": 6}, {"use": "tcq", "on": "*/scores", "step": 0.05}),
    "seed without a mean, int": ({"use": "seed", "rank": 3, "center": False}, {"use": "int", "bits": 6}),
    "codebook": ({"use": "codebook", "entries": 16},),
    "codebook of vectors": ({"use": "codebook", "entries": 16, "dims": 4},),
    "codebook of a group of one": ({"use": "codebook", "entries": 16, "group": "all"},),
    "int by row": ({"use": "int", "bits": 5},),
    "int in groups": ({"use": "int", "granularity": "group", "group_size": 8, "bits": 3},),
    "int with zero points": ({"use": "int", "symmetric": False, "bits": 4},),
    "int, one bit": ({"use": "int", "bits": 1},),
    "int step": ({"use": "int", "step": 0.1},),
    "int, scales in half precision": ({"use": "int", "bits": 6}, {"use": "cast", "on": "*/scale", "to": "bfloat16"}),
    "cast": ({"use": "cast", "to": "bfloat16"},),
    "nothing": ("raw",),
}

#: In these a training step computes codes for other scales or scores than the encoder did: those that the file holds, or in
#: float32, where the largest value of a row lies between two codes.
RECOMPUTED = {"int, scales in half precision", "seed without a mean, int"}


#: float16 is no wider than bfloat16.
CASES = [(name, dtype) for dtype in ("float32", "float16") for name in STACKS if (name, dtype) != ("cast", "float16")]


@pytest.fixture(params=CASES, ids=", ".join)
def named_case(request: pytest.FixtureRequest) -> tuple[str, Stored]:
    name, dtype = request.param
    return name, stored(*STACKS[name], x=(8 * bell((64, 16), 0, "weights")).to(getattr(torch, dtype)))


@pytest.fixture
def name(named_case: tuple[str, Stored]) -> str:
    return named_case[0]


@pytest.fixture
def case(named_case: tuple[str, Stored]) -> Stored:
    return named_case[1]


def agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for the order of sums, in the dtype of the tensor."""
    assert one.dtype == other.dtype
    tolerance = 1e-5 + 2 * torch.finfo(one.dtype).eps
    return distance(one, other) <= tolerance * distance(other, torch.zeros_like(other))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.dist(one.double(), other.double()))


@pytest.mark.parametrize("latent", LATENTS)
def test_training_begins_at_what_is_stored(case: Stored, latent: Latent, name: str) -> None:
    value, decoded = case.trained(latent).value().detach(), case.decoded()
    if name in RECOMPUTED:
        assert distance(value, case.start.inputs[""]) < 1.02 * distance(decoded, case.start.inputs[""])
    else:
        assert agree(value, decoded)


@pytest.mark.parametrize("latent", LATENTS)
def test_what_is_stored_after_training_is_what_training_saw(case: Stored, latent: Latent) -> None:
    trained = case.trained(latent)
    shake(trained)
    hardened = trained.harden()
    assert agree(case.decoded(hardened.planes, hardened.transforms), trained.value().detach())
    assert not any(plane.requires_grad for plane in (*hardened.planes.values(), *hardened.inputs.values()))


@pytest.mark.parametrize("latent", LATENTS)
def test_a_later_stage_goes_on_where_this_one_ended(case: Stored, latent: Latent) -> None:
    trained = case.trained(latent)
    shake(trained)
    hardened = trained.harden()
    stack = with_transforms(case.stack, hardened.transforms)
    again = TrainedTensor(stack, case.spec, Start(hardened.planes, hardened.inputs), latent)
    assert agree(again.value().detach(), trained.value().detach())


@pytest.mark.parametrize("latent", LATENTS)
def test_gradients_reach_all_that_is_trained(case: Stored, latent: Latent) -> None:
    trained = case.trained(latent)
    shake(trained)
    assert trained.parameters
    wanted = bell(case.spec.shape, 1, "wanted").to(getattr(torch, case.spec.dtype))
    (trained.value().double() * wanted.double()).sum().backward()
    for path, parameter in trained.parameters.items():
        assert parameter.dtype == torch.float32, "masters are float32"
        assert parameter.grad is not None, path
        assert bool(parameter.grad.isfinite().all()), path
        assert bool(parameter.grad.any()), path


@pytest.mark.parametrize("latent", LATENTS)
def test_a_step_against_the_gradient_comes_closer(case: Stored, latent: Latent) -> None:
    trained, other = case.trained(latent), case.trained(latent)
    shake(other)
    wanted = other.value().detach().float()
    optimiser = torch.optim.Adam(trained.parameters.values(), lr=3e-3)
    distances = []
    for _ in range(60):
        optimiser.zero_grad()
        error = (trained.value().float() - wanted).square().sum()
        error.backward()
        optimiser.step()
        distances.append(float(error.detach()))
    assert min(distances[-10:]) < 0.9 * distances[0]


def test_rows_are_rows_of_the_whole(case: Stored, name: str) -> None:
    trained = case.trained("planes")
    shake(trained)
    if not trained.has_rows:
        assert "sparsity" in name or "over all" in name or name == "seed, tcq"
        return
    whole = trained.value().detach()
    for rows in (torch.arange(64), torch.tensor([5]), torch.tensor([0, 3, 4, 63])):
        assert agree(trained.value(rows).detach(), whole[rows])


def test_gradients_of_rows_are_those_of_the_whole(case: Stored) -> None:
    trained = case.trained("planes")
    if not trained.has_rows:
        return
    rows = torch.tensor([1, 2, 30, 31])
    trained.value(rows).double().square().sum().backward()
    some = {path: parameter.grad.clone() for path, parameter in trained.parameters.items()}  # type: ignore[union-attr]
    for parameter in trained.parameters.values():
        parameter.grad = None
    trained.value()[rows].double().square().sum().backward()
    for path, parameter in trained.parameters.items():
        torch.testing.assert_close(some[path], parameter.grad, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("latent", LATENTS)
def test_a_state_is_gone_back_to(case: Stored, latent: Latent) -> None:
    trained = case.trained(latent)
    shake(trained)
    state = trained.state()
    before = trained.value().detach().clone()
    shake(trained, seed=3)
    trained.rechoose()
    assert not torch.equal(trained.value(), before)
    trained.restore(state)
    assert torch.equal(trained.value(), before)
    fresh = case.trained(latent)
    fresh.restore(state)
    assert torch.equal(fresh.value(), before)


def test_codes_have_bits_and_they_have_gradients() -> None:
    for name in ("prune rows, seed, int step", "prune sparsity, int", "int by row"):
        for latent in LATENTS:
            trained = stored(*STACKS[name]).trained(latent)
            asked: dict[str, int] = {}

            def price(path: str, codes: torch.Tensor, asked: dict[str, int] = asked) -> torch.Tensor:
                asked[path] = codes.numel()
                return code_bits(codes)

            bits = trained.bits(price)
            assert bits is not None
            planes = stored(*STACKS[name]).start.planes
            codes = {path: plane.numel() for path, plane in planes.items() if path.rpartition("/")[2] == "codes"}
            # Bases are held where the whole tensor is trained, and so are their codes.
            assert asked.items() <= codes.items()
            assert latent == "dense" or asked == codes
            bits.backward()
            assert any(value.grad is not None and bool(value.grad.any()) for value in trained.parameters.values())


def test_nothing_with_codes_has_no_bits() -> None:
    for name in ("cast", "nothing"):
        assert stored(*STACKS[name]).trained("planes").bits(lambda path, codes: code_bits(codes)) is None


def test_integers_are_not_trained() -> None:
    ids = torch.arange(12).reshape(1, 12)
    case = stored("raw", x=ids)
    for latent in LATENTS:
        trained = case.trained(latent)
        assert not trained.parameters
        assert torch.equal(trained.value(), ids)
        assert torch.equal(trained.harden().planes[""], ids)


def test_an_empty_tensor_is_not_trained() -> None:
    case = stored({"use": "int", "bits": 4}, x=torch.zeros(0, 4))
    trained = case.trained("planes")
    assert trained.value().shape == (0, 4)
    assert trained.harden().planes["codes"].shape == (0, 4)


def test_scales_stay_positive() -> None:
    trained = stored({"use": "int", "bits": 4}).trained("planes")
    assert trained.factors == {"scale"}
    with torch.no_grad():
        trained.parameters["scale"].fill_(-30.0)
    assert bool((trained.harden().planes["scale"] > 0).all())


def test_codes_that_outgrow_their_bits_get_more() -> None:
    case = stored({"use": "int", "step": 0.1})
    trained = case.trained("planes")
    with torch.no_grad():
        trained.parameters[""][0, 0] = 1000.0
    hardened: Hardened = trained.harden()
    assert hardened.transforms[""].bits > 8  # type: ignore[attr-defined]
    assert float(case.decoded(hardened.planes, hardened.transforms)[0, 0]) == pytest.approx(1000, abs=0.1)


# ---- masks ----


def pruned(latent: Latent = "dense") -> tuple[Stored, TrainedTensor]:
    case = stored({"use": "prune", "sparsity": 0.75}, {"use": "int", "on": "*/values", "step": 0.02})
    return case, case.trained(latent)


def test_frozen_masks_stay() -> None:
    case, trained = pruned()
    mask = case.start.planes["mask"]
    with torch.no_grad():
        trained.parameters[""].copy_(1.0 * ~mask)  # what is left out is large now
    assert not bool(trained.value()[~mask].any())
    assert torch.equal(trained.harden().planes["mask"], mask)


def test_rechosen_masks_bring_back_what_was_pruned() -> None:
    case, trained = pruned()
    mask = case.start.planes["mask"]
    wanted = tuple((~mask).nonzero()[:10].T.tolist())
    with torch.no_grad():
        trained.parameters[""][wanted] = 5.0
    assert not bool(trained.value()[wanted].any())
    trained.rechoose()
    hardened = trained.harden()
    assert bool((trained.value()[wanted] - 5.0).abs().max() < 0.02)
    assert bool(hardened.planes["mask"][wanted].all())
    assert int(hardened.planes["mask"].sum()) == int(mask.sum())
    assert agree(case.decoded(hardened.planes, hardened.transforms), trained.value().detach())


def test_gradients_reach_pruned_weights_when_the_whole_tensor_is_trained() -> None:
    case, trained = pruned()
    trained.value().sum().backward()
    gradient = trained.parameters[""].grad
    assert gradient is not None
    assert bool(gradient[~case.start.planes["mask"]].all())
    # Stored planes hold nothing of them.
    assert {value.numel() for value in pruned("planes")[1].parameters.values()} == {256, 1}


def test_rechoosing_stored_planes_changes_nothing() -> None:
    _, trained = pruned("planes")
    shake(trained)
    before = trained.value().detach()
    trained.rechoose()
    assert torch.equal(trained.value(), before)


def shake(trained: TrainedTensor, seed: int = 2) -> None:
    """Change all that is trained a little, each parameter otherwise."""
    with torch.no_grad():
        for path, parameter in sorted(trained.parameters.items()):
            size = 0.5 if path in trained.factors else float(parameter.std(correction=0)) + 0.01
            parameter += size * bell(tuple(parameter.shape), seed, path)
