"""Files and folders on their way: under a hidden name until they are complete, then in place in one step.

A process that ends in an orderly way removes what it has not completed. One that is killed cannot; the next one that writes
to the same place does it. It tells what a dead process has left from what a living one is writing by a lock: the
operating system drops a lock when its holder ends, however that happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PARTIAL = "partial"
_OLD = "old"

#: `renameat2` of Linux and `renamex_np` of macOS swap two names in one step.
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
_AT_FDCWD = -100

#: What a file system says that cannot do so.
_NO_SWAP = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def temporary_name(path: Path, kind: str = _PARTIAL) -> Path:
    """A hidden name beside ``path`` that nobody uses.

    Unlike those of `tempfile`, what is made there is as readable as any other new file or folder.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.{kind}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place at the end, or vanishes if anything fails."""
    # In a folder, since a lock on the file itself would go if a library puts another one under its name.
    with partial_folder(path) as folder:
        temporary = folder / path.name
        temporary.touch()
        yield temporary
        temporary.replace(path)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, for as long as the block runs; `put_in_place` is what keeps it."""
    _remove_dead(path)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        with _locked(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(new: Path, folder: Path) -> None:
    """Give a folder the place of another one, or a free one. Of two, one is always there, where the system can swap names.

    What was there before is gone, or has the name of ``new``. Elsewhere a process that is killed between two steps leaves the
    old one under a hidden name, which `recover` brings back.

    Raises
    ------
    OSError
        If the operating system refuses; an old folder is then where it was.
    """
    if not folder.exists():
        new.replace(folder)
        return
    if _swap(new, folder):
        return
    old = temporary_name(folder, _OLD)
    with _locked(folder):
        folder.replace(old)
        try:
            new.replace(folder)
        except OSError:
            old.replace(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put things right that a killed process has left at a place: its old folder back, what was not completed away."""
    folder = folder.resolve()
    for old in _leftovers(folder, _OLD):
        with _abandoned(old) as alone:
            if alone and not folder.exists():
                with contextlib.suppress(OSError):
                    old.replace(folder)
            elif alone:
                shutil.rmtree(old, ignore_errors=True)
    _remove_dead(folder)


def _remove_dead(path: Path) -> None:
    for leftover in _leftovers(path, _PARTIAL):
        with _abandoned(leftover) as alone:
            if alone and leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            elif alone:
                with contextlib.suppress(OSError):
                    leftover.unlink()


def _leftovers(path: Path, kind: str) -> list[Path]:
    """What has a name that `temporary_name` gives."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.{kind}")
    try:
        return sorted(path.with_name(entry) for entry in os.listdir(path.parent) if name.fullmatch(entry))
    except OSError:
        return []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that says that this process lives. Where there are no locks, nobody takes anything for abandoned."""
    with _lock(path):
        yield


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether the process that made a file or folder is dead; nobody else takes it meanwhile."""
    with _lock(path) as taken:
        yield taken


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    if sys.platform == "win32":
        yield False
        return
    try:
        # Of a pipe or a link with such a name nothing is known.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody else has it, or the file system knows no locks
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _swap(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, ctypes.c_uint(_RENAME_SWAP))
        else:
            at = ctypes.c_int(_AT_FDCWD)
            failed = library.renameat2(at, names[0], at, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    except AttributeError:  # a library of C that does not have it
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _NO_SWAP:
        return False
    raise OSError(number, os.strerror(number), str(other))
