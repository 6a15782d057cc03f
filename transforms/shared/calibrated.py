"""Rounding with error feedback: what rounding a column loses, the columns that follow make up for as far as they can."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stackc.util.errors import TensorError
from stackc.util.lazy import numpy, torch
from stackc.util.parallel import one_thread_per_operation

from .kernels import kernel

if TYPE_CHECKING:
    from torch import Tensor

#: Columns whose errors are handed on one by one; to all later ones they are handed on together.
BLOCK_COLUMNS = 128

#: Share of the mean second moment that is added to every one, as in the code of GPTQ.
DAMPING = 0.01

#: Values that the first estimate of code lengths looks at.
_SAMPLE = 1 << 17

#: Refinements of that estimate: the codes that are chosen change how long codes are.
_ROUNDS = 4


class Grid(NamedTuple):
    """The values that may be stored: ``(code + shift) * scale`` for ``lo <= code <= hi``.

    ``scale``, ``lo`` and ``hi`` have shape ``(rows or 1, groups)``; column ``j`` belongs to group ``j // size``.
    """

    scale: Tensor
    lo: Tensor
    hi: Tensor
    size: int
    shift: float = 0.0

    def of(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, lowest and highest code of these columns, float64, shape ``(rows or 1, columns)``."""
        groups = columns // self.size
        parts = (self.scale, self.lo, self.hi)
        scale, lo, hi = (part[:, groups.clamp(max=part.shape[1] - 1)].to(torch.float64).contiguous() for part in parts)
        return scale, lo, hi

    def some_rows(self, every: int) -> Grid:
        """The grid of every so many rows."""
        scale, lo, hi = (part if part.shape[0] == 1 else part[::every] for part in (self.scale, self.lo, self.hi))
        return Grid(scale, lo, hi, self.size, self.shift)


class Lengths:
    """Bits per code, estimated from how often codes occur (add-half counts).

    Parameters
    ----------
    codes : Tensor
        Codes whose counts the estimate starts from.
    reach : int
        Largest magnitude of a code that is expected.
    """

    def __init__(self, codes: Tensor, reach: int) -> None:
        self._reach = reach
        counts = self.count(codes)
        self._prior = counts / max(codes.numel(), 1)
        self._seen = torch.zeros_like(counts)
        self.refresh(codes.numel())

    def count(self, codes: Tensor) -> Tensor:
        """How often each code occurs."""
        return torch.bincount(self._place(codes).reshape(-1), minlength=2 * self._reach + 1).double()

    def of(self, codes: Tensor) -> Tensor:
        """Bits of each of these codes; one beyond those that were expected counts as the outermost."""
        return self.bits.float()[self._place(codes)]

    def see(self, codes: Tensor) -> None:
        """Take codes into account that are chosen now."""
        self._seen += self.count(codes)

    def refresh(self, expected: int) -> None:
        """Estimate again; ``expected`` codes are still to come, and are taken to be as those of the start."""
        counts = self._seen + self._prior * expected + 0.5
        self.bits = counts.sum().log2() - counts.log2()

    def _place(self, codes: Tensor) -> Tensor:
        return (codes.long() + self._reach).clamp_(0, 2 * self._reach)


@one_thread_per_operation()
def calibrated_codes(
    x: Tensor, grid: Grid, moments: Tensor, *, rdo: float = 0.0, weights: Tensor | None = None
) -> Tensor | None:
    """Codes of a matrix so that its products with the inputs, rather than its entries, change little.

    Columns are rounded one after another, those with the largest second moment first. The error of each is handed on to
    the columns that are not rounded yet, by the least-squares solution for the second moments ``H`` of the inputs:
    ``w[k] -= (w[j] - q[j]) / U[j, j] * U[j, k]`` with ``U.T @ U = inverse(H)``, ``U`` upper triangular. What it costs
    to store ``q[j]`` is then ``(w[j] - q[j])**2 / U[j, j]**2``, to which a rate term adds ``rdo`` times the bits of the
    code, in units of the squared scale and of the mean of ``1 / U[j, j]**2``. Candidates are the nearest code, the one
    next to it towards zero, and zero.

    Optimal brain surgeon: Hassibi and Stork 1993; in this form GPTQ: Frantar et al. 2022 (arXiv 2210.17323), blocks of
    columns and damping as in its code. CERWU (Conzelmann and Bamler 2025, arXiv 2505.18758) has a rate term in the
    solution itself; here it only chooses among candidates.

    Parameters
    ----------
    x : Tensor
        Shape ``(rows, columns)``, real and finite.
    grid : Grid
        What may be stored.
    moments : Tensor
        Mean of ``v v^T`` over inputs ``v``, shape ``(columns, columns)``. An input that is always zero hands on nothing.
    rdo : float
        Lagrange multiplier of the bits; 0 rounds to nearest.
    weights : Tensor, optional
        Importance of each row, shape ``(rows,)``; only the rate term weighs it.

    Returns
    -------
    Tensor or None
        int32, shape ``(rows, columns)``; None if all moments are zero, which says nothing.

    Raises
    ------
    TensorError
        If the moments do not have one row per column, or are not finite.

    Examples
    --------
    >>> import torch
    >>> whole = Grid(torch.ones(1, 1), torch.tensor([[-8]]), torch.tensor([[7]]), 2)
    >>> together = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # both inputs are always the same
    >>> calibrated_codes(torch.tensor([[0.4, 0.4]]), whole, together)
    tensor([[0, 1]], dtype=torch.int32)
    """
    rows, columns = x.shape
    if tuple(moments.shape) != (columns, columns):
        raise TensorError(
            f"rows of {columns} values need second moments of {columns}x{columns}, not of {tuple(moments.shape)}"
        )
    if not rows or not columns:
        return torch.zeros(rows, columns, dtype=torch.int32)
    order, factor = _factor(moments)
    if factor is None:
        return None
    marginal = factor.diagonal().square().reciprocal()
    importance = (marginal / marginal.mean()).numpy()
    per_row = torch.ones(1) if weights is None else weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    todo = x.detach().to(torch.float64)[:, order]
    codes = torch.empty(rows, columns, dtype=torch.int32)
    lengths = _first_lengths(x, grid, rdo) if rdo else None
    for start in range(0, columns, BLOCK_COLUMNS):
        block = slice(start, min(start + BLOCK_COLUMNS, columns))
        here = todo[:, block].contiguous()
        chosen = torch.empty(here.shape, dtype=torch.int32)
        errors = torch.empty_like(here)
        kernel("shared._calibrated_kernel").round_block(
            here.numpy(),
            factor[block, block].contiguous().numpy(),
            *(part.numpy() for part in grid.of(order[block])),
            grid.shift,
            importance[block],
            per_row.to(torch.float64).numpy(),
            numpy.zeros(1) if lengths is None else rdo * lengths.bits.numpy(),
            chosen.numpy(),
            errors.numpy(),
        )
        todo[:, block.stop :] -= errors @ factor[block, block.stop :]
        codes[:, block] = chosen
        if lengths is not None:
            lengths.see(chosen)
            lengths.refresh((columns - block.stop) * rows)
    return torch.empty_like(codes).index_copy_(1, order, codes)


def _first_lengths(x: Tensor, grid: Grid, rdo: float) -> Lengths:
    """Code lengths from rounding some rows on their own, with the codes that these very lengths make worth their bits."""
    every = max(x.numel() // _SAMPLE, 1)
    rows = x[::every].to(torch.float64)
    scale, lo, hi = grid.some_rows(every).of(torch.arange(x.shape[1]))
    place = (rows / scale - grid.shift).to(torch.float32)
    nearest = torch.minimum(torch.maximum(place.round(), lo), hi).to(torch.float32)
    nearer = nearest - nearest.sign()
    reach = int(nearest.abs().max())
    lengths = Lengths(nearest, reach)
    for _ in range(_ROUNDS):
        candidates = torch.stack([nearest, nearer, torch.zeros_like(nearest)])
        cost = (place - candidates).square() + rdo * lengths.of(candidates)
        lengths = Lengths(candidates.gather(0, cost.argmin(0, keepdim=True)), reach)
    return lengths


def _factor(moments: Tensor) -> tuple[Tensor, Tensor | None]:
    """Order of the columns, and the upper triangular factor of the inverse second moments in that order (float64)."""
    wide = moments.to(torch.float64)
    if not bool(wide.isfinite().all()):
        raise TensorError(
            "the second moments of its inputs are not finite; the model overflows on the calibration data"
        )
    diagonal = wide.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    mean = float(diagonal.mean())
    if mean <= 0:
        return order, None
    wide = wide[order][:, order] / mean
    dead = wide.diagonal() <= 0
    damping = DAMPING
    while True:
        damped = wide + torch.diag(torch.where(dead, 1.0, damping).to(torch.float64))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return order, upper
        damping *= 10  # moments of few inputs, rounded: a little more damping makes them positive definite
