"""What is kept of the gradients of single rows, layer by layer, so that the effect of a change can be computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stackc.core.planes import to_bytes
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Places of a layer's inputs that are worked on at a time.
_CHUNK = 4096


class Records:
    """Places of a layer: what it was fed there, the gradient of its output there, and the sample that the place is in.

    This class takes the two to be the gradient of the parameter itself; those below know a kind of layer.

    Parameters
    ----------
    path : Path
        Name of two files that do not exist yet; they are made when the first place is appended.

    Attributes
    ----------
    trace : float
        Mean square of the gradient of the parameter, summed over the parameter, with places taken as independent.
    places : float
        Mean number of places in a row.
    """

    def __init__(self, path: Path) -> None:
        self.trace = 0.0
        self.places = 0.0
        self._files = (path.with_name(f"{path.name}-fed"), path.with_name(f"{path.name}-gradient"))
        self._widths = (0, 0)
        self._samples: list[int] = []
        self._places = (torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))

    def append(self, fed: Tensor, gradient: Tensor, sample: int, weight: float, counted: float) -> None:
        """Add the places of one sample.

        Parameters
        ----------
        fed, gradient
            What the layer was fed, and the gradient of its output.
        sample : int
            Number of the sample.
        weight : float
            What the square of the sample's effect counts in `trace`.
        counted : float
            What its places count in `places`; zero if they were counted with an earlier sample of the same row.
        """
        fed = self.prepared(fed)
        gradient = gradient.reshape(-1, gradient.shape[-1])
        fed = fed.expand(len(gradient), -1)
        self._widths = (fed.shape[1], gradient.shape[1])
        self._samples += [sample] * len(gradient)
        self.trace += weight * self.energy(fed, gradient)
        self.places += counted * len(gradient)
        for path, values in zip(self._files, (fed, gradient), strict=True):
            kept = values if values.dtype == torch.int64 else values.to(torch.bfloat16)
            with path.open("ab") as file:
                file.write(to_bytes(kept.cpu().contiguous()))

    @property
    def width(self) -> int:
        """Values of the gradient at a place."""
        return self._widths[1]

    def close(self) -> None:
        """Map the files; nothing can be appended any more."""
        count = len(self._samples)
        kinds = (torch.int64 if self.indexed else torch.bfloat16, torch.bfloat16)
        fed, gradient = (
            torch.from_file(str(path), shared=False, size=count * width, dtype=kind).reshape(count, width)
            for path, width, kind in zip(self._files, self._widths, kinds, strict=True)
        )
        self._places = (fed, gradient, torch.tensor(self._samples))

    def add_effects(self, change: Tensor, effects: Tensor) -> None:
        """Add the first-order effect of a change of the parameter on every sample to ``effects``."""
        for fed, gradient, samples in zip(*(torch.split(part, _CHUNK) for part in self._places), strict=True):
            moved = self.moved(fed if self.indexed else fed.to(torch.float32), change)
            effects.index_add_(0, samples, (moved * gradient.to(torch.float32)).sum(1, dtype=torch.float64))

    indexed = False

    def prepared(self, fed: Tensor) -> Tensor:
        """Inputs as a matrix with one row per place."""
        return fed.reshape(-1, fed.shape[-1])

    def energy(self, fed: Tensor, gradient: Tensor) -> float:
        """Square of the gradient of the parameter, summed over places."""
        return float(gradient.to(torch.float64).square().sum())

    def moved(self, fed: Tensor, change: Tensor) -> Tensor:
        """The change of the output at each place that a change of the parameter makes."""
        return change.reshape(1, -1).expand(len(fed), -1)


class LinearRecords(Records):
    """Of `torch.nn.Linear`, whose output is ``fed @ weight.T``."""

    def energy(self, fed: Tensor, gradient: Tensor) -> float:
        """Product of the squared norms."""
        norms = (x.to(torch.float64).square().sum(1) for x in (fed, gradient))
        return float(torch.dot(*norms))

    def moved(self, fed: Tensor, change: Tensor) -> Tensor:
        """One product of matrices."""
        return fed @ change.T


class TransposedRecords(LinearRecords):
    """Of the Conv1D of transformers, for GPT-2 and its kin, whose output is ``fed @ weight``."""

    def moved(self, fed: Tensor, change: Tensor) -> Tensor:
        """One product of matrices."""
        return fed @ change


class EmbeddingRecords(Records):
    """Of `torch.nn.Embedding`, whose output is ``weight[fed]``."""

    indexed = True

    def prepared(self, fed: Tensor) -> Tensor:
        """Numbers of rows, one per place."""
        return fed.reshape(-1, 1).to(torch.int64)

    def moved(self, fed: Tensor, change: Tensor) -> Tensor:
        """Rows of the change."""
        return change[fed.reshape(-1)]


def kind_of(module: nn.Module) -> type[Records]:
    """The class that knows the weight of a module; `Records` if none does.

    Examples
    --------
    >>> import torch
    >>> kind_of(torch.nn.Linear(2, 2)).__name__, kind_of(torch.nn.LayerNorm(2)).__name__
    ('LinearRecords', 'Records')
    """
    # Exactly these types: a subclass may compute something else, or hand its weight to another module.
    if type(module) is torch.nn.Linear:
        return LinearRecords
    if type(module) is torch.nn.Embedding:
        return EmbeddingRecords
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return TransposedRecords
    return Records
