"""The progress of a download on stderr: bytes, speed and the time that is left, then what is being verified."""

import time
from typing import TYPE_CHECKING

from stepahead.cli.console import stderr, visible

if TYPE_CHECKING:
    from stepahead.hub.download import Progress

QUIET_SECONDS = 30.0
"""Outside a terminal a line is written this often: a log shows that something goes on."""


class TransferBar:
    """A context manager, called with the Progress now and then."""

    def __init__(self, text: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        console = stderr()
        self._text = visible(text)
        self._is_terminal = console.is_terminal
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = RichProgress(
            TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not self._is_terminal
        )
        self._task = self._bar.add_task(self._text, total=None)
        self._is_shown = False
        self._next_line = time.monotonic() + QUIET_SECONDS

    def __call__(self, progress: "Progress") -> None:
        if not self._is_terminal:
            self._write_line(progress)
            return
        if not self._is_shown and progress.total:
            self._bar.start()
            self._is_shown = True
        is_received = progress.received >= progress.total
        done = progress.verified if is_received else progress.received
        text = f"verifying {self._text}" if is_received else self._text
        self._bar.update(self._task, description=text, completed=done, total=progress.total)

    def _write_line(self, progress: "Progress") -> None:
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + QUIET_SECONDS
            share = 100 * progress.received / max(progress.total, 1)
            stderr().out(f"{self._text}: {progress.received / 1e9:.1f} of {progress.total / 1e9:.1f} GB, {share:.0f} %")

    def __enter__(self) -> "TransferBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            self._bar.stop()
