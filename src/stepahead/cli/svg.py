"""Draws a finished run as a terminal window in SVG: the picture in the README is the tool's own output."""

import io
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from stepahead.cli.console import visible
from stepahead.cli.report import stats_lines
from stepahead.cli.token_printer import ACCEPTED, PROMPT
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead import StreamChunk

WIDTH = 100

# The window of rich's own template without its web fonts: a page that shows the picture fetches nothing for it.
_TEMPLATE = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def write_svg(path: Path, args: list[str], prompt: str, chunks: list["StreamChunk"]) -> None:
    """`args` is the command line that was run. Raises ConfigError where the file cannot be written."""
    picture = draw(args, prompt, chunks)
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--svg {path}: cannot be written ({error.strerror}): give another path") from error


def draw(args: list[str], prompt: str, chunks: list["StreamChunk"]) -> str:
    """The SVG of a prompt, its continuation with the accepted draft tokens marked, and the lines about it."""
    from rich.console import Console
    from rich.text import Text

    completion = chunks[-1].completion
    assert completion is not None
    text = Text()
    text.append(visible(prompt), PROMPT)
    for chunk in chunks:
        for index, piece in enumerate(chunk.pieces):
            text.append(visible(piece), ACCEPTED if index < chunk.num_accepted else "")
    text.rstrip()
    speed, end = stats_lines(completion)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(visible(f"$ {_command(args)}"), "bold"))
    console.print(text)
    console.print()
    console.print(Text(speed, "bold"))
    console.print(Text(end, "dim"))
    console.print(Text.assemble(("green", ACCEPTED), (": drafted by a head, accepted by the trunk", "dim")))
    return console.export_svg(title="stepahead", code_format=_TEMPLATE, unique_id="stepahead")


def _command(args: list[str]) -> str:
    """The command line as it would be typed, without the wish for a picture."""
    shown: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--svg":
            next(words, None)
        elif not word.startswith("--svg="):
            shown.append(word)
    return shlex.join(["stepahead", *shown])
