"""Transforms and packers by name, found through entry points and loaded when first used.

A package adds a transform with one line in its metadata::

    [project.entry-points."stackc.transforms"]
    wavelet = "my_package.wavelet:Wavelet"

A `Preset` gives a name to a stage with some fields set: ``int8`` is ``int`` with ``bits: 8``. An older format that must
still decode is registered under ``name@version``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from stackc.errors import DependencyError, RecipeError
from stackc.nearest import nearest
from stackc.packer import Packer
from stackc.transform import Transform

StageClass = type[Transform] | type[Packer]

_GROUPS = ("stackc.transforms", "stackc.packers")

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


@functools.cache
def _points() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for group in _GROUPS:
        for point in entry_points(group=group):
            points.setdefault(point.name, point)
    return points


def names() -> list[str]:
    """Names of all stages that are installed, old versions left out.

    Examples
    --------
    >>> "seed" in names()
    True
    """
    return sorted(name for name in _points() if "@" not in name)


@functools.cache
def find(name: str) -> Entry:
    """The stage class and preset fields behind a name.

    Raises
    ------
    RecipeError
        If no installed package provides the name; the message gives the nearest one.
    DependencyError
        If the providing package does not import.

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
    try:
        value = point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.value
        raise DependencyError(f"stage {name!r} of package {package} does not import: {error}") from error
    return Entry(value.stage, dict(value.fields)) if isinstance(value, Preset) else Entry(value, {})


def find_format(name: str, version: int) -> StageClass:
    """The class that decodes the frozen format ``name@version`` of an artifact.

    Raises
    ------
    DependencyError
        If neither the current class nor an older one with that version is installed.
    """
    for candidate in (name, f"{name}@{version}"):
        if candidate in _points():
            stage = find(candidate).stage
            if (stage.name, stage.version) == (name, version):
                return stage
    if name in _points() and find(name).stage.name == name:
        raise DependencyError(
            f"the file needs {name}@{version}, but version {find(name).stage.version} is installed; "
            "install the release of stackc, or of the plugin, that wrote it"
        )
    package = KNOWN_PROVIDERS.get(name, "the plugin that provides it")
    raise DependencyError(f"the file needs the stage {name}@{version}, which is not installed: install {package}")
