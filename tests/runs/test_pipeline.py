"""The whole path into one file: what the report says, and that the bytes depend on nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.models import open_reference
from stackc.recipe.document import Document, parse_document, read_document
from stackc.recipe.overrides import override
from stackc.recipe.parse import load_recipe, parse_recipe, recipe_from, shipped_recipes
from stackc.reporting.report import Report
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.util.errors import DataError, ModelError, PlanError, RecipeError, TensorError
from tests.helpers.finetunes import finetune
from tests.helpers.models import tied, weights, weights_file

ROOT = Path(__file__).parents[2]

#: Every transform and packer, choices over the whole model included.
STAGES: list[Any] = [
    {"use": "prune", "on": "layer.weight", "columns": 0.25},
    {"use": "prune", "on": ["half.weight", "layer.weight/values"], "sparsity": 0.5, "scope": "global"},
    {"use": "seed", "on": "embeddings.weight", "variance": 0.9},
    {"use": "int", "on": ["*/scores", "*/basis"], "bits": 4, "symmetric": False},
    {"use": "fp16", "on": "layer.bias"},
    {"use": "ans", "on": ["*/codes", "*/mask"]},
    {"use": "zstd", "on": "!*/mean"},
]


def compress(folder: Path, stages: list[Any], model: Any = None, **options: Any) -> Compressed:
    recipe = recipe_from({"stages": stages, **options.pop("recipe", {})})
    reference = open_reference(model if model is not None else str(weights_file(folder / "model.safetensors")))
    return compress_to_file(recipe, reference, folder / "out.stackc", **options)


def check_bytes(report: Report, path: Path) -> None:
    """The rows add up, both ways, to what the disk says."""
    size = os.stat(path).st_size
    assert report.file.bytes == size == report.final.bytes_if_stopped_here
    assert sum(row.bytes for row in report.bytes) == size
    assert report.model.bytes - sum(row.saved_bytes for row in report.stages) == size
    assert sum(row.bytes for row in report.bytes if row.role == "container") > 20
    assert report.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    before = report.model.bytes
    for row in report.stages:
        assert row.saved_bytes == before - row.bytes_if_stopped_here
        assert row.stage_ratio == pytest.approx(before / row.bytes_if_stopped_here)
        assert row.ratio == pytest.approx(report.model.bytes / row.bytes_if_stopped_here)
        assert row.bits_per_parameter == pytest.approx(8 * row.bytes_if_stopped_here / max(report.model.parameters, 1))
        before = row.bytes_if_stopped_here


def test_the_report_of_a_run(tmp_path) -> None:
    result = compress(tmp_path, STAGES)
    report = result.report
    assert result.path == tmp_path / "out.stackc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "out.stackc"]
    check_bytes(report, result.path)
    state = weights()
    assert report.model.bytes == sum(x.numel() * x.element_size() for x in state.values())
    assert report.model.parameters == sum(x.numel() for x in state.values())
    assert report.model.tensors == len(state)
    assert report.model.fp16_bytes == sum(
        2 * x.numel() if x.is_floating_point() else 8 * x.numel() for x in state.values()
    )
    assert report.file.ratio == pytest.approx(report.model.bytes / report.file.bytes)
    assert report.file.ratio_to_fp16 == pytest.approx(report.model.fp16_bytes / report.file.bytes)
    assert report.file.ratio_to_lossless == pytest.approx(report.model.lossless_bytes / report.file.bytes)
    assert (report.file.weights_bytes, report.file.self_contained_bytes) == (report.file.bytes, None)
    assert [row.use for row in report.stages] == ["prune", "prune", "seed", "int", "fp16", "ans", "zstd"]
    assert [row.planes for row in report.stages] == [1, 2, 1, 2, 1, 5, 12]
    assert report.reference_score is None
    assert report.task == {"task": "none"}
    assert report.notes == []
    errors = [row.weight_error for row in report.stages]
    assert errors == sorted(errors)
    assert errors[-1] == errors[-2] == errors[-3] > 0
    assert all(row.peak_memory_bytes > 1 << 20 and row.decode_seconds > 0 for row in report.stages)
    assert set(report.seconds) == {"fingerprint", "evaluate", "settle", "allocate", "encode", "decode"}
    assert msgspec.json.decode(report.to_json(), type=Report) == report
    rows = {(row.role, row.plane, row.packer): row for row in report.bytes}
    assert rows["payload", "codes", "ans"].count == 1
    assert rows["side", "mean", "raw"].bytes == 64
    assert rows["payload", "values", "zstd"].entropy_bytes > 0


def test_the_weight_error_is_that_of_the_decoded_file(tmp_path) -> None:
    result = compress(tmp_path, [{"use": "prune", "sparsity": 0.5}, {"use": "int", "bits": 3, "on": "*/values"}, "raw"])
    state = {name: x.double() for name, x in weights().items() if x.is_floating_point()}
    with Artifact(result.path) as artifact:
        error = sum(float((artifact[name].double() - x).square().sum()) for name, x in state.items())
    norm = sum(float(x.square().sum()) for x in state.values())
    assert result.report.final.weight_error == pytest.approx((error / norm) ** 0.5, rel=1e-12)


def test_bytes_of_earlier_stages_are_those_of_the_shorter_recipe(tmp_path) -> None:
    whole = compress(tmp_path, STAGES).report
    for count in range(1, len(STAGES)):
        shorter = compress(tmp_path, STAGES[:count]).report
        assert shorter.file.bytes == whole.stages[count - 1].bytes_if_stopped_here
        assert shorter.final.weight_error == whole.stages[count - 1].weight_error


def test_without_every_stage_there_is_one_row_and_the_same_file(tmp_path) -> None:
    first = compress(tmp_path, STAGES)
    data = first.path.read_bytes()
    second = compress(tmp_path, STAGES, every_stage=False)
    assert second.path.read_bytes() == data
    assert second.lock == first.lock
    check_bytes(second.report, second.path)
    (row,) = second.report.stages
    assert row.use == "recipe"
    assert row.planes == sum(one.planes for one in first.report.stages)
    assert row.weight_error == first.report.final.weight_error
    assert row.description == ", ".join(one.description for one in first.report.stages)
    assert second.report.bytes == first.report.bytes


def test_a_lossless_recipe_keeps_every_bit_also_of_nan(tmp_path) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45] * 4)
    model = str(weights_file(tmp_path / "odd.safetensors", norm__weight=odd))
    result = compress(tmp_path, ["zstd"], model)
    assert result.report.final.weight_error == 0
    with Artifact(result.path) as artifact:
        for name, x in (weights() | {"norm.weight": odd}).items():
            assert to_bytes(artifact[name]) == to_bytes(x)


@pytest.mark.parametrize("stages", [["int8"], ["int8", "zstd"], ["fp16"], [{"use": "prune", "sparsity": 0.5}]])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_lossy_stage_refuses_nan_and_leaves_nothing(tmp_path, stages: list[Any], value: float) -> None:
    odd = torch.ones(16)
    odd[5] = value
    model = str(weights_file(tmp_path / "odd.safetensors", norm__weight=odd))
    use = recipe_from({"stages": stages}).stages[0].config.name
    with pytest.raises(TensorError) as caught:
        compress(tmp_path, stages, model)
    assert str(caught.value).startswith(f"stages[0] ({use}) on norm.weight: 1 of 16 values is NaN or infinite")
    assert [path.name for path in tmp_path.iterdir()] == ["odd.safetensors"]


def test_ties_of_a_module_are_stored_once_and_restored(tmp_path) -> None:
    module = tied()
    result = compress(tmp_path, ["zstd"], module)
    assert result.report.model.bytes == 4 * (20 * 8 + 8 * 8 + 8) + 8
    with Artifact(result.path) as artifact:
        assert artifact.ties == {"output.weight": "embedding.weight"}
        other = tied(seed=1)
        other.load_state_dict(artifact.state_dict())
    ids = torch.arange(20)
    assert torch.equal(other(ids), module(ids))
    assert other.output.weight is other.embedding.weight


def test_a_model_without_tensors(tmp_path) -> None:
    with pytest.raises(PlanError, match=r"stages\[0\] \(zstd\) matches no plane"):
        compress(tmp_path, ["zstd"], torch.nn.Identity())
    result = compress(tmp_path, [{"use": "zstd", "allow_empty": True}], torch.nn.Identity())
    check_bytes(result.report, result.path)
    assert result.report.final.peak_memory_bytes == 0


# -- the same bytes ---------------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, sys
import torch
request = json.load(sys.stdin)
torch.set_num_threads(request["threads"])
from pathlib import Path
from stackc.runs.pipeline import compress_to_file
from stackc.recipe.parse import recipe_from
from stackc.models import open_reference
for recipe, model, path in request["runs"]:
    compress_to_file(recipe_from(recipe), open_reference(model), Path(path))
"""


def run_elsewhere(runs: list[Any], threads: int, hash_seed: str) -> None:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps({"threads": threads, "runs": [[recipe, model, str(path)] for recipe, model, path in runs]}),
        check=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=120,
    )


def test_another_process_with_other_threads_and_hashes_gives_the_same_bytes(tmp_path) -> None:
    model = str(weights_file(tmp_path / "large.safetensors", 1, large=torch.randn(700, 300)))
    every = [*STAGES[:3], {"use": "seed", "on": "large", "rank": 20}, *STAGES[3:]]
    recipes = [{"stages": every}, {"stages": ["zstd"]}, {"stages": ["int8", {"use": "ans", "on": "*/codes"}]}]
    files = [compress_to_file(recipe_from(r), open_reference(model), tmp_path / f"{n}") for n, r in enumerate(recipes)]
    runs = [(recipe, model, tmp_path / f"other-{n}") for n, recipe in enumerate(recipes)]
    run_elsewhere(runs, threads=torch.get_num_threads() + 2, hash_seed="7")
    for file, (_, _, other) in zip(files, runs, strict=True):
        assert file.path.read_bytes() == other.read_bytes()


def locked(result: Compressed) -> Document:
    return parse_document(result.lock, "recipe.lock.yaml")


def test_the_lock_gives_the_same_bytes_and_the_same_lock(tmp_path) -> None:
    result = compress(tmp_path, STAGES)
    data = result.path.read_bytes()
    recipe = parse_recipe(locked(result))
    assert set(recipe.lock.choices) == {"1", "2"}
    assert sum(choice["keep"] for choice in recipe.lock.choices["1"].values()) == round(0.5 * (16 * 8 + 24 * 12))
    reference = open_reference(str(tmp_path / "model.safetensors"))
    again = compress_to_file(recipe, reference, tmp_path / "again.stackc")
    assert again.path.read_bytes() == data
    assert again.lock == result.lock
    assert again.report.notes == []


def test_a_lock_refuses_other_weights(tmp_path) -> None:
    recipe = parse_recipe(locked(compress(tmp_path, STAGES)))
    other = open_reference(str(weights_file(tmp_path / "model.safetensors", seed=1)))
    with pytest.raises(ModelError, match=r"the lock was made for weights with fingerprint .* remove the 'lock' key"):
        compress_to_file(recipe, other, tmp_path / "again.stackc")


def test_a_lock_refuses_other_parameters(tmp_path) -> None:
    document = locked(compress(tmp_path, STAGES))
    with pytest.raises(RecipeError, match="was changed after it was locked"):
        compress(tmp_path, [], recipe=override(document, ["stages[1].sparsity=0.9"]).value)


def test_a_file_that_differs_from_the_locked_one_is_noted(tmp_path) -> None:
    document = locked(compress(tmp_path, STAGES))
    other = override(document, [f"lock.artifact={'0' * 63}a", "lock.versions.torch='1.0'"])
    (note,) = compress(tmp_path, [], recipe=other.value).report.notes
    assert "differs from the one that the lock was written with" in note
    assert "torch 1.0 is now 2" in note


# -- row weights ------------------------------------------------------------------------------------------------------


def test_row_weights_from_a_file_change_what_is_kept_and_are_locked(tmp_path) -> None:
    importance = np.arange(40, dtype=np.float64)
    np.save(tmp_path / "rows.npy", importance)
    stage = {"use": "prune", "on": "embeddings.weight", "rows": 0.5, "weights": str(tmp_path / "rows.npy")}
    result = compress(tmp_path, [stage, {"use": "prune", "on": "layer.weight", "rows": 0.5}, "zstd"])
    plain = compress(tmp_path, [{**stage, "weights": None}, "zstd"])
    assert result.report.stages[0].weight_error > plain.report.stages[0].weight_error
    recipe = parse_recipe(locked(result))
    assert list(recipe.lock.weights) == ["0"]
    np.save(tmp_path / "rows.npy", importance + 1)
    with pytest.raises(PlanError, match=r"stages\[0\]: the row weights .* are not those of the lock"):
        compress_to_file(recipe, open_reference(str(tmp_path / "model.safetensors")), tmp_path / "again.stackc")


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [
        (
            {"use": "prune", "on": "*s.weight", "rows": 0.5},
            DataError,
            "40 rows need 40 numbers in one column, the file holds 41",
        ),
        (
            {"use": "int", "bits": 4},
            PlanError,
            r"stages\[0\] \(int\): row weights are for tensors with one number of rows",
        ),
        ({"use": "int", "on": "scalar"}, DataError, "1 rows need 1 numbers"),
        ({"use": "int", "on": "*s.weight", "weights": "no.npy"}, DataError, "'no.npy' is not there"),
        ({"use": "int", "on": "*s.weight", "weights": "token-counts"}, DataError, "need the model's tokenizer"),
        ({"use": "int", "on": "*s.weight", "weights": "token-count"}, DataError, "did you mean 'token-counts'"),
    ],
)
def test_row_weights_that_do_not_fit(tmp_path, stage: dict[str, Any], error: type[Exception], message: str) -> None:
    np.save(tmp_path / "rows.npy", np.ones(41))
    with pytest.raises(error, match=message):
        compress(tmp_path, [{"weights": str(tmp_path / "rows.npy"), **stage}, "raw"])
    assert not (tmp_path / "out.stackc").exists()


def test_row_weights_of_a_stage_that_matches_nothing_are_not_needed(tmp_path) -> None:
    stage = {"use": "int", "on": "no.such", "weights": "no.npy", "allow_empty": True}
    assert compress(tmp_path, [stage, "raw"]).report.stages[0].planes == 0


# -- a model with a tokenizer and a task -------------------------------------------------------------------------------


def adapted(name: str, model: Path, task: dict[str, object], base: Path) -> Any:
    """A shipped recipe for the tiny model: what is too large for it made smaller, the data replaced."""
    document = read_document(shipped_recipes()[name])
    assignments = [f"model={json.dumps(str(model))}", f"task={json.dumps(task)}"]
    for index, stage in enumerate(document.value["stages"]):
        if isinstance(stage, dict) and isinstance(stage.get("rank"), int):
            assignments.append(f"stages[{index}].rank={min(stage['rank'], 2)}")
        if isinstance(stage, dict) and "base" in stage:
            assignments.append(f"stages[{index}].base={json.dumps(str(base))}")
        if isinstance(stage, dict) and stage["use"] == "heal":
            assignments += [f"stages[{index}].{key}" for key in ("steps=4", "batch_size=8", "holdout=10", "data=[]")]
    if "allocate" in document.value:
        assignments.append("allocate.ratio=8")
    return parse_recipe(override(document, assignments))


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_rows_add_up_for_every_shipped_recipe(name: str, tmp_path, tiny_model: Path, tiny_task) -> None:
    base = finetune(tiny_model, tmp_path / "base")
    recipe = adapted(name, tiny_model, tiny_task, base)
    result = compress_to_file(recipe, open_reference(str(tiny_model)), tmp_path / "out.stackc")
    check_bytes(result.report, result.path)
    assert len(result.report.stages) == len(load_recipe(name).stages)
    assert [one.source for one in result.report.file.bases] == ([str(base)] if name.startswith("delta") else [])
    assert result.report.reference_score.retention == 1
    for row in result.report.stages:
        assert row.score.rows == 60
        assert 0 <= row.score.low <= row.score.value <= row.score.high <= 1
    if name in ("lossless", "delta-exact"):
        assert result.report.final.score.agreement == 1
        assert result.report.final.score.kl == 0


def test_models_with_the_same_bits_are_evaluated_once(tmp_path, tiny_model: Path, tiny_task) -> None:
    from stackc.util.progress import Progress

    class Watching(Progress):
        seen: list[str] = []  # noqa: RUF012 - the test's own

        def task(self, description: str, total: int) -> Any:
            self.seen.append(description)
            return super().task(description, total)

    watching = Watching()
    recipe = {"task": tiny_task}
    result = compress(tmp_path, ["fp16", "zstd"], str(tiny_model), recipe=recipe, progress=watching)
    assert watching.seen == [
        "evaluate reference",
        "encode",
        "decode after fp16",
        "evaluate after fp16",
        "decode after zstd",
    ]
    assert result.report.stages[0].score == result.report.stages[1].score


def test_both_sizes_of_a_model_with_a_tokenizer(tmp_path, tiny_model: Path) -> None:
    plain = compress(tmp_path, ["int8", "zstd"], str(tiny_model)).report
    assert plain.file.weights_bytes == plain.file.bytes == os.stat(tmp_path / "out.stackc").st_size
    bundled = compress(tmp_path, ["int8", "zstd"], str(tiny_model), recipe={"bundle": ["tokenizer"]})
    check_bytes(bundled.report, bundled.path)
    assert bundled.report.file.self_contained_bytes == bundled.report.file.bytes == plain.file.self_contained_bytes
    assert bundled.report.file.weights_bytes == plain.file.bytes
    assert all(
        row.bytes_if_stopped_here > plain.file.self_contained_bytes - plain.file.bytes for row in bundled.report.stages
    )
    (row,) = [row for row in bundled.report.bytes if row.role == "bundle"]
    with Artifact(bundled.path) as artifact:
        assert row.bytes == sum(artifact.bundled.values())
        assert row.count == len(artifact.bundled)
        for name in artifact.bundled:
            assert artifact.bundled_file(name) == (tiny_model / name).read_bytes()
        assert (
            artifact.tokenizer()("a great film")["input_ids"]
            == open_reference(str(tiny_model)).tokenizer()("a great film")["input_ids"]
        )


def test_a_tokenizer_that_is_not_there_cannot_be_bundled(tmp_path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer; remove 'tokenizer' from 'bundle'"):
        compress(tmp_path, ["raw"], recipe={"bundle": ["tokenizer"]})


DECODE_ALONE = """
import json, os, socket, sys

class Blocked(socket.socket):
    def __init__(self, *arguments, **options):
        raise AssertionError("the network was asked for")

socket.socket = Blocked
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import stackc
torch.set_num_threads(1)
state = stackc.open("model.stackc").state_dict()
model = stackc.load("model.stackc")
tokenizer = stackc.open("model.stackc").tokenizer()
batch = tokenizer(["the film is great .", "a dull story"], padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
torch.save({"state": state, "logits": logits}, "decoded.pt")
"""


def test_a_file_decodes_where_the_reference_and_the_network_are_missing(tmp_path, tiny_model: Path) -> None:
    import shutil

    source = tmp_path / "source"
    shutil.copytree(tiny_model, source)
    stages = [
        {"use": "seed", "on": "*word_embeddings.weight", "rank": 6},
        "int8",
        {"use": "ans", "on": "*/codes"},
        "zstd",
    ]
    result = compress(tmp_path, stages, str(source), recipe={"bundle": ["tokenizer"]})
    with Artifact(result.path) as artifact:
        state, model, tokenizer = artifact.state_dict(), artifact.build(), artifact.tokenizer()
    batch = tokenizer(["the film is great .", "a dull story"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.move(result.path, alone / "model.stackc")
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-c", DECODE_ALONE], check=True, cwd=alone, timeout=120)
    decoded = torch.load(alone / "decoded.pt")
    assert set(decoded["state"]) == set(state)
    assert all(torch.equal(decoded["state"][name], x) for name, x in state.items())
    assert torch.equal(decoded["logits"], logits)


def test_a_bare_weights_file_has_sizes_and_weight_errors_only(tmp_path, tiny_task) -> None:
    report = compress(tmp_path, ["raw"], recipe={"task": tiny_task}).report
    assert (report.reference_score, report.final.score, report.final.weight_error) == (None, None, 0.0)
    assert report.notes == [
        "the task text-classification was not run: a bare weights file has no architecture, so sizes and weight errors are all"
    ]


def test_the_lossless_comparison_is_the_size_of_a_whole_file(tmp_path) -> None:
    """What the lossless recipe itself writes, container included."""
    report = compress(tmp_path, ["floats", {"use": "zstd", "allow_empty": True}]).report
    assert report.model.lossless_bytes == report.file.weights_bytes
    assert report.file.ratio_to_lossless == 1
