"""The key ``allocate`` of a recipe: the size that is aimed at, and how losses are estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from stackc.errors import RecipeError
from stackc.humanise import parse_size
from stackc.transform import Transform

if TYPE_CHECKING:
    from stackc.recipe.recipe import Recipe

SensitivityName = Literal["fisher", "weight-error"]


class AllocateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of the file, and what the loss is estimated by.

    Parameters
    ----------
    ratio : float, optional
        Bytes of the reference over bytes of the file.
    bytes : int or str, optional
        Bytes of the file instead: a number, or text such as ``400kB``, ``1.5MB`` or ``400KiB``.
    sensitivity : {"fisher", "weight-error"}, optional
        ``fisher`` estimates the divergence from the reference's predictions on training rows of the task;
        ``weight-error`` is the squared error of the weights and needs no data. Without it: ``fisher`` if the recipe has
        a task, else ``weight-error``.

    Raises
    ------
    ValueError
        If not exactly one of ``ratio`` and ``bytes`` is given, or the size cannot be read.

    Examples
    --------
    >>> AllocateSettings(bytes="400kB").budget(reference_bytes=17_500_000)
    400000
    >>> AllocateSettings(ratio=40).budget(reference_bytes=17_500_000)
    437500
    """

    ratio: Annotated[
        Annotated[float, msgspec.Meta(gt=0)] | None,
        msgspec.Meta(description="bytes of the reference over bytes of the file"),
    ] = None
    bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | str | None,
        msgspec.Meta(description="bytes of the file instead of ratio: a number, 400kB, 1.5MB or 400KiB"),
    ] = None
    sensitivity: Annotated[
        SensitivityName | None,
        msgspec.Meta(
            description="what estimates the loss: fisher, from training rows of the task; weight-error, without data"
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.bytes is None):
            raise ValueError(f"give exactly one of ratio and bytes, not {'neither' if self.ratio is None else 'both'}")
        if isinstance(self.bytes, str):
            parse_size(self.bytes)

    def budget(self, reference_bytes: int) -> int:
        """Most bytes that the file may have."""
        if self.bytes is not None:
            return parse_size(self.bytes) if isinstance(self.bytes, str) else self.bytes
        return int(reference_bytes / (self.ratio or 1.0))


def open_choices(recipe: Recipe) -> list[int]:
    """Numbers of the stages that leave something to the rate allocation.

    Examples
    --------
    >>> from stackc.recipe.parse import recipe_from
    >>> open_choices(recipe_from({"stages": [{"use": "int", "step": "auto"}, "zstd"]}))
    [0]
    """
    return [
        index
        for index, stage in enumerate(recipe.stages)
        if isinstance(stage.config, Transform) and not stage.config.allocated
    ]


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
