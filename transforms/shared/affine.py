"""Uniform grids: how values share scales, and torchao's arithmetic for choosing these."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.spec import PlaneSpec
from stackc.core.transform import is_finite
from stackc.util.errors import TensorError
from stackc.util.lazy import torch
from stackc.util.parallel import one_thread_per_operation

if TYPE_CHECKING:
    from torch import Tensor


class Blocks(NamedTuple):
    """How values share scales: ``lead`` rows of ``width`` values, each cut into ``groups`` blocks of ``size``."""

    lead: tuple[int, ...]
    width: int
    groups: int
    size: int

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """One scale per block."""
        return (*self.lead, self.groups)


def one_block(shape: tuple[int, ...]) -> Blocks:
    """All values of a plane share a scale."""
    numel = math.prod(shape)
    return Blocks((1,) * max(len(shape) - 1, 0), numel, 1, max(numel, 1))


def blocks_of_rows(shape: tuple[int, ...], size: int | None) -> Blocks:
    """Rows along the last axis (see `stackc.core.spec.as_matrix`) share a scale, or ``size`` values of them."""
    *rows, width = shape or (1,)
    size = max(min(size or width, width), 1)
    return Blocks(tuple(rows), width, max(-(-width // size), 1), size)


def cut(x: Tensor, blocks: Blocks) -> Tensor:
    """Values by block, shape ``(*scale_shape, size)``, padded with zeros, which no range or mean magnitude notices."""
    missing = blocks.groups * blocks.size - blocks.width
    if not missing:
        return x.reshape(*blocks.scale_shape, blocks.size)
    rows = x.reshape(*blocks.lead, blocks.width)
    rows = torch.cat([rows, rows.new_zeros(*blocks.lead, missing)], dim=-1)
    return rows.reshape(*blocks.scale_shape, blocks.size)


def join(parts: Tensor, blocks: Blocks) -> Tensor:
    """Inverse of `cut`, shape ``(*lead, width)``."""
    return parts.reshape(*blocks.lead, blocks.groups * blocks.size)[..., : blocks.width]


def spread(per_block: Tensor, blocks: Blocks) -> Tensor:
    """One number per block, repeated so that it broadcasts against ``(*lead, width)``."""
    if blocks.groups == 1:
        return per_block
    return per_block.repeat_interleave(blocks.size, dim=-1)[..., : blocks.width]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What scales of a plane with this dtype are stored in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def affine(parts: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale (float32, or float64 of float64) and zero point (the same dtype) of every block, as torchao computes them.

    In the dtype that they are stored in, whatever that of the plane: a quotient in float16 may vanish.

    Source: ``_choose_qparams_affine`` in ``torchao/quantization/quant_primitives.py``.
    """
    steps = float((1 << bits) - 1)
    stored = wide_dtype(parts.dtype)
    floor = torch.finfo(stored).smallest_normal
    least, most = (end.to(stored) for end in torch.aminmax(parts, dim=-1))
    if symmetric:  # one of the two is no less than zero
        scale = (torch.maximum(-least, most) / (steps / 2)).clamp(min=floor)
        return scale, torch.zeros_like(scale)
    least, most = least.clamp(max=0), most.clamp(min=0)
    scale = (most - least) / steps
    scale = torch.where(scale.isfinite(), scale, most / steps - least / steps).clamp(min=floor)
    zero_point = torch.clamp(-torch.round(least / scale), 0, steps)
    return scale, zero_point


@one_thread_per_operation()
def sign_scale(parts: Tensor, blocks: Blocks) -> Tensor:
    """Twice the mean magnitude of every block; the last block may be shorter."""
    sizes = torch.full((blocks.groups,), float(blocks.size), dtype=torch.float64, device=parts.device)
    sizes[-1] -= blocks.groups * blocks.size - blocks.width
    total = parts.abs().sum(-1, dtype=torch.float64)
    return (2 * total / sizes.clamp(min=1)).to(wide_dtype(parts.dtype))


def checked(scale: Tensor, x: Tensor) -> Tensor:
    """The scale, if it is finite.

    Raises
    ------
    TensorError
        If values are so large that it is not.
    """
    if not is_finite(scale):
        raise TensorError(
            f"values up to {float(x.abs().max()):g} are too large for a scale in {PlaneSpec.of(x).dtype}; use more bits"
        )
    return scale
