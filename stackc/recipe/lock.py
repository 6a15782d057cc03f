"""The lock file: a recipe with every default and every automatic choice written out, versions and hashes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from stackc.core.abilities import Outside
from stackc.core.packer import Packer
from stackc.core.registry import find
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform, config_fields
from stackc.recipe.document import dump_document
from stackc.recipe.recipe import RECIPE_FORMAT, CalibrationSettings, Lock, Recipe, Stage
from stackc.util.errors import ModelError, RecipeError
from stackc.util.paths import readable, user_path

#: Packages whose version can change a result.
_PACKAGES = ("stackc", "torch", "numpy", "zstandard", "constriction", "numba", "transformers", "accelerate")

_HEAD = "# Written by stackc: a recipe with nothing left to choose. Running it gives the same bytes.\n"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stage_formats(recipe: Recipe) -> list[str]:
    """``name@version`` of every stage."""
    return [f"{stage.config.name}@{stage.config.version}" for stage in recipe.stages]


def settings_fingerprint(recipe: Recipe) -> str:
    """SHA-256 of what decides the bytes of the artifact: stages with all parameters, seed, bundle and calibration.

    Not of how stages are spelled: ``int8`` and ``{use: int, bits: 8}`` are the same.
    """
    stages = [
        [stage.config.name, _deciding(stage.config), stage.on, stage.allow_empty, stage.weights]
        for stage in recipe.stages
    ]
    settings: list[Any] = [stages, recipe.seed, recipe.bundle]
    if recipe.calibration != CalibrationSettings():  # so that locks from before there was any stay valid
        settings.append(recipe.calibration)
    if recipe.allocate is not None:
        settings.append({"allocate": recipe.allocate})
    content = msgspec.json.encode(settings, order="sorted")
    return hashlib.sha256(content).hexdigest()


def _fields(config: Transform | Packer | TrainingStage) -> dict[str, Any]:
    """The fields of a stage as a recipe gives them."""
    if not isinstance(config, Transform):
        fields: dict[str, Any] = msgspec.to_builtins(config)
        return fields
    return {name: value for name, value in config_fields(config).items() if name not in config.stored_only}


def _deciding(config: Transform | Packer | TrainingStage) -> dict[str, Any]:
    """The fields that decide bytes: what another model is called does not, and its fingerprint is in the lock by itself."""
    fields = _fields(config)
    if isinstance(config, Outside):
        fields.pop("base", None)
    return fields


def _given(settings: msgspec.Struct) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(settings).items() if value is not None}


def lock_document(
    recipe: Recipe,
    *,
    task: Mapping[str, Any],
    reference: str,
    weights: Mapping[int, str],
    calibration: str = "",
    bases: Mapping[str, str] | None = None,
    choices: Mapping[int, Mapping[str, Transform | Packer]],
    artifact: str,
) -> str:
    """The YAML text of a lock file.

    Parameters
    ----------
    recipe : Recipe
        What was run.
    task : mapping
        The task with all defaults.
    reference : str
        Fingerprint of the reference's weights.
    weights : mapping
        Fingerprint of the row weights by stage.
    calibration : str
        Fingerprint of the calibration data, if a stage used some.
    bases : mapping, optional
        Fingerprint of the model that a stage names as its base, by stage.
    choices : mapping
        Settled transforms, and packers that were chosen, by stage and plane.
    artifact : str
        SHA-256 of the file.
    """
    stages = []
    for stage in recipe.stages:
        entry: dict[str, Any] = {"use": stage.config.name}
        if stage.on:
            entry["on"] = list(stage.on)
        if stage.weights is not None:
            entry["weights"] = stage.weights
        if stage.allow_empty:
            entry["allow_empty"] = True
        entry |= {key: value for key, value in _fields(stage.config).items() if value is not None}
        if isinstance(stage.config, Outside):
            entry["base"] = _findable(stage.config.base)
        stages.append(entry)
    lock = Lock(
        versions=versions(),
        reference=reference,
        stages=stage_formats(recipe),
        settings=settings_fingerprint(recipe),
        weights={str(stage): digest for stage, digest in weights.items()},
        calibration=calibration,
        bases=dict(bases or {}),
        choices={
            str(stage): {plane: _named(config, recipe.stages[stage]) for plane, config in chosen.items()}
            for stage, chosen in choices.items()
        },
        artifact=artifact,
        name=recipe.name,
    )
    document = {
        "stackc": RECIPE_FORMAT,
        "model": _findable(recipe.model),
        "task": {key: _findable(value) for key, value in task.items()},
        "seed": recipe.seed,
        "bundle": list(recipe.bundle),
        "calibration": msgspec.to_builtins(recipe.calibration),
        **({} if recipe.allocate is None else {"allocate": _given(recipe.allocate)}),
        **({"controls": list(recipe.controls)} if recipe.controls else {}),
        **({"seeds": recipe.seeds} if recipe.seeds > 1 else {}),
        "stages": stages,
        "lock": msgspec.to_builtins(lock),
    }
    return _HEAD + dump_document(document)


def _findable(value: Any) -> Any:
    """A path that exists as an absolute one, so that the lock runs from any folder; everything else as it is."""
    if isinstance(value, str) and (os.sep in value or Path(value).suffix):
        path = user_path(value)
        return readable(str(path.resolve())) if path.exists() else value
    return value


def _named(config: Transform | Packer, stage: Stage) -> dict[str, Any]:
    """The fields of a choice, with its name where a stage that only chooses, as ``auto`` does, chose another."""
    fields = _fields(config)
    return fields if type(config) is type(stage.config) else {"use": config.name, **fields}


def _choice(fields: dict[str, Any], stage: Stage) -> Transform | Packer:
    kind: Any = find(fields["use"]).stage if "use" in fields else type(stage.config)
    if stage.is_packer != issubclass(kind, Packer):
        raise ValueError(f"{stage.use} cannot become {kind.name}")
    return cast("Transform | Packer", msgspec.convert({k: v for k, v in fields.items() if k != "use"}, kind))


def locked_choices(recipe: Recipe) -> dict[int, dict[str, Transform | Packer]]:
    """The choices of a locked recipe, validated; empty if it is not locked.

    Raises
    ------
    RecipeError
        If the recipe was changed since, or the choices do not fit its stages.
    """
    if recipe.lock is None:
        return {}
    remedy = "remove the 'lock' key to run the changed recipe"
    if recipe.lock.stages != stage_formats(recipe):
        raise RecipeError(
            f"the lock is for the stages {', '.join(recipe.lock.stages)}, the recipe has "
            f"{', '.join(stage_formats(recipe))}; {remedy}"
        )
    if recipe.lock.settings != settings_fingerprint(recipe):
        raise RecipeError(
            f"a stage, the seed or the bundle of the recipe {recipe.name} was changed after it was locked; {remedy}"
        )
    choices: dict[int, dict[str, Transform | Packer]] = {}
    for number, planes in recipe.lock.choices.items():
        try:
            stage = recipe.stages[int(number)]
            chosen = {plane: _choice(fields, stage) for plane, fields in planes.items()}
        except (ValueError, IndexError, RecipeError) as error:
            raise RecipeError(f"lock.choices[{number}] does not fit the recipe: {error}") from error
        unsettled = [plane for plane, config in chosen.items() if isinstance(config, Transform) and not config.settled]
        if unsettled:
            raise RecipeError(f"lock.choices[{number}] leaves the choice for {unsettled[0]} open; {remedy}")
        choices[int(number)] = chosen
    return choices


def check_locked_reference(recipe: Recipe, source: str, found: str) -> None:
    """Refuse a lock that was made for other weights."""
    if recipe.lock is not None and recipe.lock.reference != found:
        raise ModelError(
            f"the lock was made for weights with fingerprint {recipe.lock.reference[:16]}, {source} has {found[:16]}; use "
            "that reference, or remove the 'lock' key to run the recipe on this one"
        )


def check_locked_bases(recipe: Recipe, found: Mapping[str, str]) -> None:
    """Refuse a lock that was made against other models than the stages name now, whose fingerprints are ``found``."""
    if recipe.lock is None:
        return
    for index, fingerprint in found.items():
        locked = recipe.lock.bases.get(index, "")
        if locked != fingerprint:
            stage = recipe.stages[int(index)]
            base = stage.config.base if isinstance(stage.config, Outside) else None
            raise ModelError(
                f"stages[{index}] ({stage.use}): the lock was made against a base with fingerprint {locked[:16] or 'unknown'}, "
                f"{base} has {fingerprint[:16]}; use that base, or remove the 'lock' key to run the recipe against this one"
            )


def lock_notes(recipe: Recipe, digest: str) -> list[str]:
    """What became of a lock's promise of the same bytes."""
    if recipe.lock is None or recipe.lock.artifact == digest:
        return []
    now = versions()
    changed = [
        f"{package} {version} is now {now.get(package, 'not installed')}"
        for package, version in recipe.lock.versions.items()
        if now.get(package) != version
    ]
    cause = f"since then {', '.join(changed)}" if changed else "the versions of all packages are the same"
    return [
        f"the file differs from the one that the lock was written with (sha256 {recipe.lock.artifact[:16]}); {cause}"
    ]
