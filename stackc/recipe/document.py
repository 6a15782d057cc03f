"""YAML to plain values with the line of every value kept, and duplicate keys refused.

PyYAML keeps the last of two equal keys silently; in a recipe that is a typing error worth a message.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stackc.errors import RecipeError

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of plain values: PyYAML's own takes ``on:`` for true and ``1e-3`` for text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's interface


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16 if node.value.startswith("0x") else 10)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value)


# PyYAML's constructors read 010 as octal and 1:30 as base 60.
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_value(text: str) -> Any:
    """One plain YAML value, as recipes read it.

    Examples
    --------
    >>> parse_value("1e-3"), parse_value("on"), parse_value("[1, two]")
    (0.001, 'on', [1, 'two'])
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


class Document(NamedTuple):
    """Parsed YAML: plain values, and the 1-based line of each by its path (``("stages", 2, "bits")``)."""

    value: Any
    lines: dict[Path_, int]
    name: str

    def where(self, path: Path_) -> str:
        """``stages[2].bits (line 9 of recipe.yaml)``; the nearest enclosing value's line if this one has none."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known)
        place = render_path(path) or "the recipe"
        return f"{place} (line {line} of {self.name})" if line else f"{place} ({self.name})"


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


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text.

    Parameters
    ----------
    text : str
        The YAML.
    name : str
        How error messages call the source, such as the file's name.

    Raises
    ------
    RecipeError
        If the text is not YAML, repeats a key, or uses aliases or tags.

    Examples
    --------
    >>> document = parse_document("stages:\\n  - {use: int, bits: 4}", "r.yaml")
    >>> document.value, document.lines["stages", 0, "bits"]
    ({'stages': [{'use': 'int', 'bits': 4}]}, 2)
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1} of " if error.problem_mark else ""
        raise RecipeError(f"{line}{name} is not YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {error}".replace("\n", " ")) from error
    if node is None:
        raise RecipeError(f"{name} is empty; a recipe needs at least 'stages:', see 'stackc list' for what can stand there")
    lines: dict[Path_, int] = {}
    constructor = _Loader("")
    return Document(_plain(node, (), lines, constructor, name, frozenset()), lines, name)


def _plain(
    node: yaml.Node, path: Path_, lines: dict[Path_, int], constructor: yaml.SafeLoader, name: str, above: frozenset[int]
) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in above:
        raise RecipeError(f"{render_path(path)} (line {line} of {name}) refers to itself through an alias")
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _plain(key_node, (), {}, constructor, name, above)
            key_line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise RecipeError(f"{render_path(path)} (line {key_line} of {name}) has the key {key!r}; keys are words")
            if key in values:
                first = lines[*path, key]
                raise RecipeError(
                    f"{render_path((*path, key))} (line {key_line} of {name}) is given twice, first on line {first}; keep one"
                )
            lines[*path, key] = key_line
            values[key] = _plain(value_node, (*path, key), lines, constructor, name, above)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, constructor, name, above) for index, item in enumerate(node.value)]
    try:
        return constructor.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{render_path(path)} (line {line} of {name}) holds a value that recipes do not take: {error}") from error


def read_document(path: Path) -> Document:
    """Parse a YAML file.

    Raises
    ------
    RecipeError
        If the file cannot be read as UTF-8 text, or as in `parse_document`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"the recipe {path} is not UTF-8 text (byte {error.start}); is it an artifact or a weights file?") from error
    return parse_document(text, path.name)
