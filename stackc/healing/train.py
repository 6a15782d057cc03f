"""The training loop: distillation through the decoder, with checkpoints and a choice of the best one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.healing.batches import Batch, Batches
from stackc.healing.latents import TrainedTensor
from stackc.healing.price import REFRESH, Pricing, Size
from stackc.healing.settings import Heal
from stackc.healing.student import Student
from stackc.healing.summary import CurvePoint
from stackc.models.forward import forward_pass
from stackc.util.checkpoints import Checkpoints
from stackc.util.errors import ModelError
from stackc.util.lazy import torch
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Share of the steps over which the learning rate rises.
_WARM_UP = 0.02

#: Gradients are scaled down to this norm.
_LARGEST_GRADIENT = 1.0

#: Bits are counted in every second step, at twice their price: the codes of a whole model take as long as its layers.
PRICED_EVERY = 2

#: Steps between two choices of masks and bases, where they are chosen again.
_RECHOICE = 4 * REFRESH


class Rows(NamedTuple):
    """Rows as batches, and the teacher's logits for them, float32, shape ``(rows, classes)``."""

    batches: Batches
    logits: Tensor


class Trained(NamedTuple):
    """How a training went; the tensors are as at the best evaluation."""

    curve: list[CurvePoint]
    steps: int
    best_step: int
    seconds: float
    price: float


class Training:
    """One training of one student.

    Parameters
    ----------
    settings : Heal
        How to train.
    student : Student
        The model.
    tensors : mapping
        What is trained, by name.
    rows, held_out : Rows
        To train on, and to choose the best checkpoint by.
    measure : callable, optional
        Packs all tensors as they are now; needed where bits have a price.
    reference : torch.nn.Module, optional
        Whose hidden states are matched, if their weight is not 0.
    accelerator : accelerate.Accelerator
        Device and precision.
    checkpoints : Checkpoints
        Where to continue from, and what is written now and then.
    """

    def __init__(
        self,
        settings: Heal,
        student: Student,
        tensors: Mapping[str, TrainedTensor],
        *,
        rows: Rows,
        held_out: Rows,
        measure: Callable[[], Size] | None,
        reference: nn.Module | None,
        accelerator: Any,
        checkpoints: Checkpoints,
    ) -> None:
        self._settings = settings
        self._student = student
        self._tensors = tensors
        self._rows = rows
        self._held_out = held_out
        self._measure = measure
        self._reference = reference
        self._accelerator = accelerator
        self._checkpoints = checkpoints
        self._steps = settings.total_steps(len(rows.logits))
        count = settings.evaluations
        self._evaluated = {round(self._steps * number / count) for number in range(1, count + 1)}
        self._pricing = Pricing(settings, tensors, self._steps)
        self._parameters = [value for tensor in tensors.values() for value in tensor.parameters.values()]
        self._optimiser = accelerator.prepare_optimizer(torch.optim.Adam(self._parameters, lr=settings.lr, fused=True))
        self._step = 0
        self._curve: list[CurvePoint] = []
        self._losses: list[float] = []
        self._best: tuple[tuple[float, float], int, dict[str, dict[str, Tensor]]] | None = None
        self._seconds = 0.0

    def run(self, progress: Progress) -> Trained:
        """Train from the last checkpoint, or from the beginning, to the end; leaves the tensors as they were at the best.

        Raises
        ------
        ModelError
            If the loss is not finite.
        """
        begin = time.perf_counter()
        saved = self._checkpoints.read()
        if saved is not None:
            self._restore(saved)
        before = self._seconds
        with progress.task("heal", self._steps) as advance:
            advance(self._step)
            if self._step == 0 and not self._curve:
                self._evaluate()
            while self._step < self._steps and not self._is_stuck():
                if self._step % REFRESH == 0:
                    self._seconds = before + time.perf_counter() - begin
                    self._checkpoints.write_now_and_then(self._state)
                    self._pricing.refresh()
                if self._settings.masks == "rechosen" and self._step % _RECHOICE == 0:
                    for tensor in self._tensors.values():
                        tensor.rechoose()
                self._train_on(self._rows.batches.at(self._step))
                self._step += 1
                advance(1)
                if self._step in self._evaluated or self._step == self._steps:
                    self._evaluate()
        self._seconds = before + time.perf_counter() - begin
        assert self._best is not None
        _, best_step, states = self._best
        for name, tensor in self._tensors.items():
            tensor.restore(states[name])
        self._checkpoints.write(self._state())
        return Trained(self._curve, self._step, best_step, self._seconds, self._pricing.price)

    @property
    def prices_bits(self) -> bool:
        """Whether bits have a price."""
        return self._pricing.active

    def estimate(self, size: Size | None) -> tuple[float | None, int | None]:
        """Estimated and packed bytes of the planes that have a price, as the tensors are now."""
        if size is None:
            return None, None
        self._pricing.refresh()
        with torch.no_grad():
            return float(self._pricing.bits()) / 8, sum(size.priced.values())

    def _train_on(self, batch: Batch) -> None:
        settings = self._settings
        pace = _schedule(self._step / self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.lr * pace
        self._optimiser.zero_grad()
        inputs = self._on_device(batch.inputs)
        options = {"output_hidden_states": True} if self._reference is not None else {}
        with self._accelerator.autocast():
            output = self._student(inputs, **options)
        loss = distillation_loss(
            _logits(output), self._rows.logits[batch.rows].to(self._accelerator.device), settings.temperature
        )
        if self._reference is not None:
            loss = loss + settings.hidden * self._hidden_error(output, inputs)
        self._losses.append(float(loss.detach()))
        if not math.isfinite(self._losses[-1]):
            raise ModelError(
                f"heal: the loss is not finite at step {self._step + 1}; a smaller 'lr' than {settings.lr:g} may do"
            )
        if self._pricing.active and self._step % PRICED_EVERY == 0:
            bits = self._pricing.bits()
            price = self._pricing.update(self._step, float(bits.detach()), pace)
            loss = loss + PRICED_EVERY * price * bits
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        self._optimiser.step()

    def _hidden_error(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        assert self._reference is not None
        with (
            torch.no_grad(),
            self._accelerator.autocast(),
            forward_pass(self._reference, "the training rows", inputs),
        ):
            wanted = self._reference(**inputs, output_hidden_states=True).hidden_states
        seen = inputs["attention_mask"][..., None].to(torch.float32)
        errors = [
            ((mine.float() - its.float()).square() * seen).sum() / (seen.sum() * mine.shape[-1])
            for mine, its in zip(output.hidden_states, wanted, strict=True)
        ]
        return torch.stack(errors).mean()

    def _evaluate(self) -> None:
        """Look at the held-out rows and at the size, and remember the best."""
        divergence = self.divergence()
        bits, size = None, None
        if self._pricing.active and self._measure is not None:
            size = self._measure()
            bits = 8 * self._pricing.measured(size)
        loss = sum(self._losses) / len(self._losses) if self._losses else divergence
        self._losses.clear()
        self._curve.append(CurvePoint(step=self._step, loss=loss, divergence=divergence, bits=bits))
        target = self._settings.target_bytes
        excess = 0.0 if target is None or size is None else max(0.0, size.file - target)
        cost = divergence + (self._settings.rate * 8 * size.file if size is not None else 0.0)
        if self._best is None or (excess, cost) < self._best[0]:
            states = {name: tensor.state() for name, tensor in self._tensors.items()}
            self._best = (excess, cost), self._step, states

    def divergence(self) -> float:
        """Mean KL(teacher || student) on the held-out rows, in nats per row."""
        total = 0.0
        with torch.no_grad():
            for batch in self._held_out.batches.in_order():
                with self._accelerator.autocast():
                    output = self._student(self._on_device(batch.inputs))
                wanted = self._held_out.logits[batch.rows].to(self._accelerator.device)
                total += float(distillation_loss(_logits(output), wanted, 1.0)) * len(batch.rows)
        return total / len(self._held_out.logits)

    def _is_stuck(self) -> bool:
        """Whether patience is over: nothing was better for so many evaluations."""
        if self._settings.patience is None or self._best is None:
            return False
        since = sum(point.step > self._best[1] for point in self._curve)
        return since >= self._settings.patience

    def _on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self._accelerator.device) for name, value in inputs.items()}

    def _state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "step": self._step,
            "tensors": {name: tensor.state() for name, tensor in self._tensors.items()},
            "optimiser": self._optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "pricing": self._pricing.state(),
            "curve": [(point.step, point.loss, point.divergence, point.bits) for point in self._curve],
            "losses": list(self._losses),
            "best": self._best,
            "seconds": self._seconds,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self._step = saved["step"]
        for name, tensor in self._tensors.items():
            tensor.restore(saved["tensors"][name])
        self._optimiser.load_state_dict(saved["optimiser"])
        if saved["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(saved["scaler"])
        self._pricing.restore(saved["pricing"])
        self._curve = [
            CurvePoint(step=step, loss=loss, divergence=divergence, bits=bits)
            for step, loss, divergence, bits in saved["curve"]
        ]
        self._losses = list(saved["losses"])
        self._best = saved["best"]
        self._seconds = saved["seconds"]


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher || student) of the softened distributions, times the square of the temperature.

    Hinton et al. 2015, "Distilling the knowledge in a neural network": the factor keeps gradients at their size.

    Parameters
    ----------
    logits, wanted : Tensor
        Of student and teacher, classes along the last axis.
    temperature : float
        Divides both.

    Examples
    --------
    >>> import torch
    >>> float(distillation_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]]), 2.0))
    0.0
    """
    mine = (logits.float() / temperature).log_softmax(-1)
    its = (wanted.float() / temperature).log_softmax(-1)
    return (its.exp() * (its - mine)).sum(-1).mean() * temperature**2


def _logits(output: Any) -> Tensor:
    found = getattr(output, "logits", output)
    if not isinstance(found, torch.Tensor):
        raise ModelError(f"heal needs a model that returns logits, this one returns {type(output).__name__}")
    return found


def _schedule(done: float) -> float:
    """Share of the peak learning rate after so much of the training: a short rise, then a cosine."""
    if done < _WARM_UP:
        return max(done / _WARM_UP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))
