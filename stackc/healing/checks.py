"""What can be found out about the heal stages of a recipe before any work is done."""

from __future__ import annotations

import msgspec

from stackc.core.abilities import Outside
from stackc.healing.settings import Heal
from stackc.healing.texts import check_sources
from stackc.models import names_code, refuse_code
from stackc.recipe.recipe import Recipe
from stackc.util.errors import DataError, ModelError, RecipeError


def heal_stages(recipe: Recipe) -> list[int]:
    """Numbers of the stages that heal."""
    return [index for index, stage in enumerate(recipe.stages) if isinstance(stage.config, Heal)]


def check_heal(recipe: Recipe) -> None:
    """Find out cheaply whether what the heal stages of a recipe need can be there.

    Raises
    ------
    DataError, DependencyError
        If a source of text is missing or not known.
    ModelError
        If a teacher is code that may not run.
    RecipeError
        If a size is aimed at that the stage cannot know.
    """
    for index in heal_stages(recipe):
        heal = heal_settings(recipe, index)
        where = f"stages[{index}] (heal)"
        try:
            check_sources(heal.data)
            if heal.teacher is not None and not recipe.allow_code:
                refuse_code(heal.teacher)
        except (DataError, ModelError) as error:
            raise type(error)(f"{where}: {error}") from error
        later = [stage.use for stage in recipe.stages[index + 1 :] if not stage.is_packer]
        if heal.bytes is not None and later:
            raise RecipeError(
                f"{where}: 'bytes' aims at the size of the file, which is not known while {later[0]} comes after it; put only "
                "packers after it, or give 'rate', a price of bits"
            )


def named_code(recipe: Recipe) -> set[str]:
    """Models that a recipe names as ``module:function``: its own, teachers, and those that tensors differ from."""
    models = {recipe.model, *(heal_settings(recipe, index).teacher for index in heal_stages(recipe))}
    models |= {stage.config.base for stage in recipe.stages if isinstance(stage.config, Outside)}
    return {name for name in models if name is not None and names_code(name)}


def heal_settings(recipe: Recipe, index: int) -> Heal:
    """The settings of a stage that heals."""
    config = recipe.stages[index].config
    assert isinstance(config, Heal)
    return config


def with_heal_sizes(recipe: Recipe, reference_bytes: int) -> Recipe:
    """The recipe with the size of ``allocate`` for a heal stage at its end that has neither size nor price of bits.

    The allocation makes a file of that size, and without a price of bits training would let it grow.

    Parameters
    ----------
    recipe : Recipe
        Any recipe.
    reference_bytes : int
        Bytes of the model that it is for.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> stages = [{"use": "int", "step": "auto"}, {"use": "heal", "steps": 9}, "context"]
    >>> recipe = recipe_from({"allocate": {"ratio": 40}, "stages": stages})
    >>> with_heal_sizes(recipe, 4_000_000).stages[1].config.bytes
    100000
    """
    heals = heal_stages(recipe)
    if recipe.allocate is None or not heals:
        return recipe
    index, heal = heals[-1], heal_settings(recipe, heals[-1])
    if heal.rate or heal.bytes is not None or not all(stage.is_packer for stage in recipe.stages[index + 1 :]):
        return recipe
    heal = msgspec.structs.replace(heal, bytes=recipe.allocate.budget(reference_bytes))
    stages = list(recipe.stages)
    stages[index] = msgspec.structs.replace(stages[index], config=heal)
    return msgspec.structs.replace(recipe, stages=type(recipe.stages)(stages))


def size_notes(recipe: Recipe, size: int) -> list[str]:
    """Where training did not reach the size that it was given."""
    notes = []
    for index in heal_stages(recipe):
        target = heal_settings(recipe, index).target_bytes
        if target is not None and size > target:
            notes.append(
                f"stages[{index}] (heal): the file is {size - target:,} bytes above the {target:,} that it was to have; more "
                "steps, or a slightly smaller 'bytes', may do"
            )
    return notes
