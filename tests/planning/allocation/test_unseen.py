"""Losses are estimated on texts whose tokens are not counted for the choice of rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import stackc
from stackc.models import open_reference
from stackc.planning.allocation import run as run_module
from stackc.planning.allocation.run import _pool
from stackc.planning.allocation.unseen import counts_tokens, unseen_weights
from stackc.planning.plan import plan_recipe
from stackc.recipe.parse import recipe_from
from stackc.tasks import find_task
from stackc.tasks.calibration import Calibration
from stackc.tasks.row_weights import row_weights

PRUNE = {"use": "prune", "on": "*word_embeddings.weight", "rows": "auto", "weights": "token-counts"}
STAGES = [PRUNE, {"use": "int", "step": "auto"}, "context", "floats"]
TRAIN = ["the film was so good", "film was", "the acting was bad", "acting", "a plot is boring", "so it is"]


def _task(folder: Path) -> dict[str, str]:
    (folder / "train.tsv").write_text("text\n" + "\n".join(TRAIN) + "\n")
    (folder / "dev.tsv").write_text("text\tlabel\nit was good\t1\nit was bad\t0\n")
    return {"name": "text-classification", "data": str(folder / "dev.tsv"), "train": str(folder / "train.tsv")}


def test_tokens_are_counted_in_whole_texts_that_are_not_looked_at(tmp_path: Path, tiny_model: Path) -> None:
    reference, task = open_reference(str(tiny_model)), find_task(_task(tmp_path))
    recipe = recipe_from({"stages": STAGES, "allocate": {"ratio": 4}})
    plan = plan_recipe(recipe, reference.specs, reference.ties)
    assert counts_tokens(plan)
    tokenizer, pool = reference.tokenizer(), _pool(plan, task, reference)
    assert pool is not None
    looked_at = [row for batch in pool.batches for row in batch["input_ids"]]
    assert len(looked_at) == 2, "half of the four whole texts; the others are counted"
    rows = reference.specs["bert.embeddings.word_embeddings.weight"].shape[0]
    given = [torch.ones(rows), torch.ones(3), None, None]
    weights, *others = unseen_weights(plan, given, task, tokenizer, pool)
    whole = [TRAIN[0], TRAIN[2], TRAIN[4], TRAIN[5]]
    seen = [ids for text in (whole[1], whole[3]) for ids in tokenizer(text)["input_ids"]]
    assert others == given[1:]
    assert weights is not None
    assert weights.tolist() == [Counter(seen)[token] + 0.5 for token in range(rows)]
    assert unseen_weights(plan, [None] * 4, task, tokenizer, pool) == [None] * 4


def test_inputs_without_tokens_leave_counts_as_they_are(tmp_path: Path, tiny_model: Path) -> None:
    reference, task = open_reference(str(tiny_model)), find_task(_task(tmp_path))
    plan = plan_recipe(recipe_from({"stages": STAGES, "allocate": {"ratio": 4}}), reference.specs, reference.ties)
    rows = reference.specs["bert.embeddings.word_embeddings.weight"].shape[0]
    given = [torch.ones(rows), None, None, None]
    found, *_ = unseen_weights(plan, given, task, reference.tokenizer(), Calibration(({"pixels": torch.zeros(2, 3)},)))
    assert found is not None
    assert (
        float(found.sum())
        == sum(len(reference.tokenizer()(text)["input_ids"]) for text in TRAIN if " " in text and text != "film was")
        + rows / 2
    )


def test_a_target_is_reached_with_rows_left_open(
    tmp_path: Path, tiny_model: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []

    class Watched(run_module.Allocator):
        def __init__(self, program: Any, session: Any, sensitivity: Any, weights: Any) -> None:
            given.append(weights[0])
            super().__init__(program, session, sensitivity, weights)

    monkeypatch.setattr(run_module, "Allocator", Watched)
    task = {
        "name": "text-classification",
        "data": str(reviews),
        "train": str(reviews.with_name("reviews-train.tsv")),
    }
    recipe = {"model": str(tiny_model), "task": task, "calibration": {"rows": 16}, "stages": STAGES}
    run = stackc.run({**recipe, "allocate": {"ratio": 6}}, output=tmp_path / "out", every_stage=False)
    target = run.report.allocation.target_bytes
    assert 0.98 * target <= run.report.file.bytes <= target
    everything = row_weights(
        "token-counts", rows=len(given[0]), task=find_task(task), tokenizer=open_reference(str(tiny_model)).tokenizer()
    )
    assert float(given[0].sum()) < float(everything.sum()), "what is looked at is not counted"
    assert "rows" in next(iter(run.report.allocation.choices["stages[0]"].values()))
