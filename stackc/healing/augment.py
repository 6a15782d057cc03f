"""New texts made of the task's own: more of the kind that is evaluated than further text from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stackc.util.lazy import numpy

#: Chance per word that a text goes on as another text does after the same word.
_CROSSES = 0.1

#: Chance per word that it is exchanged for another word that follows the word before it somewhere.
_EXCHANGED = 0.1

#: A text stops after so many words: where one crosses into another again and again, none might end.
_MOST_WORDS = 100

#: Always the same, so that all seeds of a recipe train on the same texts, whose answers are then known.
_SEED = 0


def recombined(texts: Sequence[str], count: int) -> list[str]:
    """Make new texts from others: parts of several, joined at words that they share, with some words exchanged.

    What is made need not make sense; a teacher says what it means. Its worth for distillation was shown by Tang et al.
    2019, "Distilling task-specific knowledge from BERT into simple neural networks", who exchange words for others of the
    same part of speech, leave out words, and cut. Here no tagger is needed: what may follow a word is seen in the texts.

    Parameters
    ----------
    texts : sequence of str
        Words are parted by spaces.
    count : int
        Texts to make; some may be the same, or the same as those that they were made of.

    Returns
    -------
    list of str
        Function of the arguments alone, on every machine.

    Examples
    --------
    >>> recombined(["a fine film about nothing", "a dull play about a war"], 40)[-4:]
    ['a dull play about a war', 'a fine film about nothing', 'a fine film about nothing', 'a dull film about nothing']
    """
    rows = [words for words in (text.split() for text in texts) if words]
    if not rows:
        return []
    places: dict[str, list[tuple[int, int]]] = {}
    for number, words in enumerate(rows):
        for place, word in enumerate(words[:-1]):
            places.setdefault(word, []).append((number, place))
    chances = _chances()
    return [" ".join(_one(rows, places, chances)) for _ in range(count)]


def _one(
    rows: Sequence[Sequence[str]], places: dict[str, list[tuple[int, int]]], chances: Iterator[float]
) -> Iterator[str]:
    """The words of one text."""

    def follows(word: str) -> tuple[int, int]:
        known = places[word]
        number, place = known[int(next(chances) * len(known))]
        return number, place + 1

    number, place = int(next(chances) * len(rows)), 0
    before: str | None = None
    for _ in range(_MOST_WORDS):
        word = rows[number][place]
        if before is not None and next(chances) < _EXCHANGED:
            other, there = follows(before)
            yield rows[other][there]
        else:
            yield word
        if place + 1 == len(rows[number]):
            return
        # What follows is chosen by the text itself, not by what a word was exchanged for.
        number, place = follows(word) if next(chances) < _CROSSES else (number, place + 1)
        before = word


def _chances() -> Iterator[float]:
    """Numbers from 0 up to 1; random_raw is documented to stay as it is."""
    source = numpy.random.Philox(key=_SEED)
    while True:
        yield from (source.random_raw(1 << 16) >> numpy.uint64(11)) * 2.0**-53
