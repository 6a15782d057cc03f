"""`Sum`: a sum of outer products that lives in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Vectors whose products are summed in the dtype of the model before they are added up in float64.
_CHUNK = 2048


class Sum:
    """Sum of ``v v^T`` in a file of its own, made when the first vectors arrive.

    Parameters
    ----------
    path : Path
        The file.
    even : float
        Share of the mean of the diagonal that `mean` adds to all of it.

    Attributes
    ----------
    count : int
        Vectors so far.
    """

    def __init__(self, path: Path, even: float = 0.0) -> None:
        self.count = 0
        self._even = even
        self._path = path
        self._matrix: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Take vectors into account, shape ``(vectors, columns)``."""
        columns = vectors.shape[1]
        if self._matrix is None:
            flat = torch.from_file(str(self._path), shared=True, size=columns * columns, dtype=torch.float64)
            self._matrix = flat.reshape(columns, columns)
        wide = torch.float64 if vectors.dtype == torch.float64 else torch.float32
        for chunk in torch.split(vectors, _CHUNK):
            chunk = chunk.to("cpu", wide)
            self._matrix += chunk.T @ chunk
        self.count += len(vectors)

    def mean(self) -> Tensor:
        """The second moments; a copy."""
        assert self._matrix is not None
        mean = self._matrix / self.count
        mean.diagonal().add_(self._even * mean.diagonal().mean())
        return mean

    def state(self) -> tuple[int, float, Tensor]:
        """All that there is to it, for `restored`; not a copy."""
        assert self._matrix is not None
        return self.count, self._even, self._matrix

    @classmethod
    def restored(cls, count: int, even: float, matrix: Tensor) -> Self:
        """Inverse of `state`; nothing more can be added."""
        found = cls(Path(), even)
        found.count, found._matrix = count, matrix
        return found
