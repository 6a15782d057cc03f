"""Calibration data are the task's training rows as the model is fed them, and the same ones every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.models import ModuleReference, open_reference
from stackc.tasks.calibration import Calibration, calibration_batches, named_weights, run_model, spread
from stackc.tasks.none import NoTask
from stackc.tasks.task import Task
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError, ModelError
from tests.helpers.models import tied
from tests.helpers.tiny import tiny_classifier, tiny_reviews


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and tiny reviews."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_classifier(folder / "model")
    tiny_classifier(folder / "tied", tied=True)
    tiny_reviews(folder)
    return folder


def task_of(folder: Path, **fields: Any) -> TextClassification:
    return TextClassification(data=str(folder / "reviews.tsv"), train=str(folder / "reviews-train.tsv"), **fields)


@given(length=st.integers(1, 200), count=st.integers(1, 250))
def test_spread_takes_from_all_over(length: int, count: int) -> None:
    taken = spread(range(length), count)
    assert len(taken) == min(count, length)
    assert taken == sorted(set(taken))
    gaps = [b - a for a, b in zip([*taken, length], [*taken[1:], length], strict=False)]
    assert max(gaps) - min(gaps[:-1] or gaps) <= 1 + (length % len(taken) > 0)


def test_rows_are_training_rows_as_the_model_is_fed_them(folder: Path) -> None:
    reference = open_reference(str(folder / "model"))
    tokenizer = reference.tokenizer()
    task = task_of(folder, max_length=8, batch_size=7)
    calibration = calibration_batches(task, reference, 30)
    texts = task.calibration_texts()
    expected = sorted(task.token_ids([texts[i * 90 // 30] for i in range(30)], tokenizer))
    fed = [
        row[mask.bool()].tolist()
        for batch in calibration.batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert sorted(fed) == expected
    assert max(len(batch["input_ids"]) for batch in calibration.batches) == 7
    assert max(map(len, fed)) == 8


def test_the_same_rows_have_the_same_fingerprint_and_others_another(folder: Path) -> None:
    reference = open_reference(str(folder / "model"))
    prints = [calibration_batches(task_of(folder), reference, rows).fingerprint for rows in (20, 20, 21)]
    assert prints[0] == prints[1] != prints[2]
    (batch,) = calibration_batches(task_of(folder), reference, 20).batches
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][3, 2] += 1
    assert Calibration((changed,)).fingerprint != prints[0]
    assert Calibration(({name: value for name, value in batch.items() if name != "token_type_ids"},)).fingerprint


def test_more_rows_than_there_are_take_all(folder: Path) -> None:
    reference = open_reference(str(folder / "model"))
    batches = calibration_batches(task_of(folder), reference, 10_000).batches
    assert sum(len(batch["input_ids"]) for batch in batches) == 90


class _Silent(Task, frozen=True):
    """A task that knows nothing of calibration."""

    name: ClassVar[str] = "silent"

    def check(self) -> None: ...

    def prepare(self, tokenizer: Any, config: Any) -> None: ...

    def calibration_texts(self) -> list[str]:
        return []

    def token_ids(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        return []


def test_tasks_without_calibration_data_say_so(folder: Path) -> None:
    reference = open_reference(str(folder / "model"))
    with pytest.raises(DataError, match="the task silent has no calibration data"):
        calibration_batches(_Silent(), reference)
    with pytest.raises(DataError, match="no task, so there is no calibration data: add 'task:"):
        calibration_batches(NoTask(), reference)
    with pytest.raises(DataError, match=r"add 'train: \.\.\.'"):
        calibration_batches(TextClassification(data=str(folder / "reviews.tsv")), reference)
    with pytest.raises(DataError, match="needs the model's tokenizer"):
        calibration_batches(task_of(folder), ModuleReference.of(tied()))


def test_running_a_model(folder: Path) -> None:
    reference = open_reference(str(folder / "model"))
    calibration = calibration_batches(task_of(folder), reference, 40)
    model = reference.build()
    with torch.no_grad():
        outputs = [output.logits for output in run_model(model, calibration)]
        alone = model(**calibration.batches[1]).logits
    assert sum(map(len, outputs)) == 40
    assert torch.equal(outputs[1], alone)
    with pytest.raises(
        ModelError, match=r"Linear does not run on the calibration data \(input_ids \d+x\d+, token_type_ids"
    ):
        next(run_model(torch.nn.Linear(3, 2), calibration))


@pytest.mark.parametrize("kind", ["model", "tied"])
def test_every_matrix_of_a_folder_has_its_parameter(folder: Path, kind: str) -> None:
    reference = open_reference(str(folder / kind))
    found = named_weights(reference.build(), reference)
    assert set(found) >= {name for name, spec in reference.specs.items() if len(spec.shape) == 2}
    for name, parameter in found.items():
        assert torch.equal(parameter, reference.tensor(name))


def test_a_parameter_under_another_name_is_found_by_its_values() -> None:
    """As with weights files that name things as older releases of transformers did."""

    class Renamed(ModuleReference):
        def build(self, state: Any = None) -> torch.nn.Module:
            model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
            for new, old in zip(model.parameters(), self.module.parameters(), strict=True):
                new.data.copy_(old.data)
            return model.eval()

    old = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 3), "b": torch.nn.Linear(3, 3), "c": torch.nn.Linear(3, 3)})
    torch.nn.init.zeros_(old["b"].bias)
    torch.nn.init.zeros_(old["c"].bias)
    reference = Renamed.of(old)
    assert isinstance(reference, Renamed)
    found = named_weights(reference.build(), reference)
    assert set(found) == {"a.weight", "a.bias", "b.weight", "c.weight"}  # two biases are the same: it could be either
    assert all(torch.equal(parameter, reference.tensor(name)) for name, parameter in found.items())
