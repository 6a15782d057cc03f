"""`ClassificationEvaluation`: tokenised texts and their classes, what a model answers to them, and what that is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stackc.models.forward import as_fed, forward_pass, require_fit
from stackc.tasks.task import Comparison, Evaluation, Outcome, Progress, Score
from stackc.util import statistics
from stackc.util.errors import DataError, ModelError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

_ROWS = "the evaluation rows"
_NEEDED = "text classification needs a model with a sequence-classification head"


#: Ends of the names of transformers' classes that give no logits per class, and what they are.
_OTHER_HEADS = (
    (("ForCausalLM", "LMHeadModel"), "it is a language model, which says the next token"),
    (("ForMaskedLM", "ForPreTraining"), "it is a language model, which says the masked tokens"),
    (("ForConditionalGeneration",), "it writes text"),
    (("ForTokenClassification",), "it classifies tokens"),
    (("ForQuestionAnswering",), "it marks answers in a text"),
    (("Model",), "it has no head at all"),
)


def require_head(model: nn.Module) -> None:
    """Refuse a model of transformers whose class says that it gives no logits per class.

    Raises
    ------
    ModelError
        With what the model does instead, and what works.
    """
    name = type(model).__name__
    if not type(model).__module__.startswith("transformers."):
        return  # names mean nothing there
    for ends, instead in _OTHER_HEADS:
        if name.endswith(ends):
            raise ModelError(
                f"{name} has no classification head: {instead}, and text-classification cannot judge it; give a model that "
                "was fine-tuned with AutoModelForSequenceClassification, or compress it without a task (task: none, or "
                "--no-eval), which measures sizes and weight errors"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokenised texts and the numbers of their rows."""

    rows: Tensor
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class ClassificationEvaluation(Evaluation):
    """Tokenised texts and their classes. The columns of an outcome are the logits of the classes.

    Parameters
    ----------
    description : mapping
        What `describe` returns.
    labels : Tensor
        Class of every row, int64, shape ``(rows,)``.
    batches : tuple of Batch
        Every row once.
    """

    description: Mapping[str, Any]
    labels: Tensor
    batches: tuple[Batch, ...]

    def describe(self) -> dict[str, Any]:
        """Source, split, rows, counts of labels and of texts cut at ``max_length``, sha256 of texts and labels."""
        return dict(self.description)

    def measure(self, model: nn.Module, progress: Progress | None = None) -> Outcome:
        """Logits of every row, in evaluation mode and without gradients; the model's modes are put back.

        Raises
        ------
        DataError
            If a label is not a class of the model, or the model has no position or no embedding for a token.
        ModelError
            If the model is not a sequence classifier, or does not run on the rows.
        """
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        logits: Tensor | None = None
        done, total = 0, len(self.labels)
        require_fit(model, (batch.inputs for batch in self.batches), _ROWS)
        with _evaluation_mode(model), torch.inference_mode():
            for batch in self.batches:
                values = torch.cat([_logits(model, fed, device) for fed in as_fed(model, batch.inputs)])
                if logits is None:
                    logits = torch.empty(total, values.shape[1], dtype=torch.float32)
                logits[batch.rows] = values
                done += len(batch.rows)
                if progress is not None:
                    progress(done, total)
        assert logits is not None
        if logits.shape[1] <= int(self.labels.max()):
            raise DataError(
                f"the data have the class {int(self.labels.max())}, the model has {logits.shape[1]} classes from 0"
            )
        return Outcome.of(logits)

    def score(self, outcome: Outcome, reference: Outcome) -> Score:
        """Accuracy, and what is kept of the reference's; a row with a NaN or infinite logit counts as wrong.

        Raises
        ------
        DataError
            If an outcome has another number of rows than the data, or the two have different numbers of classes.
        """
        rows = len(self.labels)
        self._require_own(outcome, reference)
        predicted, expected = _predictions(outcome), _predictions(reference)
        counts = statistics.PairedCounts.of(expected == self.labels, predicted == self.labels)
        right, reference_right = counts.both + counts.compressed_only, counts.both + counts.reference_only
        majority = int(torch.bincount(self.labels).max()) / rows
        interval = statistics.retention_interval(counts)
        finite = bool((predicted >= 0).all() and (expected >= 0).all())
        low, high = statistics.wilson_interval(right, rows)
        return Score(
            metric="accuracy",
            value=right / rows,
            low=low,
            high=high,
            rows=rows,
            majority=majority,
            retention=counts.retention,
            retention_low=interval.low if interval else None,
            retention_high=interval.high if interval and interval.high != float("inf") else None,
            skill_retention=statistics.skill_retention(right / rows, reference_right / rows, majority),
            agreement=statistics.agreement(expected, predicted),
            kl=statistics.mean_kl(reference.values, outcome.values) if finite else None,
            mcnemar_p=statistics.mcnemar_p(counts),
            verdict=statistics.retention_sentence(counts),
        )

    def compare(self, outcome: Outcome, other: Outcome) -> Comparison:
        """Difference of two accuracies with Tango's score interval and the exact test; see `stackc.util.statistics`.

        Raises
        ------
        DataError
            If an outcome has another number of rows than the data, or the two have different numbers of classes.
        """
        self._require_own(outcome, other)
        right, other_right = (_predictions(found) == self.labels for found in (outcome, other))
        counts = statistics.PairedCounts.of(other_right, right)
        low, high = statistics.difference_interval(counts)
        return Comparison(
            metric="accuracy",
            difference=(counts.compressed_only - counts.reference_only) / counts.rows,
            low=low,
            high=high,
            mcnemar_p=statistics.mcnemar_p(counts),
        )

    def _require_own(self, outcome: Outcome, other: Outcome) -> None:
        rows = len(self.labels)
        for found in (outcome, other):
            if (found.rows, found.columns) != (rows, other.columns):
                raise DataError(
                    f"an outcome of {found.rows} rows x {found.columns} classes does not belong to data of {rows} rows "
                    f"and a reference of {other.columns} classes"
                )


def _logits(model: nn.Module, inputs: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """float32, on the CPU, shape ``(rows, classes)``."""
    placed = {key: value.to(device) for key, value in inputs.items()}
    with forward_pass(model, _ROWS, placed):
        output = model(**placed)
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise ModelError(f"{type(model).__name__} gives no logits per class: {_NEEDED}")
    return logits.to("cpu", torch.float32)


def _predictions(outcome: Outcome) -> Tensor:
    """Class of the largest logit, or -1 where a logit is not finite."""
    logits = outcome.values
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode and put the mode of every module back, mixed ones included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
