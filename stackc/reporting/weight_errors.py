"""Judge an artifact by decoding it: weight error, decode time, and the task's score of the decoded model."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.planes import byte_view, from_bytes, to_bytes
from stackc.core.spec import PlaneSpec
from stackc.planning.bases import open_with_bases
from stackc.util.errors import ArtifactError
from stackc.util.lazy import torch
from stackc.util.parallel import map_ordered
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.models import Reference
    from stackc.planning.bases import BaseModel


class Decoded(NamedTuple):
    """What decoding a file showed.

    ``weight_error`` is the Frobenius norm of the difference over that of the reference, ``seconds`` the time spent in
    decoding alone, summed over threads, ``digest`` identifies the decoded bits, ``compared`` says it tensor by tensor,
    ``state`` holds the tensors if asked for.
    """

    weight_error: float
    seconds: float
    digest: str
    compared: dict[str, Compared]
    state: dict[str, Tensor] | None


class Compared(NamedTuple):
    """A decoded tensor beside the reference's: what identifies its bits, and sums of squares in float64."""

    digest: bytes
    squared_error: float
    squared_norm: float


class _OneTensor(NamedTuple):
    compared: Compared
    seconds: float
    tensor: Tensor | None


def decode_and_compare(
    path: Path,
    reference: Reference,
    label: str,
    progress: Progress,
    *,
    keep: bool,
    known: Mapping[str, Compared] | None = None,
    bases: Iterable[BaseModel] = (),
) -> Decoded:
    """Decode every tensor of a file and compare it with the reference's.

    Parameters
    ----------
    path : Path
        An artifact made from this reference.
    reference : Reference
        What it was made from.
    label : str
        What the file is, for people who watch.
    progress : Progress
        Told about every tensor.
    keep : bool
        Whether to return the tensors, for building a model; otherwise one at a time is in memory.
    known : mapping, optional
        What another file's tensors are beside the same reference: those with the same bits here are not compared again.
    bases : iterable of BaseModel
        Models that the file may need.

    Raises
    ------
    ArtifactError
        If the file does not decode, or what must come back exactly does not: integers, NaN and infinity.
    """
    with open_with_bases(path, bases) as artifact, progress.task(f"decode {label}", len(artifact.specs)) as advance:
        names = list(artifact.specs)

        def one(name: str) -> _OneTensor:
            begin = time.perf_counter()
            tensor = artifact[name]
            seconds = time.perf_counter() - begin
            digest = hashlib.blake2b(byte_view(tensor).data, digest_size=16).digest()
            compared = (known or {}).get(name)
            if compared is None or compared.digest != digest:
                compared = Compared(digest, *_squared_difference(reference, name, tensor))
            return _OneTensor(compared, seconds, tensor if keep else None)

        results = []
        for result in map_ordered(one, names, size=lambda name: reference.specs[name].nbytes):
            results.append(result)
            advance(1)
        state = None
        if keep:
            state = {
                name: result.tensor for name, result in zip(names, results, strict=True) if result.tensor is not None
            }
            state |= {other: state[first] for other, first in artifact.ties.items()}
    compared = {name: result.compared for name, result in zip(names, results, strict=True)}
    norm = sum(each.squared_norm for each in compared.values())
    error = sum(each.squared_error for each in compared.values())
    return Decoded(
        weight_error=math.sqrt(error / norm) if norm else 0.0,
        seconds=sum(result.seconds for result in results),
        digest=hashlib.blake2b(b"".join(each.digest for each in compared.values()), digest_size=16).hexdigest(),
        compared=compared,
        state=state,
    )


def _squared_difference(reference: Reference, name: str, decoded: Tensor) -> tuple[float, float]:
    """Sums of squares of the difference and of the original, in float64.

    In pieces: the whole original, and float64 copies of it, would be the largest things in memory.
    """
    spec = reference.specs[name]
    flat = decoded.reshape(-1)
    error = norm = 0.0
    start = 0
    for chunk in reference.chunks(name):
        before = from_bytes(chunk, PlaneSpec((len(chunk) // spec.item_bytes,), spec.dtype))
        after = flat[start : start + before.numel()]
        start += before.numel()
        if not spec.is_real:
            if not torch.equal(before, after):
                raise ArtifactError(f"tensor {name!r} holds integers and came back changed; this is a bug in a stage")
            continue
        x, y = before.double(), after.double()
        square = float(x.square().sum())
        if not math.isfinite(square):  # seldom, so this is not asked of each number
            finite = torch.isfinite(x)
            if to_bytes(before[~finite]) != to_bytes(after[~finite]):
                raise ArtifactError(
                    f"tensor {name!r} holds NaN or infinity and came back changed; this is a bug in a stage"
                )
            x, y = x[finite], y[finite]
            square = float(x.square().sum())
        error += float((y - x).square().sum())
        norm += square
    return error, norm
