"""Rows that are parts of other rows, as in the Stanford Sentiment Treebank, which gives every phrase of its sentences."""

from __future__ import annotations

from collections.abc import Sequence

from stackc.tasks.data import normal_form


def whole_texts(texts: Sequence[str]) -> list[str]:
    """Texts that are a run of words of no other text, but for case and spaces; of the same ones all.

    Phrases are shorter and plainer than what a model is asked. A choice that is made on them, such as which tokens are rare
    enough to do without, is a bad one for sentences.

    Examples
    --------
    >>> whole_texts(["a fine film", "fine film", "film", "an end"])
    ['a fine film', 'an end']
    """
    forms = [normal_form(text) for text in texts]
    parts = wholes_of_parts(list(dict.fromkeys(forms)))
    return [text for text, form in zip(texts, forms, strict=True) if form not in parts]


def wholes_of_parts(forms: Sequence[str]) -> dict[str, set[str]]:
    """Rows that are a run of words of another row, each with all such rows that are part of none themselves.

    Parameters
    ----------
    forms : sequence of str
        Different rows in normal form, words parted by single spaces.

    Examples
    --------
    >>> {part: sorted(wholes) for part, wholes in wholes_of_parts(["a fine film", "fine film", "film", "a film"]).items()}
    {'fine film': ['a fine film'], 'film': ['a film', 'a fine film']}
    """
    beginnings: dict[tuple[str, ...], list[str]] = {}
    for form in forms:
        beginnings.setdefault(tuple(form.split(" ", 2)[:2]), []).append(form)
    found: dict[str, set[str]] = {}
    # Longest first: what a row is part of comes before it.
    for form in sorted(forms, key=len, reverse=True):
        if form in found:
            continue
        words, place, text = form.split(" "), 0, f"{form} "
        for number, word in enumerate(words):
            for beginning in (tuple(words[number : number + 2]), (word,)):
                for other in beginnings.get(beginning, ()):
                    if text.startswith(f"{other} ", place) and other != form:
                        found.setdefault(other, set()).add(form)
            place += len(word) + 1
    return found
