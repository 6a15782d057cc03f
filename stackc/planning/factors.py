"""What a lossy stage may do to scales: a small error of one is a small error of its block, a zero is the end of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.util.errors import TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Largest error of a scale, relative to itself. Half precision is off by 2^-9 at most; beyond this a block that was stored
#: well by its codes is not any more.
_MOST_ERROR = 0.25


def floor(scales: Tensor) -> float:
    """Scales up to here may as well be zero: a block of zeros has the smallest that there is, stretched by a quarter at most.

    Examples
    --------
    >>> import torch
    >>> f"{floor(torch.ones(1)):.3g}"
    '2.35e-38'
    """
    return 2 * torch.finfo(scales.dtype).smallest_normal


def require_kept(before: Tensor, after: Tensor) -> None:
    """Refuse scales that a stage turns to zero, or to numbers that have little to do with them.

    Parameters
    ----------
    before, after : Tensor
        The plane as it was, and as the file will give it.

    Raises
    ------
    TensorError
        With how many there are, and what would work.

    Examples
    --------
    >>> import torch
    >>> require_kept(torch.tensor([1e-9, 1.0]), torch.tensor([0.0, 1.0]))
    Traceback (most recent call last):
        ...
    stackc.util.errors.TensorError: 1 of 2 scales, down to 1e-09, would become zero, and what they multiply with them; bf16 keeps small numbers, or leave these scales as they are ('on'), or leave the tensor out of the stage that makes them
    """
    wide, kept = before.detach().to(torch.float64), after.detach().to(torch.float64)
    used = wide.abs() > floor(before)
    lost = used & (kept == 0)
    far = used & ((kept - wide).abs() > _MOST_ERROR * wide.abs())
    for some, become in (
        (lost, "would become zero, and what they multiply with them"),
        (far, f"would be off by more than {_MOST_ERROR:.0%}, and what they multiply with them"),
    ):
        count = int(some.sum())
        if count:
            raise TensorError(
                f"{count} of {wide.numel()} scales, down to {float(wide[some].abs().min()):g}, {become}; bf16 keeps small "
                "numbers, or leave these scales as they are ('on'), or leave the tensor out of the stage that makes them"
            )
