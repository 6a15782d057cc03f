"""The divergence of a changed model from the reference, estimated from gradients of training rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stackc.models.forward import single_rows
from stackc.planning.allocation.logits import MOST_DIRECTIONS, Directions, Divergence, directions
from stackc.planning.allocation.probe import Probe, logits_of
from stackc.planning.allocation.records import Records, kind_of
from stackc.planning.allocation.sensitivity import Sensitivity, squared_norm
from stackc.tasks.calibration import Calibration, named_weights, run_model
from stackc.util.errors import ModelError
from stackc.util.lazy import torch
from stackc.util.parallel import one_thread_per_operation
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.models import Reference

#: Training rows that are looked at, for each one whose gradients are kept.
POOL = 4

#: Parameters without a layer that is known keep their gradients row by row, up to so many values in all rows.
_MOST_VALUES = 1 << 26

#: Occurrences that every row of an embedding has beyond those in the training rows.
_PRIOR = 0.5

#: Least sensitivity of a weight, as a share of the mean one: what no training row uses may be used all the same.
_FLOOR = 1e-3


class Fisher(Sensitivity):
    """The divergence from the reference's predictions, with logits that depend on a changed tensor to first order.

    For a small change ``d`` of the weights ``KL(reference || changed)`` is ``d^T F d / 2`` (Kullback 1959), where ``F`` is the
    Fisher information: the mean over rows of ``J^T (diag(p) - p p^T) J`` with the Jacobian ``J`` of the logits. Two things are
    done better than by a diagonal of ``F``. The effect ``J d`` on the logits of every row is computed as it stands, so that
    errors count as what they add up to over weights and tokens. And where a prediction is among few classes, the divergence
    that belongs to these logits is exact: rows on which the model is sure have next to no curvature, but a large change
    still turns them.

    The gradient of a linear layer is a product of its inputs and the gradients of its outputs, and only these two are kept,
    in bfloat16. Use `fisher_information` to make one.
    """

    name: ClassVar[str] = "fisher"
    unit: ClassVar[str] = "nats per row"

    measures: ClassVar[bool] = True

    def __init__(
        self,
        records: Mapping[str, list[Records]],
        divergence: Divergence,
        even: Mapping[str, float],
        floor: float,
        probe: Probe,
    ) -> None:
        self._probe = probe
        self._records = records
        self._divergence = divergence
        self._even = even
        self._floor = floor

    def loss(self, tensor: str, change: Tensor) -> float:
        """Estimated divergence in nats per row."""
        effects = torch.zeros(self._divergence.samples, dtype=torch.float64)
        for records in self._records.get(tensor, ()):
            records.add_effects(change.to(torch.float32), effects)
        even = max(self._even.get(tensor, 0.0), self._floor)
        return self._divergence.of(effects) + even / 2 * squared_norm(change)

    def measured(self, tensor: str, value: Tensor) -> float:
        """Divergence of the model that has another value of a tensor, on some of the rows, and the even part of the estimate.

        What a first-order effect does not see is seen here: how much a model can do without what a large change takes away.
        """
        change, divergence = self._probe.put(tensor, value)
        even = max(self._even.get(tensor, 0.0), self._floor)
        return divergence + even / 2 * squared_norm(change)


@contextmanager
def fisher_information(
    reference: Reference, pool: Calibration, rows: int, population: int, progress: Progress | None = None
) -> Iterator[Fisher]:
    """Collect what the estimate needs, in files that last as long as the block.

    ``rows`` rows are drawn from the pool, half of them evenly and half in proportion to the Fisher information of their
    logits, since rows on which the model is sure hardly count where changes are small. They are weighted to make up for it
    (systematic sampling).

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
    pool = pool.fitted(model)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stackc-fisher-", ignore_cleanup_errors=True))
        weights = named_weights(model, reference)
        with one_thread_per_operation():
            probe = Probe(model, weights, pool, rows // 2)
            drawn = _drawn(model, pool, rows)
            collector = _Collector(model, weights, Path(folder), len(drawn) * MOST_DIRECTIONS)
            with (progress or Progress()).task("sensitivity", len(drawn)) as advance:
                for inputs, share in drawn:
                    collector.take(inputs, share)
                    advance(1)
        yield collector.finish(population, probe)


def _drawn(model: nn.Module, pool: Calibration, rows: int) -> list[tuple[dict[str, Tensor], float]]:
    """Rows as the model is called with them, with their shares in the mean over the pool."""
    traces: list[Tensor] = []
    with torch.inference_mode():
        for output in run_model(model, pool):
            chances = logits_of(output, model).to(torch.float64).softmax(-1)
            traces.append((1 - chances.square().sum(-1)).reshape(len(chances), -1).sum(1))
    singles = [single for batch in pool.batches for single in single_rows(batch)]
    weights = torch.cat(traces)
    if len(weights) != len(singles) or not bool(weights.isfinite().all()) or not float(weights.sum()) > 0:
        raise ModelError(
            f"{type(model).__name__} gives no usable predictions on the training rows (not finite, or not one for each); "
            "allocate with 'sensitivity: weight-error'"
        )
    weights = weights / weights.mean() + 1
    ends = weights.cumsum(0)
    places = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows * ends[-1]
    hits = torch.bincount(torch.searchsorted(ends, places), minlength=len(weights))
    shares = hits / rows * ends[-1] / weights / len(weights)
    return [(singles[row], float(shares[row])) for row in hits.nonzero().reshape(-1).tolist()]


class _Collector:
    """Runs single rows forward and backward, and keeps what the effects of changes can be computed from."""

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter], folder: Path, most_samples: int) -> None:
        self._model = model
        self._folder = folder
        self._generator = torch.Generator().manual_seed(0)
        self._shares: list[float] = []
        self._rows: list[Directions] = []
        self._samples = 0
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
            logits = logits_of(output, self._model)
        others = list(self._others.items())
        wanted = [made for _, _, made in calls] + [weight for _, weight in others]
        row = directions(logits, self._generator)
        self._shares.append(share)
        self._rows.append(row)
        for number, (vector, curvature) in enumerate(zip(row.vectors, row.curvatures, strict=True), start=1):
            gradients = torch.autograd.grad(
                (logits * vector).sum(), wanted, retain_graph=number < len(row.vectors), allow_unused=True
            )
            self._keep(calls, others, gradients, share * curvature, share if number == 1 else 0.0)
            self._samples += 1

    def _keep(
        self,
        calls: list[tuple[int, Tensor, Tensor]],
        others: list[tuple[str, nn.Parameter]],
        gradients: tuple[Tensor | None, ...],
        weight: float,
        counted: float,
    ) -> None:
        for (number, fed, _), gradient in zip(calls, gradients, strict=False):
            if gradient is None:
                continue
            name, module = self._layers[number]
            if (name, number) not in self._files:
                self._files[name, number] = kind_of(module)(self._folder / str(number))
            self._files[name, number].append(fed, gradient, self._samples, weight, counted)
        for (name, _), gradient in zip(others, gradients[len(calls) :], strict=True):
            if gradient is None:
                continue
            if name in self._even:
                self._even[name] += weight * squared_norm(gradient) / gradient.numel()
                continue
            if (name, -1) not in self._files:
                self._files[name, -1] = Records(self._folder / f"other-{len(self._files)}")
            self._files[name, -1].append(
                gradient.reshape(1, -1), gradient.reshape(1, -1), self._samples, weight, counted
            )

    def finish(self, population: int, probe: Probe) -> Fisher:
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
        return Fisher(by_name, Divergence(self._shares, self._rows), self._even, floor, probe)
