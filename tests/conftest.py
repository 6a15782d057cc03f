"""What all tests share: models and data that are written once and never changed, and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.helpers.tiny import tiny_classifier, tiny_reviews

os.environ["HF_HUB_OFFLINE"] = "1"

# Machines differ in speed and runs must not: no deadlines, and the same examples every time.
hypothesis.settings.register_profile("stackc", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("stackc")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for all tests, and for the processes that they start: the user's is not touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACKC_CACHE", str(folder))
        patch.setenv("STACKC_CACHE_SIZE", "0")  # a test runs what it tests
        yield folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT classifier with its tokenizer."""
    from stackc.models.building import quiet_transformers

    with quiet_transformers():
        return tiny_classifier(tmp_path_factory.mktemp("tiny") / "classifier")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled reviews for `tiny_model`; the training texts lie beside them in reviews-train.tsv."""
    return tiny_reviews(tmp_path_factory.mktemp("reviews"))


@pytest.fixture(scope="session")
def tiny_task(reviews: Path) -> dict[str, object]:
    """The task of judging `tiny_model` on `reviews`."""
    return {
        "name": "text-classification",
        "data": str(reviews),
        "train": str(reviews.with_name("reviews-train.tsv")),
    }
