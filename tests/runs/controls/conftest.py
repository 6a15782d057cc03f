"""A model that is right on every row, so that a control has something to lose against."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from stackc.models import open_reference
from stackc.tasks import find_task


@pytest.fixture(scope="session")
def own_task(tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The task of `tiny_model` with the model's own answers as labels."""
    folder = tmp_path_factory.mktemp("own")
    reference = open_reference(tiny_model)
    for source, name in ((reviews, "dev.tsv"), (reviews.with_name("reviews-train.tsv"), "train.tsv")):
        task = find_task({"name": "text-classification", "data": str(source)})
        texts = task.evaluation_texts()
        evaluation = task.prepare(reference.tokenizer(), reference.build().config)
        assert evaluation is not None
        answers = evaluation.measure(reference.build()).values.argmax(1)
        assert 0.3 < answers.double().mean() < 0.7
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(("sentence", "label"))
            writer.writerows(zip(texts, answers.tolist(), strict=True))
    return {"name": "text-classification", "data": str(folder / "dev.tsv"), "train": str(folder / "train.tsv")}
