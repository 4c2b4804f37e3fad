"""Where output goes and how it may look there: the two consoles, harmless text, progress bars.

stdout has the answer and nothing else; stderr has everything about it. Escapes only in terminals, and nowhere under
NO_COLOR.
"""

import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

MIN_PROMPT_FOR_BAR = 256  # tokens; a shorter prompt is done before a bar is read
PIPE_WIDTH = 200  # columns; a table takes what it needs of them

# C0 but tab and newline, DEL, C1: what a terminal would obey rather than show. A model may emit any of them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stdout() -> "Console":
    return _console(is_stderr=False)


def stderr() -> "Console":
    return _console(is_stderr=True)


def announce(text: str) -> None:
    """A line on stdout by a program whose work is another: where nobody can be told, it goes on."""
    try:
        stdout().out(text, highlight=False)
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)


def discard(*streams: TextIO) -> None:
    """Point streams at nothing, so that the interpreter's last flush of what they hold has nobody to complain to."""
    with Path(os.devnull).open("w") as nothing:
        for stream in streams:
            with suppress(OSError, ValueError):  # not a real file: a test's, nothing to silence
                os.dup2(nothing.fileno(), stream.fileno())


@functools.cache
def _console_type() -> "type[Console]":
    from rich.console import Console

    class OurConsole(Console):
        """One that leaves a closed pipe to main(); rich would end the process with exit code 1."""

        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 (called where the error is handled)

    return OurConsole


def _console(is_stderr: bool) -> "Console":
    is_terminal = (sys.stderr if is_stderr else sys.stdout).isatty()
    return _console_type()(
        stderr=is_stderr,
        force_terminal=is_terminal,  # a pipe stays a pipe, whatever FORCE_COLOR says
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        width=None if is_terminal else PIPE_WIDTH,
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def visible(text: str) -> str:
    """`text` with control characters replaced by something to look at."""
    return _CONTROLS.sub(lambda match: _picture(ord(match[0])), text)


def one_line(text: str) -> str:
    """A message as one line, whatever a path or a value in it held."""
    return visible(" ".join(text.encode("utf-8", "replace").decode().split()))


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A moving line while something of unknown length goes on; nothing outside a terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(text, spinner_style="dim"):
        yield


class Bar:
    """A progress bar on stderr, a context manager. Called with (done, total), it shows from the first call on; gone
    once stopped or done. Outside a terminal it does nothing."""

    def __init__(self, text: str, min_total: int = 0) -> None:
        """A total below min_total is over before a bar is read: none is shown."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = stderr()
        self._min_total = min_total
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(text, total=None)
        self._is_shown = False

    def __call__(self, done: int, total: int) -> None:
        if total < self._min_total:
            return
        if not self._is_shown and done < total:
            self._progress.start()
            self._is_shown = True
        self._progress.update(self._task, completed=done, total=total)
        if done >= total:
            self.stop()

    def stop(self) -> None:
        if self._is_shown:
            self._progress.stop()
            self._is_shown = False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def prompt_bar() -> Bar:
    """The on_prompt of LLM.stream."""
    return Bar("reading the prompt", MIN_PROMPT_FOR_BAR)
