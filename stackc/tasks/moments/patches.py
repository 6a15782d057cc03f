"""What a convolution is fed: for every place of its output, the patch of its input that a row of its weight meets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

#: Numbers of patches that are in memory at a time, unless a single line of the output has more.
_CHUNK = 1 << 22


def meets_patches(module: nn.Module) -> TypeGuard[Convolution]:
    """Whether a module is a convolution all of whose rows meet the same patches.

    Rows of a grouped one meet different inputs, so that there are no second moments for all of them; those of a transposed
    one are no rows of its weight; a subclass with a forward pass of its own may do anything.

    Examples
    --------
    >>> from torch import nn
    >>> meets_patches(nn.Conv2d(4, 8, 3)), meets_patches(nn.Conv2d(4, 8, 3, groups=2))
    (True, False)
    """
    if not isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) or module.groups != 1:
        return False
    return any(type(module).forward is kind.forward for kind in (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d))


def patches(module: Convolution, x: Tensor) -> Iterator[Tensor]:
    """The patches that a convolution multiplies its rows with, some at a time, shape ``(patches, columns)``.

    Columns are in the order of a flattened row of the weight: the output is their product with it, plus the bias.

    Parameters
    ----------
    module : torch.nn.Conv1d, torch.nn.Conv2d or torch.nn.Conv3d
        For which `meets_patches` holds.
    x : Tensor
        Its input, with or without an axis of examples.
    """
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    axes = len(kernel)
    x = x.detach()
    if x.ndim == axes + 1:
        x = x[None]
    x = _padded(module, x)
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        # views: only the chunks are copied
        x = x.unfold(axis, apart * (size - 1) + 1, step)[..., ::apart]
    places = range(2, 2 + axes)
    x = x.permute(0, *places, 1, *range(2 + axes, 2 + 2 * axes))
    columns = math.prod(x.shape[1 + axes :])
    lines = max(1, _CHUNK // max(math.prod(x.shape[2:]), 1))
    for example in x:
        for some in torch.split(example, lines):
            yield some.reshape(-1, columns)


def _padded(module: Convolution, x: Tensor) -> Tensor:
    padding = module.padding
    if padding == "valid":
        return x
    sides: list[int] = []
    for axis, (size, apart) in enumerate(zip(module.kernel_size, module.dilation, strict=True)):
        # "same" puts the odd one at the end, as torch does
        total = apart * (size - 1) if isinstance(padding, str) else 2 * padding[axis]
        sides = [total // 2, total - total // 2, *sides]  # from the last axis to the first
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return torch.nn.functional.pad(x, sides, mode=mode) if any(sides) else x
