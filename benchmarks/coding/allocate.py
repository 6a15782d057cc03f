"""Rate allocation against the best uniform setting of the same bytes.

    python benchmarks/coding/allocate.py --models bert-tiny=folder minilm=folder --data dev.tsv --train train.tsv

The uniform setting has one step for all matrices; a sweep over steps, ranks of the word embedding and shares of its rows
is judged by the divergence on held-out training rows, and for each budget the best one that keeps to it is taken. The
allocation is then given exactly that many bytes. Both have the same stages, packers, vectors and small tensors. The evaluated split is
used once, for the settings of the table. A second table holds the allocation's estimates against what was measured.

``allocate.json`` holds the sweep too; ``--reuse-sweep`` runs the allocations only.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from evaluation import Evaluator, split_training
from machine import describe_machine

from stackc.artifact.reader import Artifact
from stackc.reporting.report import Report
from stackc.runs.runner import run

#: Ratios of the budgets.
BUDGETS = {"bert-tiny": (25, 45, 80), "minilm": (9, 13, 18)}

#: Steps of the sweep; shares of rows and ranks of the word embedding, where None stands for no such stage.
STEPS = {
    "bert-tiny": (0.02, 0.03, 0.04, 0.05, 0.06, 0.075, 0.09),
    "minilm": (0.02, 0.027, 0.036, 0.048),
}
EMBEDDINGS = {
    "bert-tiny": tuple(product((0.5, 0.6), (32, 48, 64, 96))),
    "minilm": tuple(product((0.5,), (192, 288, 384))),
}

_WORDS = "*word_embeddings.weight"
#: Kept in half precision by both: one step for all would zero the classifier long before the rest is coarse.
_SMALL = ["*.bias", "*LayerNorm.weight", "*token_type*", "classifier.*"]
_HERE = Path(__file__).parent
_COMMAND = "python benchmarks/coding/allocate.py --models bert-tiny=... minilm=... --data dev.tsv --train train.tsv"


class Uniform(NamedTuple):
    """One setting of the sweep: its stages, its bytes, and the divergence on held-out rows."""

    step: float
    rows: float | None
    rank: int | None
    bytes: int
    kl: float

    @property
    def label(self) -> str:
        """In words."""
        return f"step {self.step:g}" + (f", rank {self.rank}, {self.rows:.0%} of rows dropped" if self.rank else "")


class Setting(NamedTuple):
    """One compressed file: how it was made, its bytes, and what it does to the model."""

    label: str
    bytes: int
    held_out: dict[str, Any]
    artifact: Path
    report: Report


def recipe(task: dict[str, Any], rows: Any, rank: Any, step: Any, coarse: bool) -> dict[str, Any]:
    """Stages of a setting; with ``coarse`` mean and basis have 8 bits instead of the step of everything else."""
    stages: list[dict[str, Any]] = []
    if rank is not None:
        stages.append({"use": "prune", "on": _WORDS, "rows": rows, "weights": "token-counts"})
        stages.append({"use": "seed", "on": f"{_WORDS}/values", "rank": rank, "weights": "token-counts"})
    if rank is not None and coarse:
        stages.append({"use": "int", "on": ["*/{mean,basis,fallback}"], "bits": 8})
    stages.append(
        {"use": "int", "on": ["*.weight", "!*/scale", *(f"!{small}" for small in _SMALL)], "step": step, "rdo": 0.1}
    )
    stages.append({"use": "cast", "on": _SMALL, "to": "float16"})
    stages += [{"use": "context", "on": "*/{codes,mask}"}, "zstd"]
    return {"task": task, "stages": stages}


class Bench:
    """One model, its held-out and its evaluated rows."""

    def __init__(self, name: str, model: Path, data: Path, train: Path, folder: Path) -> None:
        self.name, self.model, self.folder = name, model, folder
        held_out, calibration = split_training(train, folder)
        self.held_out, self.evaluated = Evaluator(model, held_out), Evaluator(model, data)
        self.task = {"name": "text-classification", "data": str(held_out), "train": str(calibration)}
        self.files = 0

    def setting(self, label: str, content: dict[str, Any], **target: Any) -> Setting:
        """Write a file and measure it on the held-out rows."""
        self.files += 1
        output = self.folder / f"{self.name}-{self.files}"
        done = run(content, str(self.model), output=output, evaluate=False, every_stage=False, **target)
        measured = self.measure(self.held_out, label, done.artifact)
        print(f"{self.name}: {label}: {done.report.file.bytes:,} bytes, KL {measured['kl']:.5f}", flush=True)
        return Setting(label, done.report.file.bytes, measured, done.artifact, done.report)

    def measure(self, evaluator: Evaluator, label: str, path: Path) -> dict[str, Any]:
        """What the model in a file does on some rows."""
        with Artifact(path) as artifact:
            return evaluator.measure(label, {name: artifact[name] for name in artifact.specs})

    def sweep(self) -> Iterator[Uniform]:
        """Every uniform setting, steps from fine to coarse until files are far smaller than the smallest budget."""
        least = 0.6 * self.held_out.reference.nbytes / BUDGETS[self.name][-1]
        for rows, rank in ((None, None), *EMBEDDINGS[self.name]):
            for step in STEPS[self.name]:
                label = Uniform(step, rows, rank, 0, 0.0).label
                setting = self.setting(label, recipe(self.task, rows, rank, step, coarse=True))
                yield Uniform(step, rows, rank, setting.bytes, setting.held_out["kl"])
                if setting.bytes < least:
                    break

    def rows(self, swept: list[Uniform]) -> list[dict[str, Any]]:
        """The table: for each budget the best uniform setting and the allocation with its bytes."""
        rows = []
        for ratio in BUDGETS[self.name]:
            budget = self.held_out.reference.nbytes / ratio
            best = min((found for found in swept if 0.8 * budget <= found.bytes <= budget), key=lambda found: found.kl)
            uniform = self.setting(best.label, recipe(self.task, best.rows, best.rank, best.step, coarse=True))
            assert abs(uniform.bytes - best.bytes) < 0.002 * best.bytes, "the sweep is of another version; run it again"
            begin = time.perf_counter()
            allocated = self.setting(
                f"allocate {uniform.bytes:,}",
                recipe(self.task, "auto", "auto", "auto", coarse=False),
                target_bytes=uniform.bytes,
            )
            seconds = time.perf_counter() - begin
            assert allocated.report.allocation is not None
            rows.append(
                {
                    "model": self.name,
                    "ratio": ratio,
                    "uniform": self.row(uniform),
                    "allocated": {**self.row(allocated), "seconds": seconds},
                    "estimate": allocated.report.allocation.estimated_loss,
                    "choices": allocated.report.allocation.choices,
                    "tried": len(swept),
                    "reference": self.evaluated.accuracy[0],
                }
            )
        return rows

    def row(self, setting: Setting) -> dict[str, Any]:
        """Figures of one setting on both splits; here the evaluated rows are used."""
        evaluated = self.measure(self.evaluated, setting.label, setting.artifact)
        return {"label": setting.label, "bytes": setting.bytes, "held_out": setting.held_out, "evaluated": evaluated}


def table(rows: list[dict[str, Any]], command: str) -> str:
    """The results as a page."""
    lines = [
        "# Rate allocation against one step for all",
        "",
        f"`{command}`, {describe_machine('torch', 'numba')}",
        "",
        "| model | budget | bytes, uniform | KL held out | bytes, allocated | KL held out | KL kept | accuracy, uniform | accuracy, allocated | reference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        uniform, allocated = row["uniform"], row["allocated"]
        kept = allocated["held_out"]["kl"] / uniform["held_out"]["kl"]
        lines.append(
            f"| {row['model']} | {row['ratio']}x | {uniform['bytes']:,} | {uniform['held_out']['kl']:.5f} "
            f"| {allocated['bytes']:,} | {allocated['held_out']['kl']:.5f} | {100 * kept:.0f} % "
            f"| {100 * uniform['evaluated']['accuracy'][0]:.1f} | {100 * allocated['evaluated']['accuracy'][0]:.1f} "
            f"| {100 * row['reference']:.1f} |"
        )
    lines += ["", "Uniform settings, and the estimate of the allocation beside what was measured:", ""]
    lines += ["| model | budget | best of | uniform setting | estimated KL | measured KL held out | seconds |"]
    lines += ["|---|--:|--:|---|--:|--:|--:|"]
    lines += [
        f"| {row['model']} | {row['ratio']}x | {row['tried']} | {row['uniform']['label']} | {row['estimate']:.5f} "
        f"| {row['allocated']['held_out']['kl']:.5f} | {row['allocated']['seconds']:.0f} |"
        for row in rows
    ]
    pairs = [(math.log(row["estimate"]), math.log(row["allocated"]["held_out"]["kl"])) for row in rows]
    if len(pairs) > 2:
        import numpy

        correlation = numpy.corrcoef(numpy.array(pairs).T)[0, 1]
        lines += ["", f"Correlation of the logarithms of estimate and measurement: {correlation:.3f}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the models that are given, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", required=True, help="bert-tiny=folder minilm=folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--reuse-sweep", action="store_true")
    arguments = parser.parse_args()
    stored = _HERE / "allocate.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.is_file() else {}
    for argument in arguments.models:
        name, _, folder = argument.partition("=")
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench(name, Path(folder), arguments.data, arguments.train, Path(scratch))
            if not arguments.reuse_sweep or name not in results:
                results[name] = {"sweep": list(bench.sweep()), "rows": []}
                stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            swept = [Uniform(*found) for found in results[name]["sweep"]]
            results[name]["rows"] = bench.rows(swept)
        stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        rows = [row for name in sorted(results) for row in results[name]["rows"]]
        (_HERE / "allocate.md").write_text(table(rows, _COMMAND), encoding="utf-8")


if __name__ == "__main__":
    main()
