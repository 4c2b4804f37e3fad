"""Writes an answer as it comes. In a terminal, tokens that a head drafted and the trunk accepted are green."""

import sys
from typing import TYPE_CHECKING

from stepahead.cli.console import stdout, visible

if TYPE_CHECKING:
    from rich.console import Console

    from stepahead import StreamChunk

ACCEPTED = "green"
PROMPT = "dim"


class TokenPrinter:
    """One answer. Outside a terminal the text alone, as it is; in one, nothing that the terminal would obey."""

    def __init__(self, console: "Console | None" = None) -> None:
        self._console = console or stdout()
        self._is_terminal = self._console.is_terminal
        self._ends_line = True

    def show_prompt(self, text: str) -> None:
        """The prompt in front of its continuation; in terminals only."""
        if self._is_terminal and text:
            self._write(text, PROMPT)

    def push(self, chunk: "StreamChunk") -> None:
        if self._is_terminal:
            for index, piece in enumerate(chunk.pieces):
                self._write(piece, ACCEPTED if index < chunk.num_accepted else None)
        elif chunk.text_delta:
            sys.stdout.write(chunk.text_delta)
            sys.stdout.flush()
            self._ends_line = chunk.text_delta.endswith("\n")

    def finish(self) -> None:
        """End the last line."""
        if not self._ends_line:
            sys.stdout.write("\n")
        sys.stdout.flush()
        self._ends_line = True

    def _write(self, text: str, style: str | None) -> None:
        if text:
            self._console.out(visible(text), style=style, end="", highlight=False)
            self._ends_line = text.endswith("\n")
