"""The whole path of ``stackc run``: recipe and model in, a folder with file, report and lock out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stackc.recipe.parse import recipe_from
from stackc.recipe.recipe import Recipe
from stackc.recipe.targets import targeted
from stackc.reporting.report import Report
from stackc.runs.controls.choose import with_controls
from stackc.util.errors import OutputError
from stackc.util.isolation import isolated
from stackc.util.output import write_text, writing
from stackc.util.partial import partial_folder, put_in_place, recover
from stackc.util.paths import user_path
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import nn

ARTIFACT_NAME = "model.stackc"
REPORT_NAME = "report.json"
LOCK_NAME = "recipe.lock.yaml"


class Run(NamedTuple):
    """A finished run: its folder and its report."""

    folder: Path
    report: Report

    @property
    def artifact(self) -> Path:
        """The compressed model."""
        return self.folder / ARTIFACT_NAME


def run(
    recipe: Recipe | str | Path | dict[str, Any],
    model: str | nn.Module | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    target_ratio: float | None = None,
    target_bytes: int | str | None = None,
    controls: Sequence[str] | None = None,
    seeds: int | None = None,
    allow_code: bool = False,
    evaluate: bool = True,
    every_stage: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Run a recipe and keep everything in a folder.

    Parameters
    ----------
    recipe : Recipe, str, Path or dict
        A recipe, its file, the name of one that ships with stackc, or its plain content.
    model : str or nn.Module, optional
        The reference; overrides the recipe's ``model``.
    output : path, optional
        Folder of the results; ``runs/<recipe>`` by default.
    overwrite : bool
        Whether an existing folder may be replaced. It is replaced at the end, by the complete new one.
    resume : bool
        Whether to go on where a run into the same folder was stopped while it was healing. Its checkpoints are beside the
        folder; without any the run begins at the beginning.
    target_ratio, target_bytes
        The size that the rate allocation aims at, instead of that of the recipe's ``allocate``: bytes of the reference over
        bytes of the file, or bytes of the file, as a number or text such as ``400kB``.
    controls : sequence of str, optional
        Runs that the result is compared with, instead of the recipe's ``controls``: ``random-init``, ``linear``,
        ``no-heal``, or ``all``. Only their rows in the report remain.
    seeds : int, optional
        Under how many seeds the whole recipe is run, instead of the recipe's ``seeds``. The file is that of the first.
    allow_code : bool
        Whether a model that the recipe names as ``package.module:function`` may be opened, which runs that code. A
        ``model`` that is given here needs no such word.
    evaluate, every_stage, progress
        As in `stackc.runs.pipeline.compress_to_file`.

    Raises
    ------
    StackcError
        In one sentence; the output folder is then as it was before.
    """
    from stackc.recipe.model import open_model
    from stackc.runs.controls.run import compress_with_controls
    from stackc.util.checkpoints import CheckpointFolder

    recipe = with_controls(targeted(recipe_from(recipe), target_ratio, target_bytes), controls, seeds)
    if allow_code:
        recipe = msgspec.structs.replace(recipe, allow_code=True)
    folder = user_path(output) if output is not None else Path("runs") / recipe.name
    recover(folder)
    check_output(folder, overwrite=overwrite)
    checkpoints = CheckpointFolder.beside(folder, resume=resume, overwrite=overwrite)
    with isolated():
        reference = open_model(recipe, model)
    recipe = msgspec.structs.replace(recipe, model=reference.source)
    with replacing_folder(folder) as temporary:
        with isolated():
            result = compress_with_controls(
                recipe,
                reference,
                temporary / ARTIFACT_NAME,
                evaluate=evaluate,
                every_stage=every_stage,
                checkpoints=checkpoints,
                progress=progress,
            )
        write_text(temporary / REPORT_NAME, result.report.to_json())
        write_text(temporary / LOCK_NAME, result.lock)
        check_output(folder, overwrite=overwrite)  # again: another run may have finished in the meantime
    checkpoints.remove()
    return Run(folder, result.report)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, before any work is done.

    Raises
    ------
    OutputError
        If ``folder`` is a file, holds a run that may not be overwritten, or holds what no run wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; choose another --output")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise OutputError(f"{folder} exists already; choose another --output, or replace it with --overwrite")
        known = {ARTIFACT_NAME, REPORT_NAME, LOCK_NAME}
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
        if strangers:
            raise OutputError(f"{folder} holds files that no run wrote ({strangers[0]}); choose another --output")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` when the block ends well, and vanishes when it does not.

    Raises
    ------
    OutputError
        If the new folder cannot be made or moved; an old one is then where it was.
    """
    folder = folder.resolve()
    with ExitStack() as stack:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(partial_folder(folder))
        yield temporary
        with writing(folder):
            put_in_place(temporary, folder)
