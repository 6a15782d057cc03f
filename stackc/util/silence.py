"""Warnings and log lines of other packages, for threads that are in the library and for no others.

Python has one list of filters for warnings and one level of logging for a whole process, and both are meant for its program.
So nothing is set there: what is added looks at the thread that warns or logs, and goes when the last thread has left.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast


class _Thread(threading.local):
    """How deep the thread at hand is in blocks of `silence`, and of `warnings_without_errors`."""

    silent = 0
    spared = 0


_thread = _Thread()


class _Filters:
    """Something that stands in the process while any thread is in a block."""

    def __init__(self, add: Callable[[], None], remove: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._add = add
        self._remove = remove

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Add it, and remove it at the end of the last block. Adding it again must do no harm."""
        with self._lock:
            self._blocks += 1
            self._add()
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._remove()


class _Pattern:
    """Takes the place of the pattern for a module in a filter of warnings: one that matches in some threads."""

    def __init__(self, action: str, matches: Callable[[str], bool]) -> None:
        self.match = matches
        self._entry: Any = (action, None, Warning, self, 0)

    def add(self) -> None:
        """Put an ``ignore`` in front of all filters, anything else in front of the first one that raises."""
        if self._entry not in warnings.filters:
            ignores = self._entry[0] == "ignore"
            places = (place for place, entry in enumerate(warnings.filters) if ignores or entry[0] == "error")
            _filters().insert(next(places, len(warnings.filters)), self._entry)

    def remove(self) -> None:
        """Take it out, also where `warnings.catch_warnings` has brought it back."""
        while self._entry in warnings.filters:
            _filters().remove(self._entry)


def _filters() -> list[Any]:
    """Those of the moment: `warnings.catch_warnings` exchanges the list."""
    return cast("list[Any]", warnings.filters)


class _LogFilter(logging.Filter):
    """Drops what is logged in silent threads, up to errors: those are raised."""

    def __init__(self) -> None:
        super().__init__()
        self._handlers: list[logging.Handler] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line may pass."""
        return not _thread.silent or record.levelno > logging.ERROR

    def add(self) -> None:
        """Stand at every handler that there is by now; packages bring handlers of their own."""
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        handlers = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
        for handler in [*handlers, logging.lastResort]:
            if handler is not None and self not in handler.filters:
                handler.filters = [
                    *handler.filters,
                    self,
                ]  # a new list: another thread may be walking through the old one
                self._handlers.append(handler)

    def remove(self) -> None:
        """Stand nowhere."""
        for handler in self._handlers:
            handler.filters = [other for other in handler.filters if other is not self]
        self._handlers.clear()


def _is_foreign(module: str) -> bool:
    return not module.startswith("stackc.")


_ignored = _Pattern("ignore", lambda module: _thread.silent > 0)
_spared = _Pattern("default", lambda module: _thread.spared > 0 and _is_foreign(module))
_lines = _LogFilter()
_no_warnings = _Filters(_ignored.add, _ignored.remove)
_no_errors = _Filters(_spared.add, _spared.remove)
_no_lines = _Filters(_lines.add, _lines.remove)


@contextmanager
def silence() -> Iterator[None]:
    """Keep the warnings and log lines of this thread from the user while the block runs; other threads go on as before.

    Blocks may stand in one another: an inner one reaches handlers that came since the outer one began.

    Examples
    --------
    >>> with silence():
    ...     warnings.warn("nobody hears this", stacklevel=1)
    """
    with _no_warnings.standing(), _no_lines.standing():
        _thread.silent += 1
        try:
            yield
        finally:
            _thread.silent -= 1


@contextmanager
def warnings_without_errors() -> Iterator[None]:
    """Show a warning of another package where the program's filters would raise it: it is none of the user's mistakes.

    What the program ignores stays ignored. Warnings about stackc's own lines are raised all the same.
    """
    with _no_errors.standing():
        _thread.spared += 1
        try:
            yield
        finally:
            _thread.spared -= 1
