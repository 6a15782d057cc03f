"""A transform for stackc in one file: rotate blocks of every row, so that no single weight stands out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from stackc.core.abilities import Trainable
from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Hadamard(Trainable, frozen=True):
    """Multiply every block of ``size`` values of a row by the orthonormal Walsh-Hadamard matrix of that size.

    A rotation changes no lengths, so it saves nothing by itself. Put ``int`` behind it: an outlier, which would set the
    scale of all its neighbours, is spread over its block (Chee et al. 2023, "QuIP"). The matrix is its own inverse.

    Makes one plane, ``rotated``, with the shape of the input; float32, or float64 of a float64 plane. Exact up to the
    rounding of ``log2(size) + 1`` operations per value.

    Parameters
    ----------
    size : int
        Values per block: a power of two, 2 to 4096, that divides the last axis.

    Raises
    ------
    ValueError
        If ``size`` is no power of two.

    Examples
    --------
    >>> import torch
    >>> planes = Hadamard(size=4).encode(torch.tensor([[8.0, 0.0, 0.0, 0.0]]))
    >>> planes["rotated"]
    tensor([[4., 4., 4., 4.]])
    """

    name: ClassVar[str] = "hadamard"
    version: ClassVar[int] = 1

    size: Annotated[int, msgspec.Meta(ge=2, le=4096, description="values per block, a power of two")] = 64

    def __post_init__(self) -> None:
        if self.size & (self.size - 1):
            raise ValueError(f"size is a power of two, such as 64, not {self.size}")

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """One plane ``rotated`` of the same shape.

        Raises
        ------
        SpecError
            If the plane is not real, or ``size`` does not divide its last axis.
        """
        if not spec.is_real or not spec.shape or spec.shape[-1] % self.size:
            raise SpecError(f"hadamard takes real planes whose last axis {self.size} divides, this one is {spec}")
        return {"rotated": PlaneSpec(spec.shape, "float64" if spec.dtype == "float64" else "float32")}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Rotate; nothing that may be known changes it.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or values so large that a sum overflows.
        """
        require_finite(x)
        rotated = _rotate(x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32), self.size)
        if not bool(rotated.isfinite().all()):
            raise TensorError(f"values up to {float(x.abs().max()):g} are too large to be added up; scale the weights")
        return {"rotated": rotated}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Rotate back, then round to the dtype of the spec, which may not hold what later stages have made of a value."""
        return limited(_rotate(planes["rotated"], self.size), spec.dtype)

    def error_bound(self, x: Tensor) -> float:
        """Rounding of both rotations and of the result."""
        used = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32)
        shown = torch.finfo(x.dtype)
        # each of the log2(size) steps and the scaling round once, there and back; a rotation keeps norms
        steps = 2 * (math.log2(self.size) + 2)
        norm = float(torch.linalg.vector_norm(x.detach().to(torch.float64)))
        subnormal = (shown.smallest_normal * shown.eps + used.smallest_normal * used.eps * steps) * math.sqrt(x.numel())
        return (steps * used.eps + shown.eps / 2) * norm * (1 + 2**-10) + subnormal

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Blocks lie within rows, so that rows of ``rotated`` are rows of the input, unless there is one axis only."""
        return {"rotated": Known(known.weights)} if planes["rotated"].ndim > 1 else {}

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rotate; differentiable."""
        return {"rotated": _rotate(x.to(planes["rotated"].dtype), self.size)}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of ``rotated`` are rows of the input."""
        return {"rotated": index}


def _rotate(x: Tensor, size: int) -> Tensor:
    """Fast Walsh-Hadamard transform of every block of ``size`` values along the last axis: sums and differences.

    Elementwise, so the result does not depend on the number of threads, as that of a matrix product may.
    """
    rotated, half = x, 1
    while half < size:
        first, second = rotated.reshape(-1, 2, half).unbind(1)
        rotated = torch.stack([first + second, first - second], dim=1)
        half *= 2
    return (rotated * size**-0.5).reshape(x.shape)
