"""How much the model loses when a tensor is stored with an error."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.models import Reference

#: Values that are summed in the dtype of the tensor before they are added up in float64.
_CHUNK = 1 << 16


class Sensitivity(abc.ABC):
    """Estimates of the loss of a model, one tensor changed at a time; several threads may ask at once."""

    name: ClassVar[str]
    unit: ClassVar[str]
    #: Whether `measured` knows better than `loss`.
    measures: ClassVar[bool] = False

    @abc.abstractmethod
    def loss(self, tensor: str, change: Tensor) -> float:
        """The estimated loss if a tensor is off by ``change``, in `unit`; all others are as they were."""

    def measured(self, tensor: str, value: Tensor) -> float:
        """The loss with another value of a tensor, at a higher price than the estimate.

        Raises
        ------
        NotImplementedError
            If the estimate is all there is.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TensorLoss:
    """A sensitivity to one tensor."""

    sensitivity: Sensitivity
    tensor: str

    @property
    def measures(self) -> bool:
        """Whether `measured` knows better than `estimated`."""
        return self.sensitivity.measures

    def estimated(self, change: Tensor) -> float:
        """Estimated loss for a change of the tensor."""
        return self.sensitivity.loss(self.tensor, change)

    def measured(self, value: Tensor) -> float:
        """Loss of the model with another value of the tensor."""
        return self.sensitivity.measured(self.tensor, value)


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
