"""Whole path, no training: accuracy of the decoded file against its bytes, for NNCodec, GPTQ and stackc's recipes.

    python benchmarks/coding/accuracy.py --model minilm=FOLDER --model bert-tiny=FOLDER --data dev.tsv --train train.tsv

Every point is a file: written, decoded from its bytes, evaluated. The recipes are ``recipes/<model>/<curve>-<point>.yaml``
and ``recipes/any/...``; a name's part before the last ``-`` is the curve. Settings are chosen with ``--split held-out``:
1,000 whole sentences of the training file that calibration does not see, nor any of
their phrases. The default split is the data itself.
Stored points are kept; ``--methods`` names those that are measured again, a recipe's also if its text changed.
Writes ``accuracy.json`` and ``accuracy.md``; ``plot.py`` draws them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gptq_peer
import nncodec_peer
import numpy as np
import torch
from evaluation import Evaluator, split_training, weight_error
from machine import describe_machine
from safetensors.torch import load_file
from torch import Tensor

import stackc
from stackc.recipe.document import read_document
from stackc.recipe.overrides import override
from stackc.tasks import find_task

HERE = Path(__file__).parent
#: NNCodec's quantisation parameters, one file each: a step 4 higher is twice as wide.
QPS = {"minilm": (-32, -28, *range(-26, -18)), "bert-tiny": (-30, -28, -26, *range(-24, -13))}
#: Of NNCodec's rate term, which is off by default; at 1 its models fall to chance earlier.
RATE_SCALE = 0.3
#: Texts that GPTQ's second moments come from.
GPTQ_ROWS = 512
LEVEL = 0.99
#: Mean divergence of the class probabilities from the reference's, in nats: less noisy than accuracy on a few hundred rows.
KL_LEVELS = (0.01, 0.05)


@dataclass(frozen=True)
class Context:
    """One model, and what files of it are measured with."""

    label: str
    folder: Path
    data: Path
    calibration: Path
    evaluator: Evaluator
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class Point:
    """A setting, and how to get from the model to bytes and to the decoded weights."""

    method: str
    curve: str
    setting: str
    make: Callable[[Context], tuple[int, Mapping[str, Tensor]]]
    digest: str = ""


def nncodec_points(label: str) -> Iterator[Point]:
    """NNCodec as it comes, and its variants: rate in the trellis, its own choice of a parameter for each tensor."""
    all_qps = QPS.get(label, tuple(range(-32, -13, 2)))
    variants: tuple[tuple[str, dict[str, Any]], ...] = (
        ("NNCodec", {}),
        ("NNCodec, rate in trellis", {"lambda_scale": RATE_SCALE}),
        ("NNCodec, opt_qp", {"opt_qp": True}),
    )
    for curve, options in variants:
        for qp in all_qps if not options else [qp for qp in all_qps if qp >= -24]:

            def make(
                context: Context, qp: int = qp, options: dict[str, Any] = options
            ) -> tuple[int, Mapping[str, Tensor]]:
                arrays = {name: x.numpy() for name, x in context.state.items()}
                data = nncodec_peer.compress(arrays, qp, **options)
                return len(data), {name: torch.from_numpy(x) for name, x in nncodec_peer.decompress(data).items()}

            yield Point("nncodec", curve, f"qp {qp}", make)


def gptq_points(label: str) -> Iterator[Point]:
    """GPTQ at 2 to 5 bits, one scale for a row or for 128 columns."""
    for group in (None, 128):
        for bits in (2, 3, 4, 5):

            def make(context: Context, bits: int = bits, group: int | None = group) -> tuple[int, Mapping[str, Tensor]]:
                task = find_task(
                    {"name": "text-classification", "data": str(context.data), "train": str(context.calibration)}
                )
                batches = task.calibration_inputs(GPTQ_ROWS, context.evaluator.reference.tokenizer())
                model = context.evaluator.reference.build()
                data = gptq_peer.compress(model, batches, bits=bits, group=group)
                return len(data), gptq_peer.decompress(data)

            scales = "row scales" if group is None else f"groups of {group}"
            yield Point("gptq", f"GPTQ, {scales}", f"{bits} bit", make)


def recipe_points(label: str) -> Iterator[Point]:
    """stackc's recipes for this model."""
    for path in sorted([*(HERE / "recipes" / label).glob("*.yaml"), *(HERE / "recipes" / "any").glob("*.yaml")]):

        def make(context: Context, path: Path = path) -> tuple[int, Mapping[str, Tensor]]:
            task = {"name": "text-classification", "data": str(context.data), "train": str(context.calibration)}
            document = override(read_document(path), [f"task={json.dumps(task)}"])
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder, "model.stackc")
                artifact, _ = stackc.compress(str(context.folder), document.value, target, evaluate=False)
                artifact.close()
                with stackc.open(target) as artifact:
                    state = artifact.state_dict()
                return target.stat().st_size, state

        curve, _, setting = path.stem.rpartition("-")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        yield Point("recipes", curve or path.stem, setting if curve else "", make, digest)


METHODS = {"nncodec": nncodec_points, "gptq": gptq_points, "recipes": recipe_points}


def measure(point: Point, context: Context, split: str) -> dict[str, Any]:
    """One file: its bytes, and what the weights decoded from it are worth."""
    begin = time.perf_counter()
    size, decoded = point.make(context)
    return {
        "model": context.label,
        "split": split,
        "method": point.method,
        "curve": point.curve,
        "setting": point.setting,
        "digest": point.digest,
        "bytes": size,
        "ratio": sum(x.numel() * x.element_size() for x in context.state.values()) / size,
        "weight error": weight_error(context.state, decoded),
        **context.evaluator.measure(f"{point.curve} {point.setting}", decoded),
        "seconds": time.perf_counter() - begin,
    }


def monotone(points: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the bytes, and the non-decreasing sequence nearest to the values of ``key`` (isotonic regression)."""
    from scipy.optimize import isotonic_regression

    points = sorted(points, key=lambda point: point["bytes"])
    values = np.array([point[key] for point in points])
    return np.log([point["bytes"] for point in points]), isotonic_regression(values).x


def bytes_at(points: list[dict[str, Any]], key: str, level: float) -> str:
    """Bytes where the monotone fit of a curve crosses a level, linear in the logarithm; a bound if it does not.

    Accuracy on 872 rows goes up and down along a curve, and the first crossing of the raw points would reward luck.
    """
    size, value = monotone(points, key)
    above = np.flatnonzero(value >= level)
    if not above.size:
        return f"> {math.exp(size[-1]):,.0f}"
    if above[0] == 0:
        return f"< {math.exp(size[0]):,.0f}"
    right, left = above[0], above[0] - 1
    share = (level - value[left]) / (value[right] - value[left])
    return f"{math.exp(size[left] + share * (size[right] - size[left])):,.0f}"


def run(arguments: argparse.Namespace, stored: list[dict[str, Any]]) -> dict[str, Any]:
    """Measure what is asked for or missing."""
    points = {(row["model"], row["split"], row["method"], row["curve"], row["setting"]): row for row in stored}
    references = {}
    machine = describe_machine("nncodec", "torch", "numpy")
    again = arguments.methods.split(",") if arguments.methods else []
    with tempfile.TemporaryDirectory() as name:
        held_out, calibration = split_training(arguments.train, Path(name))
        for entry in arguments.model:
            label, _, folder = entry.partition("=")
            data = arguments.data if arguments.split == "data" else held_out
            evaluator = Evaluator(Path(folder), data)
            state = {key: x.float() for key, x in load_file(Path(folder) / "model.safetensors").items()}
            context = Context(label, Path(folder), data, calibration, evaluator, state)
            references[label] = evaluator.accuracy
            wanted: set[tuple[str, ...]] = set()
            for method in again or METHODS:
                for point in METHODS[method](label):
                    if arguments.curves and point.curve not in arguments.curves.split(","):
                        continue
                    key = (label, arguments.split, point.method, point.curve, point.setting)
                    wanted.add(key)
                    if key in points and method not in again and points[key]["digest"] == point.digest:
                        continue
                    points[key] = measure(point, context, arguments.split)
                    print(line(points[key]), flush=True)
                    write(
                        arguments.output,
                        {"machine": machine, "references": references, "points": list(points.values())},
                    )
            if not arguments.curves:
                for key in [key for key in points if key[:2] == (label, arguments.split) and key not in wanted]:
                    if not again or key[2] in again:
                        del points[key]  # a recipe that is no more
    return {
        "machine": machine,
        "references": references,
        "points": list(points.values()),
    }


def write(path: Path, results: dict[str, Any]) -> None:
    """JSON with one point a line."""
    head = json.dumps({key: value for key, value in results.items() if key != "points"}, indent=1)
    lines = ",\n".join(json.dumps(row) for row in results["points"])
    path.write_text(f'{head.removesuffix("}").rstrip()},\n "points": [\n{lines}\n]}}\n', encoding="utf-8")


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    accuracy = [100 * part for part in row["accuracy"]]
    return (
        f"| {row['curve']} | {row['setting']} | {row['bytes']:,} | {row['ratio']:.1f}x | {row['weight error']:.4f} "
        f"| {accuracy[0]:.1f} [{accuracy[1]:.1f}, {accuracy[2]:.1f}] | {100 * row['retention']:.1f} % | {row['kl']:.4f} | {100 * row['agreement']:.1f} % |"
    )


def table(results: dict[str, Any], split: str) -> str:
    """Markdown: for each model the bytes at the retention asked for, then every point."""
    rows = [row for row in results["points"] if row["split"] == split]
    where = "evaluated split" if split == "data" else "held-out training rows"
    lines = [
        "# Whole path: accuracy against bytes",
        "",
        "`python benchmarks/coding/accuracy.py`, " + results.get("machine", ""),
        "",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        reference = [100 * part for part in results["references"].get(model, (math.nan,) * 3)]
        lines += [
            f"## {model}",
            "",
            f"Reference: {reference[0]:.1f} [{reference[1]:.1f}, {reference[2]:.1f}] on {of_model[0]['rows']:,} rows ({where}).",
            "",
            f"| curve | bytes at {100 * LEVEL:.0f} % retention | "
            + " | ".join(f"bytes at KL {kl}" for kl in KL_LEVELS)
            + " |",
            "|---|--:|" + "--:|" * len(KL_LEVELS),
        ]
        for curve in dict.fromkeys(row["curve"] for row in of_model):
            of_curve = [row for row in of_model if row["curve"] == curve]
            part = [{**row, "-log kl": -math.log(max(row["kl"], 1e-9))} for row in of_curve]
            sizes = [
                bytes_at(part, "retention", LEVEL),
                *(bytes_at(part, "-log kl", -math.log(kl)) for kl in KL_LEVELS),
            ]
            lines.append(f"| {curve} | " + " | ".join(sizes) + " |")
        lines += [
            "",
            "| curve | setting | bytes | ratio | weight error | accuracy [95 %] | retention | KL | agreement |",
            "|---|---|--:|--:|--:|---|--:|--:|--:|",
            *(line(row) for row in sorted(of_model, key=lambda row: (row["method"], row["curve"], row["bytes"]))),
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="label=folder; may be repeated")
    parser.add_argument("--data", type=Path, help="labelled rows that are reported")
    parser.add_argument("--train", type=Path, help="training rows, for calibration and for --split held-out")
    parser.add_argument("--split", choices=("data", "held-out"), default="data")
    parser.add_argument("--methods", default="", help="measure only these, and these again: " + ",".join(METHODS))
    parser.add_argument("--curves", default="", help="only these curves")
    parser.add_argument("--output", type=Path, default=HERE / "accuracy.json")
    parser.add_argument("--redraw", action="store_true", help="table from the stored points, nothing measured")
    arguments = parser.parse_args()
    results = (
        json.loads(arguments.output.read_text("utf-8"))
        if arguments.output.exists()
        else {"points": [], "references": {}}
    )
    if not arguments.redraw:
        if not (arguments.model and arguments.data and arguments.train):
            parser.error("give --model, --data and --train")
        new = run(arguments, results["points"])
        results = {**new, "references": {**results["references"], **new["references"]}}
        write(arguments.output, results)
    text = table(results, arguments.split)
    arguments.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
