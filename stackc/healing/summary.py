"""What the report says of a training."""

from __future__ import annotations

import msgspec


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of the held-out rows during healing.

    Parameters
    ----------
    step : int
        Optimiser steps done.
    loss : float
        Mean training loss since the evaluation before, the price of bits left out; of the first rows at step 0.
    divergence : float
        Mean KL(teacher || model) on the held-out rows, in nats per row: what the best checkpoint is chosen by.
    bits : float, optional
        Estimate of the trained planes' size; None without a price of bits.
    """

    step: int
    loss: float
    divergence: float
    bits: float | None = None


class HealingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What one heal stage trained on, for how long, and which checkpoint it kept.

    Parameters
    ----------
    stage : int
        Number of the stage in the recipe, from 0.
    latent : str
        ``planes`` or ``dense``.
    teacher : str
        Source of the model whose answers were matched.
    stronger_teacher : bool
        Whether that is another model than the reference.
    rows, held_out : int
        Rows trained on, and training rows held out of them to choose the checkpoint by.
    dropped : int
        Rows left out because they are evaluated or held out, or a part of what is held out.
    sources : list of str
        Where the rows are from.
    steps, best_step : int
        Optimiser steps done, and the one whose weights were kept.
    seconds : float
        Time of the stage's training.
    estimated_bytes : float or None
        Differentiable estimate of the trained planes' size at the end; None without a price of bits.
    packed_bytes : int or None
        What the same planes take in the file.
    price : float
        Price of a bit at the end, in units of the loss.
    curve : list of CurvePoint
        In order of steps.
    """

    stage: int
    latent: str
    teacher: str
    stronger_teacher: bool
    rows: int
    held_out: int
    dropped: int
    sources: list[str]
    steps: int
    best_step: int
    seconds: float
    estimated_bytes: float | None = None
    packed_bytes: int | None = None
    price: float = 0.0
    curve: list[CurvePoint] = []
