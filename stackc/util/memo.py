"""Results on disk by what they were made from, so that nothing is computed twice; and never too many of them.

A key is a hash of everything that a result depends on, the code included. So an entry is right for as long as it exists, and
any of them may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stackc.util.cache import cache_folder, is_writable
from stackc.util.humanise import parse_size
from stackc.util.partial import atomic_file

#: Bytes of all entries together, such as ``2GB``; ``0`` keeps nothing.
VARIABLE = "STACKC_CACHE_SIZE"

_DEFAULT_BYTES = 4_000_000_000

#: An entry begins with the SHA-256 of what follows.
_DIGEST_BYTES = 32
_PIECE = 1 << 20


class Usage(NamedTuple):
    """What a memo takes: entries and their bytes, by kind."""

    entries: int
    bytes: int


class Memo:
    """Entries in a folder, by kind and key; the ones that were used longest ago go first.

    What cannot be read, or was damaged, is not there. What cannot be written is not kept. Several processes may use one.

    Parameters
    ----------
    folder : Path, optional
        Where they are; without it nothing is kept.
    most_bytes : int
        Of all entries together.

    Examples
    --------
    >>> import tempfile
    >>> memo = Memo(Path(tempfile.mkdtemp()))
    >>> memo.keep("sum", key_of([1, 2]), b"3")
    >>> memo.recall("sum", key_of([1, 2])), memo.recall("sum", key_of([2, 1]))
    (b'3', None)
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = _DEFAULT_BYTES) -> None:
        usable = folder is not None and most_bytes > 0 and is_writable(folder)
        self.folder = folder if usable else None
        self.most_bytes = most_bytes

    @classmethod
    def of_user(cls) -> Memo:
        """The one in the cache folder, of the size that ``$STACKC_CACHE_SIZE`` says.

        Raises
        ------
        ValueError
            If that is no size.
        """
        given = os.environ.get(VARIABLE)
        most = _DEFAULT_BYTES if not given else 0 if given == "0" else parse_size(given)
        folder = cache_folder()
        return cls(None if folder is None or not most else folder / "memo", most)

    @property
    def active(self) -> bool:
        """Whether anything is kept."""
        return self.folder is not None

    def keep(self, kind: str, key: str, content: bytes) -> None:
        """Remember a result."""
        path = self._path(kind, key)
        if path is None or len(content) > self.most_bytes:
            return
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
            self._trim()

    def recall(self, kind: str, key: str) -> bytes | None:
        """A result that was kept, or None."""
        path = self._path(kind, key)
        if path is None:
            return None
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        if hashlib.sha256(memoryview(data)[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
            path.unlink(missing_ok=True)
            return None
        return data[_DIGEST_BYTES:]

    def keep_file(self, kind: str, key: str, source: Path) -> None:
        """Remember the content of a file."""
        path = self._path(kind, key)
        if path is None:
            return
        with contextlib.suppress(OSError):
            if source.stat().st_size > self.most_bytes:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary, source.open("rb") as file, temporary.open("wb") as out:
                out.write(hashlib.file_digest(file, "sha256").digest())
                file.seek(0)
                shutil.copyfileobj(file, out, _PIECE)
            self._trim()

    def recall_file(self, kind: str, key: str, target: Path) -> bool:
        """Write a file that was kept; whether there was one."""
        path = self._path(kind, key)
        if path is None:
            return False
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file, target.open("wb") as out:
                expected = file.read(_DIGEST_BYTES)
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    out.write(piece)
            os.utime(path)
        except OSError:
            target.unlink(missing_ok=True)
            return False
        if digest.digest() != expected:
            path.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            return False
        return True

    def usage(self) -> dict[str, Usage]:
        """What each kind of entry takes."""
        found: dict[str, Usage] = {}
        for path, size, _ in self._entries():
            before = found.get(path.parent.name, Usage(0, 0))
            found[path.parent.name] = Usage(before.entries + 1, before.bytes + size)
        return dict(sorted(found.items()))

    def clear(self) -> Usage:
        """Delete everything; what there was."""
        total = Usage(sum(kind.entries for kind in self.usage().values()), sum(k.bytes for k in self.usage().values()))
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        return total

    def _path(self, kind: str, key: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / key

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        for path in self.folder.glob("*/*") if self.folder is not None else ():
            with contextlib.suppress(OSError):
                known = path.stat()
                if stat.S_ISREG(known.st_mode):
                    yield path, known.st_size, known.st_mtime

    def _trim(self) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        total = sum(size for _, size, _ in entries)
        for path, size, _ in entries:
            if total <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def key_of(*parts: Any) -> str:
    """SHA-256 of plain data, as msgspec writes it.

    Examples
    --------
    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}), key_of([1]) == key_of(["1"])
    (True, False)
    """
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


@functools.cache
def code_fingerprint(*folders: Path) -> str:
    """SHA-256 of all Python files below some folders: a result of other code is another result."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(os.fsencode(file.relative_to(folder)) + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
