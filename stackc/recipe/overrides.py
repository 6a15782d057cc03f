"""``--set stages[1].rank=8``: change one value of a recipe before it is validated."""

from __future__ import annotations

import re
from typing import Any

import yaml

from stackc.errors import RecipeError
from stackc.nearest import nearest
from stackc.recipe.document import Document, Path_, parse_value, render_path

_PART = re.compile(r"([A-Za-z_][\w-]*)|\[(-?\d+)\]")


def override(document: Document, assignments: list[str]) -> Document:
    """The document with some values set; the original is left as it was.

    Parameters
    ----------
    document : Document
        A parsed recipe.
    assignments : list of str
        ``path=value``, the value in YAML. A bare stage name becomes a mapping when a field of it is set.

    Raises
    ------
    RecipeError
        If an assignment has no ``=``, its path does not parse, or leads past the end of a list.

    Examples
    --------
    >>> from stackc.recipe.document import parse_document
    >>> document = parse_document("stages: [{use: seed, rank: 4}, zstd]", "r.yaml")
    >>> override(document, ["stages[0].rank=8", "stages[1].level=3"]).value
    {'stages': [{'use': 'seed', 'rank': 8}, {'use': 'zstd', 'level': 3}]}
    """
    value = _copy(document.value)
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        if not equals:
            raise RecipeError(f"--set {assignment!r} has no '='; write for example --set stages[1].rank=8")
        try:
            new = parse_value(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {target}: {text!r} is not a YAML value") from error
        _assign(value, _parse_target(target.strip()), new, assignment)
    return document._replace(value=value)


def _parse_target(target: str) -> Path_:
    parts: list[str | int] = []
    position = 0
    while position < len(target):
        if target[position] == "." and parts:
            position += 1
        match = _PART.match(target, position)
        if match is None:
            raise RecipeError(f"--set {target!r}: a path looks like stages[1].rank or task.split")
        parts.append(match[1] if match[1] else int(match[2]))
        position = match.end()
    if not parts:
        raise RecipeError("--set needs a path before the '=', such as stages[1].rank")
    return tuple(parts)


def _assign(value: Any, path: Path_, new: Any, assignment: str) -> None:
    for depth, part in enumerate(path[:-1]):
        here = render_path(path[: depth + 1])
        if isinstance(part, int):
            _check_index(value, part, here, assignment)
        elif not isinstance(value, dict):
            raise RecipeError(f"--set {assignment!r}: {render_path(path[:depth]) or 'the recipe'} has no keys")
        elif part not in value:
            if depth == 0 and part not in ("task",):
                raise RecipeError(f"--set {assignment!r}: the recipe has no {part!r}{nearest(part, value)}")
            value[part] = {}
        # `- zstd` and `task: none` are short for a mapping with one key.
        if isinstance(value[part], str):
            value[part] = {"use" if path[0] == "stages" else "name": value[part]}
        value = value[part]
    last = path[-1]
    if isinstance(last, int):
        _check_index(value, last, render_path(path), assignment)
    elif not isinstance(value, dict):
        raise RecipeError(f"--set {assignment!r}: {render_path(path[:-1])} has no keys")
    value[last] = new


def _check_index(value: Any, index: int, here: str, assignment: str) -> None:
    if not isinstance(value, list) or not -len(value) <= index < len(value):
        count = len(value) if isinstance(value, list) else 0
        raise RecipeError(f"--set {assignment!r}: there is no {here}; the list has {count} items, numbered from 0")


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
