"""Second moments of what the rows of a tensor meet, for stages that choose by the error of what comes out of a layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stackc.tasks.calibration import Calibration, named_weights
from stackc.tasks.moments.gradients import embedding_gradients
from stackc.tasks.moments.inputs import watch_inputs
from stackc.tasks.moments.patches import meets_patches
from stackc.tasks.moments.sums import Sum
from stackc.util.errors import PlanError
from stackc.util.lazy import torch
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.models import Reference

__all__ = ["Moments", "second_moments"]


class Moments(Mapping[str, "Tensor"]):
    """Second moments by tensor: the mean of ``v v^T`` over the vectors ``v`` that rows of the tensor meet.

    Rows of a linear layer's weight meet its inputs: an error ``d`` of a row changes an output by ``d @ v``. Flattened rows
    of a convolution's weight meet patches of its inputs, if they all meet the same, as they do not in groups. Rows of an
    embedding meet the gradients of what the model says, to which a share of their mean is added in all directions; see
    `stackc.tasks.moments.gradients.embedding_gradients`. Other tensors have none.

    float64, shape ``(columns, columns)``. They live in files that are mapped into memory, as long as the block of
    `second_moments` lasts, and layers with the same input share one.
    """

    def __init__(self, sums: Mapping[str, Sum]) -> None:
        self._sums = sums

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name].mean()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def write(self, path: Path) -> None:
        """Keep them in a file."""
        distinct = {id(total): total for total in self._sums.values()}
        numbers = {key: number for number, key in enumerate(distinct)}
        content = {
            "names": {name: numbers[id(total)] for name, total in self._sums.items()},
            "sums": [total.state() for total in distinct.values()],
        }
        torch.save(content, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` kept; the file stays mapped into memory."""
        content = torch.load(path, mmap=True, weights_only=True)
        sums = [Sum.restored(*state) for state in content["sums"]]
        return cls({name: sums[number] for name, number in content["names"].items()})


@contextmanager
def second_moments(
    reference: Reference, calibration: Calibration, names: Iterable[str], progress: Progress | None = None
) -> Iterator[Moments]:
    """Run the reference over calibration data and watch what its linear layers, convolutions and embeddings meet.

    A weight that both hold has the moments of the linear layer. The result does not depend on the number of cores.

    Parameters
    ----------
    reference : Reference
        The uncompressed model.
    calibration : Calibration
        What it is run on.
    names : iterable of str
        The tensors whose moments are wanted.
    progress : Progress, optional
        Told about every batch.

    Yields
    ------
    Moments
        For those of the tensors that are weights of linear layers or convolutions which ran, or of embeddings that logits depend on.

    Raises
    ------
    ModelError
        If the reference has no architecture, or does not run on the data.
    PlanError
        If one of the tensors is the weight of a layer that stores it transposed.
    """
    model = reference.build()
    calibration = calibration.fitted(model)
    wanted = set(names)
    owners = {id(weight): name for name, weight in named_weights(model, reference).items() if name in wanted}
    layers: dict[str, list[nn.Module]] = {}
    embeddings: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        name = owners.get(id(getattr(module, "weight", None)))
        if name is None:
            continue
        if type(module).__name__ == "Conv1D":  # of transformers, for GPT-2 and its kin
            raise PlanError(
                f"{name} is the weight of a Conv1D, which stores it transposed, so that its rows are not multiplied with the "
                "layer's inputs; leave it out of the calibrated stage with 'on'"
            )
        if isinstance(module, torch.nn.Linear) or meets_patches(module):
            layers.setdefault(name, []).append(module)
        if isinstance(module, torch.nn.Embedding):
            embeddings.setdefault(name, []).append(module)
    embeddings = {name: modules for name, modules in embeddings.items() if name not in layers}
    with tempfile.TemporaryDirectory(prefix="stackc-moments-", ignore_cleanup_errors=True) as folder:
        sums = _summed(model, layers, embeddings, calibration, Path(folder), progress or Progress())
        del model
        yield Moments({name: total for name, total in sums.items() if total.count})


def _summed(
    model: nn.Module,
    layers: Mapping[str, list[nn.Module]],
    embeddings: Mapping[str, list[nn.Module]],
    calibration: Calibration,
    folder: Path,
    progress: Progress,
) -> dict[str, Sum]:
    sums = watch_inputs(model, layers, calibration, folder, progress, share=True) if layers else {}
    if sums is None:
        sums = watch_inputs(model, layers, calibration, folder, progress, share=False)
    assert sums is not None
    if embeddings:
        sums |= embedding_gradients(model, embeddings, calibration, folder, progress)
    return sums
