"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause that suggests the most similar valid name, or nothing.

    Examples
    --------
    >>> nearest("zstdd", ["int", "zstd"])
    ", did you mean 'zstd'?"
    >>> nearest("qqq", ["int", "zstd"])
    ''
    """
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.55)
    return f", did you mean {matches[0]!r}?" if matches else ""
