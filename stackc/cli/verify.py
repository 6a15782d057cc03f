"""``stackc verify``: prove that a file is whole by decoding all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackc.cli.options import BaseOption, open_bases

ArtifactArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A .stackc file, or the folder of a run.")]


def artifact_path(path: Path) -> Path:
    """The file that is meant: the one in it if ``path`` is the folder of a run.

    Raises
    ------
    StackcError
        If it is another folder.
    """
    from stackc.runs.runner import ARTIFACT_NAME
    from stackc.util.errors import StackcError
    from stackc.util.paths import user_path

    path = user_path(path)
    if not path.is_dir():
        return path
    if not (path / ARTIFACT_NAME).is_file():
        raise StackcError(f"{path} holds no {ARTIFACT_NAME}; is it the folder of a run?")
    return path / ARTIFACT_NAME


def verify(
    file: ArtifactArgument,
    base: BaseOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Decode every tensor and check every byte; exit code 1 if the file is damaged."""
    import hashlib

    from stackc.artifact.reader import Artifact
    from stackc.cli.progress import showing_progress
    from stackc.cli.terminal import output, say
    from stackc.util.humanise import plural

    file = artifact_path(file)
    with Artifact(file, base=open_bases(base)) as artifact, showing_progress(quiet=quiet) as progress:
        planes = sum(len(artifact.planes(name)) for name in artifact.specs)
        planes += sum(len(artifact.shared.planes(name)) for name in artifact.shared)
        unused = [name for name in artifact.shared if not artifact.shared.usage.users[artifact.shared.numbers[name]]]
        for name in unused:
            artifact.shared[name]
        tensors_digest = artifact.checksum(progress=progress)
        for name in artifact.bundled:
            artifact.bundled_file(name)
        numbers = sum(spec.numel for spec in artifact.specs.values())
        size, tensors, ties, bundled = (
            artifact.file_bytes,
            len(artifact.specs),
            len(artifact.ties),
            len(artifact.bundled),
        )
    if quiet:
        return
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    extra = (f", {plural(ties, 'tied name')}" if ties else "") + (
        f", {plural(bundled, 'bundled file')}" if bundled else ""
    )
    say(
        output(),
        f"{file} is whole: {size:,} bytes; the checksums of all blocks match, and "
        f"{plural(tensors, 'tensor')} ({plural(planes, 'plane')}, {numbers:,} numbers{extra}) decode",
        f"sha256 {digest}",
        f"sha256 {tensors_digest} of the decoded tensors: the same wherever they have the same bits",
    )
