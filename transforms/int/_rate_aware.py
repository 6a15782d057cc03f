"""Rate-aware rounding of planes of any shape: the kernel's matrices from torch's tensors and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.util.lazy import numpy, torch

from ..context._choice import model_settings
from ..context._settings import LIMITS, WEIGHTS
from ..shared.kernels import kernel

if TYPE_CHECKING:
    from torch import Tensor


def rate_aware(places: Tensor, rdo: float, limit: int) -> Tensor:
    """Codes that minimise ``(place - code)**2 + rdo * bits``, the bits being those of the packer ``context``.

    Parameters
    ----------
    places : Tensor
        Values in units of the step; any shape. The packer sees the first axis as rows, and the others as one.
    rdo : float
        Price of a bit, more than 0.
    limit : int
        Largest magnitude of a code.

    Returns
    -------
    Tensor
        int32, of the same shape.
    """
    if not places.numel() or not limit:
        return torch.zeros(places.shape, dtype=torch.int32)
    rows = places.shape[0] if places.ndim > 1 else 1
    matrix = places.detach().to("cpu", torch.float32).contiguous().numpy().reshape(rows, -1)
    # The packer's own choice of settings for the nearest codes will do for codes that differ little from them.
    settings = model_settings(numpy.clip(numpy.rint(matrix), -limit, limit).astype(numpy.int32))
    ordered = numpy.ascontiguousarray(matrix.T) if settings.columns_first else matrix
    weights = numpy.array(WEIGHTS[settings.mixture], numpy.int64)
    codes = kernel("int._rate_aware_kernel").rate_aware_matrix(
        ordered, numpy.float32(rdo), limit, weights, settings.resolution, LIMITS[settings.memory], int(settings.carry)
    )
    codes = numpy.ascontiguousarray(codes.T) if settings.columns_first else codes
    return torch.from_numpy(codes).reshape(places.shape)
