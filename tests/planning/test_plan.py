"""From stages and specs to stacks, without reading a weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.core.stack import MAX_DEPTH, describe
from stackc.planning.plan import Plan, plan_recipe, planes_of_stage
from stackc.recipe.parse import recipe_from
from stackc.util.errors import PlanError

SPECS = {
    "embeddings.weight": PlaneSpec((62, 16), "float32"),
    "layer.weight": PlaneSpec((16, 16), "float32"),
    "layer.bias": PlaneSpec((16,), "float32"),
    "ids": PlaneSpec((1, 62), "int64"),
}


def plan(*stages: Any, ties: dict[str, str] | None = None, choices: Any = None) -> Plan:
    return plan_recipe(recipe_from({"stages": list(stages)}), SPECS, ties, choices)


def stacks(planned: Plan) -> dict[str, str]:
    return {tensor.name: describe(tensor.stacks[-1]) for tensor in planned.tensors}


def refusal(*stages: Any, ties: dict[str, str] | None = None) -> str:
    with pytest.raises(PlanError) as caught:
        plan(*stages, ties=ties)
    return str(caught.value)


def test_stages_rewrite_the_planes_that_they_match() -> None:
    planned = plan(
        {"use": "prune", "on": "embeddings.weight", "rows": 0.5},
        {"use": "seed", "on": "*.weight", "rank": 2},
        {"use": "int8", "on": "*/{basis,scores}"},
        {"use": "zstd", "on": "!*/mask"},
    )
    assert stacks(planned) == {
        "embeddings.weight": "prune(mask: raw, values: seed(mean: zstd, basis: int(codes: zstd, scale: zstd), "
        "scores: int(codes: zstd, scale: zstd)), fallback: zstd)",
        "layer.weight": "seed(mean: zstd, basis: int(codes: zstd, scale: zstd), scores: int(codes: zstd, scale: zstd))",
        "layer.bias": "zstd",
        "ids": "zstd",
    }
    assert [stage.matched for stage in planned.stages] == [1, 2, 4, 13]
    assert planned.settled


def test_every_step_has_the_stack_that_the_recipe_would_leave_there() -> None:
    tensor = plan({"use": "seed", "on": "layer.weight", "rank": 2}, {"use": "int8", "on": "*/scores"}, "zstd").tensors[
        1
    ]
    assert [describe(stack) for stack in tensor.stacks] == [
        "seed(mean: raw, basis: raw, scores: raw)",
        "seed(mean: raw, basis: raw, scores: int(codes: raw, scale: raw))",
        "seed(mean: zstd, basis: zstd, scores: int(codes: zstd, scale: zstd))",
    ]
    assert [list(step) for step in tensor.steps] == [
        [""],
        ["scores"],
        ["mean", "basis", "scores/codes", "scores/scale"],
    ]


def test_planes_of_a_stage() -> None:
    planned = plan({"use": "int8", "on": "layer.*"}, "raw")
    assert [(tensor.name, path, config.name) for tensor, path, config in planes_of_stage(planned, 0)] == [
        ("layer.weight", "", "int"),
        ("layer.bias", "", "int"),
    ]


def test_what_does_not_fit_is_skipped_with_the_reason() -> None:
    stage = plan("int8").stages[0]
    assert stage.matched == 3
    assert [(skipped.plane, skipped.reason) for skipped in stage.skipped] == [
        ("ids", "int takes real planes (float16, bfloat16, float32, float64), this one is int64 1x62")
    ]
    skipped = dict(plan({"use": "seed", "rank": 16}).stages[0].skipped)
    assert set(skipped) == {"layer.bias", "ids"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            ["int8", {"use": "seed", "rank": 2}],
            "stages[1] (seed) fits none of the 7 planes it matches: embeddings.weight/codes (and 6 more): seed takes real "
            "planes with two axes or more that are not empty, this one is int8 62x16 in -128..127; put it before the stages "
            "that make such planes, change 'on', or say allow_empty: true",
        ),
        (
            ["zstd", "int8"],
            "stages[1] (int8) comes too late: embeddings.weight is already packed by stages[0] (zstd); put int8 before it",
        ),
        (
            ["zstd", "raw"],
            "stages[1] (raw) comes too late: embeddings.weight is already packed by stages[0] (zstd); put raw before it",
        ),
        (
            ["int8", {"use": "zstd", "on": "*/codes"}, {"use": "raw", "on": "layer.bias/codes"}],
            "stages[2] (raw) on layer.bias/codes comes too late: layer.bias/codes is already packed by stages[1] (zstd); put "
            "raw before it",
        ),
        (
            [{"use": "int8", "on": "*.wieght"}],
            "stages[0] (int8) on *.wieght matches no tensor of the model, did you mean 'layer.weight'?; 'stackc check' lists "
            "the tensors",
        ),
        (
            [{"use": "int8", "on": "qqq"}],
            "stages[0] (int8) on qqq matches no tensor of the model; 'stackc check' lists the tensors",
        ),
        (
            [{"use": "int8", "on": "*/scores"}],
            "stages[0] (int8) on */scores matches no plane: no stage before it makes planes; or say allow_empty: true",
        ),
        (
            [{"use": "seed", "rank": 2}, {"use": "int8", "on": "*/score"}],
            "stages[1] (int8) on */score matches no plane: the planes at this point are basis, mean, scores; or say "
            "allow_empty: true",
        ),
        (
            [{"use": "ans", "on": "*.weight"}],
            "stages[0] (ans) on *.weight fits none of the 2 planes it matches: embeddings.weight (and 1 more): ans codes "
            "integers, not float32; put int before it, or use zstd; change "
            "'on', or say allow_empty: true",
        ),
        (
            [{"use": "int8", "on": "!*"}],
            "stages[0] (int8) on !* matches no plane: no stage before it makes planes; or say allow_empty: true",
        ),
        # names without wildcards
        (
            [{"use": "seed", "on": "layer.bias", "rank": 2}],
            "stages[0] (seed) does not fit layer.bias (float32 16): seed takes real planes with two axes or more that are "
            "not empty, this one is float32 16",
        ),
        (
            [{"use": "int8", "on": ["*.weight", "ids"]}],
            "stages[0] (int8) does not fit ids (int64 1x62): int takes real planes (float16, bfloat16, float32, float64), "
            "this one is int64 1x62",
        ),
        (
            [{"use": "int8", "on": ["*.weight", "layer.bais"]}],
            "stages[0] (int8) on layer.bais matches no tensor of the model, did you mean 'layer.bias'?; 'stackc check' lists "
            "the tensors",
        ),
        (
            [
                {"use": "prune", "on": "layer.weight", "sparsity": 0.5},
                {"use": "int8", "on": "layer.weight/{mask,values}"},
                {"use": "int8", "on": "layer.weight/mask"},
            ],
            "stages[2] (int8) does not fit layer.weight/mask (bool 16x16 in 0..1): int takes real planes (float16, bfloat16, "
            "float32, float64), this one is bool 16x16 in 0..1",
        ),
    ],
)
def test_what_cannot_be_planned(stages: list[Any], message: str) -> None:
    assert refusal(*stages) == message


def test_a_name_stands_for_the_planes_of_its_tensor_that_fit() -> None:
    planned = plan({"use": "prune", "on": "layer.weight", "sparsity": 0.5}, {"use": "int8", "on": "layer.weight"})
    assert stacks(planned)["layer.weight"] == "prune(mask: raw, values: int(codes: raw, scale: raw))"
    assert [skipped.plane for skipped in planned.stages[1].skipped] == ["layer.weight/mask"]


@pytest.mark.parametrize(
    "stage",
    [
        {"use": "int8", "on": "qqq*"},
        {"use": "int8", "on": "ids"},
        {"use": "seed", "on": "*.bias", "rank": 2},
        {"use": "int8", "on": "*/codes"},
    ],
)
def test_a_stage_may_be_allowed_to_match_nothing(stage: dict[str, Any]) -> None:
    refusal(stage)
    planned = plan({**stage, "allow_empty": True}, "raw")
    assert planned.stages[0].matched == 0
    assert set(stacks(planned).values()) == {"raw"}


def test_ties_match_by_any_name_and_are_planned_once() -> None:
    ties = {"decoder.weight": "embeddings.weight", "head.weight": "embeddings.weight"}
    planned = plan({"use": "int8", "on": "decoder.weight"}, ties=ties)
    assert planned.stages[0].matched == 1
    assert planned.tensors[0].names == ("embeddings.weight", "decoder.weight", "head.weight")
    assert [tensor.name for tensor, _, _ in planes_of_stage(planned, 0)] == ["embeddings.weight"]
    excluded = plan({"use": "int8", "on": ["*.weight", "!head*"]}, ties=ties)
    assert [tensor.name for tensor, _, _ in planes_of_stage(excluded, 0)] == ["layer.weight"]


def test_choices_replace_what_is_open() -> None:
    stage = {"use": "seed", "on": "*.weight", "variance": 0.9}
    open_plan = plan(stage)
    assert not open_plan.settled
    assert open_plan.tensors[0].stacks[0].transform.plan(SPECS["embeddings.weight"])["scores"].shape == (62, 16)
    seed = find("seed").stage
    choices = {0: {"embeddings.weight": seed(rank=3), "layer.weight": seed(rank=5)}}
    settled = plan(stage, choices=choices)
    assert settled.settled
    assert [config.rank for _, _, config in planes_of_stage(settled, 0)] == [3, 5]


def test_a_stack_has_a_greatest_depth() -> None:
    deep = [{"use": "prune", "on": "layer.bias", "sparsity": 0.0}]
    deep += [
        {"use": "prune", "on": "layer.bias/" + "/".join(["values"] * n), "sparsity": 0.0} for n in range(1, MAX_DEPTH)
    ]
    plan(*deep[: MAX_DEPTH - 1], "raw")
    assert f"a stack is at most {MAX_DEPTH} stages deep" in refusal(*deep)


def test_the_default_packer_closes_what_is_open() -> None:
    assert set(stacks(plan({"use": "raw", "on": "ids"})).values()) == {"raw"}


def test_planning_imports_neither_torch_nor_numpy() -> None:
    code = """
import sys
from stackc.planning.plan import plan_recipe
from stackc.recipe.parse import load_recipe, shipped_recipes
from tests.helpers.bert import bert_tiny_specs
for name in shipped_recipes():
    bases = {"demo/bert-tiny-reviews": bert_tiny_specs()}
    assert plan_recipe(load_recipe(name), bert_tiny_specs(), bases=bases).tensors
heavy = {"torch", "numpy", "transformers", "scipy", "constriction", "zstandard", "datasets"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])


def test_a_stage_that_fits_nothing_gives_the_reason_of_the_largest_matrix() -> None:
    specs = {
        "position_ids": PlaneSpec((1, 128), "int64"),
        "bias": PlaneSpec((64,), "float32"),
        "weight": PlaneSpec((1000, 64), "float32"),
    }
    recipe = recipe_from({"stages": [{"use": "seed", "rank": 400}]})
    with pytest.raises(
        PlanError, match=r"weight .and 2 more.: rank 400 does not fit a matrix of 1000x64; 1 to 64 fit; change 'on'"
    ):
        plan_recipe(recipe, specs)


# ---- side information of a stage's own kind ----


def test_a_second_int_leaves_the_scales_of_the_first_alone() -> None:
    planned = plan({"use": "int", "on": "layer.*", "bits": 4}, {"use": "int8"})
    assert stacks(planned)["layer.weight"] == "int(codes: raw, scale: raw)"
    assert stacks(planned)["embeddings.weight"] == "int(codes: raw, scale: raw)"
    assert planned.stages[1].matched == 1
    # left out as if it were not matched: a report of what was skipped would say that it should have fitted
    assert not any("scale" in skipped.plane for skipped in planned.stages[1].skipped)


@pytest.mark.parametrize("on", ["*.weight", ["layer.*", "!*.bias"], "layer.weight"])
def test_a_pattern_of_tensors_does_not_mean_scales(on: Any) -> None:
    planned = plan({"use": "int", "on": "layer.weight", "bits": 4}, {"use": "int8", "on": on, "allow_empty": True})
    assert stacks(planned)["layer.weight"] == "int(codes: raw, scale: raw)"


@pytest.mark.parametrize("on", ["*/scale", "layer.weight/scale", "*/{scale,mean}"])
def test_a_pattern_with_planes_means_them(on: str) -> None:
    planned = plan({"use": "int", "on": "layer.weight", "bits": 4}, {"use": "int8", "on": on})
    assert stacks(planned)["layer.weight"] == "int(codes: raw, scale: int(codes: raw, scale: raw))"


def test_side_information_of_other_kinds_is_taken() -> None:
    planned = plan({"use": "seed", "on": "layer.weight", "rank": 2}, {"use": "int8"}, "fp16")
    coded = "int(codes: raw, scale: cast(values: raw))"
    assert stacks(planned)["layer.weight"] == f"seed(mean: {coded}, basis: {coded}, scores: {coded})"


def test_only_side_information_is_left_alone() -> None:
    # Values that are pruned once are no side information: a second prune goes on with them.
    planned = plan({"use": "prune", "on": "layer.weight", "rows": 0.5}, {"use": "prune", "sparsity": 0.5})
    assert stacks(planned)["layer.weight"] == "prune(mask: raw, values: prune(mask: raw, values: raw), fallback: raw)"


def test_a_name_with_brackets_is_a_name() -> None:
    specs = {"layers[0].w": PlaneSpec((4, 4), "float32"), "layers[0].b": PlaneSpec((4,), "float32")}

    def planned(on: Any, **fields: Any) -> Plan:
        return plan_recipe(recipe_from({"stages": [{"use": "seed", "rank": 1, "on": on, **fields}]}), specs)

    assert [tensor.name for tensor, _, _ in planes_of_stage(planned("layers[0].w"), 0)] == ["layers[0].w"]
    with pytest.raises(PlanError, match=r"does not fit layers\[0\]\.b"):
        planned(["layers[0].w", "layers[0].b"])
    with pytest.raises(PlanError, match=r"matches no tensor of the model, did you mean 'layers\[0\]\.w'"):
        planned("layer[0].w")
