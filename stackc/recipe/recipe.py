"""The types of a recipe: what to compress, how to judge it, and the list of stages."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from stackc.core.packer import Packer
from stackc.core.registry import find
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.recipe.allocation import AllocateSettings
from stackc.recipe.controls import ControlName
from stackc.tasks.calibration import DEFAULT_ROWS

RECIPE_FORMAT = 1

#: What the key ``bundle`` may name.
BUNDLES = ("tokenizer",)


class Stage(msgspec.Struct, frozen=True):
    """One line of a recipe: one row of the report.

    Parameters
    ----------
    use : str
        Name as typed (``int8``), for the report.
    config : Transform, Packer or TrainingStage
        The value that the name and the keys stand for.
    on : tuple of str
        Globs over ``tensor`` or ``tensor/plane``; those that begin with ``!`` exclude. Empty: every plane that fits.
    allow_empty : bool
        Whether the stage may match nothing.
    weights : str, optional
        Source of row weights, such as ``token-counts`` or a file.
    """

    use: str
    config: Transform | Packer | TrainingStage
    on: tuple[str, ...] = ()
    allow_empty: bool = False
    weights: str | None = None

    @property
    def is_training(self) -> bool:
        """Whether the stage trains planes instead of splitting them."""
        return isinstance(self.config, TrainingStage)

    @property
    def is_packer(self) -> bool:
        """Whether the stage ends paths instead of splitting planes."""
        return isinstance(self.config, Packer)

    def describe(self) -> str:
        """The stage with the fields that it sets, as in ``int(bits=4) on */codes``; presets under their own name."""
        preset = find(self.use).fields
        fields = msgspec.structs.fields(type(self.config))
        values = {field.name: getattr(self.config, field.name) for field in fields}
        implied = self._implied(values)
        changed = [
            f"{f.name}={values[f.name]}"
            for f in fields
            if values[f.name] != preset.get(f.name, f.default) and f.name not in implied
        ]
        inside = f"({', '.join(changed)})" if changed else ""
        where = f" on {', '.join(self.on)}" if self.on else ""
        return f"{self.use}{inside}{where}"

    def _implied(self, values: dict[str, Any]) -> set[str]:
        """Fields that would have the same value if they were left out, given the others."""
        implied = set()
        for name in values:
            try:
                without = type(self.config)(**{key: value for key, value in values.items() if key != name})
            except (TypeError, ValueError):  # it is needed
                continue
            if without == self.config:
                implied.add(name)
        return implied


class CalibrationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What statistics of the running model are taken from.

    Parameters
    ----------
    rows : int
        Training rows of the task, spread over its training split.
    """

    rows: Annotated[int, msgspec.Meta(ge=1, description="training rows of the task that the model is run on")] = (
        DEFAULT_ROWS
    )


class Recipe(msgspec.Struct, frozen=True):
    """A validated recipe.

    Parameters
    ----------
    name : str
        Stem of the recipe's file; names the output folder.
    model : str or None
        Source of the reference; None until the command line or the caller gives one.
    task : dict
        ``{"name": ..., ...}``, checked by the task's own class.
    seed : int
        Seed of everything random.
    bundle : tuple of str
        What else goes into the file: ``tokenizer``.
    calibration : CalibrationSettings
        What calibrated stages and sensitivities are taken from.
    allocate : AllocateSettings or None
        The size that open choices are made for.
    controls : tuple of str
        Runs that the result is compared with; they decide nothing in the file.
    seeds : int
        Under how many seeds the whole recipe is run; the file is that of the first.
    stages : tuple of Stage
        In order of application.
    lock : dict or None
        Choices and hashes of a locked recipe.
    allow_code : bool
        Whether models that it names as ``module:function`` may be opened, which runs that code. Callers say so; a file
        cannot.
    """

    name: str
    stages: tuple[Stage, ...]
    model: str | None = None
    task: dict[str, Any] = msgspec.field(default_factory=lambda: {"name": "none"})
    seed: int = 0
    bundle: tuple[str, ...] = ()
    calibration: CalibrationSettings = CalibrationSettings()
    allocate: AllocateSettings | None = None
    controls: tuple[ControlName, ...] = ()
    seeds: int = 1
    lock: Lock | None = None
    allow_code: bool = False


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a lock file adds to a recipe.

    Parameters
    ----------
    versions : dict
        Versions of stackc and of the packages that computed the result.
    reference : str
        Fingerprint of the reference's weights.
    stages : list of str
        ``name@version`` of each stage.
    settings : str
        Fingerprint of everything in the recipe that decides the bytes, so that a changed recipe is noticed.
    weights : dict
        Fingerprint of the row weights of each stage that has some, by stage number.
    calibration : str
        Fingerprint of the calibration data, if a stage uses some.
    bases : dict
        Fingerprint of the model that a stage names as its base, by stage number.
    choices : dict
        ``{stage number: {plane path: settled configuration}}`` for stages with automatic choices.
    artifact : str
        SHA-256 of the file that the run wrote.
    name : str
        Name of the recipe, which the file's own name does not tell.
    """

    versions: dict[str, str]
    reference: str
    stages: list[str]
    settings: str
    weights: dict[str, str] = {}
    calibration: str = ""
    bases: dict[str, str] = {}
    choices: dict[str, dict[str, dict[str, Any]]] = {}
    artifact: str = ""
    name: str = ""
