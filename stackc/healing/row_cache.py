"""`RowCache`: a file that keeps one vector of numbers per row of token ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackc.healing.ragged import Ragged
from stackc.util.lazy import numpy
from stackc.util.partial import atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEY_BYTES = 16


def row_key(ids: Sequence[int]) -> bytes:
    """Key of one row: BLAKE2b, 16 bytes, of its token ids as little-endian int32.

    Examples
    --------
    >>> row_key([101, 102]).hex()
    'a0405f6965adce42f03b7dd8cf893d5d'
    """
    return _digest(numpy.array(ids, "<i4").data)


def row_keys(rows: Ragged) -> NDArray[numpy.bytes_]:
    """Key of every row, shape ``(rows,)``, dtype ``S16``.

    Examples
    --------
    >>> row_keys(Ragged.of([[101, 102], [7]]))[0] == row_key([101, 102])
    True
    """
    tokens = rows.tokens.data
    ends = (rows.starts + rows.lengths).tolist()
    digests = [_digest(tokens[start:end]) for start, end in zip(rows.starts.tolist(), ends, strict=True)]
    return numpy.frombuffer(b"".join(digests), f"S{_KEY_BYTES}")


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_KEY_BYTES).digest()


class Entries(NamedTuple):
    """What is known of rows.

    Attributes
    ----------
    keys : numpy.ndarray
        In ascending order, each once; dtype ``S16``, shape ``(entries,)``.
    values : numpy.ndarray
        float32, shape ``(entries, columns)``.
    """

    keys: NDArray[numpy.bytes_]
    values: NDArray[numpy.float32]

    @classmethod
    def none(cls) -> Entries:
        """No entries."""
        return cls(numpy.empty(0, f"S{_KEY_BYTES}"), numpy.empty((0, 0), numpy.float32))

    def find(self, keys: NDArray[numpy.bytes_]) -> NDArray[numpy.int64]:
        """Place of every key among the entries, -1 where there is none.

        Examples
        --------
        >>> import numpy
        >>> keys = numpy.array([b"a" * 16, b"b" * 16])
        >>> Entries(keys[:1], numpy.ones((1, 2), numpy.float32)).find(keys).tolist()
        [0, -1]
        """
        if not len(self.keys):
            return numpy.full(len(keys), -1, numpy.int64)
        places = numpy.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return numpy.where(self.keys[places] == keys, places, -1)

    def merged(self, other: Entries) -> Entries:
        """These entries and those of another that are not among them; the other alone if its values are of another width.

        Examples
        --------
        >>> import numpy
        >>> one = Entries(numpy.array([b"b" * 16]), numpy.ones((1, 2), numpy.float32))
        >>> two = Entries(numpy.array([b"a" * 16, b"b" * 16]), numpy.zeros((2, 2), numpy.float32))
        >>> one.merged(two).values.tolist()
        [[0.0, 0.0], [1.0, 1.0]]
        """
        if self.values.shape[1] != other.values.shape[1]:
            return other if len(other.keys) else self
        keys, first = numpy.unique(numpy.concatenate([self.keys, other.keys]), return_index=True)
        return Entries(keys, numpy.concatenate([self.values, other.values])[first])


class RowCache:
    """Entries on disk. What cannot be read counts as empty, what cannot be written is not kept.

    Parameters
    ----------
    path : Path
        The file.
    identity : str
        What the values depend on beside the row. A file that was written for another one counts as empty.

    Examples
    --------
    >>> import numpy, pathlib, tempfile
    >>> cache = RowCache(pathlib.Path(tempfile.mkdtemp()) / "rows.safetensors", "a teacher")
    >>> cache.add(Entries(numpy.array([b"a" * 16]), numpy.ones((1, 2), numpy.float32)))
    >>> cache.read().values
    array([[1., 1.]], dtype=float32)
    >>> len(RowCache(cache.path, "another teacher").read().keys)
    0
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = identity

    def read(self) -> Entries:
        """All entries; none if the file is missing, damaged or another's."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            stored = load(self.path.read_bytes())
            raw, values = stored["keys"], stored["values"]
            entries = Entries(raw.reshape(-1).view(f"S{_KEY_BYTES}"), values)
            checksum = stored["checksum"].tobytes()
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
            return Entries.none()
        return entries if checksum == self._checksum(raw, values) else Entries.none()

    def add(self, entries: Entries) -> None:
        """Put entries beside those that are in the file by now, also by other processes, and replace it at once.

        Of two processes that write in the same moment one loses what it added, and computes it again next time.
        """
        from safetensors.numpy import save

        merged = self.read().merged(entries)
        raw = numpy.frombuffer(merged.keys.tobytes(), numpy.uint8).reshape(-1, _KEY_BYTES)
        checksum = numpy.frombuffer(self._checksum(raw, merged.values), numpy.uint8)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as temporary, temporary.open("wb") as file:
                file.write(save({"keys": raw, "values": merged.values, "checksum": checksum}))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # A full disk or a read-only home costs time in the next run, not this run.
            return

    def _checksum(self, keys: NDArray[numpy.uint8], values: NDArray[numpy.float32]) -> bytes:
        digest = hashlib.blake2b(digest_size=32)
        digest.update(repr((self._identity, keys.shape, keys.dtype.str, values.shape, values.dtype.str)).encode())
        digest.update(numpy.ascontiguousarray(keys).data)
        digest.update(numpy.ascontiguousarray(values).data)
        return digest.digest()
