"""Choices over the whole model, and row weights on their way through the stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.planning.encode import Walker, encode_tensor
from stackc.planning.plan import planes_of_stage
from stackc.planning.program import Program
from stackc.planning.settle import settle
from stackc.recipe.parse import recipe_from
from stackc.util.errors import PlanError, TensorError
from tests.helpers.programs import session_of

STATE = {
    "a.weight": torch.randn(12, 4, generator=torch.Generator().manual_seed(1)),
    "b.weight": 5 * torch.randn(8, 4, generator=torch.Generator().manual_seed(2)),
    "ids": torch.arange(3),
}
SPECS = {name: PlaneSpec.of(x) for name, x in STATE.items()}


def settled(
    *stages: Any, state: dict[str, torch.Tensor] = STATE, weights: list[Any] | None = None, choices: Any = None
):
    recipe = recipe_from({"stages": list(stages)})
    program = settle(Program.of(recipe, SPECS, choices=choices), session_of(state, weights or ()))
    return program.plan, program.choices


def test_a_plan_without_choices_stays_as_it_is() -> None:
    loaded = []
    recipe = recipe_from({"stages": ["int8", "zstd"]})
    program = Program.of(recipe, SPECS)
    assert settle(program, session_of(loaded.append)) == program
    assert not loaded


def test_a_global_threshold_is_one_for_all_tensors() -> None:
    plan, choices = settled({"use": "prune", "sparsity": 0.5, "scope": "global"}, "raw")
    magnitudes = torch.cat([STATE[name].flatten() for name in ("a.weight", "b.weight")]).abs()
    threshold = magnitudes.median()
    expected = {name: int((STATE[name].abs() > threshold).sum()) for name in ("a.weight", "b.weight")}
    assert {plane: config.keep for plane, config in choices[0].items()} == expected
    assert sum(expected.values()) == magnitudes.numel() // 2
    assert plan.settled
    assert {t.name: config.keep for t, _, config in planes_of_stage(plan, 0)} == expected


def test_later_choices_see_what_earlier_ones_left() -> None:
    _, choices = settled(
        {"use": "prune", "on": "a.weight", "rows": 0.5},
        {"use": "seed", "on": ["b.weight", "a.weight/values"], "variance": 1.0},
        {"use": "prune", "on": "*/scores", "sparsity": 0.25, "scope": "global"},
    )
    assert set(choices) == {1, 2}
    assert {plane: config.rank for plane, config in choices[1].items()} == {"a.weight/values": 4, "b.weight": 4}
    assert sum(config.keep for config in choices[2].values()) == round(0.75 * (6 * 4 + 8 * 4))
    assert set(choices[2]) == {"a.weight/values/scores", "b.weight/scores"}


def test_given_choices_are_kept_and_nothing_is_loaded() -> None:
    seed = find("seed").stage
    choices = {0: {"a.weight": seed(rank=1), "b.weight": seed(rank=2)}}
    plan, made = settled({"use": "seed", "variance": 0.9}, "raw", state={}, choices=choices)
    assert made == choices
    assert [config.rank for _, _, config in planes_of_stage(plan, 0)] == [1, 2]


def test_given_choices_that_lack_a_plane() -> None:
    seed = find("seed").stage
    with pytest.raises(PlanError, match=r"stages\[0\] \(seed\): the choice for one of its planes is missing"):
        settled({"use": "seed", "variance": 0.9}, "raw", choices={0: {"a.weight": seed(rank=1)}})


@pytest.mark.parametrize(
    ("stages", "place"),
    [
        (
            [{"use": "prune", "sparsity": 0.5, "scope": "global"}],
            "stages[0] (prune) on b.weight: 1 of 32 values is NaN",
        ),
        ([{"use": "seed", "variance": 0.9}], "stages[0] (seed) on b.weight: 1 of 32 values is NaN"),
        (
            ["fp16", {"use": "seed", "on": "*/values", "variance": 0.9}],
            "stages[0] (cast) on b.weight: 1 of 32 values is NaN",
        ),
    ],
)
def test_errors_name_the_stage_and_the_plane_once(stages: list[Any], place: str) -> None:
    state = {name: x.clone() for name, x in STATE.items()}
    state["b.weight"][3, 1] = torch.nan
    with pytest.raises(TensorError) as caught:
        settled(*stages, state=state)
    assert str(caught.value).startswith(place)


def test_row_weights_follow_their_rows() -> None:
    weights = torch.arange(12, dtype=torch.float64)
    plan, _ = settled(
        {"use": "prune", "on": "a.weight", "rows": 0.5},
        {"use": "seed", "on": "a.weight/values", "rank": 2},
        {"use": "int8", "on": "*/scores"},
    )
    walker = Walker(plan.tensors[0], STATE["a.weight"], [weights, weights, weights])
    walker.apply(0)
    mask = walker.planes["mask"][1]
    assert torch.equal(walker.weighted(1, "values").weights, weights[mask])
    assert int(mask.sum()) == 6
    walker.apply(1)
    assert torch.equal(walker.weighted(2, "values/scores").weights, weights[mask])


def test_row_weights_of_one_tensor_do_not_touch_another_with_other_rows() -> None:
    # b.weight has 8 rows, and stages[0] with its 12 weights does not apply to it.
    weights = [torch.ones(12, dtype=torch.float64), None]
    plan, _ = settled({"use": "prune", "on": "a.weight", "rows": 0.5}, {"use": "prune", "on": "b.weight", "rows": 0.5})
    encoded = encode_tensor(Walker(plan.tensors[1], STATE["b.weight"], weights))
    assert len(encoded.stages[-1]) == 3


@pytest.mark.parametrize("through_settle", [False, True])
def test_row_weights_that_do_not_reach_a_plane(through_settle: bool) -> None:
    weights = [None, torch.ones(12, dtype=torch.float64)]
    rank = {"variance": 0.9} if through_settle else {"rank": 2}
    stages = [{"use": "seed", "on": "a.weight", "rank": 3}, {"use": "seed", "on": "a.weight/basis", **rank}]
    message = (
        r"stages\[1\]: its row weights do not reach a.weight/basis, whose rows are not rows of the tensor; narrow 'on'"
    )
    if through_settle:
        with pytest.raises(PlanError, match=message):
            settled(*stages, weights=weights)
    else:
        plan, _ = settled(*stages, weights=weights)
        with pytest.raises(PlanError, match=message):
            encode_tensor(Walker(plan.tensors[0], STATE["a.weight"], weights))


def test_row_weights_change_what_is_kept() -> None:
    weights = torch.zeros(12, dtype=torch.float64)
    weights[[2, 7]] = 1
    stage = {"use": "prune", "on": "a.weight", "rows": 10 / 12}
    plan, _ = settled(stage)
    walker = Walker(plan.tensors[0], STATE["a.weight"], [weights])
    walker.apply(0)
    assert walker.planes["mask"][1].nonzero().flatten().tolist() == [2, 7]


def test_encoding_leaves_the_tensor_as_it_was_and_repeats_itself() -> None:
    plan, _ = settled({"use": "prune", "sparsity": 0.5}, {"use": "int8"}, "zstd")
    x = STATE["a.weight"].clone()
    first, second = (encode_tensor(Walker(plan.tensors[0], x)) for _ in range(2))
    assert torch.equal(x, STATE["a.weight"])
    assert first.stages == second.stages
    assert len(first.stages) == len(first.seconds) == 3
    assert set(first.entropy_bits) == {"mask", "values/codes", "values/scale"}
    assert first.entropy_bits["mask"] == pytest.approx(48, abs=1e-9)
    last = encode_tensor(Walker(plan.tensors[0], x), every_stage=False)
    assert last.stages == ((), (), first.stages[-1])


def test_what_torch_refuses_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = settled("int8")
    kind = type(find("int").stage())

    def fail(self: object, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        raise RuntimeError("not enough memory:\nyou tried to allocate")

    monkeypatch.setattr(kind, "encode", fail)
    with pytest.raises(
        TensorError, match=r"^stages\[0\] \(int\) on a.weight: not enough memory: you tried to allocate$"
    ):
        encode_tensor(Walker(plan.tensors[0], STATE["a.weight"]))
