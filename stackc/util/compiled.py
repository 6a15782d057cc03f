"""`compiled`: how every kernel is compiled, and where the machine code is kept between runs, if anywhere.

Importing this module imports numba, which takes a second; only kernels do that.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

from stackc.util.cache import cache_folder, is_writable

#: What comes of a damaged file of machine code, of one that another user wrote, and of a full disk.
_UNUSABLE = (OSError, EOFError, pickle.PickleError, ValueError, TypeError, LookupError, AttributeError, ImportError)


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function with numba when it is first called, for its callers and for other kernels.

    The machine code is kept in ``$NUMBA_CACHE_DIR``, else beside the source, else under `stackc.util.cache.cache_folder`: in the
    first of them that can be written to. Where none can, each process compiles for itself, and the results are the same.

    Parameters
    ----------
    function : callable
        Works on numbers and arrays, in what numba knows of Python. It runs without the interpreter's lock.
    **options
        Of `numba.njit`.

    Examples
    --------
    >>> @compiled
    ... def twice(number):
    ...     return 2 * number
    >>> twice(21)
    42
    """
    if function is None:
        return functools.partial(compiled, **options)
    kernel = numba.njit(nogil=True, **options)(function)
    # What `cache=True` does, apart from the choice of the place, and from what happens where there is none.
    with contextlib.suppress(RuntimeError):
        kernel._cache = _KernelCache(function)
    return kernel


class _Place:
    """A folder for the machine code of one function: a locator, as numba calls it."""

    def __init__(self, function: Callable[..., Any], source: Path, folder: Path) -> None:
        self._line = function.__code__.co_firstlineno
        self._source = source
        self._folder = folder
        self._py_file = str(source)  # where numba's warnings point to

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Place | None:
        """The first folder that can be used; None if there is none."""
        source = Path(file)
        if not source.is_file():  # code that was typed in
            return None
        for folder in _folders(source):
            if is_writable(folder) and _is_trusted(folder, source):
                return cls(function, source, folder)
        return None

    def ensure_cache_path(self) -> None:
        """Make the folder again if somebody has removed it."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """What the machine code was made from: a kernel contains those that it calls, from the files beside its own."""
        return _digest(self._source)

    def get_disambiguator(self) -> str:
        """Tells apart functions of the same name in a file."""
        return str(self._line)


class _Places(CompileResultCacheImpl):  # type: ignore[misc]
    """How numba writes and reads compiled functions, in a `_Place`."""

    _locator_classes = (_Place,)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Machine code on disk. What cannot be read is compiled again, what cannot be written is not kept."""

    _impl_class = _Places

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The function compiled for these types, or None."""
        try:
            return super().load_overload(sig, target_context)
        except _UNUSABLE:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a function that was compiled for these types."""
        try:
            super().save_overload(sig, data)
        except _UNUSABLE:
            return


def _folders(source: Path) -> Iterator[Path]:
    name = f"{source.parent.name}-{hashlib.sha256(os.fsencode(source.parent)).hexdigest()[:16]}"
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR) / name
    yield source.parent / "__pycache__"
    own = cache_folder()
    if own is not None:
        yield own / "kernels" / name


def _is_trusted(folder: Path, source: Path) -> bool:
    """Whether nobody can put code there but this user and those whose code runs anyway."""
    if not hasattr(os, "geteuid"):
        return True
    found = folder.stat()
    return found.st_uid in (os.geteuid(), 0, source.stat().st_uid) and not found.st_mode & stat.S_IWOTH


@functools.cache
def _digest(source: Path) -> str:
    # Kernels inline functions of others, in their own folder and, in a package, in those beside it.
    root = source.parent.parent if (source.parent / "__init__.py").is_file() else source.parent
    digest = hashlib.sha256()
    for file in sorted({source, *root.rglob("_*kernel.py")}):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
