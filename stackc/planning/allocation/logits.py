"""From first-order effects on the logits of single rows to the divergence of a changed model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Most directions in the space of logits that a row has samples for.
MOST_DIRECTIONS = 4


class Directions(NamedTuple):
    """Directions in the space of the logits of one row, along which effects are measured.

    Parameters
    ----------
    vectors : list of Tensor
        Shaped like the logits.
    curvatures : list of float
        Second derivative of the divergence along each.
    log_chances : Tensor or None
        Log-probabilities of the row, shape ``(classes,)``, where the vectors are an orthonormal basis of all changes of the
        logits that change the prediction; None where they are a random choice.
    """

    vectors: list[Tensor]
    curvatures: list[float]
    log_chances: Tensor | None


def directions(logits: Tensor, generator: torch.Generator) -> Directions:
    """Directions for one row: a basis for a prediction among few classes, else random ones whose mean is right.

    Random ones (Rademacher, through a factor of the Fisher information ``diag(p) - p p^T`` of the logits) give the
    divergence to second order on average.

    Parameters
    ----------
    logits : Tensor
        Of one row, classes along the last axis.
    generator : torch.Generator
        For random directions.

    Examples
    --------
    >>> import torch
    >>> found = directions(torch.zeros(1, 2), torch.Generator())
    >>> found.vectors, round(found.curvatures[0], 6)
    ([tensor([[ 0.7071, -0.7071]])], 0.5)
    """
    log_chances = logits.detach().to(torch.float64).log_softmax(-1)
    chances = log_chances.exp()
    classes = chances.shape[-1]
    if chances.numel() == classes and classes - 1 <= MOST_DIRECTIONS:
        basis, p = contrasts(classes), chances.reshape(-1)
        curvatures = (p[:, None] * basis.square()).sum(0) - (p @ basis).square()
        vectors = [column.reshape(logits.shape).to(logits.dtype) for column in basis.T]
        return Directions(vectors, curvatures.tolist(), log_chances.reshape(-1))
    roots = chances.sqrt()
    vectors = []
    for _ in range(MOST_DIRECTIONS):
        signs = torch.randint(0, 2, chances.shape, generator=generator, dtype=torch.float64) * 2 - 1
        mixed = roots * signs
        whole = (mixed - chances * (roots * mixed).sum(-1, keepdim=True)) / MOST_DIRECTIONS**0.5
        vectors.append(whole.to(logits.dtype))
    return Directions(vectors, [1.0] * MOST_DIRECTIONS, None)


def contrasts(classes: int) -> Tensor:
    """Orthonormal columns that each sum to zero (Helmert 1876), float64, shape ``(classes, classes - 1)``."""
    columns = torch.zeros(classes, classes - 1, dtype=torch.float64)
    for number in range(1, classes):
        columns[:number, number - 1] = 1.0
        columns[number, number - 1] = -float(number)
    return columns / columns.square().sum(0).sqrt()


class Divergence:
    """Mean divergence of rows from what they were, by the effects along their directions.

    Parameters
    ----------
    shares : sequence of float
        What each row counts in the mean.
    rows : sequence of Directions
        Of each row.
    """

    def __init__(self, shares: Sequence[float], rows: Sequence[Directions]) -> None:
        self.samples = sum(len(row.vectors) for row in rows)
        known = [row.log_chances for row in rows if row.log_chances is not None]
        self._log_chances = torch.stack(known) if len(known) == len(rows) else None
        self._shares = torch.tensor(shares, dtype=torch.float64)
        self._halves = torch.tensor(
            [share * curvature / 2 for share, row in zip(shares, rows, strict=True) for curvature in row.curvatures],
            dtype=torch.float64,
        )

    def of(self, effects: Tensor) -> float:
        """KL(before || after) in nats per row, the logits being off by the effects; to second order for random directions.

        Parameters
        ----------
        effects : Tensor
            One for each direction of each row, float64.
        """
        if self._log_chances is None:
            return float((self._halves * effects.square()).sum())
        rows, classes = self._log_chances.shape
        shifts = effects.reshape(rows, classes - 1) @ contrasts(classes).T
        after = (self._log_chances + shifts).log_softmax(-1)
        each = (self._log_chances.exp() * (self._log_chances - after)).sum(-1)
        return float((self._shares * each).sum())
