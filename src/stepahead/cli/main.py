"""The way in and the way out: runs a command and turns whatever it raises into one line and an exit code.

0: done. 1: it could not be done (damaged file, no room, our own bugs). 2: the caller's mistake (flags, settings, the
request, a missing file). 130: Ctrl-C. 141: the reader of our output went away.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from stepahead.cli import log
from stepahead.cli.app import OutputClosedError, command
from stepahead.cli.console import one_line
from stepahead.errors import ConfigError, RequestError, StepaheadError

INTERRUPTED = 130
BROKEN_PIPE = 141


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv's by default) and return the exit code; never raises."""
    _forgive_unencodable_output()
    try:
        log.setup(os.environ.get("STEPAHEAD_LOG"))
        words = list(sys.argv[1:] if args is None else args)
        result = command().main(args=words, prog_name="stepahead", standalone_mode=False, obj=words)
        if result == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except OutputClosedError:
        return _leave_broken_pipe()
    except SystemExit as error:  # typer's answer to a pipe that closes under --help
        result = error.code
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    """One line on stderr; the exit code."""
    code, message = _explain(error)
    if log.is_debug() and code == 1:
        traceback.print_exception(error)
    try:
        print(f"stepahead: {one_line(message)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        return _leave_broken_pipe()
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return INTERRUPTED, "interrupted"
        case typer.TyperException():
            return 2, f"{_usage(error)}; see {_help_of(error)}"
        case ConfigError() | RequestError():
            return 2, str(error)
        case StepaheadError():
            return 1, str(error)
        case MemoryError():
            return 1, f"out of memory ({error}): give a smaller --context-length or a smaller model"
        case _:
            return 1, f"unexpected {type(error).__name__}: {error}; STEPAHEAD_LOG=debug shows where"


def _usage(error: typer.TyperException) -> str:
    """What typer says of a flag, and the value that it leaves out of some messages."""
    text = error.format_message().rstrip(".").replace("Value error, ", "")
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    value = details[0].get("input") if details else None
    return text if value is None or repr(value) in text else f"{text} (given: {value!r})"


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else 'stepahead'} --help"


def _forgive_unencodable_output() -> None:
    """A terminal that cannot show a character gets a '?' in its place, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _leave_broken_pipe() -> int:
    """Point stdout at nothing, so that the interpreter's last flush has nobody to complain to."""
    with Path(os.devnull).open("w") as nothing:
        for stream in (sys.stdout, sys.stderr):
            try:
                os.dup2(nothing.fileno(), stream.fileno())
            except (OSError, ValueError):  # not a real file: a test's, nothing to silence
                continue
    return BROKEN_PIPE
