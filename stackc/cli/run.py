"""``stackc run``: compress a model and report."""

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
    from stackc.runs.runner import Run


def run(
    recipe: RecipeArgument,
    model: ModelOption = None,
    task: TaskOption = None,
    assignments: SetOption = None,
    target_ratio: TargetRatioOption = None,
    target_bytes: TargetBytesOption = None,
    controls: ControlOption = None,
    seeds: SeedsOption = None,
    allow_code: AllowCodeOption = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Folder of the results; runs/<recipe> without it.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run into the same folder was stopped while healing.")
    ] = False,
    no_eval: Annotated[
        bool, typer.Option("--no-eval", help="Do not run the task: sizes and weight errors only.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One row for the whole recipe instead of one per stage.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compress a model with a recipe; write the file, a report and a lock."""
    from stackc.cli.progress import showing_progress
    from stackc.runs.runner import run as run_recipe

    parsed = open_recipe(recipe, task, assignments, allow_code=allow_code)
    with showing_progress(quiet=quiet) as progress:
        finished = run_recipe(
            parsed,
            model,
            output=output,
            overwrite=overwrite,
            resume=resume,
            target_ratio=target_ratio,
            target_bytes=target_bytes,
            controls=controls,
            seeds=seeds,
            evaluate=not no_eval,
            every_stage=not quick,
            progress=progress,
        )
    if as_json:
        typer.echo(finished.report.to_json(), nl=False)
    elif not quiet:
        _show(finished)


def _show(finished: Run) -> None:
    from stackc.cli.terminal import output, say
    from stackc.reporting.table import LossCurves, byte_table, control_table, stage_table, summary_lines
    from stackc.runs.runner import LOCK_NAME, REPORT_NAME

    console = output()
    console.print(stage_table(finished.report))
    console.print()
    if finished.report.controls:
        console.print(control_table(finished.report))
        console.print()
    console.print(byte_table(finished.report))
    console.print()
    curves = LossCurves(finished.report)
    if curves:
        console.print(curves)
        console.print()
    say(console, *summary_lines(finished.report))
    console.print()
    say(
        console,
        f"file    {finished.artifact}",
        f"report  {finished.folder / REPORT_NAME}",
        f"lock    {finished.folder / LOCK_NAME}",
    )
