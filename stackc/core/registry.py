"""Transforms and packers by name, found through entry points and loaded when first used.

A package adds a transform with one line in its metadata::

    [project.entry-points."stackc.transforms"]
    wavelet = "my_package.wavelet:Wavelet"

A `Preset` gives a name to a stage with some fields set: ``int8`` is ``int`` with ``bits: 8``. An older format that must
still decode is registered under ``name@version``.

A stage of stackc itself keeps its name whatever else is installed. A name that two other packages provide stands for
neither; files that hold either's format decode as long as name and version leave one class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, TypeGuard

from stackc.core.packer import Packer
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.util.errors import DependencyError, RecipeError
from stackc.util.humanise import printable
from stackc.util.nearest import nearest

FormatClass = type[Transform] | type[Packer]
StageClass = FormatClass | type[TrainingStage]

_BUILT_IN = "stackc"
_GROUPS = ("stackc.transforms", "stackc.packers", "stackc.training")

#: Packages known to provide a stage that is not installed.
KNOWN_PROVIDERS: Mapping[str, str] = {}


class Preset(NamedTuple):
    """A stage class with some of its fields fixed, under a name of its own."""

    stage: StageClass
    fields: Mapping[str, Any]


class Entry(NamedTuple):
    """What a name in a recipe stands for."""

    stage: StageClass
    fields: Mapping[str, Any]


class Shadowed(NamedTuple):
    """A stage of a plugin that recipes cannot name, because stackc has a stage of that name."""

    name: str
    package: str


@functools.cache
def _providers() -> dict[str, list[EntryPoint]]:
    """All entry points of each name, that of stackc itself first."""
    points = [point for group in _GROUPS for point in entry_points(group=group)]
    providers: dict[str, list[EntryPoint]] = {}
    for point in sorted(points, key=lambda point: not _is_built_in(point)):
        providers.setdefault(point.name, []).append(point)
    return providers


@functools.cache
def _points() -> dict[str, EntryPoint]:
    """The first entry point of each name."""
    _providers.cache_clear()  # both are one reading of the metadata
    return {name: points[0] for name, points in _providers().items()}


def _is_built_in(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == _BUILT_IN


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def names() -> list[str]:
    """Names of all stages that are installed, old versions left out.

    Examples
    --------
    >>> "seed" in names()
    True
    """
    return sorted(name for name in _points() if "@" not in name)


def shadowed() -> list[Shadowed]:
    """Stages of plugins that have the name of one of stackc's own, by name and package; none of them is loaded."""
    return sorted(
        Shadowed(name, _package(point))
        for name in _points()
        for point in _providers().get(name, ())[1:]
        if _is_built_in(_points()[name])
    )


@functools.cache
def find(name: str) -> Entry:
    """The stage class and preset fields behind a name.

    Raises
    ------
    RecipeError
        If no installed package provides the name; the message gives the nearest one.
    DependencyError
        If the providing package does not import or what it provides is no complete stage, or if two packages other
        than stackc provide the name.

    Examples
    --------
    >>> find("int8").fields
    {'bits': 8}
    """
    point = _points().get(name)
    if point is None:
        if name in KNOWN_PROVIDERS:
            raise DependencyError(
                f"stage {name!r} is in the package {KNOWN_PROVIDERS[name]}: pip install {KNOWN_PROVIDERS[name]}"
            )
        raise RecipeError(f"unknown stage {name!r}{nearest(name, names())}; 'stackc list' shows all")
    providers = _providers().get(name, ())
    if len(providers) > 1 and not _is_built_in(point):
        raise DependencyError(_conflict(f"stage {name!r}", providers))
    return _load(point)


def find_packer(name: str, **fields: Any) -> Packer:
    """A packer by name, for the places where stackc itself needs one.

    Raises
    ------
    RecipeError, DependencyError
        As `find`; also if the name is a transform's.

    Examples
    --------
    >>> find_packer("zstd", level=3)
    Zstd(level=3)
    """
    entry = find(name)
    if not issubclass(entry.stage, Packer):
        raise RecipeError(f"{name!r} is a transform, and a packer is needed here")
    return entry.stage(**{**entry.fields, **fields})


def find_format(name: str, version: int) -> FormatClass:
    """The class that decodes the frozen format ``name@version`` of an artifact.

    All entry points called ``name`` or ``name@version`` are candidates, whether or not recipes can name them.

    Raises
    ------
    DependencyError
        If neither the current class nor an older one with that version is installed, or if two packages other than
        stackc provide a class for it.
    """
    keys = (name, f"{name}@{version}")
    unusable: DependencyError | None = None
    for key in keys:
        if key in _points():
            try:
                stage = find(key).stage
            except DependencyError as error:
                unusable = unusable or error
                continue
            if not issubclass(stage, TrainingStage) and (stage.name, stage.version) == (name, version):
                return stage
    classes: dict[FormatClass, EntryPoint] = {}
    for point in (point for key in keys for point in _providers().get(key, ())):
        try:
            stage = _load(point).stage
        except DependencyError:
            continue  # one that stands in the way of the answer is in ``unusable``
        if not issubclass(stage, TrainingStage):  # which leaves nothing in a file
            classes.setdefault(stage, point)
    fitting = {stage: point for stage, point in classes.items() if (stage.name, stage.version) == (name, version)}
    if len(fitting) > 1:
        raise DependencyError(_conflict(f"the format {name}@{version}, which the file needs,", list(fitting.values())))
    if fitting:
        return next(iter(fitting))
    shown = printable(name)  # it may come from a file of anybody's
    others = {key.partition("@")[2] for key in _points() if key.startswith(f"{name}@")} - {str(version)}
    older = {int(other) for other in others if other.isdecimal()}
    versions = sorted({stage.version for stage in classes if stage.name == name} | older)
    if versions:
        listed = " and ".join(map(str, versions))
        installed = f"versions {listed} are" if len(versions) > 1 else f"version {listed} is"
        raise DependencyError(
            f"the file needs {shown}@{version}, but {installed} installed; "
            "install the release of stackc, or of the plugin, that wrote it"
        )
    if unusable is not None:
        raise unusable
    package = KNOWN_PROVIDERS.get(name, "the plugin that provides it")
    raise DependencyError(f"the file needs the stage {shown}@{version}, which is not installed: install {package}")


def _conflict(what: str, points: Iterable[EntryPoint]) -> str:
    packages = sorted({_package(point) for point in points})
    if len(packages) == 1:
        values = " and as ".join(sorted(point.value for point in points))
        return f"{what} is provided twice by the package {packages[0]}, as {values}: install a release without this error, or uninstall it"
    listed = f"{', '.join(packages[:-1])} and {packages[-1]}"
    return f"{what} is provided by the packages {listed}: uninstall all but one, for example 'pip uninstall {packages[-1]}'"


def _load(point: EntryPoint) -> Entry:
    """What an entry point provides, held against what a stage must be.

    Raises
    ------
    DependencyError
        If it does not import, or is no complete stage.
    """
    where = f"stage {point.name!r} of package {_package(point)}"
    try:
        value = point.load()
    except Exception as error:  # a plugin's module can fail in any way, and must not take the other stages along
        raise DependencyError(f"{where} does not import: {' '.join(str(error).split())}") from error
    problem = _problem(point, value)
    if problem is not None:
        raise DependencyError(f"{where} is not usable: {problem}; install a release of the package that mends it")
    return Entry(value.stage, dict(value.fields)) if isinstance(value, Preset) else Entry(value, {})


def _problem(point: EntryPoint, value: object) -> str | None:
    """Why an object is not the stage that its entry point announces, or None if it is."""
    stage = value.stage if isinstance(value, Preset) else value
    if not _is_stage(stage):
        what = f"the stage of the preset {point.value}" if isinstance(value, Preset) else point.value
        return (
            f"{what} is not a Transform or Packer class{'' if isinstance(value, Preset) else ', nor a Preset of one'}"
        )
    if inspect.isabstract(stage):
        # msgspec makes instances of a class with abstract methods without a word
        return f"{stage.__name__} does not define {', '.join(sorted(stage.__abstractmethods__))}"
    name, version = getattr(stage, "name", None), getattr(stage, "version", None)
    if not isinstance(name, str):
        return f"{stage.__name__} has no 'name: ClassVar[str]' with a value"
    if not isinstance(version, int):
        return f"{stage.__name__} has no 'version: ClassVar[int]' with a value"
    old = "@" in point.name
    if point.name != (f"{name}@{version}" if old else name) and (old or not isinstance(value, Preset)):
        return (
            f"{stage.__name__} is {name}@{version}, and its entry point must be called {name!r} or '{name}@{version}'"
        )
    if isinstance(value, Preset):
        if not isinstance(value.fields, Mapping):
            return f"the fields of the preset {point.value} are not a mapping"
        unknown = sorted(set(value.fields) - set(stage.__struct_fields__))
        if unknown:
            return f"{stage.__name__} has no field {', '.join(unknown)}, which the preset {point.value} sets"
    return None


def _is_stage(value: object) -> TypeGuard[StageClass]:
    return isinstance(value, type) and issubclass(value, Transform | Packer | TrainingStage)
