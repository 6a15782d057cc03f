"""What several commands take: recipes with their overrides, tasks, and files of compressed models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

if TYPE_CHECKING:
    from stackc.models import Reference
    from stackc.recipe.recipe import Recipe
    from stackc.tasks import Task

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that ships with stackc.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="The reference, instead of the recipe's: a demo name, a Hugging Face folder or id, a .safetensors file, "
        "or module:function.",
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(help="The task, instead of the recipe's: a name, a YAML mapping, or a data file to classify."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one value of the recipe, such as stages\\[1].rank=8."),
]
TargetRatioOption = Annotated[
    float | None,
    typer.Option(
        "--target-ratio",
        metavar="RATIO",
        help="Choose what the recipe leaves open for this ratio, such as 40.",
        show_default=False,
    ),
]
TargetBytesOption = Annotated[
    str | None,
    typer.Option(
        "--target-bytes",
        metavar="SIZE",
        help="Choose what the recipe leaves open for a file of this size, such as 400kB.",
        show_default=False,
    ),
]
ControlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar="NAME",
        help="Compare with a run that must lose: random-init, linear, no-heal, or all of them.",
        show_default=False,
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        min=1,
        metavar="COUNT",
        help="Run the whole recipe under so many seeds; report mean and standard deviation.",
        show_default=False,
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Let the recipe name models as module:function, which runs that code; --model may always."
    ),
]
BaseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--base",
        metavar="MODEL",
        help="The model that the file differs from, where it needs one: whatever --model takes.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def open_recipe(
    source: str, task: str | None, assignments: Sequence[str] | None, *, allow_code: bool = False
) -> Recipe:
    """Read a recipe with what the command line changes in it.

    Code that it names may run if ``allow_code`` says so, or if the command line itself has set all those names.

    Raises
    ------
    RecipeError
        If it does not validate after the changes; the message gives the place.
    """
    from stackc.healing.checks import named_code
    from stackc.recipe.overrides import override
    from stackc.recipe.parse import parse_recipe, recipe_document

    document = recipe_document(source)
    changes = list(assignments or ())
    if task is not None:
        changes.insert(0, f"task={json.dumps(task_value(task), ensure_ascii=False)}")
    # Something that is no mapping has no keys to change, and the parser says so better.
    if changes and isinstance(document.value, dict):
        document = override(document, changes)
    recipe = parse_recipe(document)
    code = named_code(recipe)
    by_the_user = bool(code) and code <= {assignment.partition("=")[2].strip() for assignment in assignments or ()}
    return msgspec.structs.replace(recipe, allow_code=allow_code or by_the_user)


def open_bases(models: Sequence[str] | None) -> list[Reference]:
    """The models behind ``--base``."""
    from stackc.models import open_reference

    return [open_reference(model) for model in models or ()]


def task_value(text: str) -> dict[str, Any]:
    """What ``--task`` stands for, as the mapping that a recipe would hold.

    Examples
    --------
    >>> task_value("none"), task_value("reviews.tsv")
    ({'name': 'none'}, {'name': 'text-classification', 'data': 'reviews.tsv'})
    >>> task_value("{name: text-classification, data: demo/movie-reviews, limit: 10}")["limit"]
    10
    """
    from stackc.recipe.document import parse_value
    from stackc.tasks import task_names
    from stackc.tasks.data import kind_of
    from stackc.util.errors import RecipeError

    try:
        value = parse_value(text)
    except RecipeError as error:
        raise RecipeError(f"--task {text!r} is neither a name, a data file nor a YAML mapping") from error
    if isinstance(value, dict):
        return value
    if text not in task_names() and kind_of(text) in ("file", "demo"):
        return {"name": "text-classification", "data": text}
    return {"name": text}


def open_task(text: str) -> Task:
    """The task behind ``--task``, outside of a recipe.

    Raises
    ------
    RecipeError
        If there is no such task, or a key of it is wrong.
    """
    from stackc.recipe.document import parse_document
    from stackc.recipe.parse import parse_recipe
    from stackc.tasks import find_task

    # Through the parser of recipes, whose errors name the key and the nearest valid one.
    document = parse_document(json.dumps({"task": task_value(text), "stages": ["raw"]}), "--task")
    return find_task(parse_recipe(document).task)
