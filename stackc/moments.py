"""Second moments of what the layers of a model are fed, for stages that round for the error of a layer's outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackc.calibration import Calibration, named_weights, run_model
from stackc.errors import PlanError
from stackc.lazy import torch
from stackc.parallel import one_thread_per_operation
from stackc.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.reference import Reference

#: Inputs whose products are summed in the dtype of the model before they are added up in float64.
_CHUNK = 2048


class Moments(Mapping[str, "Tensor"]):
    """Second moments by tensor: the mean of ``v v^T`` over the inputs ``v`` that rows of the tensor are multiplied with.

    float64, shape ``(columns, columns)``. They live in files that are mapped into memory, as long as the block of
    `input_moments` lasts, and layers with the same input share one. Tensors that nothing is multiplied with have none.
    """

    def __init__(self, sums: Mapping[str, _Sum]) -> None:
        self._sums = sums

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name].mean()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)


@contextmanager
def input_moments(
    reference: Reference, calibration: Calibration, names: Iterable[str], progress: Progress | None = None
) -> Iterator[Moments]:
    """Run the reference over calibration data and watch what its linear layers are fed.

    Padding is left out where the batch has an ``attention_mask`` and the input has its first two axes. The result does
    not depend on the number of cores.

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
        For those of the tensors that are weights of linear layers which ran.

    Raises
    ------
    ModelError
        If the reference has no architecture, or does not run on the data.
    PlanError
        If one of the tensors is the weight of a layer that stores it transposed.
    """
    model = reference.build()
    wanted = set(names)
    owners = {id(weight): name for name, weight in named_weights(model, reference).items() if name in wanted}
    layers: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        name = owners.get(id(getattr(module, "weight", None)))
        if name is None:
            continue
        if type(module).__name__ == "Conv1D":  # of transformers, for GPT-2 and its kin
            raise PlanError(
                f"{name} is the weight of a Conv1D, which stores it transposed, so that its rows are not multiplied with the "
                "layer's inputs; leave it out of the calibrated stage with 'on'"
            )
        if isinstance(module, torch.nn.Linear):
            layers.setdefault(name, []).append(module)
    with tempfile.TemporaryDirectory(prefix="stackc-moments-", ignore_cleanup_errors=True) as folder:
        sums = _watch(model, layers, calibration, Path(folder), progress or Progress(), share=True)
        if sums is None:
            sums = _watch(model, layers, calibration, Path(folder), progress or Progress(), share=False)
        del model
        assert sums is not None
        yield Moments({name: total for name, total in sums.items() if total.count})


class _Sum:
    """Sum of ``v v^T`` in a file of its own, made when the first input arrives."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._matrix: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Take inputs into account, shape ``(inputs, columns)``."""
        columns = inputs.shape[1]
        if self._matrix is None:
            flat = torch.from_file(str(self._path), shared=True, size=columns * columns, dtype=torch.float64)
            self._matrix = flat.reshape(columns, columns)
        wide = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        for chunk in torch.split(inputs, _CHUNK):
            chunk = chunk.to("cpu", wide)
            self._matrix += chunk.T @ chunk
        self.count += len(inputs)

    def mean(self) -> Tensor:
        """The second moments; a copy."""
        assert self._matrix is not None
        return self._matrix / self.count


class _Watch:
    """Adds up the inputs of linear layers during forward passes.

    In the first pass it sees which layers are fed the same tensor, as query, key and value are. From then on the first of
    them adds for all; ``broken`` says that in a later pass they were not fed the same after all.
    """

    def __init__(self, layers: Mapping[str, list[nn.Module]], folder: Path, share: bool) -> None:
        self.broken = False
        self.mask: Tensor | None = None
        self.sums: dict[str, _Sum] = {}
        self._folder = folder
        self._share = {name for name, modules in layers.items() if share and len(modules) == 1}
        self._leaders: dict[str, str] = {}
        self._latest: dict[str, Tensor] = {}

    def begin(self, mask: Tensor | None) -> None:
        """A forward pass begins."""
        self.mask = mask
        self._latest.clear()

    def take(self, name: str, x: Tensor) -> None:
        """A layer is about to be fed ``x``."""
        leader = self._leaders.get(name) or self._leader(name, x)
        if leader != name:
            self.broken |= self._latest.get(leader) is not x
            return
        self._latest[name] = x
        if name not in self.sums:
            self.sums[name] = _Sum(self._folder / str(len(self.sums)))
        self.sums[name].add(self._real(x))

    def by_name(self) -> dict[str, _Sum]:
        """The sums of all layers that ran."""
        return {name: self.sums[leader] for name, leader in self._leaders.items()}

    def _leader(self, name: str, x: Tensor) -> str:
        """The layer that was fed the same tensor just before, or this one."""
        same = (other for other, latest in self._latest.items() if latest is x and other in self._share)
        found = next(same, name) if name in self._share else name
        self._leaders[name] = found
        return found

    def _real(self, x: Tensor) -> Tensor:
        """Inputs that are not padding, shape ``(inputs, columns)``."""
        x = x.detach()
        if self.mask is not None and x.ndim == 3 and x.shape[:2] == self.mask.shape:
            return x[self.mask.to(x.device).bool()]
        return x.reshape(-1, x.shape[-1])


def _watch(
    model: nn.Module,
    layers: Mapping[str, list[nn.Module]],
    calibration: Calibration,
    folder: Path,
    progress: Progress,
    *,
    share: bool,
) -> dict[str, _Sum] | None:
    """The sums by tensor; None if layers that seemed to share their input did not always."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    watch = _Watch(layers, folder, share)

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            watch.take(name, args[0] if args else kwargs["input"])

        return hook

    with ExitStack() as stack:
        for name, modules in layers.items():
            for module in modules:
                handle = module.register_forward_pre_hook(hook_of(name), with_kwargs=True)
                stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(one_thread_per_operation())
        advance = stack.enter_context(progress.task("calibrate", len(calibration.batches)))
        passes = run_model(model, calibration)
        for batch in calibration.batches:
            watch.begin(_mask(batch))
            next(passes)
            advance(1)
            if watch.broken:
                return None
    return watch.by_name()


def _mask(batch: Mapping[str, Tensor]) -> Tensor | None:
    mask = batch.get("attention_mask")
    return mask if mask is not None and mask.ndim == 2 else None
