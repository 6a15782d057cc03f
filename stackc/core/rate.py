"""How many bits integer codes will take, as a function that training can go down.

The estimate knows what an adaptive coder such as the packer ``context`` learns: empty rows cost next to nothing, and the
chance of a zero, and of each further magnitude, depends on how active row and column are. It is evaluated on rounded
values; its gradient is that of the codes' magnitudes.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Classes of expected activity that have probabilities of their own.
_CLASSES = 48

#: Codes of a class that is just met count as half a zero and half a one, as Krichevsky and Trofimov 1981 estimate.
_PRIOR = 0.5

#: Bits that learning the probabilities of a class costs an adaptive coder, per decision that it learns: half a logarithm
#: of how often it is met (Rissanen 1984).
_LEARNT = 0.5


@functools.cache
def _functions() -> tuple[Any, Any, Any]:
    """The autograd functions; made when first used, because torch is imported then."""

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            return gradients[0]

    class Priced(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, codes: Tensor, first: Tensor, further: Tensor) -> Tensor:
            price, slopes = _priced(codes, first, further)
            context.save_for_backward(slopes)
            return price

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
            (slopes,) = context.saved_tensors
            return slopes * gradients[0], None, None

    class Stepped(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor, step: Tensor, most: int) -> Tensor:
            context.save_for_backward(x, step)
            return (x / step.reshape(())).round_().clamp_(-most, most)

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
            x, step = context.saved_tensors
            towards = torch.dot(gradients[0].reshape(-1), x.reshape(-1)) / step.reshape(()).square()
            return gradients[0] / step.reshape(()), -towards.reshape(step.shape), None

    return Rounded, Priced, Stepped


def _priced(codes: Tensor, first: Tensor, further: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of the magnitudes of codes, 0-d, and what one more unit of each adds."""
    if codes.device.type == "cpu" and codes.dtype == first.dtype == further.dtype == torch.float32:
        from stackc.core._rate_kernel import price_codes  # compiled, and numba takes a second to import

        slopes = torch.empty(codes.shape, dtype=torch.float32)
        vectors = (part.detach().reshape(-1).numpy() for part in (codes, first, further, slopes))
        return codes.new_tensor(price_codes(*vectors)), slopes
    sizes = codes.abs()
    most = sizes.clamp(max=1)
    price = torch.dot(first.reshape(-1), most.reshape(-1)) + torch.dot(further.reshape(-1), (sizes - most).reshape(-1))
    return price, torch.where(sizes <= 1, first, further).mul_(codes.sign())


def rounded(x: Tensor) -> Tensor:
    """Round to nearest, ties to even, and hand gradients on unchanged (Bengio et al. 2013).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
    >>> rounded(x).sum().backward()
    >>> rounded(x).tolist(), x.grad.tolist()
    ([0.0, 2.0], [1.0, 1.0])
    """
    result: Tensor = _functions()[0].apply(x)
    return result


def stepped(x: Tensor, step: Tensor, most: int) -> Tensor:
    """The codes ``x / step``, rounded as by `rounded`, in fewer passes over ``x``.

    The gradient of the step is that of Esser et al. 2020, "Learned step size quantization". That a code may be no larger
    than ``most`` is not looked at by gradients.

    Parameters
    ----------
    x : Tensor
        Of any shape.
    step : Tensor
        One number, of the dtype of ``x``.
    most : int
        Largest magnitude of a code.

    Examples
    --------
    >>> import torch
    >>> x, step = torch.tensor([0.9, -2.1], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    >>> codes = stepped(x, step, most=127)
    >>> (codes * step).sum().backward()
    >>> codes.tolist(), x.grad.tolist(), [round(value, 4) for value in step.grad.tolist()]
    ([2.0, -4.0], [1.0, 1.0], [0.4])
    """
    result: Tensor = _functions()[2].apply(x, step, most)
    return result


class CodeBits(NamedTuple):
    """An estimate for codes that are distributed as some others are: ``fixed`` bits, and more for each magnitude.

    ``first`` are the bits that a one takes more than a zero, ``further`` those of each further unit, both shaped like
    the codes.
    """

    fixed: float
    first: Tensor
    further: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        """Bits of codes, 0-d; the gradient of each code is the price of its next unit, towards zero."""
        result: Tensor = _functions()[1].apply(codes.to(self.first.dtype), self.first, self.further)
        return result + self.fixed

    @classmethod
    def like(cls, codes: Tensor) -> CodeBits:
        """The estimate that fits these codes best.

        Parameters
        ----------
        codes : Tensor
            Whole numbers of any dtype; the first axis are rows, all others columns.
        """
        codes = codes.detach()
        shape = codes.shape
        if not codes.numel():
            none = torch.zeros(shape, dtype=torch.float32, device=codes.device)
            return cls(0.0, none, none)
        matrix = codes.reshape(shape[0], -1) if codes.ndim > 1 else codes.reshape(1, -1)
        sizes = matrix.abs().to(torch.float32)
        used = sizes.amax(1) > 0
        rows, columns = sizes.shape
        share = float(used.sum()) / rows
        mask = rows * _entropy(share) if columns > 1 and rows > 1 else 0.0
        whole = sizes[used] if columns > 1 and rows > 1 else sizes
        if not whole.numel():
            flat = torch.full(shape, math.log2(rows * columns + 1), dtype=torch.float32, device=codes.device)
            return cls(mask, flat, flat)
        classes = _classes(whole)
        ones, tails = torch.ones_like(whole), (whole - 1).clamp(min=0)
        count, hits, total = (
            torch.zeros(_CLASSES, dtype=torch.float32, device=whole.device).index_add_(
                0, classes.reshape(-1), value.reshape(-1)
            )
            for value in (ones, (whole > 0).to(torch.float32), tails)
        )
        chance = (hits + _PRIOR) / (count + 2 * _PRIOR)
        more = (total + _PRIOR) / (
            total + hits + 2 * _PRIOR
        )  # that a magnitude goes on, as in a geometric distribution
        zero = -torch.log2(1 - chance)
        one = -torch.log2(chance) + 1 - torch.log2(1 - more)  # with a sign
        further = -torch.log2(more)
        learnt = float(_LEARNT * (torch.log2(count[count > 0]).sum() + torch.log2(hits[hits > 1]).sum()))
        first_used, further_used = (one - zero)[classes], further[classes]
        if columns > 1 and rows > 1:
            # A row that empties saves its flag and its zeros too: shared out among what keeps it in use.
            flag = math.log2(max(1 - share, 0.5 / rows) / share) * -1.0
            saved = (zero[classes].sum(1) + max(flag, 0.0)) / (whole > 0).sum(1)
            first_used = first_used + saved[:, None]
            first = first_used.mean().repeat(rows, columns)
            first[used] = first_used
            deep = further_used.mean().repeat(rows, columns)
            deep[used] = further_used
            kept = float(saved.mul((whole > 0).sum(1)).sum())
        else:
            first, deep, kept = first_used, further_used, 0.0
        fixed = mask + learnt + float(zero[classes].sum()) - kept
        return cls(fixed, first.reshape(shape), deep.reshape(shape))


def code_bits(codes: Tensor) -> Tensor:
    """Bits of codes under the estimate that fits them best, 0-d and differentiable.

    Parameters
    ----------
    codes : Tensor
        Real, whole numbers, such as `rounded` makes.

    Examples
    --------
    >>> import torch
    >>> dense = (torch.arange(6400.0).reshape(100, 64) * 7.3 % 9 - 4).round()
    >>> sparse = dense * (torch.arange(100) % 10 == 0)[:, None]
    >>> float(code_bits(sparse)) < float(code_bits(dense)) / 8
    True
    """
    return CodeBits.like(codes)(codes)


def _classes(sizes: Tensor) -> Tensor:
    """Class of expected activity of every value: from the row before it, and from its column."""
    activity = torch.log2(2 * sizes + 1)
    rows, columns = sizes.shape
    level = activity.mean()
    by_column = (activity.sum(0) + level) / (rows + 1)
    before = torch.arange(columns, device=sizes.device, dtype=torch.float32)
    by_row = (activity.cumsum(1) - activity + 2 * level) / (before + 2)
    expected = (by_row + by_column[None]) / 2 if rows > 1 else by_row
    # finer where little is expected, as chances differ most there
    places = torch.log2(1 + 32 * expected) * (_CLASSES / 9)
    return places.to(torch.int64).clamp_(0, _CLASSES - 1)


def _entropy(share: float) -> float:
    return -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)
