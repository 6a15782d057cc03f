"""The linear control learns what its teacher says, and its file is never above the budget."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackc.artifact.reader import Artifact
from stackc.runs.controls.linear import LinearFit, _apart, fit_linear, linear_logits
from stackc.util.errors import DataError

WORDS = [f"w{number}" for number in range(60)]


def rows(count: int, classes: int, seed: int) -> tuple[list[str], torch.Tensor]:
    """Texts whose words add up to the logits."""
    draw = random.Random(seed)  # noqa: S311
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(count)]
    scores = torch.tensor([[((7 * w + 3 * c) % 11 - 5) / 5 for c in range(classes)] for w in range(60)])
    logits = torch.stack([scores[[int(word[1:]) for word in text.split()]].sum(0) for text in texts])
    return texts, logits


def fitted(path: Path, budget: int, classes: int = 2) -> LinearFit:
    texts, labels = rows(300, classes, 0)
    held_out, held_out_labels = rows(60, classes, 1)
    return fit_linear(texts, labels, held_out, held_out_labels, path, budget=budget)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_answers_as_its_teacher_on_new_rows(tmp_path: Path, classes: int) -> None:
    fit = fitted(tmp_path / "l.stackc", 3000, classes)
    assert fit.bytes == (tmp_path / "l.stackc").stat().st_size <= 3000
    texts, labels = rows(200, classes, 2)
    logits = linear_logits(tmp_path / "l.stackc", texts, classes)
    assert logits.shape == (200, classes)
    assert (logits.argmax(1) == labels.argmax(1)).double().mean() > 0.85
    assert 0 < fit.divergence < 0.5


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(600, 6000))
def test_the_file_is_never_above_the_budget(tmp_path: Path, budget: int) -> None:
    assert fitted(tmp_path / "l.stackc", budget).bytes <= budget


def test_more_bytes_hold_more_weights(tmp_path: Path) -> None:
    small, large = fitted(tmp_path / "s.stackc", 550), fitted(tmp_path / "l.stackc", 2500)
    assert small.features < large.features
    assert (small.bytes, large.bytes) == (pytest.approx(550, rel=0.1), pytest.approx(2500, rel=0.1))


def test_everything_is_in_the_file(tmp_path: Path) -> None:
    fit = fitted(tmp_path / "l.stackc", 1500)
    with Artifact(tmp_path / "l.stackc") as artifact:
        assert set(artifact) == {"weight", "bias", "signed"}
        assert artifact["weight"].shape == (1, fit.columns)
        assert int((artifact["weight"] != 0).sum()) == fit.features


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    fitted(tmp_path / "a.stackc", 1500)
    fitted(tmp_path / "b.stackc", 1500)
    assert (tmp_path / "a.stackc").read_bytes() == (tmp_path / "b.stackc").read_bytes()


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no linear model fits in 40 bytes; the smallest file has"):
        fitted(tmp_path / "l.stackc", 40)
    with pytest.raises(DataError, match="two classes or more"):
        fit_linear(["a"], torch.zeros(1, 1), ["b"], torch.zeros(1, 1), tmp_path / "l.stackc", budget=1000)


def test_pieces_of_held_out_sentences_choose_nothing() -> None:
    texts = [
        "a rather fine and moving film",
        "fine and moving film",
        "and moving",
        "the plot is thin",
        "of this and that too",
    ]
    assert _apart(texts, ["fine and moving film ."]).tolist() == [2, 3, 4]
    # If that left next to nothing, nothing is left out.
    assert _apart(texts[:2], ["fine and moving film ."]).tolist() == [0, 1]
