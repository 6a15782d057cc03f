"""The integer planes that the coders get: quantised and ternary weights of real models, and small planes cut from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

#: Bits of the quantised weights.
BITS = (8, 5, 4, 3)
#: Shares of nonzero ternary codes.
DENSITIES = (0.5, 0.2, 0.1, 0.05)
#: Numbers of codes of the small planes: 1 to 4 kB at a byte each.
SMALL = (1024, 2048, 4096)
#: Steps over the standard deviation of all weights: what one absolute step for a whole model looks like.
STEPS = (0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Plane:
    """Integers as a coder gets them.

    Parameters
    ----------
    group : str
        Row of the table.
    name : str
        Tensor that it comes from.
    codes : ndarray
        int8.
    lo, hi : int
        Bounds that every coder is told.
    """

    group: str
    name: str
    codes: np.ndarray
    lo: int
    hi: int

    @property
    def digest(self) -> str:
        """Identifies the codes, so that figures of a coder that did not change can be kept."""
        head = f"{self.codes.shape} {self.lo} {self.hi}".encode()
        return hashlib.sha256(head + self.codes.tobytes()).hexdigest()[:16]


def row_scaled(x: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """``round(x / scale)`` with one scale for each index of the first axis, which maps its largest magnitude to the largest code."""
    top = (1 << (bits - 1)) - 1
    scale = np.abs(x.reshape(x.shape[0], -1)).max(axis=1) / top
    scale[scale == 0] = 1
    return np.rint(x / scale.reshape(-1, *[1] * (x.ndim - 1))).astype(np.int8), top


def tensor_scaled(x: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """As `row_scaled`, with one scale for the tensor."""
    top = (1 << (bits - 1)) - 1
    largest = float(np.abs(x).max())
    return np.rint(x * (top / largest if largest else 1.0)).astype(np.int8), top


def ternary(x: np.ndarray, density: float) -> np.ndarray:
    """Sign of the weights above the magnitude that the given share of the tensor exceeds, 0 elsewhere."""
    threshold = np.quantile(np.abs(x), 1 - density)
    return (np.sign(x) * (np.abs(x) > threshold)).astype(np.int8)


def stepped(x: np.ndarray, step: float) -> tuple[np.ndarray, int]:
    """``round(x / step)`` with the range that the data have, at most that of int8."""
    codes = np.clip(np.rint(x / step), -127, 127).astype(np.int8)
    return codes, max(1, int(np.abs(codes).max()))


def principal_scores(x: np.ndarray, rank: int) -> np.ndarray:
    """Coordinates of the rows in the basis of their ``rank`` largest principal components."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ vectors[:, ::-1][:, :rank], np.float32)


def planes(label: str, state: Mapping[str, np.ndarray]) -> Iterator[Plane]:
    """All planes of a model, group by group; ``label`` begins the names of its groups."""
    matrices = {name: x for name, x in state.items() if x.ndim > 1}
    for bits in BITS:
        for name, x in matrices.items():
            codes, top = row_scaled(x, bits)
            yield Plane(f"{label} {bits} bit, row-scaled", name, codes, -top, top)
    for bits in BITS:
        for name, x in matrices.items():
            codes, top = tensor_scaled(x, bits)
            yield Plane(f"{label} {bits} bit, tensor-scaled", name, codes, -top, top)
    deviation = float(
        np.sqrt(
            sum(float((x.astype(np.float64) ** 2).sum()) for x in matrices.values())
            / sum(x.size for x in matrices.values())
        )
    )
    for step in STEPS:
        for name, x in matrices.items():
            codes, top = stepped(x, step * deviation)
            yield Plane(f"{label} one step, {step} sigma", name, codes, -top, top)
    for density in DENSITIES:
        for name, x in matrices.items():
            yield Plane(f"{label} ternary {100 * density:.0f} %", name, ternary(x, density), -1, 1)
    yield from _structured(label, matrices)


def _structured(label: str, matrices: Mapping[str, np.ndarray]) -> Iterator[Plane]:
    """What recipes make of a word embedding: scores of its principal components, and the mask of the rows that are kept."""
    name = next(name for name in matrices if name.endswith("word_embeddings.weight"))
    embedding = matrices[name]
    for rank in (embedding.shape[1] // 2, embedding.shape[1] // 5):
        codes, top = tensor_scaled(principal_scores(embedding, rank), 6)
        yield Plane(f"{label} principal scores, 6 bit", f"{name} rank {rank}", codes, -top, top)
    norms = np.linalg.norm(embedding, axis=1)
    for density in (0.65, 0.35, 0.2):
        mask = (norms >= np.quantile(norms, 1 - density)).astype(np.int8)
        yield Plane(f"{label} masks of rows", f"{name} {100 * density:.0f} %", mask, 0, 1)


def small_planes(label: str, state: Mapping[str, np.ndarray]) -> Iterator[Plane]:
    """First rows of every matrix, and every vector, of 1,024 to 4,096 codes."""
    cuts = {}
    for name, x in state.items():
        for cut in [x] if x.ndim == 1 else [x[: size // x.shape[1]] for size in SMALL if x.size >= size]:
            if SMALL[0] <= cut.size <= SMALL[-1]:
                cuts[f"{name}[:{cut.shape[0]}]"] = cut
    for bits in BITS:
        for where, cut in cuts.items():
            codes, top = tensor_scaled(cut, bits)
            yield Plane(f"{label} small, {bits} bit", where, codes, -top, top)
    for density in DENSITIES:
        for where, cut in cuts.items():
            yield Plane(f"{label} small, ternary {100 * density:.0f} %", where, ternary(cut, density), -1, 1)
