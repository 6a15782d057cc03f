"""``--set stages[1].rank=8``: change one value of a recipe before it is validated."""

from __future__ import annotations

import re
from typing import Any

from stackc.recipe.document import Document, Path_, parse_value, render_path
from stackc.util.errors import RecipeError
from stackc.util.nearest import nearest

_PART = re.compile(r"([A-Za-z_][\w-]*)|\[(-?\d+)\]")


def override(document: Document, assignments: list[str]) -> Document:
    """The document with some values set; the original is left as it was.

    Parameters
    ----------
    document : Document
        A parsed recipe.
    assignments : list of str
        ``path=value``, the value in YAML, or text that begins with ``*`` or ``!`` as globs do. A bare stage name becomes
        a mapping when a field of it is set.

    Raises
    ------
    RecipeError
        If an assignment has no ``=``, its value is not YAML, its path does not parse, or leads past the end of a list.

    Examples
    --------
    >>> from stackc.recipe.document import parse_document
    >>> document = parse_document("stages: [{use: seed, rank: 4}, zstd]", "r.yaml")
    >>> override(document, ["stages[0].rank=8", "stages[1].level=3"]).value
    {'stages': [{'use': 'seed', 'rank': 8}, {'use': 'zstd', 'level': 3}]}
    """
    value = _copy(document.value)
    assigned = set(document.assigned)
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        if not equals:
            raise RecipeError(f"--set {assignment!r} has no '='; write for example --set stages[1].rank=8")
        assigned.add(_assign(value, _parse_target(target.strip()), _parse_text(text.strip(), assignment), assignment))
    return document._replace(value=value, assigned=frozenset(assigned))


def _parse_text(text: str, assignment: str) -> Any:
    if text.startswith(("*", "!")):  # aliases and tags to YAML, but nobody means those here
        return text
    try:
        return parse_value(text)
    except RecipeError as error:
        raise RecipeError(f"--set {assignment!r}: {text!r} is not a YAML value") from error


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


def _assign(value: Any, path: Path_, new: Any, assignment: str) -> Path_:
    """Set a value inside ``value``; returns the path with indices counted from the front."""
    done: Path_ = ()
    for part in path[:-1]:
        done = _step(value, part, done, assignment)
        key: Any = done[-1]
        if isinstance(value, dict) and key not in value:
            if done not in (("task",), ("calibration",), ("allocate",)):
                raise RecipeError(f"--set {assignment!r}: there is no {render_path(done)!r}{nearest(key, value)}")
            value[key] = {}
        # `- zstd` and `task: none` are short for a mapping with one key.
        if isinstance(value[key], str):
            value[key] = {"use" if done[0] == "stages" else "name": value[key]}
        value = value[key]
    done = _step(value, path[-1], done, assignment)
    value[done[-1]] = new
    return done


def _step(value: Any, part: str | int, above: Path_, assignment: str) -> Path_:
    """The path of an item or key of ``value``, which lies at ``above``; an index is checked and made positive."""
    here = render_path(above) or "the recipe"
    if isinstance(part, str):
        if not isinstance(value, dict):
            raise RecipeError(f"--set {assignment!r}: {here} has no keys")
        return (*above, part)
    if not isinstance(value, list):
        raise RecipeError(f"--set {assignment!r}: {here} is no list")
    if not -len(value) <= part < len(value):
        raise RecipeError(
            f"--set {assignment!r}: there is no {render_path((*above, part))}; the list has {len(value)} items, "
            "numbered from 0"
        )
    return (*above, part % len(value))


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
