"""The reference's result on the task, and that of every decoded model beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackc.progress import Progress
from stackc.tasks import Score
from stackc.tasks.none import NoTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.reference import Reference
    from stackc.tasks import Evaluation, Outcome, Task


class Judge:
    """Evaluates models on a task; two models with the same bits are evaluated once.

    Parameters
    ----------
    evaluation : Evaluation
        The data of the task.
    model : torch.nn.Module
        The reference's own model, which is evaluated at once.
    reference : Reference
        Builds the others.
    progress : Progress
        Told about every row.
    """

    def __init__(self, evaluation: Evaluation, model: nn.Module, reference: Reference, progress: Progress) -> None:
        self._evaluation = evaluation
        self._reference = reference
        self._progress = progress
        self._scores: dict[str, Score] = {}
        self.description: dict[str, Any] = evaluation.describe()
        self._outcome: Outcome = self._measure("reference", model)
        self.reference_score: Score = evaluation.score(self._outcome, self._outcome)

    def score(self, label: str, state: Mapping[str, Tensor], digest: str) -> Score:
        """Score of the model with these weights, whose bits ``digest`` identifies."""
        if digest not in self._scores:
            outcome = self._measure(label, self._reference.build(state))
            self._scores[digest] = self._evaluation.score(outcome, self._outcome)
        return self._scores[digest]

    def _measure(self, label: str, model: nn.Module) -> Outcome:
        with self._progress.task(f"evaluate {label}", self.description["rows"]) as advance:
            done = 0

            def forward(now: int, total: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            return self._evaluation.measure(model, forward)


def prepare_judge(task: Task, reference: Reference, progress: Progress) -> Judge | None:
    """Evaluate the reference; None if the task measures nothing.

    Raises
    ------
    DataError
        If the data of the task is missing, or does not fit the model.
    ModelError
        If the reference has no architecture.
    """
    task.check()
    if isinstance(task, NoTask):  # which also judges references that cannot be built
        return None
    model = reference.build()
    evaluation = task.prepare(reference.tokenizer(), getattr(model, "config", None))
    return None if evaluation is None else Judge(evaluation, model, reference, progress)
