"""Adaptive streams: symbols coded by what was seen so far in their context. Nothing but the coded symbols is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy

from ..shared.kernels import kernel

if TYPE_CHECKING:
    import numpy as np


def write_stream(
    symbols: np.ndarray, alphabet: int, contexts: np.ndarray | None = None, context_count: int = 1
) -> bytes:
    """Code symbols with asymmetric numeral systems (Duda 2013) under frequencies that follow the symbols.

    Parameters
    ----------
    symbols : ndarray
        Shape ``(n,)``, uint8, each below ``alphabet``.
    alphabet : int
        Number of symbols, 1 to 256.
    contexts : ndarray, optional
        Shape ``(n,)``, uint8, each below ``context_count``: the context of each symbol, which the reader knows too. By
        default all have the same one.
    context_count : int
        Number of contexts, 1 to 256.

    Notes
    -----
    docs/format.md says how frequencies follow from the symbols before. All of it is integer arithmetic, so the two
    sides agree on every machine.

    Examples
    --------
    >>> import numpy
    >>> symbols = (numpy.arange(3000) % 10 == 3).astype(numpy.uint8)
    >>> data = write_stream(symbols, 2)
    >>> 8 * len(data) < 0.5 * symbols.size
    True
    """
    if contexts is None:
        contexts = numpy.zeros(symbols.size, numpy.uint8)
    out = numpy.empty(2 * symbols.size + 16, numpy.uint8)
    start = kernel("floats._kernel").encode(symbols, contexts, context_count, alphabet, out)
    stream: bytes = out[start:].tobytes()
    return stream


def read_stream(
    data: np.ndarray,
    position: int,
    count: int,
    alphabet: int,
    contexts: np.ndarray | None = None,
    context_count: int = 1,
) -> tuple[np.ndarray, int]:
    """Inverse of `write_stream` for ``count`` symbols.

    Parameters
    ----------
    data : ndarray
        uint8; anything may follow the stream.
    position : int
        Where the stream begins.
    count : int
        Number of symbols.
    alphabet, contexts, context_count
        As they were written.

    Returns
    -------
    symbols : ndarray
        Shape ``(count,)``, uint8.
    position : int
        Where the stream ends.

    Raises
    ------
    ArtifactError
        If the bytes are not a stream of so many symbols.

    Examples
    --------
    >>> import numpy
    >>> symbols = numpy.array([0, 2, 2, 1], numpy.uint8)
    >>> data = numpy.frombuffer(write_stream(symbols, 3), numpy.uint8)
    >>> read_stream(data, 0, 4, 3)[0].tolist()
    [0, 2, 2, 1]
    """
    if contexts is None:
        contexts = numpy.zeros(count, numpy.uint8)
    symbols = numpy.empty(count, numpy.uint8)
    end = kernel("floats._kernel").decode(data, position, contexts, context_count, alphabet, symbols)
    if end < 0:
        raise ArtifactError(f"an adaptive stream of {count} symbols does not end where they do; the file is damaged")
    return symbols, int(end)
