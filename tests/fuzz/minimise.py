"""A smaller file with the same fault."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator

from tests.fuzz.parts import BUNDLE, CONFIG, LENGTHS, NAMES, TENSORS, TIES, Parts, entries, join, split


def minimised(data: bytes, same: Callable[[bytes], bool], seconds: float = 20.0) -> bytes:
    """Leave out what the fault does not need: bundled files, ties, tensors, the configuration, bytes of planes.

    Parameters
    ----------
    data : bytes
        A file with a fault; it is returned as it is where its manifest cannot be read.
    same : callable
        Whether a file has that fault.
    seconds : float
        Time to spend.
    """
    try:
        parts = split(data)
        if not same(join(copy.deepcopy(parts))):
            return data
    except Exception:  # noqa: BLE001 -- a manifest that is broken cannot be taken apart
        return data
    end, smaller = time.monotonic() + seconds, True
    while smaller:
        smaller = False
        for candidate in _smaller(parts):
            if time.monotonic() > end:
                return join(parts)
            if same(join(copy.deepcopy(candidate))):
                parts, smaller = candidate, True
                break
    return join(parts)


def _smaller(parts: Parts) -> Iterator[Parts]:
    manifest, pieces = parts
    tensors = len(manifest[TENSORS])
    starts = [0]
    for entry in manifest[TENSORS]:
        starts.append(starts[-1] + len(entry[LENGTHS]))
    if manifest[BUNDLE] or manifest[TIES] or manifest[CONFIG] is not None:
        bare = copy.deepcopy(manifest)
        bare[BUNDLE], bare[TIES], bare[CONFIG] = {}, {}, None
        yield Parts(bare, pieces[: sum(len(entry[LENGTHS]) for entry in entries(manifest))])
    for number in range(tensors if tensors > 1 and not manifest[TIES] else 0):
        fewer = copy.deepcopy(manifest)
        del fewer[NAMES][number], fewer[TENSORS][number]
        yield Parts(fewer, pieces[: starts[number]] + pieces[starts[number + 1] :])
    for number, piece in enumerate(pieces):
        for cut in (piece[:0], piece[: len(piece) // 2], piece[len(piece) // 2 :], piece[:-1]):
            if len(cut) < len(piece):
                yield Parts(manifest, [*pieces[:number], cut, *pieces[number + 1 :]])
