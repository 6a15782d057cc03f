"""How much the model loses when a tensor is stored with an error."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

from stackc.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.reference import Reference

#: Values that are summed in the dtype of the tensor before they are added up in float64.
_CHUNK = 1 << 16


class Sensitivity(abc.ABC):
    """Estimates of the loss of a model, one tensor changed at a time; several threads may ask at once."""

    name: ClassVar[str]
    unit: ClassVar[str]

    @abc.abstractmethod
    def loss(self, tensor: str, change: Tensor) -> float:
        """The estimated loss if a tensor is off by ``change``, in `unit`; all others are as they were."""


class WeightError(Sensitivity):
    """The squared error of the weights, as a share of the squared norm of all real tensors together.

    Parameters
    ----------
    reference : Reference
        The uncompressed model.
    """

    name: ClassVar[str] = "weight-error"
    unit: ClassVar[str] = "squared relative weight error"

    def __init__(self, reference: Reference) -> None:
        real = (name for name, spec in reference.specs.items() if spec.is_real)
        self._norm = sum(squared_norm(reference.tensor(name)) for name in real) or 1.0

    def loss(self, tensor: str, change: Tensor) -> float:
        """Squared Frobenius norm of the change, over that of the model."""
        return squared_norm(change) / self._norm


def squared_norm(x: Tensor) -> float:
    """Sum of squares.

    Examples
    --------
    >>> import torch
    >>> squared_norm(torch.tensor([3.0, 4.0]))
    25.0
    """
    norms = [torch.linalg.vector_norm(chunk) for chunk in torch.split(x.detach().reshape(-1), _CHUNK)]
    return float(torch.stack(norms).to(torch.float64).square().sum()) if x.numel() else 0.0
