"""``stackc schema``: JSON Schemas for editors and for readers of reports."""

from __future__ import annotations

from typing import Annotated

import typer

from stackc.cli.terminal import write_json
from stackc.util.nearest import nearest

_KINDS = ("recipe", "report")


def _known(kind: str) -> str:
    if kind not in _KINDS:
        hint = nearest(kind, _KINDS) or f"; there are {', '.join(_KINDS)}"
        raise typer.BadParameter(f"there is no schema of {kind!r}{hint}")
    return kind


def schema(
    kind: Annotated[str, typer.Argument(metavar="recipe|report", callback=_known, help="What to describe.")] = "recipe",
) -> None:
    """Print the JSON Schema of recipes or of reports."""
    if kind == "recipe":
        from stackc.recipe.schema import recipe_schema

        write_json(recipe_schema())
    else:
        from stackc.reporting.report import report_schema

        write_json(report_schema())
