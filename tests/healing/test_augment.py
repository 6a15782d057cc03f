"""Texts are made of words that follow one another in those that are given."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stackc.healing.augment import recombined
from stackc.healing.texts import RECOMBINED, Source, training_texts
from tests.healing.test_texts import TextsTask

TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join), max_size=8)
WHOLE = ("a fine film about nothing at all", "a dull play about a war", "nothing at all about a fine war")


@given(TEXTS, st.integers(0, 20))
def test_beginnings_and_words_come_from_the_texts(texts: list[str], count: int) -> None:
    made = recombined(texts, count)
    rows = [text.split() for text in texts if text.split()]
    assert len(made) == (count if rows else 0)
    firsts = {words[0] for words in rows}
    followers = {word for words in rows for word in words[1:]}
    for text in made:
        first, *others = text.split(" ")
        assert first in firsts
        assert set(others) <= followers
        assert len(others) < 100


def test_texts_cross_at_words_that_they_share() -> None:
    made = set(recombined(WHOLE, 200))
    assert "a fine film about a war" in made
    assert len(made - set(WHOLE)) > 10
    pairs = {pair for text in WHOLE for pair in itertools.pairwise(text.split())}
    # Words are exchanged now and then, so that most neighbours, not all, are neighbours in some text.
    found = [pair in pairs for text in made for pair in itertools.pairwise(text.split())]
    assert 0.7 < sum(found) / len(found) < 1


def test_a_text_that_never_ends_is_cut() -> None:
    assert all(len(text.split()) <= 100 for text in recombined(["a " * 5000], 20))


def test_the_same_texts_are_made_again_and_more_of_them_begin_with_these() -> None:
    assert recombined(WHOLE, 50) == recombined(WHOLE, 80)[:50]


def test_training_texts_are_recombined_without_what_is_held_out() -> None:
    rows = (*WHOLE, "quite another thing to see", "one more thing to hear")
    task = TextsTask(rows, evaluated=(WHOLE[0],))
    found = training_texts(task, [], None, 1, augmented=100)
    own, made = found.sources
    assert made.name == RECOMBINED
    assert made.rows > 0
    assert made.rows + made.dropped < 100, "what is made twice is trained on once"
    assert made.rows == len(found.texts) - own.rows
    assert len(found.held_out) == 1, "recombined from a single row it is the same"
    held_out = set(found.held_out[0].split()) - {word for row in found.texts[: own.rows] for word in row.split()}
    assert held_out, "the row that is held out has words of its own"
    assert not held_out & {word for row in found.texts for word in row.split()}
    assert WHOLE[0] not in found.texts, "what is evaluated may be made by chance, and is dropped"
    assert found.sources != training_texts(task, [], None, 1).sources == (Source(own.name, own.rows, own.dropped),)


def test_held_out_rows_are_recombined_among_themselves() -> None:
    rows = tuple(f"the actor {row} and the film {row}" for row in range(40))
    task = TextsTask(rows)
    plain = training_texts(task, [], None, 12)
    found = training_texts(task, [], None, 12, augmented=50)
    assert found.held_out[:12] == plain.held_out
    more = found.held_out[12:]
    assert 0 < len(more) <= 12
    assert not set(more) & {*found.held_out[:12], *found.texts}
    assert {word for row in more for word in row.split()} <= {word for row in plain.held_out for word in row.split()}
