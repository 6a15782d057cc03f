"""What happens at decode time: labelled rows are read, charged as bytes of the file, and trained on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zstandard
from torch import nn

from stackc.tasks import data as sources

#: As benchmarks/coding: the evaluated split has whole sentences, the training file phrases as well.
FEWEST_WORDS = 8
MAX_LENGTH = 64


@dataclass(frozen=True)
class Rows:
    """Labelled texts, and the lines of the file that they are from."""

    lines: tuple[int, ...]
    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def take(self, chosen: Sequence[int]) -> Rows:
        """Some of the rows, in this order."""
        return Rows(*(tuple(column[row] for row in chosen) for column in (self.lines, self.texts, self.labels)))

    def write(self, path: Path) -> Path:
        """As a table that a task reads."""
        path.write_bytes(b"sentence\tlabel\n" + self.content)
        return path

    @property
    def content(self) -> bytes:
        """The rows as they would travel with the file."""
        return "".join(f"{text}\t{label}\n" for text, label in zip(self.texts, self.labels, strict=True)).encode()

    @property
    def charged_bytes(self) -> int:
        """Bytes that the rows take with the strongest setting of zstd."""
        return len(zstandard.ZstdCompressor(level=22).compress(self.content))

    def listing(self) -> dict[str, Any]:
        """Which rows these are: the texts are not ours to copy."""
        return {
            "lines": list(self.lines),
            "bytes": len(self.content),
            "charged bytes": self.charged_bytes,
            "sha256": hashlib.sha256(self.content).hexdigest(),
        }


def read_rows(train: Path, evaluated: Path) -> Rows:
    """The rows of a training file whose text is not evaluated, but for case and spaces."""
    table = sources.read_file(str(train))
    known = {_same(text) for text in sources.read_file(str(evaluated)).texts(None)}
    texts, labels = table.texts(None), [label.key for label in table.labels(None)]
    kept = [row for row, text in enumerate(texts) if _same(text) not in known]
    return Rows(tuple(table.places), tuple(texts), tuple(int(label) for label in labels)).take(kept)


def hold_out(rows: Rows, number: int) -> tuple[Rows, Rows]:
    """Rows that settings are chosen on, and those that may be trained on; the two share no text."""
    long = [row for row, text in enumerate(rows.texts) if len(text.split()) >= FEWEST_WORDS]
    held_out = rows.take(_shuffled(long, 0)[:number])
    known = {_same(text) for text in held_out.texts}
    return held_out, rows.take([row for row, text in enumerate(rows.texts) if _same(text) not in known])


def draw(rows: Rows, number: int, seed: int) -> Rows:
    """The rows that one decoder trains on."""
    return rows.take(_shuffled(range(len(rows.texts)), seed)[:number])


def fine_tune(
    model: nn.Module, rows: Rows, tokenizer: Any, *, rate: float, seed: int, epochs: int, batch_size: int = 16
) -> nn.Module:
    """Train all weights on labelled rows, as a classifier is usually fine-tuned: AdamW, linear decay, dropout.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    rows : Rows
        Every row once an epoch.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's.
    rate : float
        Learning rate of the first step; that of the last is nearly zero.
    seed : int
        Of the order of rows and of dropout.
    epochs, batch_size : int
        Passes over the rows, and rows of one step.
    """
    # Fused: one pass over 4 million numbers instead of ten, which is most of the time of a step.
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    steps = epochs * -(-len(rows.texts) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(len(rows.texts), generator=generator).split(batch_size):
                batch = rows.take(chosen.tolist())
                loss = model(**_inputs(batch, tokenizer), labels=torch.tensor(batch.labels)).loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    return model.eval()


def _inputs(rows: Rows, tokenizer: Any) -> Mapping[str, torch.Tensor]:
    return dict(tokenizer(list(rows.texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"))


def _same(text: str) -> str:
    return " ".join(text.casefold().split())


def _shuffled(values: Sequence[int], seed: int) -> list[int]:
    order = list(values)
    random.Random(seed).shuffle(order)  # noqa: S311 - documented to give the same order everywhere
    return order
