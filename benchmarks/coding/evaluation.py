"""Accuracy, retention, agreement and divergence of a decoded state dict, as stackc's own reports measure them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stackc.healing.holdout import hold_out
from stackc.models import open_reference
from stackc.tasks import find_task
from stackc.tasks.data import normal_form
from stackc.tasks.judge import prepare_judge
from stackc.util.progress import Progress

#: Whole sentences of the training file that settings are chosen on; calibration may see the others.
HELD_OUT_ROWS = 1000


class Evaluator:
    """A model folder and labelled rows, and the reference's result on them."""

    def __init__(self, model: Path, data: Path) -> None:
        self.reference = open_reference(str(model))
        task = find_task({"name": "text-classification", "data": str(data)})
        judge = prepare_judge(task, self.reference, Progress())
        assert judge is not None
        self.judge = judge

    def measure(self, label: str, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Every figure of a state dict that was decoded from a file."""
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(name.encode())
            digest.update(state[name].contiguous().numpy().tobytes())
        score = self.judge.score(label, lambda: state, digest.hexdigest())
        return {
            "rows": score.rows,
            "accuracy": [score.value, score.low, score.high],
            "retention": score.retention,
            "kl": score.kl,
            "agreement": score.agreement,
        }

    @property
    def accuracy(self) -> list[float]:
        """Accuracy of the reference with its interval."""
        score = self.judge.reference_score
        return [score.value, score.low, score.high]


def split_training(train: Path, folder: Path) -> tuple[Path, Path]:
    """Write the held-out rows and the calibration rows of the training file as two files that share no sentence.

    What is held out are whole sentences, and what they alone have parts of is in neither file.
    """
    with train.open(encoding="utf-8", newline="") as stream:
        head, *body = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = {normal_form(row[0]): row for row in body}
    left_out = hold_out(list(rows), HELD_OUT_ROWS)
    held_out = [row for form, row in rows.items() if form in left_out.rows]
    rest = [row for form, row in rows.items() if form not in left_out.rows | left_out.parts]
    paths = folder / "held-out.tsv", folder / "calibration.tsv"
    for path, part in zip(paths, (held_out, rest), strict=True):
        path.write_text("".join("\t".join(row) + "\n" for row in [head, *part]), encoding="utf-8")
    return paths


def weight_error(state: Mapping[str, torch.Tensor], decoded: Mapping[str, torch.Tensor]) -> float:
    """Squared error of all weights over their squared norm."""
    error = sum(float(((decoded[name].double() - x.double()) ** 2).sum()) for name, x in state.items())
    return error / sum(float((x.double() ** 2).sum()) for x in state.values())
