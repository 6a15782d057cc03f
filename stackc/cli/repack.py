"""``stackc repack``: the same model in fewer bytes, with the packers of today."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackc.cli.verify import ArtifactArgument, artifact_path


def repack(
    file: ArtifactArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; the name of FILE with -repacked, in the working folder, if not given.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Pack every plane again with the packer that makes it smallest; what it decodes to stays the same to the last bit."""
    from stackc.artifact.repacking import repack as pack_again
    from stackc.cli.progress import showing_progress
    from stackc.cli.terminal import output as results
    from stackc.cli.terminal import say
    from stackc.util.humanise import plural
    from stackc.util.paths import user_path

    file = artifact_path(file)
    target = user_path(output) if output else Path(f"{file.stem}-repacked{file.suffix}")
    with showing_progress(quiet=quiet) as progress:
        result = pack_again(file, target, overwrite=overwrite, progress=progress)
    if quiet:
        return
    if result.after >= result.before:
        say(results(), f"{file}: none of its {plural(result.planes, 'plane')} packs smaller; nothing was written")
        return
    saved = result.before - result.after
    say(
        results(),
        f"{target}: {result.after:,} bytes, {saved:,} fewer ({100 * saved / result.before:.2g} %); "
        f"{result.smaller:,} of {plural(result.planes, 'plane')} are smaller",
    )
