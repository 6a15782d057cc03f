"""The real divergence of a model in which one tensor has another value."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stackc.tasks.calibration import Calibration, find_logits, run_model, spread
from stackc.util.errors import ModelError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Stands for the divergence of a model whose logits are not finite.
_BROKEN = 1e6


class Probe:
    """Runs a model with one tensor exchanged on a few rows.

    Parameters
    ----------
    model : torch.nn.Module
        The reference.
    weights : mapping
        Its parameters by the name of the tensor.
    pool : Calibration
        Rows to choose from, in batches.
    rows : int
        How many rows, at least, if there are so many.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter], pool: Calibration, rows: int) -> None:
        self._model = model
        self._weights = weights
        sizes = [len(next(iter(batch.values()))) for batch in pool.batches]
        count = max(1, -(-rows * len(sizes) // max(sum(sizes), 1)))
        self._rows = Calibration(tuple(spread(pool.batches, count)))
        self._lock = threading.Lock()
        self._before = self._log_chances()

    def put(self, tensor: str, value: Tensor) -> tuple[Tensor, float]:
        """How far a value is from the one in the model, and KL(before || with that value) in nats per row."""
        if tensor not in self._weights:
            return torch.zeros(1), 0.0
        parameter = self._weights[tensor]
        with self._lock:
            kept = parameter.data
            parameter.data = value.detach().to(kept.device, kept.dtype).reshape(kept.shape)
            try:
                after = self._log_chances()
            finally:
                parameter.data = kept
        parts = zip(self._before, after, strict=True)
        divergence = sum(float((before.exp() * (before - now)).sum()) for before, now in parts)
        per_row = divergence / sum(len(part) for part in self._before)
        change = value.detach().to(kept.dtype).reshape(kept.shape) - kept
        return change, per_row if per_row < _BROKEN else _BROKEN  # also if it is not a number

    def _log_chances(self) -> list[Tensor]:
        with torch.inference_mode():
            outputs = run_model(self._model, self._rows)
            return [logits_of(output, self._model).to(torch.float64).log_softmax(-1) for output in outputs]


def logits_of(output: object, model: nn.Module) -> Tensor:
    """The logits in what a model returned, rows along the first axis and classes along the last.

    Raises
    ------
    ModelError
        If there are none.
    """
    found = find_logits(output)
    if found is None:
        raise ModelError(
            f"{type(model).__name__} gives no logits, which the sensitivity fisher needs; allocate with "
            "'sensitivity: weight-error'"
        )
    return found
