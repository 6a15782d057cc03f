"""`Heal`: the stage of a recipe that trains through the decoder."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from stackc.core.training import TrainingStage
from stackc.util.humanise import parse_size

_Positive = Annotated[float, Meta(gt=0)]
_Weight = Annotated[float, Meta(ge=0)]


class Heal(TrainingStage, frozen=True):
    """Train what the stages so far store, through their decoders, until the model answers as its teacher does.

    The teacher is the reference, or a stronger model. Its logits are matched by distillation (Hinton et al. 2015,
    "Distilling the knowledge in a neural network"). Codes are rounded in every step, with straight-through gradients
    (Bengio et al. 2013), and step sizes are learnt with them (Esser et al. 2020, "Learned step size quantization"). With
    a price of bits the codes become those that an entropy coder stores in fewer bytes.

    Parameters
    ----------
    latent : {"planes", "dense"}
        What is trained: the planes above the last quantiser, which decode to the weights, or the weights themselves with
        every stage below them simulated. Dense training can bring back what was pruned; see ``masks``.
    epochs : float, optional
        Passes over the training rows, 1 without ``steps``.
    steps : int, optional
        Optimiser steps, instead of ``epochs``.
    lr : float
        Learning rate of Adam at its peak; it falls to zero along a cosine.
    batch_size : int
        Rows per step.
    temperature : float
        Both distributions are softened by it before they are compared.
    hidden : float
        Weight of the mean squared error of the hidden states against the reference's.
    rate : float
        Price of a bit in units of the loss, reached over the first 30 % of the steps.
    bytes : int or str, optional
        Instead of ``rate``: size of the file, such as ``50kB``, that the price is steered towards.
    data : list of str
        Further text to train on, beside the training rows of the task: files, or ``demo/imdb-sentences``.
    rows : int, optional
        At most so many rows of ``data``, spread evenly.
    augmented : int
        So many texts made from the task's training rows: parts of several, joined at words that they share.
    holdout : int
        Training rows of the task that are held out, for choosing the best checkpoint.
    teacher : str, optional
        A stronger model whose answers are matched, instead of the reference's.
    masks : {"frozen", "rechosen"}
        With ``latent: dense``, whether pruned positions and bases stay, or are chosen again as training goes on.
    evaluations : int
        How often the held-out rows are evaluated, evenly over the training.
    patience : int, optional
        Stop when the best of so many evaluations in a row is no better than before.
    precision : {"float32", "bfloat16", "float16"}
        Arithmetic of the forward pass; what is trained is float32.

    Raises
    ------
    ValueError
        If ``steps`` and ``epochs``, or ``rate`` and ``bytes``, are both given; if ``masks`` does not go with ``latent``.

    Examples
    --------
    >>> Heal(steps=100, bytes="50kB").target_bytes
    50000
    """

    name: ClassVar[str] = "heal"
    version: ClassVar[int] = 1

    latent: Annotated[
        Literal["planes", "dense"], Meta(description="what is trained: stored planes, or whole weights")
    ] = "planes"
    epochs: Annotated[_Positive | None, Meta(description="passes over the training rows; 1 without steps")] = None
    steps: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="optimiser steps, instead of epochs")] = None
    lr: Annotated[_Positive, Meta(description="learning rate of Adam at its peak")] = 1e-3
    batch_size: Annotated[int, Meta(ge=1, description="rows per step")] = 64
    temperature: Annotated[_Positive, Meta(description="softens both distributions")] = 2.0
    hidden: Annotated[_Weight, Meta(description="weight of the error of hidden states")] = 0.0
    rate: Annotated[_Weight, Meta(description="price of a bit in units of the loss")] = 0.0
    bytes: Annotated[
        Annotated[int, Meta(ge=1)] | str | None,
        Meta(description="size of the file that the price of a bit is steered towards, instead of rate"),
    ] = None
    data: Annotated[
        tuple[str, ...], Meta(description="further text beside the task's training rows: files, demo/imdb-sentences")
    ] = ()
    rows: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="at most so many rows of data")] = None
    augmented: Annotated[int, Meta(ge=0, description="texts made from the task's training rows, recombined")] = 0
    holdout: Annotated[int, Meta(ge=1, description="training rows held out, for choosing the best checkpoint")] = 1000
    teacher: Annotated[str | None, Meta(description="a stronger model to answer like, instead of the reference")] = None
    masks: Annotated[
        Literal["frozen", "rechosen"],
        Meta(description="with latent: dense, whether pruned positions and bases are chosen again"),
    ] = "frozen"
    evaluations: Annotated[int, Meta(ge=1, description="how often the held-out rows are evaluated")] = 20
    patience: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="evaluations without progress before training stops")
    ] = None
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], Meta(description="arithmetic of the forward pass")
    ] = "float32"

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if self.rate and self.bytes is not None:
            raise ValueError("give rate, a price of bits, or bytes, a size that the price is steered towards, not both")
        if self.masks == "rechosen" and self.latent == "planes":
            raise ValueError("masks: rechosen goes with latent: dense; stored planes hold nothing of what was dropped")
        for name in ("epochs", "lr", "temperature", "hidden", "rate"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is a finite number, not {value}")
        if isinstance(self.bytes, str):
            parse_size(self.bytes)

    @property
    def target_bytes(self) -> int | None:
        """Size of the file that is aimed at; None without one."""
        return parse_size(self.bytes) if isinstance(self.bytes, str) else self.bytes

    def total_steps(self, rows: int) -> int:
        """Optimiser steps for so many training rows.

        Examples
        --------
        >>> Heal(epochs=3, batch_size=64).total_steps(6400)
        300
        """
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 1.0) * rows / self.batch_size))
