"""What linear layers and convolutions are fed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackc.tasks.calibration import Calibration, run_model
from stackc.tasks.moments.patches import meets_patches, patches
from stackc.tasks.moments.sums import Sum
from stackc.util.lazy import torch
from stackc.util.parallel import one_thread_per_operation
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


class _Watch:
    """Adds up the inputs of linear layers, and the patches of those of convolutions, during forward passes.

    In the first pass it sees which layers are fed the same tensor, as query, key and value are. From then on the first of
    them adds for all; ``broken`` says that in a later pass they were not fed the same after all.
    """

    def __init__(self, layers: Mapping[str, list[nn.Module]], folder: Path, share: bool) -> None:
        self.broken = False
        self.mask: Tensor | None = None
        self.sums: dict[str, Sum] = {}
        self._folder = folder
        self._share = {
            name for name, modules in layers.items() if share and len(modules) == 1 and not meets_patches(modules[0])
        }
        self._leaders: dict[str, str] = {}
        self._latest: dict[str, Tensor] = {}

    def begin(self, mask: Tensor | None) -> None:
        """A forward pass begins."""
        self.mask = mask
        self._latest.clear()

    def take(self, name: str, module: nn.Module, x: Tensor) -> None:
        """A layer is about to be fed ``x``."""
        leader = self._leaders.get(name) or self._leader(name, x)
        if leader != name:
            self.broken |= self._latest.get(leader) is not x
            return
        self._latest[name] = x
        if name not in self.sums:
            self.sums[name] = Sum(self._folder / str(len(self.sums)))
        for vectors in patches(module, x) if meets_patches(module) else (self._real(x),):
            self.sums[name].add(vectors)

    def by_name(self) -> dict[str, Sum]:
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


def watch_inputs(
    model: nn.Module,
    layers: Mapping[str, list[nn.Module]],
    calibration: Calibration,
    folder: Path,
    progress: Progress,
    *,
    share: bool,
) -> dict[str, Sum] | None:
    """Run a model over calibration data and sum up what its linear layers and convolutions are fed.

    Padding is left out where the batch has an ``attention_mask`` and the input of a linear layer has its first two axes.

    Parameters
    ----------
    model : torch.nn.Module
        The reference.
    layers : mapping
        The layers that hold each tensor as their weight.
    calibration : Calibration
        What the model is run on.
    folder : Path
        Where the files of the sums go.
    progress : Progress
        Told about every batch.
    share : bool
        Whether layers that are fed the same tensor, as query, key and value are, share a sum.

    Returns
    -------
    dict or None
        The sums by tensor, of layers that ran; None if layers that seemed to share their input did not always.
    """
    watch = _Watch(layers, Path(tempfile.mkdtemp(dir=folder)), share)

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            watch.take(name, module, args[0] if args else kwargs["input"])

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
