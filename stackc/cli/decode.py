"""``stackc decode``: from a ``.stackc`` file back to a model that everybody opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackc.cli.options import BaseOption, open_bases
from stackc.cli.verify import ArtifactArgument, artifact_path
from stackc.util.nearest import nearest

if TYPE_CHECKING:
    from torch import Tensor

_FORMS = ("folder", "safetensors")
_SUFFIX = ".safetensors"
_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"


def _known(form: str | None) -> str | None:
    if form is not None and form not in _FORMS:
        raise typer.BadParameter(f"{form!r} is not known{nearest(form, _FORMS)}; known are {', '.join(_FORMS)}")
    return form


def decode(
    file: ArtifactArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="What to write; the name of FILE without its suffix, in the working folder, if not given.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="folder|safetensors",
            callback=_known,
            show_default=False,
            help="A Hugging Face folder, or a bare weights file. By default a folder if the file knows its architecture.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to copy the tokenizer from if the file holds none.")
    ] = None,
    companions: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The original model's folder: copy from it whatever lies beside the weights and is not in the file, code too.",
        ),
    ] = None,
    base: BaseOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Write the decoded model as a Hugging Face folder or a .safetensors file."""
    from stackc.artifact.reader import Artifact
    from stackc.cli.progress import showing_progress
    from stackc.cli.terminal import output as results
    from stackc.cli.terminal import say
    from stackc.models.companions import is_tokenizer_file
    from stackc.util.humanise import plural, printable, size_text
    from stackc.util.paths import user_path

    file = artifact_path(file)
    with Artifact(file, base=open_bases(base)) as artifact:
        as_folder = _as_folder(to, output, artifact.config is not None)
        target = user_path(output) if output else Path(file.stem if as_folder else f"{file.stem}{_SUFFIX}")
        extra: dict[str, bytes | Path] = {}
        if as_folder:
            extra = {**artifact.companion_files(), **_from_folders(tokenizer, companions)}
        _check_target(target, as_folder, overwrite, {_WEIGHTS, _CONFIG, *extra})
        with (
            showing_progress(quiet=quiet) as progress,
            progress.task(f"decode {file.name}", artifact.nbytes) as advance,
        ):
            state: dict[str, Tensor] = {}
            for name, tensor in zip(artifact.specs, artifact.stream(), strict=True):
                state[name] = tensor
                advance(artifact.specs[name].nbytes)
            state |= {other: state[first] for other, first in artifact.ties.items()}
        if as_folder:
            _write_folder(target, artifact.config, state, extra)
        else:
            _write_file(target, state)
        size, missing = artifact.nbytes, [name for name in artifact.left_behind if name not in extra]
    if not quiet:
        held = f", {', '.join(map(printable, extra))}" if extra else ""
        say(results(), f"{target}: {plural(len(state), 'tensor')} ({size_text(size)}){held}")
        if as_folder and artifact.config is not None:
            say(results(), *_missing(artifact.config, any(map(is_tokenizer_file, extra)), missing))


def _as_folder(to: str | None, output: Path | None, has_config: bool) -> bool:
    if to is not None:
        return to == "folder"
    if output is not None and output.suffix == _SUFFIX:
        return False
    return has_config or output is not None


def _from_folders(tokenizer: Path | None, companions: Path | None) -> dict[str, Path]:
    """Files that the user wants beside the model; they go before those in the file."""
    from stackc.models.companions import ADAPTERS
    from stackc.models.folder_files import folder_files
    from stackc.models.tokenizers import tokenizer_files
    from stackc.util.errors import ModelError
    from stackc.util.paths import user_path

    files: dict[str, Path] = {}
    if companions is not None:
        companions = user_path(companions)
        if not companions.is_dir():
            raise ModelError(f"{companions} is not a folder; give that of the original model")
        beside = folder_files(companions)
        files = tokenizer_files(companions) | beside.kept | beside.left_behind
        # from_pretrained would load the adapter with the weights that it was made for, and not with the decoded ones.
        files = {name: path for name, path in files.items() if name not in ADAPTERS}
    if tokenizer is not None:
        tokenizer = user_path(tokenizer)
        found = tokenizer_files(tokenizer)
        if not found:
            raise ModelError(f"{tokenizer} holds no tokenizer files such as tokenizer.json or vocab.txt")
        files |= found
    return files


def _missing(config: Mapping[str, Any], has_tokenizer: bool, missing: list[str]) -> list[str]:
    """What the decoded folder lacks, and how to get it."""
    from stackc.models.companions import ADAPTERS
    from stackc.util.humanise import printable

    lines = []
    if not has_tokenizer:
        lines.append("no tokenizer: the file holds none; copy one in with --tokenizer FOLDER")
    others = [printable(name) for name in missing if name not in ADAPTERS]
    if others:
        lines.append(f"left behind: {', '.join(others)}; copy them from the original folder with --companions FOLDER")
    if any(name in ADAPTERS for name in missing):
        lines.append("left behind: an adapter that was not merged; load it on top of this model with peft")
    if config.get("auto_map"):
        lines.append("config.json names code (auto_map): from_pretrained runs it if you say trust_remote_code=True")
    return lines


def _check_target(target: Path, as_folder: bool, overwrite: bool, known: set[str]) -> None:
    """Refuse to replace what this command would not have written."""
    from stackc.util.errors import OutputError
    from stackc.util.output import require_replaceable
    from stackc.util.partial import recover

    recover(target)
    require_replaceable(target)
    if as_folder and target.is_dir():
        present = _present(target, {name.partition("/")[0] for name in known if "/" in name})
        if present and not overwrite:
            raise OutputError(f"{target} exists already; choose another --output, or replace it with --overwrite")
        strangers = [name for name in present if name not in known]
        if strangers:
            raise OutputError(f"{target} holds files that would be lost ({strangers[0]}); choose another --output")
    elif target.is_dir() or (as_folder and target.exists()):
        raise OutputError(f"{target} is a {'file' if as_folder else 'folder'}; choose another --output or --to")
    elif target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; choose another --output, or replace it with --overwrite")


def _present(target: Path, folders: set[str]) -> list[str]:
    """Names in a folder; those of known folders are opened."""
    names: list[str] = []
    for entry in sorted(target.iterdir()):
        if entry.name in folders and entry.is_dir() and not entry.is_symlink():
            names += [f"{entry.name}/{path.name}" for path in sorted(entry.iterdir())]
        else:
            names.append(entry.name)
    return names


def _write_folder(
    target: Path, config: Mapping[str, Any] | None, state: Mapping[str, Tensor], files: Mapping[str, bytes | Path]
) -> None:
    from stackc.models.saving import fill_folder
    from stackc.runs.runner import replacing_folder
    from stackc.util.output import writing

    with replacing_folder(target) as temporary, writing(target):
        fill_folder(temporary, config, state, files)


def _write_file(target: Path, state: Mapping[str, Tensor]) -> None:
    from stackc.models.saving import write_weights
    from stackc.util.output import writing
    from stackc.util.partial import atomic_file

    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            write_weights(temporary, None, state)
