"""The model that a recipe is run on: the caller's, or the one that the recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.models import Reference, open_reference
from stackc.recipe.recipe import Recipe
from stackc.util.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn


def open_model(recipe: Recipe, model: str | nn.Module | None = None) -> Reference:
    """Open the reference of a run.

    Parameters
    ----------
    recipe : Recipe
        Its ``model`` may be code if it says ``allow_code``.
    model : str or nn.Module, optional
        The caller's own choice, which is opened whatever it is.

    Raises
    ------
    RecipeError
        If neither names a model.
    ModelError
        If there is no such model, or it is code that may not run.
    """
    if model is not None:
        return open_reference(model)
    if recipe.model is None:
        raise RecipeError(f"the recipe {recipe.name} names no model; give one with --model")
    return open_reference(recipe.model, allow_code=recipe.allow_code)
