"""Further fine-tunes of a classifier: what a delta against that classifier is measured on.

    OMP_NUM_THREADS=1 python benchmarks/delta/finetune.py --model minilm-sst2 --train train.tsv --data dev.tsv [--only NAME]

``sentiment`` trains on with the labels of the file and another order of the rows. ``negation`` labels the same texts
anew: 1 where a text holds a word that negates (`NEGATIONS`), else 0; the two classes of the head get another meaning.
The first has no weight decay, as Hugging Face's trainer; the second that of BERT's authors, which moves every weight, also
those that no row of the data touches.

Rows of the training file that are held out (whole sentences, and the phrases that only they have) are not trained on;
``lossy.py`` chooses settings on them. Each fine-tune is a Hugging Face folder under ``--output``; the figures go to
``finetune.json`` beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import runpy
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stackc.healing.holdout import hold_out
from stackc.tasks.data import normal_form

HERE = Path(__file__).parent
BATCH, MAX_LENGTH, RATE, HELD_OUT_ROWS = 32, 64, 2e-5, 600
WARM_UP, GROUP = 0.1, 16
NEGATIONS = frozenset(
    (
        "no",
        "not",
        "n't",
        "never",
        "nothing",
        "none",
        "nobody",
        "nowhere",
        "neither",
        "nor",
        "without",
        "cannot",
        "hardly",
    )
)
_WORD = re.compile(r"n't\b|[a-z]+")


class Kind(NamedTuple):
    """What one fine-tune learns, and how."""

    labels: str
    seed: int
    decay: float


KINDS = {
    "sentiment": Kind("sentiment", 1, 0.0),
    "negation": Kind("negation", 2, 0.01),
}


def read_rows(path: Path) -> list[tuple[str, int]]:
    """Texts and labels of a file with the header ``sentence<TAB>label``."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["sentence"], int(row["label"])) for row in rows]


def relabelled(rows: list[tuple[str, int]], labels: str) -> list[tuple[str, int]]:
    """The same texts with the labels of one task."""
    if labels == "sentiment":
        return rows
    return [(text, int(not NEGATIONS.isdisjoint(_WORD.findall(text)))) for text, _ in rows]


def hold_rows_out(rows: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Rows to train on and rows held out."""
    forms = {normal_form(text): (text, label) for text, label in rows}
    left_out = hold_out(list(forms), HELD_OUT_ROWS)
    held_out = [row for form, row in forms.items() if form in left_out.rows]
    training = [row for form, row in forms.items() if form not in left_out.rows | left_out.parts]
    return training, held_out


def batched(rows: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Batches of texts of alike length, as trainers group them to save padding; within `GROUP` batches, in random order."""
    batches = []
    for begin in range(0, len(rows), BATCH * GROUP):
        group = sorted(rows[begin : begin + BATCH * GROUP], key=lambda row: len(row[0]))
        parts = [group[first : first + BATCH] for first in range(0, len(group), BATCH)]
        batches += [parts[index] for index in torch.randperm(len(parts)).tolist()]
    return batches


def logits(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Logits of every text, in batches of texts of alike length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    result = torch.empty(len(texts), 2)
    with torch.inference_mode():
        for begin in range(0, len(order), 64):
            part = order[begin : begin + 64]
            inputs = tokenizer(
                [texts[index] for index in part],
                truncation=True,
                max_length=MAX_LENGTH,
                padding=True,
                return_tensors="pt",
            )
            result[part] = model(**inputs).logits
    return result


def accuracy(model: torch.nn.Module, tokenizer: Any, rows: list[tuple[str, int]]) -> float:
    """Share of right predictions in per cent."""
    predictions = logits(model, tokenizer, [text for text, _ in rows]).argmax(1)
    return 100 * float((predictions == torch.tensor([label for _, label in rows])).double().mean())


def finetune(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one, save it, and say how it went."""
    kind = KINDS[name]
    torch.manual_seed(kind.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, dtype=torch.float32)
    training, _ = hold_rows_out(relabelled(read_rows(arguments.train), kind.labels))
    tasks = {labels: relabelled(read_rows(arguments.data), labels) for labels in ("sentiment", "negation")}

    model.eval()
    before = {labels: accuracy(model, tokenizer, rows) for labels, rows in tasks.items()}
    batches = batched([training[index] for index in torch.randperm(len(training)).tolist()][: BATCH * arguments.steps])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=kind.decay)
    warm_up = max(1, round(WARM_UP * arguments.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm_up, (arguments.steps - step) / (arguments.steps - warm_up))
    )
    losses, seconds = [], []
    model.train()
    for step in range(arguments.steps):
        begin = time.perf_counter()
        batch = batches[step]
        inputs = tokenizer(
            [text for text, _ in batch], truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt"
        )
        loss = cross_entropy(model(**inputs).logits, torch.tensor([label for _, label in batch]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - begin)
        if step % 20 == 19:
            print(f"{name} {step + 1}: loss {statistics.mean(losses[-20:]):.4f}, {seconds[-1]:.2f} s", flush=True)
    model.eval()
    after = {labels: accuracy(model, tokenizer, rows) for labels, rows in tasks.items()}

    folder = arguments.output / name
    model.save_pretrained(folder)
    for file in arguments.model.iterdir():
        if "token" in file.name or file.name == "vocab.txt":
            shutil.copy(file, folder / file.name)
    describe = runpy.run_path(str(HERE.parent / "coding" / "machine.py"))["describe_machine"]
    tenth = max(1, arguments.steps // 10)
    return {
        **kind._asdict(),
        "steps": arguments.steps,
        "loss, first and last tenth": [statistics.mean(losses[:tenth]), statistics.mean(losses[-tenth:])],
        "accuracy before": before,
        "accuracy after": after,
        "share of class 1, train and dev": [
            100 * statistics.mean(label for _, label in rows) for rows in (training, tasks[kind.labels])
        ],
        "seconds a step, median": statistics.median(seconds),
        "machine": describe("torch", "transformers"),
    }


def main() -> None:
    """Train those that are asked for, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the classifier to start from")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="rows to evaluate on")
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--output", type=Path, default=Path("runs/delta"), help="folder for the fine-tunes")
    parser.add_argument("--only", default=",".join(KINDS), help="names, with commas between them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "finetune.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name in arguments.only.split(","):
        results[name] = finetune(name, arguments)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
