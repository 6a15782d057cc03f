"""What tensors gain or lose when they share planes: MiniLM with one basis or codebook for many matrices, and one layer for six.

    OMP_NUM_THREADS=1 python benchmarks/sharing/run.py --model minilm-sst2 --data dev.tsv --train train.tsv \
        [--only basis] [--work runs/sharing]

Every recipe stores what is not compared as 8-bit codes, so that files differ by what is shared. Pairs of recipes, one with
planes of its own for every matrix and one with shared ones, have ranks or entries that make their files equally large. Each is
written as it is, and after a short training of the compared tensors. Nothing was chosen by the evaluated rows.

A recipe whose file is there is not run again. Results go to ``results.json``; `report.py` makes the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch

import stackc
from stackc.reporting.shares import shares

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "coding"))

from evaluation import Evaluator  # noqa: E402
from machine import describe_machine  # noqa: E402

ATTENTION = "*.attention.*.weight"
LAYERS = "*.encoder.layer.*"
#: The matrices of the layers.
MATRICES = ["*.attention.self.*.weight", "*.encoder.layer.*dense.weight"]
PACKED = [{"use": "ans", "on": "*/codes"}, {"use": "zstd", "level": 12}]
#: Enough to see whether training makes up for what sharing loses; a few minutes on one core.
HEAL = {"use": "heal", "batch_size": 16, "holdout": 256, "evaluations": 3}
#: Sentences of the training file that trainings see, and that the teacher answers.
TRAINING_ROWS = 6000


class Run(NamedTuple):
    """A line of the page."""

    name: str
    part: str
    label: str
    stages: list[dict[str, Any] | str]
    on: str | list[str]
    steps: int
    lr: float = 0.0005


def basis(rank: int, group: str | None) -> list[dict[str, Any] | str]:
    """Principal components of all attention matrices."""
    return [{"use": "seed", "on": ATTENTION, "rank": rank, "group": group}, "int8"]


def codebook(entries: int, group: str | None, on: str | list[str] = ATTENTION) -> list[dict[str, Any] | str]:
    """Every four values of matrices as one code."""
    book = {"use": "codebook", "on": on, "entries": entries, "dims": 4, "dtype": "float16", "group": group}
    return [book, {"use": "int8", "on": "!*/codebook"}]


def share(take: str) -> list[dict[str, Any] | str]:
    """All layers as one."""
    return [{"use": "share", "on": LAYERS, "group": "alike", "difference": False, "take": take}, "int8"]


RUNS = [
    Run("basis-64", "basis", "24 bases of rank 64", basis(64, None), ATTENTION, 150),
    Run("basis-64-shared", "basis", "one basis of rank 123", basis(123, "all"), ATTENTION, 150),
    Run("basis-128", "basis", "24 bases of rank 128", basis(128, None), ATTENTION, 150),
    Run("basis-128-shared", "basis", "one basis of rank 246", basis(246, "all"), ATTENTION, 150),
    Run("codebook-256", "codebook", "24 codebooks of 256", codebook(256, None), ATTENTION, 60, 0.0001),
    Run("codebook-256-shared", "codebook", "one codebook of 415", codebook(415, "all"), ATTENTION, 60, 0.0001),
    Run("book-256", "books", "36 codebooks of 256", codebook(256, None, MATRICES), MATRICES, 60, 0.0001),
    Run("book-256-shared", "books", "one codebook of 297", codebook(297, "all", MATRICES), MATRICES, 60, 0.0001),
    Run("layers", "layers", "six layers", ["int8"], LAYERS, 0),
    Run("layers-mean", "layers", "one layer, from the mean of the six", share("mean"), LAYERS, 0),
    Run("layers-first", "layers", "one layer, from the first of the six", share("first"), LAYERS, 300, 0.0002),
]


def recipe_of(run: Run, arguments: argparse.Namespace, train: Path, *, healed: bool) -> dict[str, Any]:
    """A recipe with the model and the data of the command line."""
    heal = [{**HEAL, "on": run.on, "steps": run.steps, "lr": run.lr}] if healed else []
    task = {"name": "text-classification", "data": arguments.data, "train": str(train)}
    return {"model": arguments.model, "task": task, "stages": [*run.stages, *heal, *PACKED]}


def some_rows(train: Path, folder: Path) -> Path:
    """Whole sentences and phrases from all over the training file."""
    path = folder / "train.tsv"
    with train.open(encoding="utf-8", newline="") as stream:
        head, *body = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = body[:: max(len(body) // TRAINING_ROWS, 1)]
    path.write_text("".join("\t".join(row) + "\n" for row in [head, *rows]), encoding="utf-8")
    return path


def measured(path: Path, evaluator: Evaluator, label: str) -> dict[str, Any]:
    """What a file holds and what its model does."""
    with stackc.open(path, max_bytes=1 << 30) as artifact:
        state = artifact.state_dict()
        split = shares(artifact).tensors
        own = {name: sum(plane.length for plane in artifact.planes(name)) for name in artifact.specs}
        sizes = {
            part: round(sum(own[name] + split.get(name, 0) for name in artifact.specs if fnmatch(name, pattern)))
            for part, pattern in (("attention", ATTENTION), ("layers", LAYERS))
        }
        sizes = {"bytes": artifact.file_bytes, **sizes, "shared planes": len(artifact.shared)}
    return {**sizes, **evaluator.measure(label, state)}


def results(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line after another."""
    train = some_rows(Path(arguments.train), arguments.work)
    evaluator: Evaluator | None = None
    for run in RUNS:
        if arguments.only and not {run.part, run.name} & set(arguments.only):
            continue
        for healed in (False, True)[: 2 if run.steps else 1]:
            path = arguments.work / f"{run.name}{'-healed' if healed else ''}.stackc"
            line = path.with_suffix(".json")
            if not line.is_file():
                evaluator = evaluator or Evaluator(Path(arguments.model), Path(arguments.data))
                begin = time.perf_counter()
                recipe = recipe_of(run, arguments, train, healed=healed)
                _, report = stackc.compress(arguments.model, recipe, path, overwrite=True, evaluate=False)
                found = {
                    "run": run.name,
                    "part": run.part,
                    "label": run.label,
                    "steps": run.steps if healed else 0,
                    "seconds": time.perf_counter() - begin,
                    "reference": evaluator.accuracy,
                    **measured(path, evaluator, path.stem),
                    "healing": [
                        {"seconds": one.seconds, "best step": one.best_step, "KL": [p.divergence for p in one.curve]}
                        for one in report.healing
                    ],
                }
                line.write_text(json.dumps(found), encoding="utf-8")
            yield json.loads(line.read_text(encoding="utf-8"))


def main() -> None:
    """Run what is not there yet, and write all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "train"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", action="append", help="parts or names of runs; all without it")
    parser.add_argument("--work", type=Path, default=Path("runs/sharing"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    stored = HERE / "results.json"
    known = json.loads(stored.read_text(encoding="utf-8"))["lines"] if stored.is_file() else []
    for line in results(arguments):
        key = line["run"], line["steps"]
        known = [*(one for one in known if (one["run"], one["steps"]) != key), line]
        head = describe_machine("torch", "transformers", "numpy").replace(
            "cores", "cores (AMD EPYC, shared with others)"
        )
        content = {"head": head, "lines": known}
        stored.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(line["run"], line["steps"], f"{line['bytes']:,} bytes", line["accuracy"], line["agreement"], flush=True)


if __name__ == "__main__":
    main()
