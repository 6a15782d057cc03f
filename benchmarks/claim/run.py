"""The claim's table, replayed: original, gzip, int8, prune 50 % and seed assembly, against trained references.

    python benchmarks/claim/run.py --model bert-tiny-sst2 --data dev.tsv --train train.tsv [--output benchmarks/claim]

Writes ``results.json`` and ``results.md``. README.md in this folder says what each part is. Learning rates are chosen
on rows held out of the training file; the evaluated file is touched by the reported models only.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import runpy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import claim_table
import msgspec
import safetensors.torch
import torch
import zstandard
from assembly import ARMS, initial_weights, store, store_statistics, with_untrained_head
from decode_time import Rows, draw, fine_tune, hold_out, read_rows
from torch import Tensor, nn

from stackc.models import Reference, open_reference
from stackc.models.building import quiet_transformers
from stackc.tasks import Evaluation, Outcome, find_task

HERE = Path(__file__).parent
#: The usual rate for fine-tuning a BERT; the claim names none.
USUAL_RATE = 5e-5
RATES = (USUAL_RATE, 3e-4, 1e-3, 3e-3)
#: Seeds of the choice begin here, so that no chosen-on run is a reported one.
CHOICE_SEED = 1000
#: Recipes of the table, with what the claim calls them.
STACKS = {"int8": "claim/int8", "prune 50 %": "claim/prune50", "seed assembly, stored part": "claim/assembly"}
#: What the fine-tuned rows of the table begin with, by where their weights are from.
TRAINED = "trained reference"
UNTRAINED_HEAD = "untrained head"
BEGINNINGS = (
    *((TRAINED, arm) for arm in ARMS),
    (UNTRAINED_HEAD, "PCA and statistics"),
    (UNTRAINED_HEAD, "PCA only"),
    (UNTRAINED_HEAD, "whole encoder"),
)


@dataclass(frozen=True)
class Bench:
    """What everything is measured with."""

    reference: Reference
    tokenizer: Any
    all_rows: Evaluation
    first_rows: Evaluation
    held_out: Evaluation
    training: Rows
    row_count: int
    epochs: int
    work: Path

    def beginning(self, source: str, arm: str, seed: int) -> dict[str, Tensor]:
        """The weights that fine-tuning starts from; the heads and drawn numbers follow the seed."""
        folder = self.work / (TRAINED if source == TRAINED else f"head {seed}")
        if not folder.exists():
            folder.mkdir()
            model = self.reference.build() if source == TRAINED else with_untrained_head(self.reference, seed)
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        state = safetensors.torch.load_file(folder / "model.safetensors")
        if arm == "whole encoder":
            return state
        path = folder / "assembly.stackc"
        if not path.exists():
            torch.save(store(str(folder), "claim/assembly", path), folder / "components.pt")
        components = torch.load(folder / "components.pt")
        statistics = store_statistics(state, folder / "statistics.stackc")
        return initial_weights(arm, components, statistics, self.reference, seed)

    def stored_bytes(self, source: str, arm: str, seed: int) -> int:
        """What must be kept for such a beginning, the rows of decode time left out."""
        folder = self.work / (TRAINED if source == TRAINED else f"head {seed}")
        architecture = len(zstandard.compress(json.dumps(self.reference.config).encode(), 19))
        components = (folder / "assembly.stackc").stat().st_size
        statistics = (folder / "statistics.stackc").stat().st_size
        return {
            "whole encoder": self.reference.nbytes,
            "PCA and statistics": components + statistics,
            "PCA only": components,
            "statistics only": architecture + statistics,
            "neither": architecture,
        }[arm]

    def fine_tuned(self, weights: Mapping[str, Tensor], rate: float, seed: int) -> nn.Module:
        """The same training for all: rows, order and dropout follow the seed alone."""
        rows = draw(self.training, self.row_count, seed)
        model = self.reference.build(weights)
        return fine_tune(model, rows, self.tokenizer, rate=rate, seed=seed, epochs=self.epochs)


def score(evaluation: Evaluation, outcome: Outcome, reference: Outcome) -> dict[str, Any]:
    """A score as plain data."""
    return msgspec.to_builtins(evaluation.score(outcome, reference))


def stack_rows(bench: Bench) -> list[dict[str, Any]]:
    """Bytes and quality of the claim's five stacks and of three relatives, beside the trained reference."""
    state = {name: bench.reference.tensor(name) for name in bench.reference.specs}
    expected = bench.all_rows.measure(bench.reference.build())
    rows: list[dict[str, Any]] = []

    def add(label: str, size: int, model: nn.Module) -> None:
        ratio = bench.reference.nbytes / size
        found = score(bench.all_rows, bench.all_rows.measure(model), expected)
        rows.append({"label": label, "bytes": size, "ratio": ratio, "score": found})

    def add_gzip(label: str, weights: Mapping[str, Tensor]) -> None:
        packed = gzip.compress(safetensors.torch.save(dict(weights)), 9, mtime=0)
        add(label, len(packed), bench.reference.build(safetensors.torch.load(gzip.decompress(packed))))

    add("original", bench.reference.nbytes, bench.reference.build())
    add_gzip("gzip -9 of the safetensors file", state)
    decoded = {}
    for label, recipe in {"zstd, as claim/gzip": "claim/gzip", **STACKS}.items():
        path = bench.work / f"{Path(recipe).name}.stackc"
        decoded[label] = store(bench.reference.source, recipe, path)
        add(label, path.stat().st_size, bench.reference.build(decoded[label]))
        if label == "int8":
            size, model = dynamic_int8(bench.reference.build())
            add("int8, torch's dynamic quantisation", size, model)
        if label == "prune 50 %":
            add_gzip("prune 50 %, gzip -9 of the safetensors file", decoded[label])
    return rows


def dynamic_int8(model: nn.Module) -> tuple[int, nn.Module]:
    """Bytes of a saved state dict after torch's dynamic quantisation of the linear layers, and the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that torchao will take its place
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        stream = io.BytesIO()
        torch.save(quantised.state_dict(), stream)
    return len(stream.getvalue()), quantised


def untrained_head_rows(bench: Bench, seeds: int) -> list[dict[str, Any]]:
    """The claim's own comparison: stacks beside a reference whose head was never trained, without any training."""
    rows = []
    for seed in range(seeds):
        bench.beginning(UNTRAINED_HEAD, ARMS[0], seed)
        folder = bench.work / f"head {seed}"
        head = open_reference(str(folder)).build()
        references = {name: evaluation.measure(head) for name, evaluation in evaluations(bench).items()}
        models = {"original": head}
        for label, recipe in STACKS.items():
            models[label] = bench.reference.build(store(str(folder), recipe, folder / "stack.stackc"))
        for label, model in models.items():
            for name, evaluation in evaluations(bench).items():
                found = score(evaluation, evaluation.measure(model), references[name])
                rows.append({"seed": seed, "label": label, "rows": name, "score": found})
    return rows


def evaluations(bench: Bench) -> dict[str, Evaluation]:
    """The rows as the claim had them, and all of them."""
    return {"first": bench.first_rows, "all": bench.all_rows}


def choose_rates(bench: Bench, seeds: int) -> list[dict[str, Any]]:
    """Held-out accuracy of every beginning at every rate; each gets the rate at which it does best on average."""
    expected = bench.held_out.measure(bench.reference.build())
    rows = []
    for source, arm in BEGINNINGS:
        for rate in RATES:
            values = []
            for seed in range(CHOICE_SEED, CHOICE_SEED + seeds):
                model = bench.fine_tuned(bench.beginning(source, arm, seed), rate, seed)
                values.append(bench.held_out.score(bench.held_out.measure(model), expected).value)
            rows.append({"source": source, "arm": arm, "rate": rate, "accuracies": values})
            print(f"choice: {source}, {arm}, rate {rate:g}: {sum(values) / seeds:.4f}", flush=True)
    return rows


def chosen_rate(choice: list[dict[str, Any]], source: str, arm: str) -> float:
    """The smallest of the best rates."""
    of_arm = [row for row in choice if (row["source"], row["arm"]) == (source, arm)]
    return float(max(of_arm, key=lambda row: (sum(row["accuracies"]), -row["rate"]))["rate"])


def fine_tuned_rows(bench: Bench, choice: list[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """Every beginning without training, at the usual rate and at its chosen one, on all rows and on the first ones.

    Beside the trained reference, beside the untrained head of the same seed, and beside random initialisation with the
    same training (each at its own chosen rate, or both at the usual one).
    """
    trained = {name: evaluation.measure(bench.reference.build()) for name, evaluation in evaluations(bench).items()}
    rows = []
    for seed in range(seeds):
        head = with_untrained_head(bench.reference, seed)
        heads = {name: evaluation.measure(head) for name, evaluation in evaluations(bench).items()}
        outcomes: dict[tuple[str, str, str], dict[str, Outcome]] = {}
        rates: dict[tuple[str, str, str], float | None] = {}
        for source, arm in BEGINNINGS:
            weights = bench.beginning(source, arm, seed)
            for training, rate in {
                "none": None,
                "usual rate": USUAL_RATE,
                "chosen rate": chosen_rate(choice, source, arm),
            }.items():
                key = source, arm, training
                model = bench.reference.build(weights) if rate is None else bench.fine_tuned(weights, rate, seed)
                rates[key] = rate
                outcomes[key] = {name: part.measure(model) for name, part in evaluations(bench).items()}
        for (source, arm, training), found in outcomes.items():
            scores = {}
            for name, part in evaluations(bench).items():
                control = outcomes[TRAINED, "neither", training][name]
                for against, reference in (("trained", trained[name]), ("head", heads[name]), ("random", control)):
                    scores[f"{name} rows, against {against}"] = score(part, found[name], reference)
            rows.append(
                {
                    "seed": seed,
                    "source": source,
                    "arm": arm,
                    "training": training,
                    "rate": rates[source, arm, training],
                    "stored bytes": bench.stored_bytes(source, arm, seed),
                    "scores": scores,
                }
            )
            accuracy = scores["all rows, against trained"]["value"]
            print(f"seed {seed}: {source}, {arm}, {training}: {accuracy:.4f}", flush=True)
    return rows


def described(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """What was evaluated, by the file's name alone."""
    return {**evaluation.describe(), "data": name}


def prepare(arguments: argparse.Namespace, work: Path) -> Bench:
    """Open the model and read the data."""
    reference = open_reference(str(arguments.model))
    tokenizer, config = reference.tokenizer(), reference.build().config
    held_out, training = hold_out(read_rows(arguments.train, arguments.data), arguments.held_out)
    held_out.write(work / "held-out.tsv")

    def evaluation(data: Path, limit: int | None = None) -> Evaluation:
        task = find_task({"name": "text-classification", "data": str(data), "limit": limit})
        prepared = task.prepare(tokenizer, config)
        assert prepared is not None
        return prepared

    return Bench(
        reference=reference,
        tokenizer=tokenizer,
        all_rows=evaluation(arguments.data),
        first_rows=evaluation(arguments.data, arguments.first),
        held_out=evaluation(work / "held-out.tsv"),
        training=training,
        row_count=arguments.rows,
        epochs=arguments.epochs,
        work=work,
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, as plain data."""
    machine = runpy.run_path(str(HERE.parent / "coding" / "machine.py"))["describe_machine"]
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(arguments, Path(folder))
        stacks = stack_rows(bench)
        heads = untrained_head_rows(bench, arguments.heads)
        choice = choose_rates(bench, arguments.choice_seeds)
        tuned = fine_tuned_rows(bench, choice, arguments.seeds)
        return {
            "command": f"python benchmarks/claim/run.py --model {arguments.model.name} --data {arguments.data.name} "
            f"--train {arguments.train.name}",
            "machine": machine("torch", "transformers", "numpy", "zstandard"),
            "model": {"name": arguments.model.name, "bytes": bench.reference.nbytes},
            "data": described(bench.all_rows, arguments.data.name),
            "first rows": described(bench.first_rows, arguments.data.name),
            "held out": described(bench.held_out, f"rows of {arguments.train.name}"),
            "settings": {"rows": arguments.rows, "epochs": arguments.epochs, "usual rate": USUAL_RATE, "rates": RATES},
            "decode-time rows": {
                str(seed): draw(bench.training, arguments.rows, seed).listing() for seed in range(arguments.seeds)
            },
            "stacks": stacks,
            "untrained heads": heads,
            "choice": choice,
            "fine-tuned": tuned,
        }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained reference, a BERT classifier")
    parser.add_argument("--data", type=Path, required=True, help="rows to evaluate on")
    parser.add_argument(
        "--train", type=Path, required=True, help="rows that decode time and the choice of rates draw from"
    )
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--seeds", type=int, default=3, help="of everything that is trained")
    parser.add_argument(
        "--heads", type=int, default=5, help="untrained heads that stacks are put beside; at least --seeds"
    )
    parser.add_argument("--choice-seeds", type=int, default=2, help="of the choice of rates")
    parser.add_argument("--first", type=int, default=100, help="rows that the claim evaluated on")
    parser.add_argument("--rows", type=int, default=500, help="rows that decode time trains on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=1000, help="training rows that rates are chosen on")
    parser.add_argument("--redraw", action="store_true", help="results.md from results.json, nothing measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, so that the figures come out the same again
    stored = arguments.output / "results.json"
    if arguments.redraw:
        results = json.loads(stored.read_text(encoding="utf-8"))
    else:
        with quiet_transformers():
            results = measure(arguments)
        stored.write_text(json.dumps(claim_table.rounded(results)) + "\n", encoding="utf-8")
    text = claim_table.page(results)
    (arguments.output / "results.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
