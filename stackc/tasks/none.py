"""`NoTask`: compress without measuring; the report then holds sizes and weight errors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from stackc.tasks.task import Evaluation, Task
from stackc.util.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class NoTask(Task, frozen=True):
    """A task without data: ``task: none``.

    Examples
    --------
    >>> NoTask().prepare(None, None) is None
    True
    """

    name: ClassVar[str] = "none"

    def check(self) -> None:
        """There is nothing to check."""

    def prepare(self, tokenizer: Any, config: Any) -> Evaluation | None:
        """None: nothing is measured."""
        return None

    def calibration_texts(self) -> list[str]:
        """Refuse.

        Raises
        ------
        DataError
            Always.
        """
        raise DataError("the recipe has no task, so there are no training texts: add 'task: {name: ..., data: ...}'")

    def token_ids(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        """Token ids with special tokens, at full length."""
        return [list(ids) for ids in tokenizer(list(texts))["input_ids"]] if texts else []

    def calibration_inputs(self, rows: int, tokenizer: Any) -> Sequence[Mapping[str, Tensor]]:
        """Refuse.

        Raises
        ------
        DataError
            Always.
        """
        raise DataError(
            "the recipe has no task, so there is no calibration data: add 'task: {name: ..., data: ..., train: ...}'"
        )
