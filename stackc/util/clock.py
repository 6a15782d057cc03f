"""Wall seconds of the parts of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall seconds of each part of a run.

    Examples
    --------
    >>> clock = Clock()
    >>> for _ in range(2):
    ...     with clock.measure("pack"):
    ...         pass
    >>> list(clock.seconds), clock.seconds["pack"] >= 0
    (['pack'], True)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to those of a part."""
        begin = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin
