"""The program ``stackc``: its commands and what they have in common.

Commands import what they need when they run, so that ``stackc --help`` and ``stackc check`` answer at once.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from stackc.cli.cache import cache
from stackc.cli.check import check
from stackc.cli.compare import compare
from stackc.cli.decode import decode
from stackc.cli.eval import evaluate
from stackc.cli.guard import guarded, open_missing_streams
from stackc.cli.inspect import inspect
from stackc.cli.list import list_installed
from stackc.cli.quiet import silence_libraries
from stackc.cli.repack import repack
from stackc.cli.run import run
from stackc.cli.schema import schema
from stackc.cli.verify import verify
from stackc.util.paths import readable

_HELP = """Compress a neural network by stacking small invertible transforms.

A recipe names the stages. [bold]stackc run prune+seed+int8[/bold] runs one that ships with stackc."""

#: Signals that end the program in an orderly way; Windows knows no closed terminal.
_ENDINGS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

app = typer.Typer(
    name="stackc",
    help=_HELP,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _name, _command in (
    ("run", run),
    ("check", check),
    ("list", list_installed),
    ("inspect", inspect),
    ("verify", verify),
    ("decode", decode),
    ("eval", evaluate),
    ("repack", repack),
    ("compare", compare),
    ("schema", schema),
    ("cache", cache),
):
    app.command(_name)(guarded(_command))


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    typer.echo(f"stackc {version('stackc')}")
    raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the console script."""
    open_missing_streams()
    sys.argv = [readable(argument) for argument in sys.argv]
    silence_libraries()
    for number in _ENDINGS:
        # Who starts a program with nohup wants it to go on when the terminal is closed.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    guarded(_run)()


def _run() -> None:
    try:
        app()
    finally:
        sys.stdout.flush()  # what --help prints may meet a full disk, too


def _terminate(number: int, frame: FrameType | None) -> None:
    # An exception instead of sudden death, so that temporary folders are removed; a second signal must not disturb that.
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(128 + number)
