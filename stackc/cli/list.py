"""``stackc list``: what is installed, and how it is written in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stackc.util.nearest import nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stackc.cli.catalogue import Parameter

SECTIONS = ("stages", "recipes", "models", "tasks")


def _known(section: str | None) -> str | None:
    if section is not None and section not in SECTIONS:
        hint = nearest(section, SECTIONS) or f"; there are {', '.join(SECTIONS)}"
        raise typer.BadParameter(f"there is nothing called {section!r}{hint}")
    return section


def list_installed(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="stages|recipes|models|tasks", callback=_known, show_default=False, help="All without it."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="Everything about one of them.")
    ] = None,
) -> None:
    """List the stages, recipes, demo models and tasks that are installed."""
    from stackc.cli import catalogue
    from stackc.cli.terminal import output, say

    console = output()
    if section is not None and name is not None:
        _detail(console, section, name)
        return
    for wanted in SECTIONS if section is None else (section,):
        if section is None:
            console.print(wanted.upper(), style="bold")
        console.print(_overview(wanted))
        console.print()
    if section in (None, "stages"):
        say(console, *catalogue.notes())
        say(console, "'stackc list stages NAME' shows the parameters of one stage with their meaning")


def _overview(section: str) -> Table:
    from stackc.cli import catalogue
    from stackc.reporting.table import plain_table

    table = plain_table()
    if section == "stages":
        for heading in ("name", "kind", "what it does", "parameters"):
            table.add_column(heading, overflow="fold")
        for stage in catalogue.stages():
            table.add_row(stage.name, stage.kind, stage.summary, "\n".join(map(_brief, stage.parameters)))
    elif section == "recipes":
        table.add_column("name", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        for recipe in catalogue.recipes():
            table.add_row(recipe.name, recipe.summary)
    elif section == "models":
        table.add_column("name", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        for model in catalogue.models():
            table.add_row(model.name, model.summary)
    else:
        for heading in ("name", "what it measures", "keys"):
            table.add_column(heading, overflow="fold")
        for task in catalogue.tasks():
            table.add_row(task.name, task.summary, "\n".join(map(_brief, task.parameters)))
    return table


def _brief(parameter: Parameter) -> str:
    return f"{parameter.name}: {parameter.type}{'' if parameter.default is None else f' = {parameter.default}'}"


def _detail(console: Console, section: str, name: str) -> None:
    from stackc.cli import catalogue
    from stackc.cli.terminal import say
    from stackc.util.errors import StackcError

    if section == "recipes":
        from stackc.recipe.document import read_recipe
        from stackc.recipe.parse import find_recipe

        path = find_recipe(name)
        text = read_recipe(path)
        say(console, f"# {path}")
        console.print(text, soft_wrap=True, end="")
        return
    listers: dict[str, Callable[[], Sequence[catalogue.ListedStage | catalogue.ListedModel | catalogue.ListedTask]]] = {
        "stages": catalogue.stages,
        "models": catalogue.models,
        "tasks": catalogue.tasks,
    }
    entries = listers[section]()
    found = next((entry for entry in entries if entry.name == name), None)
    if found is None:
        names = [entry.name for entry in entries]
        hint = nearest(name, names) or f"; there are {', '.join(names)}"
        raise StackcError(f"there is no {section[:-1]} {name!r}{hint}")
    say(console, f"{found.name}: {found.summary}")
    if isinstance(found, catalogue.ListedStage):
        say(console, f"kind: {found.kind}", f"takes: {found.accepts}")
        if found.planes:
            say(console, f"planes: {found.planes}")
    if isinstance(found, catalogue.ListedModel):
        return
    if not found.parameters:
        say(console, "no parameters")
        return
    console.print(_parameters(found.parameters))


def _parameters(parameters: Sequence[Parameter]) -> Table:
    from stackc.reporting.table import plain_table

    table = plain_table()
    for heading in ("parameter", "type", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for parameter in parameters:
        default = "required" if parameter.required else "-" if parameter.default is None else parameter.default
        table.add_row(parameter.name, parameter.type, default, parameter.description)
    return table
