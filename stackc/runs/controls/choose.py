"""Which controls and seeds a run has, and whether they can be had, before any work is done."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from stackc.core.training import TrainingStage
from stackc.recipe.controls import CONTROL_NAMES, ControlName
from stackc.util.errors import DataError, DependencyError, RecipeError
from stackc.util.nearest import nearest

if TYPE_CHECKING:
    from stackc.models import Reference
    from stackc.recipe.recipe import Recipe
    from stackc.tasks import Task

#: Stands for every control that the recipe can have.
ALL = "all"


def is_healed(recipe: Recipe) -> bool:
    """Whether a stage of the recipe trains.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> is_healed(recipe_from({"stages": ["int8", "zstd"]}))
    False
    """
    return any(isinstance(stage.config, TrainingStage) for stage in recipe.stages)


def with_controls(recipe: Recipe, controls: Sequence[str] | None = None, seeds: int | None = None) -> Recipe:
    """The recipe with other controls and another number of seeds; what is None stays.

    Parameters
    ----------
    recipe : Recipe
        Any recipe.
    controls : sequence of str, optional
        Names, or ``all``: without ``no-heal`` where nothing is healed.
    seeds : int, optional
        1 or more.

    Raises
    ------
    RecipeError
        If a name is unknown or the number is out of range.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> with_controls(recipe_from({"stages": ["int8"]}), ["all"], 3).controls
    ('random-init', 'linear')
    """
    if seeds is not None:
        if seeds < 1:
            raise RecipeError(f"--seeds {seeds}: a recipe is run under 1 seed or more")
        recipe = msgspec.structs.replace(recipe, seeds=seeds)
    if controls is None:
        return recipe
    chosen: list[str] = []
    for name in controls:
        if name == ALL:
            chosen += [every for every in CONTROL_NAMES if every != "no-heal" or is_healed(recipe)]
        elif name in CONTROL_NAMES:
            chosen.append(name)
        else:
            known = [*CONTROL_NAMES, ALL]
            raise RecipeError(
                f"--control {name}: there is no control {name!r}{nearest(name, known) or ';'} "
                f"{', '.join(known[:-1])} or {ALL}"
            )
    return msgspec.structs.replace(recipe, controls=cast("tuple[ControlName, ...]", tuple(dict.fromkeys(chosen))))


def require_controls(recipe: Recipe, reference: Reference, task: Task, *, evaluate: bool = True) -> None:
    """Refuse a control that cannot be had: a run can take an hour, and this takes none of it.

    Raises
    ------
    RecipeError
        If there is nothing to compare by, or nothing to leave out.
    DataError
        If the task has no texts for ``linear``.
    DependencyError
        If ``linear`` needs a package that is not installed.
    ModelError
        If the architecture cannot be initialised anew for ``random-init``.
    """
    if not recipe.controls:
        return
    from stackc.models import require_architecture
    from stackc.tasks.none import NoTask

    if task.name == NoTask.name:
        raise RecipeError("controls are compared with the result on a task, and the recipe has none: add 'task: ...'")
    if not evaluate:
        raise RecipeError(
            "controls are compared with the result on the task: run it (no --no-eval), or say 'controls: []'"
        )
    if "no-heal" in recipe.controls and not is_healed(recipe):
        raise RecipeError(
            "the control no-heal leaves out the heal stages, and the recipe has none; remove it, or add a heal stage"
        )
    if "random-init" in recipe.controls:
        require_architecture(reference)
    if "linear" in recipe.controls:
        if importlib.util.find_spec("sklearn") is None:
            raise DependencyError("the control linear needs scikit-learn: pip install 'stackc[controls]'")
        if not task.evaluation_texts():
            raise DataError(
                f"the control linear is a model of texts, and the task {task.name} has none; remove it from the controls"
            )
