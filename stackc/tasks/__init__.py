"""Tasks by name, found through the entry-point group ``stackc.tasks`` and loaded when first used.

A package adds a task with one line in its metadata::

    [project.entry-points."stackc.tasks"]
    perplexity = "my_package.perplexity:Perplexity"
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from stackc.tasks.task import Comparison, Evaluation, Outcome, Progress, Score, Task
from stackc.util.errors import DependencyError, RecipeError
from stackc.util.nearest import nearest

__all__ = ["Comparison", "Evaluation", "Outcome", "Progress", "Score", "Task", "find_task", "task_names"]


def _points() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group="stackc.tasks"):
        points.setdefault(point.name, point)
    return points


def task_names() -> list[str]:
    """Names of all tasks that are installed.

    Examples
    --------
    >>> "text-classification" in task_names()
    True
    """
    return sorted(_points())


def find_task(value: str | Mapping[str, Any]) -> Task:
    """The task that a recipe's ``task:`` stands for.

    Parameters
    ----------
    value : str or mapping
        A name, or ``{"name": ..., ...}`` with the fields of the task.

    Raises
    ------
    RecipeError
        If the name is missing or unknown; the message gives the nearest one.
    DependencyError
        If the providing package does not import.
    msgspec.ValidationError
        If a key is unknown, missing, of the wrong type or out of range; the path counts from the task.

    Examples
    --------
    >>> find_task({"name": "text-classification", "data": "reviews.csv"}).max_length
    64
    >>> find_task("text-clasification")
    Traceback (most recent call last):
        ...
    stackc.util.errors.RecipeError: unknown task 'text-clasification', did you mean 'text-classification'? Installed are none, text-classification
    """
    fields = {"name": value} if isinstance(value, str) else dict(value)
    points = _points()
    if "name" not in fields:
        raise RecipeError(f"the task has no name: write 'task: {{name: ...}}' with one of {', '.join(sorted(points))}")
    name = fields.pop("name")
    point = points.get(name) if isinstance(name, str) else None
    if point is None:
        hint = nearest(str(name), points) or "."
        raise RecipeError(f"unknown task {name!r}{hint} Installed are {', '.join(sorted(points))}")
    try:
        kind: type[Task] = point.load()
    except ImportError as error:
        package = point.dist.name if point.dist else point.value
        raise DependencyError(f"task {name!r} of package {package} does not import: {error}") from error
    return msgspec.convert(fields, kind)
