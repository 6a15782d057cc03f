"""``stackc cache``: what earlier runs have left to be used again."""

from __future__ import annotations

from typing import Annotated

import typer

#: What the kinds of entries are.
_KINDS = {
    "allocation": "choices for a size",
    "choices": "what stages chose from the data",
    "decoded": "weight errors of files",
    "file": "files that stages left",
    "file-record": "how these files were made",
    "lossless": "sizes of files without loss",
    "moments": "second moments for calibrated stages",
    "outcome": "what models answered on a task",
    "training": "what heal stages left",
}


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything that is kept.")] = False,
) -> None:
    """Show or clear what is kept of earlier runs, so that a run begins where it differs from one before."""
    from stackc.cli.terminal import output, say
    from stackc.reporting.table import plain_table
    from stackc.util.humanise import size_text
    from stackc.util.memo import VARIABLE, Memo

    memo = Memo.of_user()
    console = output()
    if memo.folder is None:
        say(console, f"nothing is kept: there is no cache folder that can be written to, or {VARIABLE} is 0")
        return
    if clear:
        gone = memo.clear()
        say(console, f"deleted {gone.entries} entries of {size_text(gone.bytes)} in {memo.folder}")
        return
    usage = memo.usage()
    table = plain_table()
    for heading in ("kind", "what it is"):
        table.add_column(heading)
    for heading in ("entries", "bytes"):
        table.add_column(heading, justify="right")
    for kind, used in usage.items():
        table.add_row(kind, _KINDS.get(kind, ""), str(used.entries), size_text(used.bytes))
    console.print(table)
    total = sum(used.bytes for used in usage.values())
    say(
        console,
        f"{size_text(total)} of at most {size_text(memo.most_bytes)} in {memo.folder}; {VARIABLE} sets the most, for example "
        f"2GB, and 0 keeps nothing; 'stackc cache --clear' deletes all of it",
    )
