"""``mean + scores @ basis`` with every bit defined: what a library's matrix product gives depends on library and threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.util.lazy import torch

from ..shared.kernels import kernel

if TYPE_CHECKING:
    from torch import Tensor


def rows_in_basis(scores: Tensor, basis: Tensor, mean: Tensor | None) -> Tensor:
    """Rows with these coordinates, in the dtype of the planes.

    Every product and every sum is rounded; components are added from the first to the last, then the mean. So the result
    is the same on every machine and for every number of threads. Where gradients are asked for, or the planes are not
    in the memory of the CPU, it is the library's own product, whose last bits may differ.

    Parameters
    ----------
    scores : Tensor
        Shape ``(rows, rank)``.
    basis : Tensor
        Shape ``(rank, columns)``, dtype of the scores.
    mean : Tensor or None
        Shape ``(1, columns)``, dtype of the scores.

    Examples
    --------
    >>> import torch
    >>> scores, basis = torch.tensor([[1e8, 1.0, -1e8]]), torch.ones(3, 1)
    >>> rows_in_basis(scores, basis, None)
    tensor([[0.]])
    """
    parts = [scores, basis] if mean is None else [scores, basis, mean]
    if any(part.device.type != "cpu" for part in parts) or (
        torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    ):
        product = scores @ basis
        return product if mean is None else mean + product
    out = torch.empty(scores.shape[0], basis.shape[1], dtype=scores.dtype, device="cpu")
    kernel("seed._product_kernel").add_up(
        scores.detach().contiguous().numpy(),
        basis.detach().contiguous().numpy(),
        (basis[:0] if mean is None else mean).detach().contiguous().numpy(),
        out.numpy(),
    )
    return out
