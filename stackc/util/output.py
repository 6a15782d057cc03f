"""Writing where somebody asked for it: what may be replaced, and what is said when the system refuses."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stackc.util.errors import OutputError
from stackc.util.partial import atomic_file
from stackc.util.paths import require_regular


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a sentence.

    Raises
    ------
    OutputError
        If the disk is full, the folder is read-only or missing.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{path} cannot be written: the disk is full; free some space or choose another --output"
            ) from error
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another --output") from error


def require_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a pipe or a device, such as ``/dev/null``.

    Raises
    ------
    OutputError
        If something stands there that is neither file nor folder.
    """
    with writing(path):
        if path.exists():
            require_regular(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with writing(path), atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
