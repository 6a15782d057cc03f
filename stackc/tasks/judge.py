"""The reference's result on the task, and that of every decoded model beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.tasks import Score
from stackc.tasks.none import NoTask
from stackc.tasks.task import Outcome
from stackc.util.memo import Memo, key_of
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.models import Reference
    from stackc.tasks import Comparison, Evaluation, Task


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
    memo : Memo, optional
        Outcomes of earlier runs.
    key : str
        Of what outcomes depend on beside the data and the bits of a model.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        model: nn.Module,
        reference: Reference,
        progress: Progress,
        memo: Memo | None = None,
        key: str = "",
    ) -> None:
        self._evaluation = evaluation
        self._reference = reference
        self._progress = progress
        self._memo = memo or Memo()
        self._outcomes: dict[str, Outcome] = {}
        self._scores: dict[str, Score] = {}
        self.description: dict[str, Any] = evaluation.describe()
        self._key = key_of(key, self.description)
        self._outcome: Outcome = self._measured("reference", lambda: model, "reference")
        self.reference_score: Score = evaluation.score(self._outcome, self._outcome)

    def score(self, label: str, state: Callable[[], Mapping[str, Tensor]], digest: str) -> Score:
        """Score of the model with the weights that ``state`` gives, whose bits ``digest`` identifies."""
        if digest not in self._scores:
            self.judge(self._measured(label, lambda: self._reference.build(state()), digest), digest)
        return self._scores[digest]

    def judge(self, outcome: Outcome, digest: str) -> Score:
        """Score of what a model gave that is none of the reference's architecture, under a name of its own.

        Raises
        ------
        DataError
            If the outcome does not belong to the data.
        """
        score = self._evaluation.score(outcome, self._outcome)
        self._outcomes[digest], self._scores[digest] = outcome, score
        return score

    def compare(self, digest: str, other: str) -> Comparison | None:
        """What the first of two judged models is ahead of the second by; None if the task does not compare.

        Raises
        ------
        KeyError
            If one of them was not judged yet.
        """
        return self._evaluation.compare(self._outcomes[digest], self._outcomes[other])

    def _measured(self, label: str, model: Callable[[], nn.Module], digest: str) -> Outcome:
        """What a model gave in an earlier run, or gives now."""
        key = key_of(self._key, digest)
        known = self._memo.recall("outcome", key)
        if known is not None:
            return msgspec.msgpack.decode(known, type=Outcome)
        outcome = self._measure(label, model())
        self._memo.keep("outcome", key, msgspec.msgpack.encode(outcome))
        return outcome

    def _measure(self, label: str, model: nn.Module) -> Outcome:
        with self._progress.task(f"evaluate {label}", self.description["rows"]) as advance:
            done = 0

            def forward(now: int, total: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            return self._evaluation.measure(model, forward)


def prepare_judge(
    task: Task, reference: Reference, progress: Progress, memo: Memo | None = None, key: str = ""
) -> Judge | None:
    """Evaluate the reference; None if the task measures nothing. Arguments are those of `Judge`.

    Raises
    ------
    DataError
        If the data of the task is missing, or does not fit the model.
    ModelError
        If the reference has no architecture, or one that the task cannot judge.
    """
    task.check()
    if isinstance(task, NoTask):  # which also judges references that cannot be built
        return None
    model = reference.build()
    task.check_model(model)
    evaluation = task.prepare(reference.tokenizer(), getattr(model, "config", None))
    return None if evaluation is None else Judge(evaluation, model, reference, progress, memo, key)
