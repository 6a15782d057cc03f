"""A tiny classifier and tiny reviews, shared by the tests of the tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.helpers.tiny import tiny_classifier, tiny_reviews


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Handing a tiny matrix to several threads costs more than multiplying it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``model``, ``tied``, ``reviews.tsv`` and ``reviews-train.tsv``."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_classifier(folder / "model")
    tiny_classifier(folder / "tied", tied=True)
    tiny_reviews(folder)
    return folder


@pytest.fixture
def model(folder: Path):
    """A fresh tiny classifier in evaluation mode."""
    return AutoModelForSequenceClassification.from_pretrained(folder / "model")


@pytest.fixture(scope="session")
def tokenizer(folder: Path):
    """The tiny classifier's tokenizer."""
    return AutoTokenizer.from_pretrained(folder / "model")


@pytest.fixture(scope="session")
def rows(folder: Path) -> list[tuple[str, int]]:
    """Texts and labels of the evaluation file."""
    lines = (folder / "reviews.tsv").read_text().splitlines()[1:]
    return [(text, int(label)) for text, label in (line.split("\t") for line in lines)]
