"""How well the sensitivity `fisher` predicts the divergence that a change of one tensor causes.

    python benchmarks/coding/sensitivity.py --model folder --train train.tsv

Changes single matrices by rounding, low rank, zeroed weights and dropped rows, and holds the estimate from calibration rows
against the divergence measured on held-out training rows. Writes sensitivity.md.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from evaluation import split_training
from machine import describe_machine

from stackc.models import open_reference
from stackc.planning.allocation.fisher import POOL, fisher_information
from stackc.planning.allocation.probe import Probe
from stackc.tasks import find_task
from stackc.tasks.calibration import calibration_batches, named_weights

#: Draws for the estimate, and held-out rows for the measurement.
ROWS, HELD_OUT = 512, 640

#: Divergences below this are lost in rounding.
LEAST = 1e-6

_HERE = Path(__file__).parent


class Pair(NamedTuple):
    """What a change was estimated and measured to cost."""

    kind: str
    tensor: str
    estimated: float
    measured: float

    @property
    def ratio(self) -> float:
        """Estimate over measurement."""
        return self.estimated / self.measured


def changed(x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Values in the place of a matrix, with what was done to it."""
    deviation = x.std()
    for factor in (0.5, 1.0, 2.0):
        step = factor * deviation
        yield "rounded", (x / step).round() * step
    mean = x.mean(0, keepdim=True)
    left, sizes, right = torch.linalg.svd(x - mean, full_matrices=False)
    for part in (2, 4, 8):
        rank = len(sizes) // part
        if rank:
            yield "low rank", mean + (left[:, :rank] * sizes[:rank]) @ right[:rank]
    for share in (0.3, 0.6, 0.9):
        threshold = x.abs().reshape(-1).kthvalue(max(int(share * x.numel()), 1)).values
        yield "zeroed", torch.where(x.abs() > threshold, x, 0.0)
        norms = x.square().sum(1)
        kept = norms > norms.kthvalue(max(int(share * len(x)), 1)).values
        yield "rows dropped", torch.where(kept[:, None], x, x[~kept].mean(0))


def pairs(model: Path, train: Path, folder: Path) -> list[Pair]:
    """Every change of every matrix, estimated and measured."""
    held_out, calibration = split_training(train, folder)
    reference = open_reference(str(model))
    evaluated, trained = (
        find_task({"name": "text-classification", "data": str(data), "train": str(rows)})
        for data, rows in ((calibration, held_out), (held_out, calibration))
    )
    built = reference.build()
    probe = Probe(built, named_weights(built, reference), calibration_batches(evaluated, reference, HELD_OUT), HELD_OUT)
    population = len(trained.calibration_texts())
    found = []
    with fisher_information(
        reference, calibration_batches(trained, reference, POOL * ROWS), ROWS, population
    ) as fisher:
        for name, spec in reference.specs.items():
            if len(spec.shape) != 2:
                continue
            for kind, value in changed(reference.tensor(name)):
                change, measured = probe.put(name, value)
                if measured > LEAST:
                    found.append(Pair(kind, name, fisher.loss(name, change), measured))
    return found


def table(found: list[Pair], command: str) -> str:
    """The results as a page."""
    lines = [
        "# Estimated and measured divergence",
        "",
        f"`{command}`, {describe_machine('torch')}",
        "",
        "Estimate of `fisher` over the divergence measured on held-out training rows, one matrix changed at a time. Small: "
        "measured divergence below 0.01 nats per row.",
        "",
        "| change | size | changes | median | smallest | largest | correlation of logarithms |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for kind in (*dict.fromkeys(pair.kind for pair in found), "all"):
        for size, keep in (("small", lambda p: p.measured < 0.01), ("large", lambda p: p.measured >= 0.01)):
            chosen = [pair for pair in found if kind in (pair.kind, "all") and keep(pair)]
            if len(chosen) < 3:
                continue
            ratios = sorted(pair.ratio for pair in chosen)
            logs = numpy.array([[math.log(pair.estimated), math.log(pair.measured)] for pair in chosen])
            lines.append(
                f"| {kind} | {size} | {len(chosen)} | {ratios[len(ratios) // 2]:.2f} | {ratios[0]:.2f} | {ratios[-1]:.2f} "
                f"| {numpy.corrcoef(logs.T)[0, 1]:.3f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = pairs(arguments.model, arguments.train, Path(folder))
    page = table(found, "python benchmarks/coding/sensitivity.py --model bert-tiny-sst2 --train train.tsv")
    (_HERE / "sensitivity.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
