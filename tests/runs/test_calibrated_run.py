"""Calibration over the whole path: what is locked, what is refused, and that outputs come out better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stackc.artifact.reader import Artifact
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.core.stack import decode
from stackc.core.transform import Known
from stackc.models import open_reference
from stackc.planning.encode import Walker
from stackc.planning.plan import plan_recipe
from stackc.recipe.document import parse_document
from stackc.recipe.overrides import override
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.runs.stage_data import calibration_notes
from stackc.tasks.calibration import calibration_batches, run_model
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError, PlanError, RecipeError
from tests.helpers.tiny import tiny_classifier, tiny_reviews

LINEAR = ["*.query.weight", "*.key.weight", "*.value.weight", "*.dense.weight"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and tiny reviews."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_classifier(folder / "model")
    tiny_reviews(folder)
    return folder


def recipe_of(folder: Path, *stages: Any, **more: Any) -> dict[str, Any]:
    task = {
        "name": "text-classification",
        "data": str(folder / "reviews.tsv"),
        "train": str(folder / "reviews-train.tsv"),
    }
    return {"task": task, "stages": list(stages), **more}


def compress(folder: Path, path: Path, *stages: Any, **more: Any) -> Compressed:
    recipe = recipe_from(recipe_of(folder, *stages, **more))
    return compress_to_file(recipe, open_reference(str(folder / "model")), path, evaluate=False)


def output_error(folder: Path, path: Path) -> float:
    """Change of the logits on texts that no calibration has seen."""
    reference = open_reference(str(folder / "model"))
    held_out = TextClassification(data=str(folder / "reviews-train.tsv"), train=str(folder / "reviews.tsv"))
    batches = calibration_batches(held_out, reference)
    with Artifact(path) as artifact, torch.no_grad():
        logits = [
            torch.cat([output.logits for output in run_model(model, batches)])  # type: ignore[attr-defined]
            for model in (reference.build(), artifact.build())
        ]
    return float(torch.dist(*logits))


def test_outputs_change_less_at_the_same_bits(folder: Path, tmp_path: Path) -> None:
    errors = []
    for calibrated in (False, True):
        path = tmp_path / f"{calibrated}.stackc"
        compress(folder, path, {"use": "int", "on": LINEAR, "bits": 4, "calibrated": calibrated}, "zstd")
        errors.append(output_error(folder, path))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    "before",
    [{"use": "prune", "columns": 0.2}, {"use": "prune", "rows": 0.2}, {"use": "seed", "rank": 20}],
    ids=["columns", "rows", "seed"],
)
def test_planes_of_planes_are_calibrated(before: dict[str, Any]) -> None:
    """What rounding adds to the error that the stage before it has made falls, on inputs that calibration has not seen."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 48, generator=draw)
    mix = torch.randn(48, 48, generator=draw) * torch.logspace(0, -2, 48)[:, None]
    seen, unseen = (torch.randn(500, 48, generator=draw).double() @ mix.double() for _ in range(2))
    spec = PlaneSpec.of(x)
    results = []
    for int_ in ({}, {"bits": 4}, {"bits": 4, "calibrated": True}):
        stages = [before, {"use": "int", "on": "x/{values,basis,scores}", **int_}] if int_ else [before]
        plan = plan_recipe(recipe_from({"stages": stages}), {"x": spec})
        (tensor,) = plan.tensors
        walker = Walker(tensor, x, [None] * len(stages), {"x": seen.T @ seen / 500})
        for stage in range(len(stages)):
            walker.apply(stage)
        results.append(decode(tensor.stacks[-1], spec, lambda path, _, __, walker=walker: walker.planes[path][1]))
    plain, calibrated = (float(torch.dist(unseen @ y.T.double(), unseen @ results[0].T.double())) for y in results[1:])
    assert calibrated < 0.7 * plain


def test_a_lock_gives_the_same_bytes_and_holds_the_calibration_data(folder: Path, tmp_path: Path) -> None:
    stage = {"use": "int", "on": LINEAR, "step": 0.2, "rdo": 0.1, "calibrated": True}
    first = compress(folder, tmp_path / "first.stackc", stage, "ans", calibration={"rows": 40})
    assert first.report.notes == []
    locked = parse_recipe(parse_document(first.lock, "recipe.lock.yaml"))
    assert locked.calibration.rows == 40
    assert locked.lock is not None
    reference = open_reference(str(folder / "model"))
    task = TextClassification(data=str(folder / "reviews.tsv"), train=str(folder / "reviews-train.tsv"))
    assert locked.lock.calibration == calibration_batches(task, reference, 40).fingerprint
    compress_to_file(locked, reference, tmp_path / "again.stackc", evaluate=False)
    assert (tmp_path / "again.stackc").read_bytes() == (tmp_path / "first.stackc").read_bytes()


def test_a_lock_is_refused_when_training_rows_or_their_number_have_changed(folder: Path, tmp_path: Path) -> None:
    stage = {"use": "int", "on": LINEAR, "bits": 4, "calibrated": True}
    first = compress(folder, tmp_path / "first.stackc", stage, "zstd", calibration={"rows": 40})
    other = tmp_path / "train.tsv"
    lines = (folder / "reviews-train.tsv").read_text().splitlines()
    other.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    document = parse_document(first.lock, "recipe.lock.yaml")
    reference = open_reference(str(folder / "model"))
    with pytest.raises(PlanError, match="the calibration data is not that of the lock; the training rows have changed"):
        compress_to_file(
            parse_recipe(override(document, [f"task.train={other}"])),
            reference,
            tmp_path / "out.stackc",
            evaluate=False,
        )
    with pytest.raises(RecipeError, match="was changed after it was locked"):
        compress_to_file(
            parse_recipe(override(document, ["calibration.rows=41"])),
            reference,
            tmp_path / "out.stackc",
            evaluate=False,
        )


def test_the_file_does_not_tell_how_codes_were_chosen(folder: Path, tmp_path: Path) -> None:
    """As many bytes of manifest as with the options off; the stack is that of plain bits."""
    stacks = []
    for options in ({"step": 0.3}, {"step": 0.3, "rdo": 0.05, "calibrated": True}):
        path = tmp_path / f"{len(options)}.stackc"
        compress(folder, path, {"use": "int", "on": "*.pooler.dense.weight", **options}, "raw")
        with Artifact(path) as artifact:
            stacks.append(artifact.stack("bert.pooler.dense.weight"))
    transform = stacks[0].transform
    assert transform == find("int").stage(bits=transform.bits, granularity="tensor")
    assert stacks[1].transform.step is None
    assert not stacks[1].transform.calibrated


def test_matrices_without_moments_are_noted() -> None:
    specs = {name: PlaneSpec((4, 4), "float32") for name in ("layer.weight", "extra")}
    recipe = recipe_from({"stages": [{"use": "int", "bits": 4, "calibrated": True}]})
    (note,) = calibration_notes(plan_recipe(recipe, specs, {}), {"layer.weight": torch.eye(4)})
    assert note == (
        "stages[0] (int) is calibrated: 1 of its matrices, such as extra, are no weights of linear layers, ungrouped convolutions or embeddings that "
        "ran, and were encoded without second moments"
    )


def test_every_matrix_of_a_classifier_has_moments(folder: Path, tmp_path: Path) -> None:
    stages = [{"use": "int", "bits": 4, "calibrated": True}, "zstd"]
    assert compress(folder, tmp_path / "out.stackc", *stages).report.notes == []


def test_embeddings_are_encoded_for_what_the_model_says(folder: Path, tmp_path: Path) -> None:
    """Few components, chosen by gradients of training texts, lose less on other texts than as many plain ones."""
    error = {}
    for calibrated in (False, True):
        path = tmp_path / f"{calibrated}.stackc"
        seed = {"use": "seed", "on": "*word_embeddings.weight", "rank": 14, "calibrated": calibrated}
        compress(folder, path, seed, "raw")
        error[calibrated] = output_error(folder, path)
    assert error[True] < 0.8 * error[False]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"task": "none"},
            DataError,
            r"stages\[0\] \(int\) is calibrated: the recipe has no task, so there is no calib",
        ),
        ({"calibration": {"rows": 0}}, RecipeError, r"calibration\.rows .*: expected 'int' >= 1 \(it is 0\)"),
        ({"calibration": {"row": 5}}, RecipeError, r"calibration has no field 'row', did you mean 'rows'"),
        (
            {"stages": [{"use": "int", "on": "*LayerNorm.weight", "calibrated": True}]},
            PlanError,
            r"stages\[0\] \(int\) is calibrated, but nothing that it matches, such as bert\.embeddings\.LayerNorm\.weight, is "
            "the weight of a linear layer",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    recipe = recipe_of(folder, {"use": "int", "calibrated": True}) | changes
    with pytest.raises(error, match=message):
        compress_to_file(
            recipe_from(recipe), open_reference(str(folder / "model")), tmp_path / "out.stackc", evaluate=False
        )
    assert not (tmp_path / "out.stackc").exists()


def test_recipes_without_calibration_lock_as_before() -> None:
    """A default that is written out is no change."""
    from stackc.recipe.lock import settings_fingerprint

    stages = ["int8", {"use": "int", "on": "*/scores", "bits": 4}]
    plain = settings_fingerprint(recipe_from({"stages": stages}))
    assert plain == settings_fingerprint(recipe_from({"stages": stages, "calibration": {"rows": 512}}))
    assert plain != settings_fingerprint(recipe_from({"stages": stages, "calibration": {"rows": 511}}))
    spelled = [{"use": "int", "bits": 8, "rdo": 0.0, "calibrated": False}, stages[1]]
    assert plain == settings_fingerprint(recipe_from({"stages": spelled}))


def test_second_moments_follow_the_planes() -> None:
    """An error in a plane costs in its own moments what it costs in the tensor, for planes that are linear in it."""
    draw = torch.Generator().manual_seed(0)
    x, v = torch.randn(9, 6, generator=draw), torch.randn(50, 6, generator=draw).double()
    moments = v.T @ v / 50
    spec = PlaneSpec.of(x.double())
    for transform in (
        find("seed").stage(rank=3),
        find("prune").stage(columns=0.5),
        find("prune").stage(rows=0.4),
    ):
        planes = transform.encode(x.double())
        before = transform.decode(planes, spec)
        for plane, carried in transform.carry(Known(moments=moments), planes).items():
            d = torch.randn(planes[plane].shape, generator=draw).double()
            if plane in ("mean", "fallback", "basis"):
                continue  # many rows see these: what they cost depends on how many
            change = transform.decode({**planes, plane: planes[plane] + d}, spec) - before
            cost = float(((change @ v.T) ** 2).sum() / 50)
            assert float((d @ carried.moments @ d.T).trace()) == pytest.approx(cost, rel=1e-6)
