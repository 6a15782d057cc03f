"""The model in training: its weights are decoded from trained tensors in every forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stackc.healing.latents import SharedTensor, TrainedTensor
from stackc.models.forward import forward_pass
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Embeddings with fewer rows are decoded whole: finding out which rows a batch meets takes longer.
_FEW_ROWS = 2048


class Student:
    """A model whose weights come from trained tensors.

    Large embeddings decode only the rows that a batch meets, where their stack allows that; all other weights go through
    `torch.func.functional_call`, which keeps ties.

    Parameters
    ----------
    model : torch.nn.Module
        On the device of the training; its own values of what is trained are not used.
    weights : mapping
        Its parameters by the name of the tensor, as `stackc.tasks.calibration.named_weights` finds them.
    trained : mapping
        Trained tensors by name; those that the model has no parameter for are not used by it.
    shared : iterable of SharedTensor
        Planes that trained tensors use.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        trained: Mapping[str, TrainedTensor],
        shared: Iterable[SharedTensor] = (),
    ) -> None:
        self._shared = list(shared)
        self._model = model.eval()  # without dropout: what is stored should answer as it will be used
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        self._decoded: list[tuple[TrainedTensor, list[str]]] = []
        for tensor, form in trained.items():
            if tensor not in weights:
                continue
            places = names[id(weights[tensor])]
            embedding = self._embedding(weights[tensor], form, places)
            if embedding is None:
                self._decoded.append((form, places))
            else:
                _look_up_rows(embedding, form)

    def __call__(self, inputs: Mapping[str, Tensor], **options: Any) -> Any:
        """What the model returns for a batch, with gradients to what is trained."""
        for plane in self._shared:
            plane.forget()
        state: dict[str, Tensor] = {}
        for form, places in self._decoded:
            value = form.value(remember=True)
            state |= dict.fromkeys(places, value)
        with forward_pass(self._model, "the training rows", inputs):
            return torch.func.functional_call(self._model, state, (), {**inputs, **options})

    def _embedding(self, weight: nn.Parameter, form: TrainedTensor, places: list[str]) -> nn.Embedding | None:
        """The only embedding that uses a weight, if its rows can be decoded one by one and that pays."""
        users = [module for module in self._model.modules() if any(own is weight for own in module.parameters(False))]
        if len(users) != 1 or len(places) != 1 or not isinstance(users[0], torch.nn.Embedding):
            return None
        embedding = users[0]
        if embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.num_embeddings < _FEW_ROWS:
            return None
        return embedding if form.has_rows else None


def _look_up_rows(embedding: nn.Embedding, form: TrainedTensor) -> None:
    """Make an embedding decode the rows that it is asked for."""

    def forward(numbers: Tensor) -> Tensor:
        rows, places = torch.unique(numbers, return_inverse=True)
        return torch.nn.functional.embedding(places, form.value(rows))

    embedding.forward = forward  # type: ignore[method-assign, assignment]
