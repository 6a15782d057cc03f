"""Absolute quantisation steps: the bits that their codes need, and steps to choose from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stackc.core.transform import require_finite
from stackc.util.errors import TensorError
from stackc.util.lazy import torch
from stackc.util.parallel import one_thread_per_operation

from .affine import wide_dtype

if TYPE_CHECKING:
    from torch import Tensor

#: The widest codes that a step may need.
MOST_BITS = 16

#: Steps of the ladder, from four times the root mean square of the values down to about a 181st of it: where few values
#: weigh much, as in a basis, eight or nine bits may pay.
_LADDER = 20


def largest_magnitude(x: Tensor) -> float:
    """Of a plane of finite values; 0 if there are none.

    Examples
    --------
    >>> import torch
    >>> largest_magnitude(torch.tensor([0.5, -2.0]))
    2.0
    """
    return max(abs(float(end)) for end in torch.aminmax(x.detach())) if x.numel() else 0.0


def bits_that_hold(x: Tensor, step: float, slack: float = 1.0) -> int:
    """Bits of the narrowest signed codes that hold every value of a plane, 2 to 16.

    Parameters
    ----------
    x : Tensor
        A real plane.
    step : float
        What a code is multiplied with.
    slack : float
        Room for codes so many times as large; as far as 16 bits have it.

    Raises
    ------
    TensorError
        If 16 bits do not hold them, with the steps that work; if the plane holds NaN or infinity, or the step is too
        small for the dtype that scales are stored in.

    Examples
    --------
    >>> import torch
    >>> bits_that_hold(torch.tensor([0.7, -0.8]), 0.1)
    5
    """
    require_finite(x)
    stored = torch.finfo(wide_dtype(x.dtype))
    largest = largest_magnitude(x)
    most = (1 << (MOST_BITS - 1)) - 1
    if not stored.smallest_normal <= step <= stored.max:
        raise TensorError(f"a step of {step:g} does not fit the {stored.dtype} that it is stored in")
    # the quotient, as rounded in the dtype of the scale, may be larger than the exact one
    code = math.floor(largest / step * (1 + 2 * stored.eps) + 0.5)
    if code > most:
        raise TensorError(
            f"values up to {largest:g} need more than {MOST_BITS} bits at a step of {step:g}; {_up(largest / most)} or "
            "more works"
        )
    code = min(math.ceil(code * slack), most)
    return max(2, 1 + code.bit_length())


@one_thread_per_operation()
def step_ladder(x: Tensor) -> tuple[float, ...]:
    """Steps from coarse to fine, each ``sqrt(2)`` times finer than the one before, around the spread of the values.

    Examples
    --------
    >>> import torch
    >>> steps = step_ladder(torch.ones(4))
    >>> len(steps), steps[0], round(steps[-1], 4)
    (20, 4.0, 0.0055)
    """
    wide = x.detach().to(torch.float64)
    root = float(wide.square().mean().sqrt()) if x.numel() else 0.0
    largest = float(wide.abs().max()) if x.numel() else 0.0
    # outliers far beyond the rest: no step may need more bits than there are
    finest = 1.01 * largest / ((1 << (MOST_BITS - 1)) - 1)
    steps = [4 * (root or 1.0) * 2 ** (-index / 2) for index in range(_LADDER)]
    return tuple(step for step in steps if step >= finest)


#: Values that `stretch` sums up at a time: few enough for a processor's own memory.
_CHUNK = 1 << 15

#: Most that `stretch` makes of a plane: at very low rates what is left of it should not be blown up.
MOST_STRETCH = 1.25


@one_thread_per_operation()
def stretch(x: Tensor, decoded: Tensor, weights: Tensor | None = None) -> float:
    """Factor on the scale of codes that a rate term has moved towards zero, so that the plane shrinks no more.

    It makes the error orthogonal to ``x`` instead of smallest: a network bears noise better than layers that all answer
    too weakly. Rows count by their weights. Between 1 and 1.25.

    Examples
    --------
    >>> import torch
    >>> stretch(torch.tensor([1.0, -3.0]), torch.tensor([0.0, -3.0])).__round__(3)
    1.111
    """
    if not x.numel():
        return 1.0
    if weights is None:
        rows, size = (y.detach().reshape(-1) for y in (x, decoded)), _CHUNK
    else:
        rows = (y.detach().reshape(len(weights), -1) for y in (x, decoded))
        size = max(1, _CHUNK * len(weights) // x.numel())
    common = whole = 0.0
    for index, parts in enumerate(zip(*(torch.split(y, size) for y in rows), strict=True)):
        wide, shown = (part.to(torch.float64) for part in parts)
        counted = wide
        if weights is not None:
            counted = wide * weights[index * size : (index + 1) * size].to(wide)[:, None]
        common += float(torch.dot(counted.reshape(-1), shown.reshape(-1)))
        whole += float(torch.dot(counted.reshape(-1), wide.reshape(-1)))
    # rounded, so that the order of the sums cannot be seen in the file
    return round(min(max(whole / common, 1.0), MOST_STRETCH), 6) if common > 0 else 1.0


def _up(value: float) -> str:
    """A number of three digits that is not smaller."""
    text = f"{value:.2e}"
    if float(text) < value:
        digit = 10.0 ** (math.floor(math.log10(value)) - 2)
        text = f"{float(text) + digit:.2e}"
    return f"{float(text):g}"
