"""How commands end when something goes wrong: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer

from stackc.errors import StackcError
from stackc.humanise import printable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: Set to 1, this environment variable lets errors through with their traceback.
DEBUG_VARIABLE = "STACKC_DEBUG"

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
            _leave_pipe()
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
            _end(
                f"error: unexpected {type(error).__name__}: {error}; this is a bug: please report it with what the same "
                f"command prints under {DEBUG_VARIABLE}=1"
            )
        return result

    return run


def _end(message: str, code: int = _FAILURE) -> NoReturn:
    line = printable(" ".join(message.split()))
    typer.echo(line, err=True)
    raise typer.Exit(code)


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full; free some space or choose another place"
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _is_usage_error(error: Exception) -> bool:
    # typer brings its own copy of click since 0.20 and uses the package before that: only the method is common.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _leave_pipe() -> NoReturn:
    # The reader has gone, as in `stackc list | head`. Python flushes stdout once more at exit; give it a place to write.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(_FAILURE)
