"""Planes that tensors share: who shares them, what later stages do to them, and what the file holds of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

import stackc
from stackc.artifact.reader import Artifact
from stackc.core.spec import PlaneSpec
from stackc.core.stack import describe, references, shared_planes
from stackc.models import open_reference
from stackc.planning.plan import Plan, plan_recipe
from stackc.planning.program import Program
from stackc.planning.settle import settle
from stackc.recipe.document import parse_document
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.reporting.shares import shares
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.util.errors import PlanError, TensorError
from tests.helpers.programs import session_of

SHAPES = {
    "layers.0.key": (24, 16),
    "layers.0.value": (12, 16),
    "layers.1.key": (24, 16),
    "layers.1.value": (12, 16),
    "wide": (12, 20),
    "bias": (16,),
}
SPECS = {name: PlaneSpec(shape, "float32") for name, shape in SHAPES.items()}
LAYERS = {"layers.0.key", "layers.0.value", "layers.1.key", "layers.1.value"}

SEED: dict[str, Any] = {"use": "seed", "rank": 3}
BOOK: dict[str, Any] = {"use": "codebook", "entries": 12, "dims": 2}


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Matrices whose rows lie near one subspace."""
    draw = torch.Generator().manual_seed(seed)
    bases = {width: torch.randn(3, width, generator=draw) for width in (16, 20)}
    made = {}
    for name, shape in SHAPES.items():
        noise = 0.05 * torch.randn(shape, generator=draw)
        made[name] = noise + torch.randn(shape[0], 3, generator=draw) @ bases[shape[1]] if len(shape) == 2 else noise
    return made


class Holder(nn.Module):
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, x in tensors.items():
            self.register_buffer(name.replace(".", "_"), x)


def written(path: Path, *stages: Any, tensors: dict[str, torch.Tensor] | None = None, **options: Any) -> Compressed:
    reference = open_reference(Holder(tensors or state()))
    return compress_to_file(recipe_from({"stages": list(stages)}), reference, path, evaluate=False, **options)


def plan(*stages: Any) -> Plan:
    return plan_recipe(recipe_from({"stages": list(stages)}), SPECS)


def users(planned: Plan) -> dict[str, set[str]]:
    """By shared plane the tensors that use it."""
    return {plane.name: {place.names[0] for place in plane.users} for plane in planned.shared}


# ---- who shares ----


def test_all_that_a_stage_matches() -> None:
    assert users(plan({**SEED, "group": "all", "on": "!wide"})) == {"@0.all.basis": LAYERS}
    assert users(plan({**BOOK, "group": "all"})) == {"@0.all.codebook": set(SHAPES)}


def test_those_whose_names_are_alike_but_for_numbers() -> None:
    assert users(plan({**BOOK, "group": "alike"})) == {
        "@0.layers.N.key.codebook": {"layers.0.key", "layers.1.key"},
        "@0.layers.N.value.codebook": {"layers.0.value", "layers.1.value"},
    }


def test_those_that_each_pattern_matches_and_no_earlier_one() -> None:
    stage = {**BOOK, "group": ["layers.0.*", "*.key", "layers.1.value", "!layers*"]}
    assert users(plan(stage)) == {
        "@0.1.codebook": {"layers.0.key", "layers.0.value"},
        # layers.1.key and layers.1.value would be alone in theirs
        "@0.4.codebook": {"wide", "bias"},
    }


def test_what_no_pattern_matches_has_its_own() -> None:
    planned = plan({**BOOK, "group": ["*.key"]})
    assert users(planned) == {"@0.1.codebook": {"layers.0.key", "layers.1.key"}}
    assert {tensor.name for tensor in planned.tensors if shared_planes(tensor.stacks[-1])} == {
        "layers.0.key",
        "layers.1.key",
    }


def test_patterns_name_planes_too() -> None:
    first = {"use": "prune", "on": "layers*", "rows": 0.25}
    planned = plan(first, {**BOOK, "on": "*/{values,fallback}", "group": ["*/values"]})
    assert users(planned) == {"@1.1.codebook": LAYERS}
    assert planned.shared[0].users[0].path == "values/codebook"


@pytest.mark.parametrize("stage", [{**SEED, "group": "all"}, {**BOOK, "dims": 18, "group": "all"}])
def test_matrices_of_other_widths_split(stage: dict[str, Any]) -> None:
    planned = plan_recipe(recipe_from({"stages": [stage]}), {**SPECS, "wider": PlaneSpec((30, 20), "float32")})
    plane = planned.shared[0].name.rpartition(".")[2]
    found = users(planned)
    assert found[f"@0.all.{plane}"] - {"bias"} == LAYERS
    assert found[f"@0.all.{plane}.2"] == {"wide", "wider"}
    assert [part.spec.shape[1] for part in planned.shared] == ([16, 20] if plane == "basis" else [16, 18])


def test_one_user_shares_nothing(tmp_path: Path) -> None:
    planned = plan({**SEED, "on": "wide", "group": "all"})
    assert planned.shared == ()
    grouped = written(tmp_path / "a.stackc", {**SEED, "on": "*wide", "group": "all"})
    own = written(tmp_path / "b.stackc", {**SEED, "on": "*wide"})
    assert grouped.path.read_bytes() == own.path.read_bytes()


# ---- later stages ----


def test_later_stages_match_a_shared_plane_at_the_places_of_its_users() -> None:
    group = {**SEED, "on": "layers*", "group": "all"}
    for pattern in ("*/basis", "layers.1.key/basis", "*.value/{basis,mean}"):
        planned = plan(group, {"use": "int", "bits": 5, "on": pattern}, {"use": "ans", "on": "*/codes"}, "zstd")
        (basis,) = planned.shared
        assert describe(basis.stacks[-1]) == "int(codes: ans, scale: zstd)"
        assert "basis: @0.all.basis" in describe(planned.tensors[0].stacks[-1])
    assert planned.stages[1].matched == 3, "the shared basis, and two means"
    assert list(basis.steps[1]) == [""]


def test_a_shared_plane_is_left_out_when_no_user_is_meant() -> None:
    group = {**SEED, "on": "layers*", "group": "alike"}
    planned = plan(group, {"use": "int", "bits": 5, "on": ["*/basis", "!*.key/*"]})
    assert [describe(plane.stacks[-1]) for plane in planned.shared] == ["raw", "int(codes: raw, scale: raw)"]
    # It is one plane: that one of its users is left out does not take it from the others.
    planned = plan({**group, "group": "all"}, {"use": "int", "bits": 5, "on": ["*/basis", "!*.key/*"]})
    assert [describe(plane.stacks[-1]) for plane in planned.shared] == ["int(codes: raw, scale: raw)"]


def test_a_stage_of_the_same_kind_leaves_shared_side_information_alone() -> None:
    with pytest.raises(PlanError, match=r"fits none of the 6 planes it matches: layers\.0\.key/codes"):
        plan({**BOOK, "group": "all"}, {**BOOK, "group": "all"})
    again = plan({**BOOK, "group": "all"}, {**BOOK, "entries": 3, "on": "*/codebook"})
    assert [describe(plane.stacks[-1]) for plane in again.shared] == ["codebook(codes: raw, codebook: raw)"]


def test_shared_planes_share_in_turn(tmp_path: Path) -> None:
    stages = [
        {**SEED, "on": "layers*", "group": "alike"},
        {"use": "codebook", "on": "*/basis", "entries": 4, "group": "all"},
        {"use": "int8", "on": "*/basis/codebook"},
    ]
    planned = plan(*stages)
    assert [plane.name for plane in planned.shared] == [
        "@0.layers.N.key.basis",
        "@0.layers.N.value.basis",
        "@1.all.codebook",
    ]
    assert users(planned)["@1.all.codebook"] == LAYERS
    done = written(tmp_path / "x.stackc", *[{**s, "on": s["on"].replace("layers", "*layers")} for s in stages])
    with Artifact(done.path) as artifact:
        assert len(artifact.shared) == 3
        assert all(bool(artifact[name].isfinite().all()) for name in artifact)


def test_a_stage_on_nothing_but_a_shared_plane_that_is_packed_comes_too_late() -> None:
    packed = {"use": "zstd", "on": "*/basis"}
    with pytest.raises(PlanError, match=r"comes too late: .*basis.* is already packed by stages\[1\]"):
        plan({**SEED, "on": "layers*", "group": "all"}, packed, {"use": "int8", "on": "layers.0.key/basis"})


# ---- what stands in the file ----


def program(*stages: Any, tensors: dict[str, torch.Tensor] | None = None) -> Program:
    tensors = tensors or state()
    recipe = recipe_from({"stages": list(stages)})
    specs = {name: PlaneSpec.of(x) for name, x in tensors.items()}
    return settle(Program.of(recipe, specs), session_of(tensors))


def test_what_is_shared_is_found_once_for_the_group() -> None:
    done = program({**SEED, "on": "layers*", "group": "all"})
    rows = torch.cat([x - x.mean(0) for name, x in state().items() if name in LAYERS])
    expected = torch.linalg.svd(rows.double())[2][:3]
    (basis,) = done.shared.values()
    assert torch.allclose((basis.double() @ expected.T).abs(), torch.eye(3, dtype=torch.float64), atol=1e-4)


def test_errors_of_a_group_name_stage_and_plane() -> None:
    tensors = state()
    tensors["layers.1.key"][2, 3] = torch.nan
    for stage, name in ((SEED, "seed"), (BOOK, "codebook")):
        with pytest.raises(TensorError, match=rf"^stages\[0\] \({name}\) on layers\.1\.key: 1 of 384 values is NaN"):
            program({**stage, "on": "layers*", "group": "all"}, tensors=tensors)


@pytest.mark.parametrize("stage", [SEED, BOOK], ids=["seed", "codebook"])
def test_bytes_are_charged_once(stage: dict[str, Any], tmp_path: Path) -> None:
    on = {**stage, "on": "*layers*"}
    own = written(tmp_path / "own.stackc", on).report
    one = written(tmp_path / "one.stackc", {**on, "group": "all"})
    plane = "basis" if stage is SEED else "codebook"
    with Artifact(one.path) as artifact:
        (shared,) = artifact.shared
        nbytes = artifact.shared.specs[shared].nbytes
        split = shares(artifact)
        assert sum(split.tensors.values()) == nbytes
        assert [split.tensors[name] for name in artifact if "layers" in name] == [nbytes // 4] * 4
        assert [use.plane for use in references(artifact.stack("layers_0_key"), artifact.specs["layers_0_key"])] == [
            shared
        ]
    rows = {row.plane: row for row in one.report.bytes}
    assert (rows[plane].count, rows[plane].bytes) == (1, nbytes)
    assert {row.plane: row for row in own.bytes}[plane].bytes == 4 * nbytes
    assert sum(row.bytes for row in one.report.bytes) == one.report.file.bytes == one.path.stat().st_size


STAGES = (
    {**SEED, "on": "*layers*", "group": "alike"},
    {"use": "int", "on": "*/{basis,scores}", "step": 0.02},
    {"use": "codebook", "on": "*{wide,bias}", "entries": 5, "group": "all"},
    {"use": "fp16", "on": ["*/codebook", "*/mean"]},
    "auto",
)


def test_a_locked_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path / "first.stackc", *STAGES)
    lock = parse_document(first.lock, "first.lock.yaml")
    names = {plane for chosen in lock.value["lock"]["choices"].values() for plane in chosen}
    assert {
        "@0.layers_N_key.basis/codes",
        "@0.layers_N_value.basis/codes",
        "@2.all.codebook/values",
    } <= names
    assert lock.value["stages"][2] == {
        "use": "codebook",
        "on": ["*{wide,bias}"],
        "entries": 5,
        "dims": 1,
        "group": "all",
    }
    again = compress_to_file(
        parse_recipe(lock), open_reference(Holder(state())), tmp_path / "again.stackc", evaluate=False
    )
    assert again.path.read_bytes() == first.path.read_bytes()
    assert again.report.notes == first.report.notes


def test_the_file_of_every_stage_is_that_of_the_stages_so_far(tmp_path: Path) -> None:
    report = written(tmp_path / "all.stackc", *STAGES).report
    for count, row in enumerate(report.stages, 1):
        alone = written(tmp_path / f"{count}.stackc", *STAGES[:count], every_stage=False)
        assert row.bytes_if_stopped_here == alone.report.file.bytes
        assert row.weight_error == pytest.approx(alone.report.final.weight_error, rel=1e-12)


def test_a_group_keeps_its_planes_when_choices_are_made_around_it(tmp_path: Path) -> None:
    """Settling plans again: that has to give the same shared planes, made before."""
    stages = [
        {"use": "prune", "on": "*layers*", "sparsity": 0.4, "scope": "global"},
        {"use": "codebook", "on": "*/values", "entries": 6, "group": "alike"},
        {"use": "seed", "on": "*wide", "variance": 0.9},
        {"use": "int", "on": "*/codebook", "step": 0.01},
    ]
    done = written(tmp_path / "x.stackc", *stages)
    with Artifact(done.path) as artifact:
        assert len(artifact.shared) == 2
        for name, x in state().items():
            if name in LAYERS:
                decoded = artifact[name.replace(".", "_")]
                assert int((decoded == 0).sum()) >= 0.2 * x.numel()
                assert float(torch.dist(decoded, x)) < 0.5 * float(x.norm())


def test_an_open_file_is_compressed_again_as_any_model(tmp_path: Path) -> None:
    first = written(tmp_path / "first.stackc", {**BOOK, "on": "*layers*", "group": "all"})
    with stackc.open(first.path) as artifact:
        state_dict = artifact.state_dict()
    second = written(tmp_path / "second.stackc", {**BOOK, "on": "*layers*", "group": "all"}, tensors=dict(state_dict))
    with stackc.open(second.path) as artifact:
        assert all(torch.equal(artifact[name], x) for name, x in state_dict.items()), "twelve entries are exact"


def test_groups_are_settings_of_the_run_and_not_of_the_file() -> None:
    first = plan({**BOOK, "group": ["layers*"]}).tensors[0].stacks[-1]
    other = plan({**BOOK, "group": ["*e*"]}).tensors[0].stacks[-1]
    stored = [msgspec.to_builtins(stack.transform.stored) for stack in (first, other)]  # type: ignore[union-attr]
    assert stored[0] == stored[1]
    assert (stored[0]["group"], stored[0]["shared"]) == (None, True)


@pytest.mark.parametrize("last", ["raw", "zstd", "floats", "auto"])
@pytest.mark.parametrize(
    "stages",
    [
        [],
        [{"use": "fp16", "on": "*/codebook"}],
        [{"use": "int", "on": "*/codebook", "bits": 7}, {"use": "context", "on": "*/codebook/codes"}],
        [{"use": "prune", "on": "*/codebook", "rows": 0.25}, {"use": "ans", "on": "*/mask"}],
    ],
    ids=["as it is", "fp16", "int, context", "prune, ans"],
)
def test_any_stage_and_packer_takes_the_codebook_of_a_group(stages: list[Any], last: str, tmp_path: Path) -> None:
    done = written(tmp_path / "x.stackc", {**BOOK, "on": "*layers*", "group": "all"}, *stages, last, every_stage=False)
    with Artifact(done.path) as artifact:
        assert len(artifact.shared) == 1
        book = artifact.shared["@0"]
        for name, x in state().items():
            decoded = artifact[name.replace(".", "_")]
            if name in LAYERS:
                pairs = {tuple(pair) for pair in decoded.reshape(-1, 2).tolist()}
                assert pairs <= {tuple(entry) for entry in book.tolist()}
                assert float(torch.dist(decoded, x)) < 0.8 * float(x.norm())
            else:
                assert torch.equal(decoded, x)
