"""`Task`: how a model is judged. Tasks are plugins: text classification is one, perplexity may be another.

A task is a frozen value, as a transform is. `Task.prepare` reads the data and tokenises it once; the `Evaluation` that
it returns then measures as many models as there are. What a model did on every row is an `Outcome`; an outcome beside
the reference's outcome makes a `Score`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from stackc.core.planes import from_bytes, to_bytes
from stackc.core.spec import PlaneSpec
from stackc.core.transform import StageMeta
from stackc.util.errors import DataError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Called with the number of rows done and the number of rows in all.
Progress = Callable[[int, int], None]


class Outcome(msgspec.Struct, frozen=True):
    """What one model gave for every evaluated row, as plain data that msgspec writes and reads.

    Parameters
    ----------
    rows, columns : int
        Shape of `values`. Rows are in the order of the data; the task says what the columns are (text classification:
        the logits of the classes).
    data : bytes
        float32, little-endian, row after row.

    Examples
    --------
    >>> import torch
    >>> outcome = Outcome.of(torch.tensor([[0.5, -1.0]]))
    >>> msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome).values
    tensor([[ 0.5000, -1.0000]])
    """

    rows: int
    columns: int
    data: bytes

    @classmethod
    def of(cls, values: Tensor) -> Outcome:
        """Outcome of a matrix with one row per evaluated row; stored as float32."""
        rows, columns = values.shape
        return cls(rows, columns, to_bytes(values.detach().to("cpu", torch.float32)))

    @property
    def values(self) -> Tensor:
        """The matrix, float32, shape ``(rows, columns)``.

        Raises
        ------
        ArtifactError
            If there are more or fewer bytes than the shape needs.
        """
        return from_bytes(self.data, PlaneSpec((self.rows, self.columns), "float32"))


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One model's result beside the reference's. None stands for "not defined", never for zero.

    Parameters
    ----------
    metric : str
        Such as ``accuracy``.
    value, low, high : float
        The metric and its 95 % interval.
    rows : int
        Number of evaluated rows.
    majority : float, optional
        What naming the most frequent class everywhere would score.
    retention : float, optional
        Value over the reference's value; None if that is 0.
    retention_low, retention_high : float, optional
        95 % interval of the retention, paired; a missing upper bound is infinite.
    skill_retention : float, optional
        Kept share of the reference's advantage over ``majority``; None if the reference has none.
    agreement : float, optional
        Share of rows with the reference's prediction.
    kl : float, optional
        Mean KL(reference || this model) in nats per row; None if a logit is not finite.
    mcnemar_p : float, optional
        Exact two-sided p-value of the flips.
    verdict : str
        A sentence on the comparison that claims no difference which the data do not show.
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int
    majority: float | None = None
    retention: float | None = None
    retention_low: float | None = None
    retention_high: float | None = None
    skill_retention: float | None = None
    agreement: float | None = None
    kl: float | None = None
    mcnemar_p: float | None = None
    verdict: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models on the same rows, neither of them the reference.

    Parameters
    ----------
    metric : str
        A metric whose larger values are better.
    difference, low, high : float
        First minus second, paired over the rows, and its 95 % interval.
    mcnemar_p : float, optional
        Exact two-sided p-value of the rows that only one of the two gets right, where rows are right or wrong.
    """

    metric: str
    difference: float
    low: float
    high: float
    mcnemar_p: float | None = None


class Evaluation(abc.ABC):
    """The data of a task, read and tokenised, ready to measure models."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is evaluated, for the report, as plain data.

        At least ``task`` (its name), ``data``, ``rows`` (what `measure` counts to) and ``sha256`` of what is evaluated.
        """

    @abc.abstractmethod
    def measure(self, model: nn.Module, progress: Progress | None = None) -> Outcome:
        """Run the whole evaluation split through a model, which is left as it was.

        Parameters
        ----------
        model : nn.Module
            A model with the reference's module config, on any device.
        progress : callable, optional
            Called after every batch with the rows done and the rows in all.
        """

    @abc.abstractmethod
    def score(self, outcome: Outcome, reference: Outcome) -> Score:
        """Judge an outcome beside the reference's outcome on the same data; both may be the same.

        Raises
        ------
        DataError
            If an outcome does not belong to this data.
        """

    def compare(self, outcome: Outcome, other: Outcome) -> Comparison | None:
        """What one model is ahead of another by, on the same rows; neither has to be the reference.

        Without an implementation of its own a task compares nothing, which None says: the scores of two models then
        stand side by side without a verdict.

        Raises
        ------
        DataError
            If an outcome does not belong to this data.
        """
        return None


class Task(msgspec.Struct, metaclass=StageMeta, frozen=True, forbid_unknown_fields=True):
    """Base class of tasks: a frozen value whose fields are the keys of ``task:`` in a recipe."""

    name: ClassVar[str]

    @abc.abstractmethod
    def check(self) -> None:
        """Find out cheaply, without torch and without reading all of it, whether the data can be there.

        Raises
        ------
        DataError
            If it cannot; the message names what is missing and what is accepted.
        DependencyError
            If an optional package is needed; the message names the extra to install.
        """

    def check_model(self, model: nn.Module) -> None:
        """Find out before the data are read whether the task can judge a model of this kind at all.

        Without an implementation of its own a task takes every model, and says what is wrong when it runs.

        Raises
        ------
        ModelError
            If it cannot; the message names the kind of model and what works.
        """

    @abc.abstractmethod
    def prepare(self, tokenizer: Any, config: Any) -> Evaluation | None:
        """Read and tokenise the evaluation split; None if the task measures nothing.

        Parameters
        ----------
        tokenizer : transformers.PreTrainedTokenizerBase
            The reference's tokenizer.
        config : transformers.PretrainedConfig or None
            The reference's module config, for its classes and its longest input.

        Raises
        ------
        DataError
            If the data are missing, malformed, or do not fit the model.
        """

    @abc.abstractmethod
    def calibration_texts(self) -> list[str]:
        """Texts of the training split, for statistics and healing; none of them is a text of the evaluation split.

        Raises
        ------
        DataError
            If no training split is configured, or it cannot be read.
        """

    def training_texts(self) -> list[str]:
        """Texts of the training split, with those that are also texts of the evaluation split if there are any.

        Healing reads them beside `evaluation_texts` to say how many it left out. Without an implementation of its own a
        task gives `calibration_texts`, and none are counted.

        Raises
        ------
        DataError
            As `calibration_texts`.
        """
        return self.calibration_texts()

    def evaluation_texts(self) -> list[str]:
        """Texts that the model is judged on, so that further training text can be kept free of them.

        Without an implementation of its own a task gives none: then only what `calibration_texts` leaves out is known to be
        left out.

        Raises
        ------
        DataError
            If they cannot be read.
        """
        return []

    @abc.abstractmethod
    def token_ids(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        """Token ids of each text as the model is fed: special tokens included, cut at the task's maximum length."""

    def calibration_inputs(self, rows: int, tokenizer: Any) -> Sequence[Mapping[str, Tensor]]:
        """Training rows as the model is called with them: batches of its arguments by name.

        The same rows each time, spread over the training split, none of them a row of the evaluation split. An argument
        ``attention_mask`` of shape ``(rows, length)`` says which places are padding.

        Parameters
        ----------
        rows : int
            How many rows; all there are if these are fewer.
        tokenizer : transformers.PreTrainedTokenizerBase or None
            The reference's tokenizer.

        Raises
        ------
        DataError
            If there are none; without an implementation of its own a task has none.
        """
        raise DataError(
            f"the task {self.name} has no calibration data; leave out 'calibrated' and sensitivities that are taken from "
            "data, or choose a task that has training rows"
        )
