"""One number for the tensors of a model or of a file: what two machines compare to know that they have the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from stackc.core.spec import PlaneSpec


def fingerprint(tensors: Iterable[tuple[str, PlaneSpec, Iterable[bytes | memoryview]]], ties: Mapping[str, str]) -> str:
    """SHA-256 of names, dtypes, shapes, bits and ties, in hexadecimal.

    Parameters
    ----------
    tensors : iterable
        Name, spec, and the elements' bytes in C order, little-endian, in pieces of any length.
    ties : mapping
        Further names: ``{other name: first name}``.

    Examples
    --------
    >>> number = [("w", PlaneSpec((), "float32"), [bytes.fromhex("0000803f")])]
    >>> fingerprint(number, {})[:16]
    '6ff8a344ad406bb3'
    """
    digest = hashlib.sha256()
    for name, spec, pieces in tensors:
        digest.update(_line([name, spec.dtype, list(spec.shape)]))
        for piece in pieces:
            digest.update(piece)
    digest.update(_line(ties))
    return digest.hexdigest()


def _line(value: object) -> bytes:
    # JSON ends where it ends: no two lists of (name, spec, bytes) give the same stream.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
