"""Where commands write: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
import typer

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a stream that is not a terminal: nothing is folded or left out in files and pipes.
_PIPE_WIDTH = 400


def output() -> Console:
    """The console for results, on stdout."""
    return _console(sys.stdout)


def messages() -> Console:
    """The console for progress, on stderr."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    # No markup, highlighting or emoji: brackets and colons in patterns and names are just text.
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def say(console: Console, *lines: str) -> None:
    """Print sentences; paths stay in one piece, however narrow the terminal is."""
    for line in lines:
        console.print(line, soft_wrap=True)


def write_json(value: Any) -> None:
    """Print a value as indented JSON and nothing else."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
