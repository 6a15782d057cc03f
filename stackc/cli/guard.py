"""How commands end when something goes wrong: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TextIO, TypeVar

import typer

from stackc.util.errors import StackcError
from stackc.util.humanise import printable
from stackc.util.parallel import NO_THREAD

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: Set to 1, this environment variable lets errors through with their traceback.
DEBUG_VARIABLE = "STACKC_DEBUG"

_THREADS = (
    "this process may start no more threads; raise the limit (ulimit -u, or the number of processes of the container), or "
    "end other processes"
)

_FAILURE = 1
_INTERRUPTED = 130


def guarded(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn the errors of a command into one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            return command(*args, **kwargs)
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()  # a full disk behind a redirection shows here, where it becomes a sentence
        except KeyboardInterrupt:
            _end("interrupted", _INTERRUPTED)
        except BrokenPipeError:
            # The reader has gone, as in `stackc list | head`.
            _drop(sys.stdout)
            raise SystemExit(_FAILURE) from None
        except StackcError as error:
            _end(f"error: {error}")
        except MemoryError:
            _end("error: not enough memory")
        except OSError as error:
            _end(f"error: {_describe(error)}")
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if _is_usage_error(error):
                raise
            if NO_THREAD in str(error):
                _end(f"error: {_THREADS}")
            _end(
                f"error: unexpected {type(error).__name__}: {error}; this is a bug: please report it with what the same "
                f"command prints under {DEBUG_VARIABLE}=1"
            )
        return result

    return run


def _end(message: str, code: int = _FAILURE) -> NoReturn:
    line = printable(" ".join(message.split()))
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is sys.stderr:
                typer.echo(line, err=True)
            stream.flush()
        except OSError:  # a full disk, or a terminal that was closed: nobody can be told
            _drop(stream)
    # Not typer's own exception: the whole program is guarded, too, and nobody is there to catch that one.
    raise SystemExit(code)


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full; free some space or choose another place"
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _is_usage_error(error: Exception) -> bool:
    # typer brings its own copy of click since 0.20 and uses the package before that: only the method is common.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _drop(stream: TextIO) -> None:
    """Let a stream write to nowhere: Python flushes it once more at exit, and would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_missing_streams() -> None:
    """Put a stream to nowhere in the place of each standard stream that the caller has closed, as ``>&-`` does.

    Otherwise there is no `sys.stdout`, and the next file that is opened takes its number: what a library prints would go
    into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
