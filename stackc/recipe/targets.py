"""What a recipe leaves to the rate allocation, and the size that it aims at."""

from __future__ import annotations

import msgspec

from stackc.core.abilities import is_open
from stackc.recipe.allocation import AllocateSettings
from stackc.recipe.recipe import Recipe
from stackc.util.errors import RecipeError


def open_choices(recipe: Recipe) -> list[int]:
    """Numbers of the stages that leave something to the rate allocation.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> open_choices(recipe_from({"stages": [{"use": "int", "step": "auto"}, "zstd"]}))
    [0]
    """
    return [index for index, stage in enumerate(recipe.stages) if is_open(stage.config)]


def targeted(recipe: Recipe, ratio: float | None = None, size: int | str | None = None) -> Recipe:
    """The recipe with another target; what else it says about the allocation stays.

    Parameters
    ----------
    recipe : Recipe
        Any recipe.
    ratio, size
        As ``ratio`` and ``bytes`` of `AllocateSettings`; without both the recipe stays as it is.

    Raises
    ------
    RecipeError
        If both are given, or one is out of range.
    """
    if ratio is None and size is None:
        return recipe
    fields = {"sensitivity": recipe.allocate.sensitivity} if recipe.allocate is not None else {}
    if isinstance(size, str) and size.isdecimal():
        size = int(size)
    try:
        settings = msgspec.convert({**fields, "ratio": ratio, "bytes": size}, AllocateSettings)
    except msgspec.ValidationError as error:
        given = " and ".join(
            f"{option} {value}"
            for option, value in (("--target-ratio", ratio), ("--target-bytes", size))
            if value is not None
        )
        reason = str(error).partition(" - at `")[0].replace("`", "'")
        raise RecipeError(f"{given}: {reason[:1].lower()}{reason[1:]}") from error
    return msgspec.structs.replace(recipe, allocate=settings)


def require_target(recipe: Recipe) -> None:
    """Refuse a recipe that leaves choices open without a target, or has a target and nothing to choose.

    Raises
    ------
    RecipeError
        With what would mend it.
    """
    stages = open_choices(recipe)
    if recipe.lock is not None:  # it holds the choices, and says itself where one is missing
        return
    if stages and recipe.allocate is None:
        stage = recipe.stages[stages[0]]
        names = [name for name, value in msgspec.structs.asdict(stage.config).items() if value == "auto"]
        what = f"{names[0]}: auto" if names else "a choice"
        raise RecipeError(
            f"stages[{stages[0]}] ({stage.use}) leaves {what} to the rate allocation, which has no target: add "
            "'allocate: {ratio: 40}' or 'allocate: {bytes: 400kB}' to the recipe, or --target-ratio 40"
        )
    if recipe.allocate is not None and not stages:
        raise RecipeError(
            f"the recipe {recipe.name} has a target but no stage with something to choose: write 'step: auto' for an int "
            "stage, 'rank: auto' for seed or 'rows: auto' for prune, or remove the target"
        )
