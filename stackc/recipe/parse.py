"""From a YAML document to a validated `Recipe`, with errors that give the path, the line and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import msgspec

from stackc.core.packer import Packer
from stackc.core.registry import find
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.recipe.allocation import AllocateSettings
from stackc.recipe.controls import CONTROL_NAMES, ControlName, SeedCount
from stackc.recipe.document import Document, Path_, read_document
from stackc.recipe.recipe import BUNDLES, RECIPE_FORMAT, CalibrationSettings, Lock, Recipe, Stage
from stackc.util.errors import DependencyError, RecipeError
from stackc.util.nearest import nearest
from stackc.util.paths import user_path
from stackc.util.patterns import check_glob

#: Keys of a stage that belong to the framework; all others are fields of the stage's class.
STAGE_KEYS = ("use", "on", "allow_empty", "weights")
RECIPE_KEYS = (
    "stackc",
    "model",
    "task",
    "seed",
    "bundle",
    "calibration",
    "allocate",
    "controls",
    "seeds",
    "stages",
    "lock",
)


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a file, or by the name of one that ships with stackc.

    Raises
    ------
    RecipeError
        If there is no such recipe, or it does not validate.

    Examples
    --------
    >>> [stage.use for stage in load_recipe("lossless").stages]
    ['floats', 'zstd']
    """
    return parse_recipe(recipe_document(source))


def recipe_document(source: str | Path) -> Document:
    """The content of a recipe, called by its name if it ships with stackc: ``claim/int8`` is not ``int8``."""
    path = find_recipe(source)
    document = read_document(path)
    names = [name for name, shipped in shipped_recipes().items() if shipped.resolve() == path.resolve()]
    return document._replace(name=f"{names[0]}.yaml") if names else document


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe: an existing path, or the name of a recipe that ships with stackc.

    Examples
    --------
    >>> find_recipe("claim/int8").parts[-2:]
    ('claim', 'int8.yaml')
    """
    path = user_path(source)
    if path.exists() and not path.is_dir():
        return path
    shipped = shipped_recipes()
    # `recipes/int8.yaml` works from anywhere, not only from a checkout.
    name = path.as_posix().removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    if name in shipped:
        return shipped[name]
    raise RecipeError(
        f"there is no recipe {str(source)!r}{nearest(name, shipped)}; give a YAML file or one of {', '.join(shipped)}"
    )


def shipped_recipes() -> dict[str, Path]:
    """Recipes installed with the package, by name; those in a folder come last and are called ``folder/name``."""
    folder = Path(str(files("stackc.recipes")))
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def recipe_from(value: Recipe | str | Path | dict[str, Any], name: str = "recipe") -> Recipe:
    """A recipe from whatever a caller has: a value, a file or name, or the plain content of one."""
    if isinstance(value, Recipe):
        return value
    if isinstance(value, dict):
        return parse_recipe(Document(value, {}, name))
    return load_recipe(value)


def parse_recipe(document: Document) -> Recipe:
    """Validate a document.

    Raises
    ------
    RecipeError
        For unknown keys, wrong types and values out of range, with path and line.

    Examples
    --------
    >>> from stackc.recipe.document import parse_document
    >>> parse_recipe(parse_document("stages: [{use: int, bitz: 4}]", "r.yaml"))
    Traceback (most recent call last):
        ...
    stackc.util.errors.RecipeError: stages[0].bitz (line 1 of r.yaml): int has no field 'bitz', did you mean 'bits'?
    """
    value = document.value
    if not isinstance(value, dict):
        raise RecipeError(f"{document.where(())}: a recipe is a mapping with 'stages:', not {_kind(value)}")
    for key in value:
        if key not in RECIPE_KEYS:
            _require_word(document, (), key)
            raise RecipeError(f"{document.where((key,))}: a recipe has no key {key!r}{nearest(key, RECIPE_KEYS)}")
    version = _typed(document, ("stackc",), value.get("stackc", RECIPE_FORMAT), int)
    if version != RECIPE_FORMAT:
        raise RecipeError(
            f"{document.where(('stackc',))}: recipe format {version} is not known; this release reads format {RECIPE_FORMAT}"
        )
    stages = value.get("stages")
    if not isinstance(stages, list) or not stages:
        raise RecipeError(
            f"{document.where(('stages',))}: 'stages' is a list of at least one stage, not {_kind(stages)}"
        )
    bundle = tuple(_typed(document, ("bundle",), value.get("bundle", []), list[str]))
    for item in bundle:
        if item not in BUNDLES:
            raise RecipeError(
                f"{document.where(('bundle',))}: cannot bundle {item!r}; what can be bundled: {', '.join(BUNDLES)}"
            )
    lock = None if value.get("lock") is None else _typed(document, ("lock",), value["lock"], Lock)
    if lock is not None and lock.name and not {"", ".", ".."}.isdisjoint(re.split(r"[/\\]", lock.name)):
        raise RecipeError(
            f"{document.where(('lock', 'name'))}: {lock.name!r} is no name of a recipe; it names the folder of the results, so "
            "it has no '..' and no '/' in front"
        )
    stem = document.name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".lock")
    return Recipe(
        name=lock.name if lock is not None and lock.name else stem,
        stages=tuple(_parse_stage(document, ("stages", index), stage) for index, stage in enumerate(stages)),
        model=_typed(document, ("model",), value.get("model"), str | None),
        task=_parse_task(document, value.get("task", "none")),
        seed=_typed(document, ("seed",), value.get("seed", 0), int),
        bundle=bundle,
        calibration=_typed(document, ("calibration",), value.get("calibration", {}), CalibrationSettings),
        allocate=None
        if value.get("allocate") is None
        else _typed(document, ("allocate",), value["allocate"], AllocateSettings),
        controls=_parse_controls(document, value.get("controls", [])),
        seeds=_typed(document, ("seeds",), value.get("seeds", 1), SeedCount),
        lock=lock,
    )


def _parse_controls(document: Document, value: Any) -> tuple[ControlName, ...]:
    names = _typed(document, ("controls",), value, list[str])
    for index, name in enumerate(names):
        if name not in CONTROL_NAMES:
            raise RecipeError(
                f"{document.where(('controls', index))}: there is no control {name!r}{nearest(name, CONTROL_NAMES) or ';'} "
                f"{', '.join(CONTROL_NAMES[:-1])} or {CONTROL_NAMES[-1]}"
            )
    return cast("tuple[ControlName, ...]", tuple(dict.fromkeys(names)))


def _parse_stage(document: Document, path: Path_, value: Any) -> Stage:
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, dict):
        raise RecipeError(f"{document.where(path)}: a stage is a name or a mapping with 'use:', not {_kind(value)}")
    if not isinstance(value.get("use"), str):
        raise RecipeError(f"{document.where(path)}: a stage needs 'use:' with the name of a transform or packer")
    use = value["use"]
    try:
        entry = find(use)
    except RecipeError as error:
        raise RecipeError(f"{document.where((*path, 'use'))}: {error}") from error
    except DependencyError as error:
        raise DependencyError(f"{document.where((*path, 'use'))}: {error}") from error
    stored: Mapping[str, str] = entry.stage.stored_only if issubclass(entry.stage, Transform) else {}
    fields = [field.name for field in msgspec.structs.fields(entry.stage) if field.name not in stored]
    config: dict[str, Any] = dict(entry.fields)
    for key, item in value.items():
        if key in STAGE_KEYS:
            continue
        if key in entry.fields:
            raise RecipeError(
                f"{document.where((*path, key))}: {use} already means {entry.stage.name} with {key}={entry.fields[key]}; "
                f"write 'use: {entry.stage.name}' to choose it"
            )
        if key in stored:
            raise RecipeError(
                f"{document.where((*path, key))}: {key!r} is for files, recipes do not say it; {stored[key]}"
            )
        if key not in fields:
            _require_word(document, path, key)
            raise RecipeError(
                f"{document.where((*path, key))}: {use} has no field {key!r}{nearest(key, [*fields, *STAGE_KEYS])}"
            )
        config[key] = item
    weights = _typed(document, (*path, "weights"), value.get("weights"), str | None)
    if weights is not None and issubclass(entry.stage, TrainingStage):
        raise RecipeError(f"{document.where((*path, 'weights'))}: {use} has no use for row weights; remove them")
    if weights is not None and issubclass(entry.stage, Packer):
        raise RecipeError(
            f"{document.where((*path, 'weights'))}: {use} is a packer and loses nothing, so row weights mean nothing to it; "
            "remove them"
        )
    return Stage(
        use=use,
        config=cast("Any", _typed(document, path, config, entry.stage)),
        on=_parse_patterns(document, (*path, "on"), value["on"]) if "on" in value else (),
        allow_empty=_typed(document, (*path, "allow_empty"), value.get("allow_empty", False), bool),
        weights=weights,
    )


def _parse_patterns(document: Document, path: Path_, value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list):
        raise RecipeError(f"{document.where(path)}: 'on' is a glob or a list of globs, not {_kind(value)}")
    patterns = _typed(document, path, [value] if isinstance(value, str) else value, list[str])
    if not patterns:
        raise RecipeError(f"{document.where(path)}: 'on' lists no glob; leave it out to take every plane that fits")
    if not all(pattern.removeprefix("!") for pattern in patterns):
        raise RecipeError(f"{document.where(path)}: a glob is empty; write '*' for all tensors, or leave 'on' out")
    for pattern in patterns:
        try:
            check_glob(pattern.removeprefix("!"))
        except RecipeError as error:
            raise RecipeError(f"{document.where(path)}: {error}") from error
    return tuple(patterns)


def _parse_task(document: Document, value: Any) -> dict[str, Any]:
    """The task as a mapping, validated by the class of the task that it names."""
    from stackc.tasks import find_task

    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise RecipeError(f"{document.where(('task',))}: a task is a name, or a mapping with 'name:'")
    try:
        find_task(value)
    except (RecipeError, DependencyError) as error:
        raise type(error)(f"{document.where(('task', 'name'))}: {error}") from error
    except msgspec.ValidationError as error:
        from stackc.recipe.schema import task_types  # which loads all tasks

        raise _translated(document, ("task",), error, task_types()[value["name"]]) from error
    return dict(value)


def _require_word(document: Document, path: Path_, key: Any) -> None:
    """Refuse a key that is not text, which only Python code can give."""
    if not isinstance(key, str):
        raise RecipeError(f"{document.where(path)} has the key {key!r}; keys are words")


def _typed(document: Document, path: Path_, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _translated(document, path, error, kind) from error


def _translated(document: Document, path: Path_, error: msgspec.ValidationError, kind: Any) -> RecipeError:
    """msgspec's message with its own path joined to the recipe's, and the nearest name if a key is unknown."""
    message, _, inner = str(error).partition(" - at `")
    # "[...]" stands for some value of a mapping, without its key.
    for name, index in re.findall(r"\.([^.\[`]+)|\[(\d+)\]", inner.partition("[...]")[0]):
        path = (*path, name or int(index))
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown and not inner:
        hint = nearest(unknown[1], [field.name for field in msgspec.structs.fields(kind)])
        return RecipeError(f"{document.where((*path, unknown[1]))}: {path[-1]} has no field {unknown[1]!r}{hint}")
    choice = re.fullmatch(r"Invalid enum value '(.*)'", message)
    if choice and path and isinstance(path[-1], str):
        valid = _choices(kind, path[-1])
        hint = nearest(choice[1], valid) or ";"
        return RecipeError(f"{document.where(path)}: there is no {choice[1]!r}{hint} {' or '.join(valid)}")
    message = message.replace("`", "'")
    value = _lookup(document.value, path)
    shown = isinstance(value, int | float | str) and not isinstance(value, bool) and not message.startswith("Object ")
    got = f" (it is {value!r})" if shown else ""
    return RecipeError(f"{document.where(path)}: {message[:1].lower()}{message[1:]}{got}")


def _choices(kind: Any, field: str) -> list[str]:
    """The values that a field of a struct may have, if it has a list of them."""
    known = msgspec.inspect.type_info(kind)
    types = [found.type for found in getattr(known, "fields", ()) if found.name == field]
    values: list[str] = []
    while types:
        found = types.pop()
        if isinstance(found, msgspec.inspect.LiteralType):
            values += map(str, found.values)
        elif isinstance(found, msgspec.inspect.Metadata):
            types.append(found.type)
        elif isinstance(found, msgspec.inspect.UnionType):
            types += found.types
    return values


def _lookup(value: Any, path: Path_) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty mapping"
    names: dict[type[Any], str] = {dict: "a mapping", list: "a list", str: "text"}
    return names.get(type(value), repr(value))
