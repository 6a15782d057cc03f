"""Which training rows are held out, and which others say a part of one: neither is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from stackc.tasks.phrases import wholes_of_parts
from stackc.util.errors import DataError


class HeldOut(NamedTuple):
    """In normal form: the rows held out, rows that are parts of these only, and rows left that are part of no other."""

    rows: frozenset[str]
    parts: frozenset[str]
    others: tuple[str, ...]


def hold_out(forms: Sequence[str], count: int) -> HeldOut:
    """Choose rows to hold out, by a hash of what they say: the same on every machine, and in any order of the rows.

    Data sets such as the Stanford Sentiment Treebank give every phrase of a sentence as a row of its own. A phrase whose
    sentence is trained on tells nothing of what was learnt. So only rows that are part of no other row are held out, and
    their parts are left out with them.

    Parameters
    ----------
    forms : sequence of str
        Different training rows, words parted by single spaces.
    count : int
        Rows to hold out.

    Raises
    ------
    DataError
        If that leaves nothing to train on.

    Examples
    --------
    >>> rows = ["a fine film", "fine film", "film", "a dull film", "dull", "an end"]
    >>> held_out = hold_out(rows, 1)
    >>> sorted(held_out.rows), sorted(held_out.parts)
    (['a fine film'], ['fine film'])
    >>> held_out.others
    ('a dull film', 'an end')
    """
    wholes = wholes_of_parts(forms)
    whole = [form for form in forms if form not in wholes]
    chosen = frozenset(sorted(whole, key=_hash)[:count])
    parts = frozenset(part for part, of in wholes.items() if of <= chosen)
    if count > len(whole) or len(chosen) + len(parts) >= len(forms):
        less = f"set 'holdout' to {len(whole) // 10 or 1}, or " if len(whole) > 1 else ""
        kind = " that are part of no other" if len(whole) < len(forms) else ""
        raise DataError(
            f"holding out {count} of {len(whole)} different training rows{kind} leaves none to train on: {less}give the task "
            "more training rows"
        )
    return HeldOut(chosen, parts, tuple(form for form in whole if form not in chosen))


def _hash(form: str) -> bytes:
    return hashlib.blake2b(form.encode(), digest_size=16).digest()
