"""The way in and the way out: runs a command and turns whatever it raises into one line and an exit code.

0: done. 1: it could not be done (damaged file, no room, our own bugs). 2: the caller's mistake (flags, settings, the
request, a missing file). 130: Ctrl-C. 141: the reader of our output went away.
"""

import errno
import mmap
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from stepahead.cli import log
from stepahead.cli.app import OutputClosedError, command
from stepahead.cli.console import discard, one_line
from stepahead.errors import ConfigError, RequestError, StepaheadError
from stepahead.mapped_files import watch_mapped_files

INTERRUPTED = 130
BROKEN_PIPE = 141
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv's by default) and return the exit code; never raises."""
    _replace_closed_streams()
    _forgive_unencodable_output()
    try:
        log.setup(os.environ.get("STEPAHEAD_LOG"))
        watch_mapped_files(_guard)
        words = list(sys.argv[1:] if args is None else args)
        result = command().main(args=words, prog_name="stepahead", standalone_mode=False, obj=words)
        if result == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except (OutputClosedError, BrokenPipeError):
        discard(sys.stdout, sys.stderr)
        return BROKEN_PIPE
    except SystemExit as error:  # typer's answer to a pipe that closes under --help
        result = error.code
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)
    return result if isinstance(result, int) else 0


def _guard(mapping: mmap.mmap, path: Path) -> Callable[[], None]:
    """A model that shrinks under us is named. Imported with the first file, so that --help answers at once."""
    try:
        from stepahead.backends.cpu.file_guard import guard_file
    except ImportError:  # the reference needs no native library
        return lambda: None
    return guard_file(
        mapping,
        f"stepahead: {one_line(str(path))} was truncated or its disk failed while the model was in use\n",
    )


def _report(error: BaseException) -> int:
    """One line on stderr; the exit code."""
    code, message = _explain(error)
    if log.is_debug() and code == 1:
        traceback.print_exception(error)
    try:
        print(f"stepahead: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError:  # of stderr itself: there is nobody left to tell
        discard(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
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
        case _:
            return 1, _failure(error)


def _failure(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({error}): give a smaller --context-length or a smaller model"
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
        return f"the output cannot be written: {error.strerror}"
    return f"unexpected {type(error).__name__}: {error}; STEPAHEAD_LOG=debug shows where"


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


def _replace_closed_streams() -> None:
    """Whoever starts us without a stream, as for a daemon, wants to hear nothing: the next file that we open would
    get its number otherwise, and be written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (to the end)
