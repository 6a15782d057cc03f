"""The Python interface, of the same shape as the command line."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.artifact.reader import Artifact
from stackc.recipe.parse import recipe_from
from stackc.recipe.recipe import Recipe
from stackc.recipe.targets import targeted
from stackc.reporting.report import Report
from stackc.runs.controls.choose import with_controls
from stackc.util.errors import OutputError
from stackc.util.isolation import isolated
from stackc.util.paths import user_path
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from stackc.models import Reference

    BaseModels = str | Path | nn.Module | Reference | Sequence[str | Path | nn.Module | Reference] | None


def compress(
    model: str | nn.Module,
    recipe: Recipe | str | Path | dict[str, Any],
    path: str | Path | None = None,
    *,
    overwrite: bool = False,
    target_ratio: float | None = None,
    target_bytes: int | str | None = None,
    controls: Sequence[str] | None = None,
    seeds: int | None = None,
    allow_code: bool = False,
    evaluate: bool = True,
    progress: Progress | None = None,
) -> tuple[Artifact, Report]:
    """Compress a model.

    Parameters
    ----------
    model : str or nn.Module
        A module, or anything that ``stackc run --model`` takes.
    recipe : Recipe, str, Path or dict
        A recipe, its file, the name of one that ships with stackc, or its plain content.
    path : path, optional
        Where the file goes. Without it the file is temporary and lives as long as the returned artifact.
    overwrite : bool
        Whether an existing file may be replaced.
    target_ratio, target_bytes
        The size that the rate allocation aims at, instead of that of the recipe's ``allocate``: bytes of the model over
        bytes of the file, or bytes of the file, as a number or text such as ``400kB``.
    controls, seeds
        Runs that the result is compared with, and under how many seeds the recipe is run, instead of those of the recipe;
        as in `stackc.run`.
    allow_code : bool
        Whether a teacher or a base that the recipe names as ``package.module:function`` may be opened, which runs that code.
    evaluate : bool
        Whether to run the recipe's task.
    progress : Progress, optional
        Told what is going on.

    Returns
    -------
    Artifact, Report
        The opened file, with the bases that it needs, and what every stage saved and cost.

    Raises
    ------
    StackcError
        In one sentence.

    Examples
    --------
    >>> from torch import nn
    >>> artifact, report = compress(nn.Linear(64, 64), {"stages": ["int8", "zstd"]})
    >>> artifact["weight"].shape, report.file.bytes == artifact.file_bytes
    (torch.Size([64, 64]), True)
    """
    from stackc.models import open_reference
    from stackc.planning.bases import open_bases, open_with_bases
    from stackc.runs.controls.run import compress_with_controls

    recipe = with_controls(targeted(recipe_from(recipe), target_ratio, target_bytes), controls, seeds)
    if allow_code:
        recipe = msgspec.structs.replace(recipe, allow_code=True)
    if path is not None:
        target = user_path(path)
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists already; choose another path, or say overwrite=True")
        with isolated():
            result = compress_with_controls(recipe, open_reference(model), target, evaluate=evaluate, progress=progress)
            artifact = open_with_bases(target, open_bases(recipe).values())
        return artifact, result.report
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stackc-"))
        target = Path(folder, "model.stackc")
        with isolated():
            result = compress_with_controls(recipe, open_reference(model), target, evaluate=evaluate, progress=progress)
            artifact = open_with_bases(target, open_bases(recipe).values())
        weakref.finalize(artifact, stack.pop_all().close)
    return artifact, result.report


def open(  # noqa: A001 - the name zarr, gzip and PIL use
    path: str | Path, *, max_bytes: int | None = None, base: BaseModels = None
) -> Artifact:
    """Open a ``.stackc`` file as a mapping from names to tensors; each is decoded when it is asked for.

    Parameters
    ----------
    path : path
        The file.
    max_bytes : int, optional
        Refuse a file whose tensors would take more than this, instead of 64 MiB plus 4,096 times the file's size. A larger
        number also allows what decoding so much takes on the way.
    base : str, nn.Module, Reference or sequence of them, optional
        The models that the file differs from and does not hold, where it is a delta: anything that ``stackc run --model``
        takes. A model with other weights than the file was made against is refused.

    Raises
    ------
    ArtifactError
        If it is no artifact, is damaged, or needs another base model.

    Examples
    --------
    >>> from torch import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "linear.stackc")
    ...     _ = compress(nn.Linear(3, 2), {"stages": ["zstd"]}, file)
    ...     with open(file) as artifact:
    ...         list(artifact), artifact["bias"].shape
    (['weight', 'bias'], torch.Size([2]))
    """
    return Artifact(path, max_bytes=max_bytes, base=_references(base))


def _references(base: BaseModels) -> list[Reference]:
    from stackc.models import Reference, open_reference

    if base is None:
        return []
    models = [base] if isinstance(base, str) or not isinstance(base, Sequence) else base
    return [model if isinstance(model, Reference) else open_reference(model) for model in models]


def load(path: str | Path, *, base: BaseModels = None) -> nn.Module:
    """The model in a ``.stackc`` file, in evaluation mode; needs neither the reference nor data nor the network.

    A file that is a delta needs its ``base``; see `open`.

    Raises
    ------
    ArtifactError
        If the file is damaged.
    ModelError
        If it holds tensors without an architecture.
    """
    with open(path, base=base) as artifact:
        return artifact.build()
