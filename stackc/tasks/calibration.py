"""Calibration data: some training rows of the task, as the reference is fed them, and the reference to feed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from stackc.core.planes import byte_view
from stackc.models.forward import as_fed, forward_pass, require_fit
from stackc.util.errors import DataError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.models import Reference
    from stackc.tasks.task import Task

#: Training rows that statistics of the model are taken from, if the recipe does not say.
DEFAULT_ROWS = 512

Item = TypeVar("Item")


class Calibration(NamedTuple):
    """Inputs of forward passes, in order: each is what the model is called with, by the name of the argument."""

    batches: tuple[Mapping[str, Tensor], ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes, dtypes and values, for the lock file."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for name, value in sorted(batch.items()):
                digest.update(msgspec.json.encode([name, list(value.shape), str(value.dtype)]))
                digest.update(byte_view(value.contiguous()).data)
        return digest.hexdigest()

    def fitted(self, model: nn.Module) -> Calibration:
        """The same rows as this model can be fed: see `stackc.models.forward.as_fed`.

        Raises
        ------
        DataError
            If the model has no position or no embedding for a token.
        """
        require_fit(model, self.batches, "the calibration data")
        return Calibration(tuple(fed for batch in self.batches for fed in as_fed(model, batch)))


def calibration_batches(task: Task, reference: Reference, rows: int = DEFAULT_ROWS) -> Calibration:
    """The model's inputs for rows that are spread evenly over the training split of a task.

    The same task, tokenizer and number of rows give the same batches; rows of the evaluation split are never among them.

    Parameters
    ----------
    task : Task
        Gives the rows; see `stackc.tasks.Task.calibration_inputs`.
    reference : Reference
        Gives the tokenizer.
    rows : int
        How many rows; all of the training split if it has fewer.

    Raises
    ------
    DataError
        If the task has no training rows, or the model no tokenizer.
    """
    batches = tuple(dict(batch) for batch in task.calibration_inputs(rows, reference.tokenizer()))
    if not batches:
        raise DataError(f"the task {task.name} gave no calibration data; its training split needs at least one row")
    return Calibration(batches)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` items in their order, from places as far from each other as can be.

    Examples
    --------
    >>> spread("abcdefghij", 4), spread("ab", 4)
    (['a', 'c', 'f', 'h'], ['a', 'b'])
    """
    taken = min(count, len(items))
    return [items[index * len(items) // taken] for index in range(taken)]


def named_weights(model: nn.Module, reference: Reference) -> dict[str, nn.Parameter]:
    """The parameter of a built model that holds each tensor of its reference.

    Names are those of the reference. Where the model calls a tensor something else, as transformers does with those of
    old files, it is found by its values; tensors that are no parameters, or that several parameters could hold, are
    left out.

    Parameters
    ----------
    model : torch.nn.Module
        What ``reference.build()`` returned, with the values unchanged.
    reference : Reference
        The uncompressed model.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {
        name: parameters[name]
        for name, spec in reference.specs.items()
        if name in parameters and tuple(parameters[name].shape) == spec.shape
    }
    taken = {id(parameter) for parameter in found.values()}
    free: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if id(parameter) not in taken:
            free.setdefault(tuple(parameter.shape), []).append(parameter)
    for name, spec in reference.specs.items():
        if name not in found and spec.shape in free:
            tensor = reference.tensor(name)
            same = [candidate for candidate in free[spec.shape] if torch.equal(candidate, tensor.to(candidate))]
            if len(same) == 1:
                found[name] = same[0]
    return found


def run_model(model: nn.Module, calibration: Calibration) -> Iterator[object]:
    """Feed every batch to a model and yield what it returns.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, as `stackc.models.Reference.build` returns it. Whether gradients are recorded is the
        caller's choice.
    calibration : Calibration
        The batches.

    Raises
    ------
    ModelError
        If the model does not take them.
    """
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    for batch in calibration.batches:
        inputs = {name: value.to(device) for name, value in batch.items()}
        with forward_pass(model, "the calibration data", inputs):
            output = model(**inputs)
        yield output


def find_logits(output: object) -> Tensor | None:
    """The logits in what a model returned, rows along the first axis and classes along the last; None if there are none."""
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    return found if isinstance(found, torch.Tensor) and found.ndim >= 2 else None
