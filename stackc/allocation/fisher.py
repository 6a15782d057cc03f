"""The divergence of a changed model from the reference, to second order, on training rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stackc.allocation.records import Records, kind_of
from stackc.allocation.sensitivity import Sensitivity, squared_norm
from stackc.calibration import Calibration, named_weights, run_model
from stackc.errors import ModelError
from stackc.lazy import torch
from stackc.parallel import one_thread_per_operation
from stackc.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.reference import Reference

#: Training rows that are looked at, for each one whose gradients are kept.
POOL = 4

#: Directions in the space of logits that stand for a row with more classes than this and one.
_PROBES = 4

#: Parameters without a layer that is known keep their gradients row by row, up to so many values in all rows.
_MOST_VALUES = 1 << 26

#: Occurrences that every row of an embedding has beyond those in the training rows.
_PRIOR = 0.5

#: Least sensitivity of a weight, as a share of the mean one: what no training row uses may be used all the same.
_FLOOR = 1e-3


class Fisher(Sensitivity):
    """Half the mean square of the first-order effect of a change, over rows and over classes of the model's prediction.

    For a small change ``d`` of the weights ``KL(reference || changed)`` is ``d^T F d / 2`` (Kullback 1959). ``F``, the
    Fisher information, is the mean over rows, and over classes ``c`` drawn with the model's own probabilities, of
    ``g g^T`` with ``g = grad log p_c``. The form is computed as it stands and not through a diagonal of ``F``, so that
    errors count as what they add up to over weights and tokens. The gradient of a linear layer is a product of its inputs
    and the gradients of its outputs, and only these two are kept, in bfloat16.

    Use `fisher_information` to make one.
    """

    name: ClassVar[str] = "fisher"
    unit: ClassVar[str] = "nats per row"

    def __init__(
        self, records: Mapping[str, list[Records]], shares: Tensor, even: Mapping[str, float], floor: float
    ) -> None:
        self._records = records
        self._shares = shares
        self._even = even
        self._floor = floor

    def loss(self, tensor: str, change: Tensor) -> float:
        """Estimated divergence in nats per row."""
        effects = torch.zeros(len(self._shares), dtype=torch.float64)
        for records in self._records.get(tensor, ()):
            records.add_effects(change.to(torch.float32), effects)
        even = max(self._even.get(tensor, 0.0), self._floor)
        return float((self._shares * effects.square()).sum()) / 2 + even / 2 * squared_norm(change)


@contextmanager
def fisher_information(
    reference: Reference, pool: Calibration, rows: int, population: int, progress: Progress | None = None
) -> Iterator[Fisher]:
    """Collect what the estimate needs, in files that last as long as the block.

    Rows on which the model is sure hardly count, so ``rows`` rows are drawn from the pool with probabilities in proportion
    to the trace of the Fisher information of their logits, and weighted to make up for it (systematic sampling).

    Parameters
    ----------
    reference : Reference
        The uncompressed model, which must give logits.
    pool : Calibration
        Training rows to draw from.
    rows : int
        How many draws; a row may be drawn more than once and is then worked on once.
    population : int
        Training rows that the pool was taken from. Every row of an embedding counts as if it occurred half a time more
        in all of them (Jeffreys' prior), since what is not in the training rows may be met later.
    progress : Progress, optional
        Told about every row.

    Raises
    ------
    ModelError
        If the model does not run on the rows, or gives no logits.
    """
    model = reference.build()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stackc-fisher-", ignore_cleanup_errors=True))
        with one_thread_per_operation():
            drawn = _drawn(model, pool, rows)
            collector = _Collector(model, named_weights(model, reference), Path(folder), len(drawn) * _PROBES)
            with (progress or Progress()).task("sensitivity", len(drawn)) as advance:
                for inputs, share in drawn:
                    collector.take(inputs, share)
                    advance(1)
        del model
        yield collector.finish(population)


def _drawn(model: nn.Module, pool: Calibration, rows: int) -> list[tuple[dict[str, Tensor], float]]:
    """Rows as the model is called with them, with their shares in the mean over the pool."""
    traces: list[Tensor] = []
    with torch.inference_mode():
        for output in run_model(model, pool):
            chances = _logits(output, model).to(torch.float64).softmax(-1)
            traces.append((1 - chances.square().sum(-1)).reshape(len(chances), -1).sum(1))
    singles = [single for batch in pool.batches for single in _singles(batch)]
    weights = torch.cat(traces)
    if len(weights) != len(singles) or not bool(weights.isfinite().all()) or not float(weights.sum()) > 0:
        raise ModelError(
            f"{type(model).__name__} gives no usable predictions on the training rows (not finite, or not one for each); "
            "allocate with 'sensitivity: weight-error'"
        )
    ends = weights.cumsum(0)
    places = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows * ends[-1]
    hits = torch.bincount(torch.searchsorted(ends, places), minlength=len(weights))
    shares = hits / rows * (ends[-1] / weights.clamp(min=1e-300)) / len(weights)
    return [(singles[row], float(shares[row])) for row in hits.nonzero().reshape(-1).tolist()]


def _singles(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The rows of a batch, each as a batch of one, without the padding at its end."""
    mask = batch.get("attention_mask")
    for row in range(len(next(iter(batch.values())))):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        if mask is not None and mask.ndim == 2:
            length = int(mask[row].nonzero().max()) + 1 if bool(mask[row].any()) else mask.shape[1]
            one = {
                name: value[:, :length] if value.shape[1:2] == mask.shape[1:] else value for name, value in one.items()
            }
        yield one


def _logits(output: object, model: nn.Module) -> Tensor:
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(found, torch.Tensor) or found.ndim < 2:
        raise ModelError(
            f"{type(model).__name__} gives no logits, which the Fisher information is that of; allocate with "
            "'sensitivity: weight-error'"
        )
    return found


def _directions(logits: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Tensors ``l`` like the logits of one row, so that the ``l l^T`` add up to their Fisher information, or do on average."""
    chances = logits.detach().to(torch.float64).softmax(-1)
    classes = chances.shape[-1]
    if chances.numel() == classes and classes - 1 <= _PROBES:
        p = chances.reshape(-1)
        values, vectors = torch.linalg.eigh(torch.diag(p) - torch.outer(p, p))
        columns = (vectors * values.clamp(min=0).sqrt()).T[1:]
        return [column.reshape(logits.shape).to(logits.dtype) for column in columns]
    roots = chances.sqrt()
    found = []
    for _ in range(_PROBES):
        signs = torch.randint(0, 2, chances.shape, generator=generator, dtype=torch.float64) * 2 - 1
        mixed = roots * signs
        whole = (mixed - chances * (roots * mixed).sum(-1, keepdim=True)) / _PROBES**0.5
        found.append(whole.to(logits.dtype))
    return found


class _Collector:
    """Runs single rows forward and backward, and keeps what the effects of changes can be computed from."""

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter], folder: Path, most_samples: int) -> None:
        self._model = model
        self._folder = folder
        self._generator = torch.Generator().manual_seed(0)
        self._shares: list[float] = []
        names = {id(parameter): name for name, parameter in weights.items()}
        self._layers: list[tuple[str, nn.Module]] = []
        for module in model.modules():
            name = names.get(id(getattr(module, "weight", None)))
            if name is not None and kind_of(module) is not Records:
                self._layers.append((name, module))
        layered = {name for name, _ in self._layers}
        self._others = {name: weight for name, weight in weights.items() if name not in layered}
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for weight in self._others.values():
            weight.requires_grad_(weight.is_floating_point())
        self._others = {name: weight for name, weight in self._others.items() if weight.requires_grad}
        kept = {name for name, weight in self._others.items() if weight.numel() * most_samples <= _MOST_VALUES}
        self._even = dict.fromkeys(set(self._others) - kept, 0.0)
        self._numel = {name: weight.numel() for name, weight in weights.items()}
        self._files: dict[tuple[str, int], Records] = {}

    def take(self, inputs: Mapping[str, Tensor], share: float) -> None:
        """One row, with its share in the mean."""
        calls: list[tuple[int, Tensor, Tensor]] = []

        def hook_of(number: int) -> Callable[..., Tensor]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
                if not output.requires_grad:
                    output = output.detach().requires_grad_()
                calls.append((number, (args[0] if args else kwargs["input"]).detach(), output))
                return output

            return hook

        with ExitStack() as stack, torch.enable_grad():
            for number, (_, module) in enumerate(self._layers):
                handle = module.register_forward_hook(hook_of(number), with_kwargs=True)
                stack.callback(handle.remove)
            output = next(run_model(self._model, Calibration((inputs,))))
            logits = _logits(output, self._model)
        others = list(self._others.items())
        wanted = [made for _, _, made in calls] + [weight for _, weight in others]
        directions = _directions(logits, self._generator)
        for left, direction in zip(reversed(range(len(directions))), directions, strict=True):
            gradients = torch.autograd.grad(
                (logits * direction).sum(), wanted, retain_graph=left > 0, allow_unused=True
            )
            self._keep(calls, others, gradients, share, first=left == len(directions) - 1)

    def _keep(
        self,
        calls: list[tuple[int, Tensor, Tensor]],
        others: list[tuple[str, nn.Parameter]],
        gradients: tuple[Tensor | None, ...],
        share: float,
        *,
        first: bool,
    ) -> None:
        sample = len(self._shares)
        self._shares.append(share)
        for (number, fed, _), gradient in zip(calls, gradients, strict=False):
            if gradient is None:
                continue
            name, module = self._layers[number]
            if (name, number) not in self._files:
                self._files[name, number] = kind_of(module)(self._folder / str(number))
            self._files[name, number].append(fed, gradient, sample, share, share if first else 0.0)
        for (name, weight), gradient in zip(others, gradients[len(calls) :], strict=True):
            if gradient is None:
                continue
            if name in self._even:
                self._even[name] += share * squared_norm(gradient) / weight.numel()
                continue
            if (name, -1) not in self._files:
                self._files[name, -1] = Records(self._folder / f"other-{len(self._files)}")
            self._files[name, -1].append(gradient.reshape(1, -1), gradient.reshape(1, -1), sample, share, share)

    def finish(self, population: int) -> Fisher:
        """What was collected, of so many training rows."""
        by_name: dict[str, list[Records]] = {}
        for (name, _), records in self._files.items():
            records.close()
            by_name.setdefault(name, []).append(records)
        trace = sum(records.trace for records in self._files.values())
        trace += sum(mean * self._numel[name] for name, mean in self._even.items())
        floor = _FLOOR * trace / max(sum(self._numel.values()), 1)
        for (name, _), records in self._files.items():
            if records.indexed:
                energy = records.trace / records.places / records.width  # of one occurrence, for one weight
                self._even[name] = self._even.get(name, 0.0) + _PRIOR / population * energy
        return Fisher(by_name, torch.tensor(self._shares, dtype=torch.float64), self._even, floor)
