"""JSON Schema of recipes, built from the stages and tasks that are installed, so that editors complete and check them.

Every stage becomes an object with ``use`` as its constant, the keys of the framework, and the fields of its class with
their bounds, defaults and descriptions. What only a stage's own checks know (exactly one of two fields) is left to
``stackc check``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import msgspec

from stackc.core.registry import find, names
from stackc.core.transform import Transform
from stackc.recipe.allocation import AllocateSettings
from stackc.recipe.controls import CONTROL_NAMES
from stackc.recipe.recipe import BUNDLES, RECIPE_FORMAT, CalibrationSettings, Lock
from stackc.tasks import Task, find_task, task_names
from stackc.util.errors import DependencyError, StackcError

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/{name}"

#: The keys of a stage that are the same for all; `stackc.recipe.parse.STAGE_KEYS` without ``use``.
FRAMEWORK_KEYS: Mapping[str, Schema] = {
    "on": {
        "description": "globs over tensor names, or tensor/plane; '!' in front excludes. Without it: every plane that fits",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    },
    "allow_empty": {
        "description": "whether the stage may match nothing",
        "type": "boolean",
        "default": False,
    },
    "weights": {
        "description": "importance of rows: token-counts, or a file",
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
    },
}


class Fields(NamedTuple):
    """The fields of a struct as JSON Schema.

    ``properties`` maps names to schemas with descriptions, ``required`` lists those without a default, ``definitions``
    holds what they refer to.
    """

    properties: dict[str, Schema]
    required: list[str]
    definitions: dict[str, Schema]


def fields_of(kind: type[msgspec.Struct]) -> Fields:
    """The fields of a stage's or task's class that a recipe may give.

    A field without a description takes that of the ``Parameters`` section of the class's docstring.

    Raises
    ------
    DependencyError
        If a field has a type that no recipe can write.

    Examples
    --------
    >>> fields_of(find("zstd").stage).properties["level"]["maximum"]
    22
    """
    try:
        (reference,), components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    except (TypeError, NameError) as error:  # a type without a JSON form, or a name that its module does not have
        raise DependencyError(f"the fields of {kind.__name__} cannot be written in a recipe: {error}") from error
    schema = components.pop(reference["$ref"].removeprefix("#/$defs/"))
    documented = documented_parameters(kind)
    stored = kind.stored_only if issubclass(kind, Transform) else ()
    properties = {
        name: field if "description" in field or name not in documented else {"description": documented[name], **field}
        for name, field in schema.get("properties", {}).items()
        if name not in stored
    }
    return Fields(properties, list(schema.get("required", [])), components)


def summary_of(kind: type) -> str:
    """First sentence of a class's docstring.

    Examples
    --------
    >>> summary_of(find("cast").stage)
    'Round a float32 or float64 plane to a half-precision dtype.'
    """
    paragraph = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")


def documented_parameters(kind: type) -> dict[str, str]:
    """Descriptions in the ``Parameters`` section of a class's numpydoc docstring, by name.

    Examples
    --------
    >>> documented_parameters(find("zstd").stage)["level"]
    "Zstandard's compression level, 1 (fast) to 22 (small)."
    """
    lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
    section = next(
        (i for i, line in enumerate(lines[:-1]) if line == "Parameters" and set(lines[i + 1]) == {"-"}), len(lines)
    )
    descriptions: dict[str, str] = {}
    current: list[str] = []
    for index, line in enumerate(lines[section + 2 :], start=section + 2):
        if index + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[index + 1]):
            break
        if line and not line[0].isspace():
            current = [name.strip() for name in line.partition(" : ")[0].split(",")]
        elif line.strip():
            for name in current:
                more = line.strip().replace("``", "`")
                descriptions[name] = f"{descriptions.get(name, '')} {more}".strip()
    return descriptions


def task_types() -> dict[str, type[Task]]:
    """The classes of all installed tasks that import and are complete."""
    types: dict[str, type[Task]] = {}
    for point in entry_points(group="stackc.tasks"):
        try:
            kind = point.load()
        except (ImportError, AttributeError, SyntaxError):
            continue
        if isinstance(kind, type) and issubclass(kind, Task) and not inspect.isabstract(kind):
            types.setdefault(point.name, kind)
    return {name: types[name] for name in task_names() if name in types}


def stage_schema(name: str) -> tuple[Schema, dict[str, Schema]]:
    """The object form of one stage, and the definitions that it refers to.

    Raises
    ------
    StackcError
        If there is no such stage, or it is not usable.
    """
    entry = find(name)
    fields = fields_of(entry.stage)
    free = {key: field for key, field in fields.properties.items() if key not in entry.fields}
    fixed = "".join(f" With {key}: {value}." for key, value in entry.fields.items())
    schema = {
        "type": "object",
        "description": summary_of(entry.stage) + fixed,
        "properties": {"use": {"const": name}, **FRAMEWORK_KEYS, **free},
        "required": ["use", *(key for key in fields.required if key in free)],
        "additionalProperties": False,
    }
    return schema, fields.definitions


def recipe_schema() -> Schema:
    """JSON Schema (draft 2020-12) of recipes.

    Examples
    --------
    >>> schema = recipe_schema()
    >>> "int8" in schema["properties"]["stages"]["items"]["oneOf"][0]["enum"]
    True
    """
    definitions: dict[str, Schema] = {}
    stages: list[Schema] = []
    bare: list[str] = []
    for name in names():
        try:
            schema, needed = stage_schema(name)
        except StackcError:
            continue  # a plugin that is not usable: naming it in a recipe says why
        stages.append(schema)
        definitions |= needed
        if _complete(name):
            bare.append(name)
    tasks: list[Schema] = []
    for name, kind in task_types().items():
        fields = fields_of(kind)
        definitions |= fields.definitions
        tasks.append(
            {
                "type": "object",
                "description": summary_of(kind),
                "properties": {"name": {"const": name}, **fields.properties},
                "required": ["name", *fields.required],
                "additionalProperties": False,
            }
        )
    (lock,), components = msgspec.json.schema_components([Lock], ref_template=_REFERENCE)
    calibration, allocate = fields_of(CalibrationSettings), fields_of(AllocateSettings)
    return {
        "$schema": _DIALECT,
        "title": "stackc recipe",
        "type": "object",
        "properties": {
            "stackc": {"description": "recipe format", "const": RECIPE_FORMAT},
            "model": {
                "description": "the reference: a demo name, a folder, a .safetensors file, module:function, or a Hugging Face id",
                "type": ["string", "null"],
            },
            "task": {"description": "how models are judged", "oneOf": [{"enum": _complete_tasks()}, *tasks]},
            "seed": {"description": "seed of everything random", "type": "integer", "default": 0},
            "bundle": {
                "description": "what else goes into the file",
                "type": "array",
                "items": {"enum": list(BUNDLES)},
            },
            "calibration": {
                "description": "what calibrated stages and sensitivities are taken from",
                "type": "object",
                "properties": calibration.properties,
                "additionalProperties": False,
            },
            "allocate": {
                "description": "the size that the rate allocation makes choices for",
                "type": ["object", "null"],
                "properties": allocate.properties,
                "oneOf": [{"required": ["ratio"]}, {"required": ["bytes"]}],
                "additionalProperties": False,
            },
            "controls": {
                "description": "runs that must lose for the result to mean anything",
                "type": "array",
                "items": {"enum": list(CONTROL_NAMES)},
            },
            "seeds": {
                "description": "under how many seeds, one after another, the whole recipe is run",
                "type": "integer",
                "minimum": 1,
                "default": 1,
            },
            "stages": {
                "description": "applied in order; each rewrites every plane that it matches",
                "type": "array",
                "minItems": 1,
                "items": {"oneOf": [{"enum": bare}, *stages]},
            },
            "lock": {"description": "written by stackc", "anyOf": [lock, {"type": "null"}]},
        },
        "required": ["stages"],
        "additionalProperties": False,
        "$defs": definitions | components,
    }


def _complete(name: str) -> bool:
    """Whether a bare name is a stage: no field is needed."""
    entry = find(name)
    try:
        msgspec.convert(dict(entry.fields), entry.stage)
    except msgspec.ValidationError:
        return False
    return True


def _complete_tasks() -> list[str]:
    """Tasks that a bare name stands for."""
    complete = []
    for name in task_types():
        try:
            find_task(name)
        except (StackcError, msgspec.ValidationError):
            continue
        complete.append(name)
    return complete
