"""Row weights come from training texts or from a file, and anything that cannot be a weight is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoTokenizer

from stackc.tasks.none import NoTask
from stackc.tasks.row_weights import fingerprint, row_weights
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError
from tests.helpers.tiny import VOCABULARY, tiny_classifier, tiny_reviews

QUICK = settings(deadline=None, max_examples=25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and tiny reviews."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_classifier(folder / "model")
    tiny_reviews(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    """The tiny model's tokenizer."""
    return AutoTokenizer.from_pretrained(folder / "model")


@pytest.fixture(scope="module")
def task(folder: Path) -> TextClassification:
    """The tiny reviews, with training texts."""
    return TextClassification(data=str(folder / "reviews.tsv"), train=str(folder / "reviews-train.tsv"))


def test_token_counts_are_those_of_the_training_texts(folder: Path, task: TextClassification, tokenizer) -> None:
    lines = (folder / "reviews-train.tsv").read_text().splitlines()[1:]
    counts = Counter(word for line in lines for word in line.split("\t")[0].split())
    counts["[CLS]"] = counts["[SEP]"] = len(lines)
    weights = row_weights("token-counts", rows=len(VOCABULARY), task=task, tokenizer=tokenizer)
    assert weights.dtype == torch.float64
    assert weights.tolist() == [counts[token] + 0.5 for token in VOCABULARY]


def test_token_counts_see_only_what_the_model_sees(folder: Path, task: TextClassification, tokenizer) -> None:
    short = TextClassification(data=task.data, train=task.train, max_length=3)
    weights = row_weights("token-counts", rows=len(VOCABULARY), task=short, tokenizer=tokenizer)
    assert weights[VOCABULARY["the"]] == 90.5
    assert weights[VOCABULARY["is"]] == 0.5


def test_more_rows_than_tokens_get_the_smallest_weight(task: TextClassification, tokenizer) -> None:
    weights = row_weights("token-counts", rows=len(VOCABULARY) + 3, task=task, tokenizer=tokenizer)
    assert weights[-3:].tolist() == [0.5] * 3


def test_token_counts_need_enough_rows_a_tokenizer_and_training_texts(task: TextClassification, tokenizer) -> None:
    with pytest.raises(DataError, match="has 10 rows"):
        row_weights("token-counts", rows=10, task=task, tokenizer=tokenizer)
    with pytest.raises(DataError, match="tokenizer"):
        row_weights("token-counts", rows=62, task=task, tokenizer=None)
    with pytest.raises(DataError, match="no task"):
        row_weights("token-counts", rows=62, task=NoTask(), tokenizer=tokenizer)
    with pytest.raises(DataError, match="add 'train:"):
        row_weights("token-counts", rows=62, task=TextClassification(data=task.data), tokenizer=tokenizer)


def read(path: Path, rows: int) -> torch.Tensor:
    """Row weights of a file."""
    return row_weights(str(path), rows=rows, task=NoTask(), tokenizer=None)


@QUICK
@given(values=st.lists(st.floats(0, 1e300), min_size=1, max_size=20).filter(any))
def test_files_give_back_their_numbers(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    folder = tmp_path_factory.mktemp("weights")
    np.save(folder / "w.npy", np.array(values))
    (folder / "w.txt").write_text("\n".join(map(repr, values)) + "\n")
    save_file({"w": torch.tensor(values, dtype=torch.float64)}, folder / "w.safetensors")
    for suffix in ("npy", "txt", "safetensors"):
        weights = read(folder / f"w.{suffix}", len(values))
        assert weights.dtype == torch.float64
        assert weights.tolist() == values


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "int32", "uint8", "bool"])
def test_any_real_dtype_is_taken(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "w.npy", np.array([0, 1, 1], dtype))
    assert read(tmp_path / "w.npy", 3).tolist() == [0, 1, 1]


def test_half_precision_safetensors_are_taken(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.5, 2.0], dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors", 2).tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], "3 rows need 3 numbers in one column, the file holds 2"),
        ([[1.0], [2.0], [3.0]], "the file holds 3 x 1"),
        ([1.0, -1.0, 2.0], "first -1.0 at row 1"),
        ([1.0, 2.0, float("nan")], "first nan at row 2"),
        ([float("inf"), 2.0, 1.0], "first inf at row 0"),
        ([0.0, 0.0, 0.0], "all 3 weights are zero"),
        (["a", "b", "c"], "real numbers"),
        ([1j, 2, 3], "real numbers"),
    ],
)
def test_numbers_that_cannot_be_weights_are_refused(tmp_path: Path, values: list, message: str) -> None:
    np.save(tmp_path / "w.npy", np.array(values))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "w.npy", 3)


def test_unreadable_files_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00garbage")
    np.save(tmp_path / "cut.npy", np.ones(1000))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "bad.txt").write_text("1\ntwo\n3\n")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "two.safetensors")
    for name in ("bad.npy", "cut.npy", "object.npy", "bad.txt", "bad.safetensors", "two.safetensors"):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name, 3)


def test_a_header_that_lies_about_its_length_allocates_nothing(tmp_path: Path) -> None:
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (2**50,)}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "w.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "w.npy", 3)


@pytest.mark.parametrize("source", ["token-count", "weights.csv", "absent.npy"])
def test_unknown_sources_name_what_is_accepted(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"accepted are token-counts and a .npy, .txt"):
        row_weights(source, rows=3, task=NoTask(), tokenizer=None)


def test_fingerprint_depends_on_the_numbers_alone() -> None:
    weights = torch.tensor([1.0, 0.0, 2.5, 1.0], dtype=torch.float64)
    assert fingerprint(weights) == fingerprint(weights.float()) == fingerprint(torch.stack([weights, weights], 1)[:, 0])
    assert fingerprint(weights) != fingerprint(weights.flip(0))
    assert len(fingerprint(weights)) == 64


def test_counting_some_texts_at_a_time_changes_nothing(
    task: TextClassification, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = row_weights("token-counts", rows=len(VOCABULARY), task=task, tokenizer=tokenizer)
    sizes: list[int] = []
    monkeypatch.setattr("stackc.tasks.row_weights._TEXTS_AT_ONCE", 7)
    original = TextClassification.token_ids

    def counted(self: TextClassification, texts: list[str], tokenizer: object) -> list[list[int]]:
        sizes.append(len(texts))
        return original(self, texts, tokenizer)

    monkeypatch.setattr(TextClassification, "token_ids", counted)
    assert torch.equal(row_weights("token-counts", rows=len(VOCABULARY), task=task, tokenizer=tokenizer), whole)
    assert len(sizes) > 10
    assert max(sizes) == 7
