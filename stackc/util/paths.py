"""Paths as people write them: ``~``, names beyond ASCII, and things in the file system that are no files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from stackc.util.errors import StackcError

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path that somebody means: ``~`` is the home folder, wherever the path was written.

    A shell replaces ``~`` in ``--output ~/x``, but not in ``--output=~/x``, in quotes, or in a recipe. Where the locale has
    no letters beyond ASCII, names in UTF-8 are found all the same.

    Raises
    ------
    StackcError
        If nobody knows where the home folder is, or the path cannot be one of a file.

    Examples
    --------
    >>> user_path("runs/~"), user_path("~") == Path.home()
    (PosixPath('runs/~'), True)
    """
    text = os.fspath(path)
    if "\0" in text:
        raise StackcError(f"{text!r} is no path: it holds a zero byte")
    try:
        expanded = Path(_encodable(text)).expanduser()
    except RuntimeError as error:
        raise StackcError(f"the home folder that {text!r} begins with is not known; write the path in full") from error
    return expanded


def _encodable(text: str) -> str:
    """Text that the file system's encoding takes: in an ASCII locale, UTF-8 bytes in the guise that Python gives them."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        try:
            return os.fsdecode(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            raise StackcError(f"{text!r} is no path: it holds half a character") from error
    return text


def readable(text: str) -> str:
    """A name from the file system as the letters that it stands for, where an ASCII locale shows bytes in disguise.

    Examples
    --------
    >>> readable("r\\udcc3\\udca9"), readable("r\\udcff") == "r\\udcff"
    ('ré', True)
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def require_regular(path: Path) -> None:
    """Refuse what is there but is no file: opening a pipe waits for ever, and a device has no end.

    Raises
    ------
    OSError
        If it is a pipe, a socket or a device, or cannot be looked at. A folder passes: opening it says so itself.

    Examples
    --------
    >>> require_regular(Path("/dev/null"))
    Traceback (most recent call last):
        ...
    OSError: [Errno 22] it is a device; give a regular file: '/dev/null'
    """
    mode = path.stat().st_mode
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise OSError(errno.EINVAL, f"it is {name}; give a regular file", str(path))
