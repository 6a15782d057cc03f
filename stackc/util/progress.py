"""How the library tells a caller that it is getting on; the command line draws bars from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with the number of steps done since the last call.
Advance = Callable[[int], None]


class Progress:
    """Says nothing; subclass it and override `task` to show something."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Announce a piece of work of ``total`` steps.

        Examples
        --------
        >>> with Progress().task("encode", 3) as advance:
        ...     advance(3)
        """
        yield lambda steps: None
