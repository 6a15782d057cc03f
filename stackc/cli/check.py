"""``stackc check``: plan a recipe without reading a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stackc.cli.options import (
    AllowCodeOption,
    ControlOption,
    JsonOption,
    ModelOption,
    RecipeArgument,
    SeedsOption,
    SetOption,
    TargetBytesOption,
    TargetRatioOption,
    TaskOption,
    open_recipe,
)

if TYPE_CHECKING:
    from rich.table import Table

    from stackc.cli.planned import CheckedRecipe, CheckedStage

_SHOWN_PLANES = 3


def check(
    recipe: RecipeArgument,
    model: ModelOption = None,
    task: TaskOption = None,
    assignments: SetOption = None,
    target_ratio: TargetRatioOption = None,
    target_bytes: TargetBytesOption = None,
    controls: ControlOption = None,
    seeds: SeedsOption = None,
    allow_code: AllowCodeOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the stack of every tensor.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Plan a recipe and say what every stage will do; reads no weights."""
    from stackc.cli.planned import checked
    from stackc.cli.terminal import write_json
    from stackc.healing.checks import check_heal
    from stackc.planning.bases import open_bases
    from stackc.planning.plan import plan_recipe
    from stackc.recipe.lock import locked_choices
    from stackc.recipe.model import open_model
    from stackc.recipe.targets import require_target, targeted
    from stackc.runs.controls.choose import require_controls, with_controls
    from stackc.tasks import find_task

    parsed = targeted(open_recipe(recipe, task, assignments, allow_code=allow_code), target_ratio, target_bytes)
    parsed = with_controls(parsed, controls, seeds)
    reference = open_model(parsed, model)
    require_target(parsed)
    check_heal(parsed)
    bases = open_bases(parsed)
    specs = {name: base.specs for name, base in bases.items()}
    plan = plan_recipe(parsed, reference.specs, reference.ties, locked_choices(parsed), specs)
    found = find_task(parsed.task)
    result = checked(plan, model=reference.source, task=found.name, notes=reference.notes)
    if as_json:
        found.check()
        require_controls(parsed, reference, found)
        write_json(result)
        return
    _show(result, verbose)
    found.check()
    require_controls(parsed, reference, found)


def _show(result: CheckedRecipe, verbose: bool) -> None:
    from stackc.cli.terminal import output, say
    from stackc.reporting.table import Names, plain_table
    from stackc.util.humanise import plural, printable, size_text

    console = output()
    say(
        console,
        f"{result.recipe}: {plural(len(result.stages), 'stage')} on {printable(result.model)} "
        f"({plural(len(result.tensors), 'tensor')}, {result.parameters:,} parameters, {size_text(result.bytes)}), "
        f"task {result.task}",
    )
    console.print()
    table = plain_table()
    table.add_column("", justify="right")
    table.add_column("stage", no_wrap=True)
    table.add_column("parameters")
    table.add_column("on")
    table.add_column("planes", justify="right", no_wrap=True)
    table.add_column("makes or packs")
    table.add_column("at fixed\nwidth", justify="right", no_wrap=True)
    for number, stage in enumerate(result.stages):
        planes = ", ".join(f"{group.plane} {group.count:,} ({group.dtype})" for group in stage.planes) or "nothing"
        if stage.trains:
            planes = f"trains {plural(stage.matched, 'tensor')}"
        bound = "at most " if stage.upper_bound else ""
        verb = "packs " if stage.packs else ""
        row = (
            str(number),
            stage.use,
            ", ".join(f"{key}: {value}" for key, value in stage.parameters.items()) or "defaults",
            ", ".join(stage.on) or "what fits",
            f"{stage.matched:,}",
            verb + planes,
            bound + size_text(stage.fixed_width_bytes),
        )
        table.add_row(*map(Names, row))
    console.print(table)
    console.print()
    for number, stage in enumerate(result.stages):
        _show_skips(number, stage)
        if stage.caution:
            say(console, f"at fixed width, {stage.caution}")
    if result.untouched:
        say(console, f"no stage takes {plural(len(result.untouched), 'tensor')}: {_listed(result.untouched)}")
    if result.upper_bound:
        say(console, "sizes with 'at most' are upper bounds: a stage chooses from the weights when the recipe runs")
    say(console, "'at fixed width' is before packers such as zstd and ans, whose result only the data can tell")
    if result.bases:
        say(console, f"decoding the file will take {', '.join(map(printable, result.bases))}, which is not in it")
    if result.seeds > 1:
        say(console, f"run under {result.seeds} seeds; the file is that of the first")
    if result.controls:
        say(console, f"compared with {plural(len(result.controls), 'control')}: {', '.join(result.controls)}")
    say(console, *(f"note: {printable(note)}" for note in result.notes))
    if verbose:
        console.print()
        console.print(_tensors(result))


def _show_skips(number: int, stage: CheckedStage) -> None:
    from stackc.cli.terminal import output, say
    from stackc.util.humanise import plural, printable

    for skips in stage.skipped:
        say(
            output(),
            f"stages[{number}] ({stage.use}) does not take {plural(len(skips.planes), 'plane')} "
            f"({_listed(skips.planes)}): {printable(skips.reason)}",
        )


def _listed(names: list[str]) -> str:
    from stackc.util.humanise import printable

    shown = ", ".join(map(printable, names[:_SHOWN_PLANES]))
    more = len(names) - _SHOWN_PLANES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _tensors(result: CheckedRecipe) -> Table:
    from stackc.reporting.table import Names, plain_table

    table = plain_table()
    for heading in ("tensor", "spec", "stack", "stored planes"):
        table.add_column(heading)
    for tensor in result.tensors:
        planes = "\n".join(f"{plane.path or 'tensor'}: {plane.spec}, {plane.packer}" for plane in tensor.planes)
        table.add_row(*map(Names, ("\n= ".join(tensor.names), tensor.spec, tensor.stack, planes)))
    return table
