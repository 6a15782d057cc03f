"""What is installed, read from the registry, the classes of stages and tasks, and the recipe files themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import msgspec

from stackc.core.packer import Packer
from stackc.core.registry import Entry, find, names, shadowed
from stackc.core.spec import PlaneSpec
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.recipe.schema import Schema, fields_of, summary_of, task_types
from stackc.util.errors import DependencyError, SpecError, StackcError

#: Planes that a stage is tried on, to say what it takes.
_PROBES = {
    "real matrices": PlaneSpec((64, 64), "float32"),
    "real vectors": PlaneSpec((64,), "float32"),
    "half-precision planes": PlaneSpec((64, 64), "float16"),
    "integers with known bounds": PlaneSpec((64, 64), "int8", -7, 7),
    "integers without bounds": PlaneSpec((64, 64), "int32"),
    "masks": PlaneSpec((64, 64), "bool", 0, 1),
}


class Parameter(NamedTuple):
    """One field of a stage or task; ``default`` is None if there is none to show."""

    name: str
    type: str
    default: str | None
    required: bool
    description: str


class ListedStage(NamedTuple):
    """A transform, packer or preset."""

    name: str
    kind: str
    summary: str
    parameters: tuple[Parameter, ...]
    accepts: str
    planes: str


class ListedTask(NamedTuple):
    """A task."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]


class ListedRecipe(NamedTuple):
    """A recipe that ships with stackc."""

    name: str
    summary: str


class ListedModel(NamedTuple):
    """A model that ships with stackc."""

    name: str
    summary: str


def stages() -> list[ListedStage]:
    """All stages by name; one that does not import or is incomplete is listed with the reason."""
    return [_stage(name) for name in names()]


def notes() -> list[str]:
    """One line on each stage of a plugin that cannot be named in a recipe."""
    return [
        f"note: the stage {name!r} of package {package} is shadowed by the built-in {name!r}"
        for name, package in shadowed()
    ]


def tasks() -> list[ListedTask]:
    """All tasks that import."""
    return [ListedTask(name, summary_of(kind), _parameters(kind, frozenset())) for name, kind in task_types().items()]


def recipes() -> list[ListedRecipe]:
    """The shipped recipes with the comment that each begins with."""
    from stackc.recipe.parse import shipped_recipes

    return [ListedRecipe(name, _first_comment(path.read_text("utf-8"))) for name, path in shipped_recipes().items()]


def models() -> list[ListedModel]:
    """The shipped models."""
    from stackc.models import DEMO_MODELS

    return [ListedModel(name, _model_summary(name)) for name in DEMO_MODELS]


def _stage(name: str) -> ListedStage:
    try:
        return _usable_stage(name, find(name))
    except StackcError as error:
        return ListedStage(name, "not available", f"not usable: {error}", (), "nothing", "")


def _usable_stage(name: str, entry: Entry) -> ListedStage:
    preset = ", ".join(f"{key}: {value}" for key, value in entry.fields.items())
    summary = f"{entry.stage.name} with {preset}" if preset else summary_of(entry.stage)
    sample = None if issubclass(entry.stage, TrainingStage) else _sample(entry)
    return ListedStage(
        name=name,
        kind=_kind(entry),
        summary=summary,
        parameters=_parameters(entry.stage, frozenset(entry.fields)),
        accepts="real tensors" if issubclass(entry.stage, TrainingStage) else _accepts(sample),
        planes=_planes(sample),
    )


def _kind(entry: Entry) -> str:
    if issubclass(entry.stage, Packer):
        return "packer, exact"
    if issubclass(entry.stage, TrainingStage):
        return "training"
    return "transform, lossless" if entry.stage.lossless else "transform, lossy"


def _parameters(kind: type[msgspec.Struct], fixed: frozenset[str]) -> tuple[Parameter, ...]:
    fields = fields_of(kind)
    return tuple(
        Parameter(
            name=name,
            type=type_text(schema),
            default=None if schema.get("default") is None else _literal(schema["default"]),
            required=name in fields.required,
            description=schema.get("description", ""),
        )
        for name, schema in fields.properties.items()
        if name not in fixed
    )


def type_text(schema: Schema) -> str:
    """A JSON Schema type in words.

    Examples
    --------
    >>> type_text({"type": "integer", "minimum": 1, "maximum": 8})
    'integer 1 to 8'
    >>> type_text({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "null"}]})
    'number above 0, at most 1 (optional)'
    >>> type_text({"enum": ["row", "tensor"]})
    'row or tensor'
    """
    if "anyOf" in schema:
        kinds = [type_text(part) for part in schema["anyOf"] if part.get("type") != "null"]
        optional = " (optional)" if len(kinds) < len(schema["anyOf"]) else ""
        return " or ".join(kinds) + optional
    if "enum" in schema:
        return " or ".join(map(_literal, schema["enum"]))
    if "const" in schema:
        return _literal(schema["const"])
    kind: str = schema.get("type", "anything")
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        return "text"
    if kind == "array":
        return f"list of {type_text(schema.get('items', {}))}"
    return kind + _range_text(schema)


def _range_text(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f" {least} to {most}"
    bounds = [
        f"{words} {schema[key]}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sample(entry: Entry) -> Transform | Packer | None:
    """Some legal value of a stage, to ask what it takes; None if guessing does not find one."""
    for fields in _candidates(entry):
        try:
            return cast("Transform | Packer", msgspec.convert(dict(entry.fields) | fields, entry.stage))
        except msgspec.ValidationError:
            continue
    return None


def _candidates(entry: Entry) -> Iterator[dict[str, Any]]:
    """Field values to try: the defaults, then one optional field after another at its least value."""
    described = fields_of(entry.stage)
    required = {name: _least(described.properties[name]) for name in described.required if name not in entry.fields}
    yield required
    for name, schema in described.properties.items():
        if name not in entry.fields and name not in described.required:
            yield required | {name: _least(schema)}


def _least(schema: Schema) -> Any:
    schema = next((part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"), schema)
    if "enum" in schema:
        return schema["enum"][0]
    if "minimum" in schema:
        return schema["minimum"]
    if "exclusiveMinimum" in schema:
        return schema.get("maximum", schema["exclusiveMinimum"] + 1)
    return {"integer": 1, "number": 1.0, "boolean": False, "string": ""}.get(schema.get("type", ""))


def _accepts(stage: Transform | Packer | None) -> str:
    if stage is None:
        return "depends on its parameters"
    taken = [label for label, spec in _PROBES.items() if _takes(stage, spec)]
    if len(taken) == len(_PROBES):
        return "every plane"
    return ", ".join(taken) or "depends on its parameters"


def _takes(stage: Transform | Packer, spec: PlaneSpec) -> bool:
    try:
        if isinstance(stage, Packer):
            return stage.accepts(spec)
        stage.plan(spec)
    except SpecError:
        return False
    except Exception as error:  # a fault of one plugin, which must not keep the others from being listed
        raise DependencyError(f"{stage.name} fails on a plane {spec}: {type(error).__name__}: {error}") from error
    return True


def _planes(stage: Transform | Packer | None) -> str:
    """Names of the planes that a transform makes of the first probe that it takes."""
    if not isinstance(stage, Transform):
        return ""
    for spec in _PROBES.values():
        if _takes(stage, spec):
            return ", ".join(f"{name} (side information)" if name in stage.side else name for name in stage.plan(spec))
    return ""


def _first_comment(text: str) -> str:
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _model_summary(name: str) -> str:
    from stackc.models import open_reference
    from stackc.util.humanise import plural, size_text

    try:
        reference = open_reference(name)
    except StackcError as error:
        return f"not available: {error}"
    architecture = ((reference.config or {}).get("architectures") or ["model"])[0]
    size = size_text(reference.nbytes)
    return f"{architecture}, {plural(len(reference.specs), 'tensor')}, {reference.parameters:,} parameters, {size}"
