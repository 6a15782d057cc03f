"""YAML to plain values with the line of every value kept, and duplicate keys refused.

PyYAML keeps the last of two equal keys silently; in a recipe that is a typing error worth a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stackc.util.errors import RecipeError
from stackc.util.paths import readable, require_regular

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of plain values: PyYAML's own takes ``on:`` for true and ``1e-3`` for text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's interface


#: Tag, pattern and possible first characters of the plain values that are not text.
_PLAIN: tuple[tuple[str, str, Iterable[str]], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16 if node.value.startswith("0x") else 10)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value)


# PyYAML's constructors read 010 as octal and 1:30 as base 60.
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either idea of plain values would take for something else: ``1e3`` as well as ``on``."""


for _tag, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))

#: A recipe of more values than this is an accident, or aliases that multiply.
_MOST_VALUES = 100_000

#: What people mean as text and YAML does not: ``on: *.weight``, ``on: [!*Norm*]``, ``on: {a,b}.weight``.
_BARE_GLOB = re.compile(r"[:\[,-]\s*[*!&]|\bon:\s*\{")


class Document(NamedTuple):
    """Parsed YAML: plain values, and where each came from.

    ``lines`` holds the 1-based line of values by path (``("stages", 2, "bits")``), ``assigned`` the paths that were set
    from outside, by ``--set``.
    """

    value: Any
    lines: dict[Path_, int]
    name: str
    assigned: frozenset[Path_] = frozenset()

    def where(self, path: Path_) -> str:
        """``stages[2].bits (line 9 of recipe.yaml)``; the nearest enclosing value's line if this one has none."""
        place = render_path(path) or "the recipe"
        for end in range(len(path), -1, -1):
            if path[:end] in self.assigned:
                return f"{place} (from --set)"
            if path[:end] in self.lines:
                return f"{place} (line {self.lines[path[:end]]} of {self.name})"
        return f"{place} ({self.name})"


def render_path(path: Path_) -> str:
    """Path as people write it.

    Examples
    --------
    >>> render_path(("stages", 2, "bits"))
    'stages[2].bits'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_value(text: str) -> Any:
    """One YAML value, as recipes read it.

    Raises
    ------
    RecipeError
        If the text is not YAML.

    Examples
    --------
    >>> parse_value("1e-3"), parse_value("on"), parse_value("[1, two]"), parse_value("")
    (0.001, 'on', [1, 'two'], None)
    """
    node = _compose(text, "the value")
    return None if node is None else _Values("the value").of(node, ())


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text. Aliases stand for a copy of what they refer to.

    Parameters
    ----------
    text : str
        The YAML.
    name : str
        How error messages call the source, such as the file's name.

    Raises
    ------
    RecipeError
        If the text is empty or not YAML, repeats a key, uses tags, or refers to itself.

    Examples
    --------
    >>> document = parse_document("stages:\\n  - {use: int, bits: 4}", "r.yaml")
    >>> document.value, document.lines["stages", 0, "bits"]
    ({'stages': [{'use': 'int', 'bits': 4}]}, 2)
    """
    node = _compose(text, name)
    if node is None:
        raise RecipeError(
            f"{name} is empty; a recipe needs at least 'stages:', see 'stackc list' for what can stand there"
        )
    values = _Values(name)
    return Document(values.of(node, ()), values.lines, name)


def dump_document(value: Any) -> str:
    """YAML text that `parse_document`, and any other reader of YAML, takes for this value.

    Examples
    --------
    >>> print(dump_document({"on": ["1e3", 1e-5]}), end="")
    'on':
    - '1e3'
    - 1.0e-05
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1} of " if mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        bare = mark and _BARE_GLOB.search([*text.split("\n"), ""][mark.line])
        hint = "; quote globs that begin with *, ! or {" if bare else ""
        raise RecipeError(f"{line}{name} is not YAML: {problem}{hint}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise RecipeError(f"{name} is nested too deeply for a recipe") from error
    return node


class _Values:
    """Turns composed YAML into plain values and keeps the line of each."""

    def __init__(self, name: str) -> None:
        self.lines: dict[Path_, int] = {}
        self._name = name
        self._count = 0
        self._constructor = _Loader("")

    def of(self, node: yaml.Node, path: Path_, above: frozenset[int] = frozenset()) -> Any:
        """Plain value of a node; ``above`` holds the nodes around it."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count += 1
        if self._count > _MOST_VALUES:
            raise self._error(path, node, f"makes the recipe longer than {_MOST_VALUES} values")
        if id(node) in above:
            raise self._error(path, node, "refers to itself through an alias")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self._error(
                path, node, f"has the tag {node.tag!r}; recipes use no tags, so quote text that begins with !"
            )
        above |= {id(node)}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, above)
        return [self.of(item, (*path, index), above) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path_, above: frozenset[int]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = "a list or mapping as key" if key is None else f"the key {key!r}"
                quoted = f", so put it in quotes: '{key_node.value}'" if isinstance(key_node, yaml.ScalarNode) else ""
                raise self._error(path, key_node, f"has {shown}; keys are words{quoted}")
            if key in values:
                first = self.lines[*path, key]
                raise self._error((*path, key), key_node, f"is given twice, first on line {first}; keep one")
            self.lines[*path, key] = key_node.start_mark.line + 1
            values[key] = self.of(value_node, (*path, key), above)
        return values

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> Any:
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            raise self._error(path, node, f"holds a value that recipes do not take: {problem}") from error
        if value is not None and not isinstance(value, str | int | float):
            raise self._error(path, node, f"is a {type(value).__name__}; recipes hold text, numbers, true and false")
        return value

    def _error(self, path: Path_, node: yaml.Node, problem: str) -> RecipeError:
        place = render_path(path) or "the recipe"
        return RecipeError(f"{place} (line {node.start_mark.line + 1} of {self._name}) {problem}")


def read_document(path: Path) -> Document:
    """Parse a YAML file.

    Raises
    ------
    RecipeError
        As in `read_recipe` and `parse_document`.
    """
    return parse_document(read_recipe(path), readable(path.name))


def read_recipe(path: Path) -> str:
    """The text of a recipe's file.

    Raises
    ------
    RecipeError
        If it cannot be read as UTF-8 text.
    """
    try:
        require_regular(path)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the recipe {path} is not UTF-8 text (byte {error.start}); is it an artifact or a weights file?"
        ) from error
