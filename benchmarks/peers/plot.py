"""Draws a comparison as an SVG: a bar for each figure, as long as we are times as fast as llama.cpp. No libraries."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from benchmarks.peers.measure import Figure
from benchmarks.peers.report import number

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 900, 200, 250
ROW, TOP, BOTTOM = 24, 64, 44
INK, PALE, AHEAD, BEHIND = "#24292f", "#8c959f", "#2da44e", "#cf222e"


def draw(facts: dict[str, Any], figures: Sequence[Figure]) -> str:
    """The figures that have a ratio; length is linear from 0, the line at 1 is llama.cpp."""
    shown = [figure for figure in figures if figure.times_as_fast is not None]
    top = max([1.0, *(figure.times_as_fast.high for figure in shown if figure.times_as_fast)])
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / top
    height = TOP + ROW * len(shown) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" '
        'font-size="13" role="img">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(16, 24, f"Times as fast as {facts['peer']}: {facts['model']}, {facts['threads']} threads", size=16),
        _text(
            16,
            44,
            "bar: median of the rounds; whisker: least and greatest; right: ours / llama.cpp's, in its better setting",
            PALE,
        ),
    ]
    for tick in _ticks(top):
        x = LABEL_WIDTH + tick * scale
        colour = INK if tick == 1 else "#d8dee4"
        parts.append(f'<path d="M{x:.1f} {TOP - 6}V{height - BOTTOM + 4}" stroke="{colour}"/>')
        parts.append(_text(x, height - BOTTOM + 18, f"{tick:g}x", PALE, anchor="middle"))
    for row, figure in enumerate(shown):
        parts += _bar(figure, TOP + ROW * row, scale)
    machine = f"{facts['machine']}; stepahead {facts['version']} ({facts['commit']}), {facts['date']}"
    parts += [_text(16, height - 8, machine, PALE, size=11), "</svg>"]
    return "\n".join(parts) + "\n"


def _bar(figure: Figure, y: int, scale: float) -> list[str]:
    ratio, peer = figure.times_as_fast, figure.peer
    assert ratio is not None and peer is not None
    middle, colour = y + ROW / 2, AHEAD if ratio.median >= 1 else BEHIND
    low, high = (LABEL_WIDTH + value * scale for value in (ratio.low, ratio.high))
    ours, theirs = (number(figure.spread(side).median) for side in (figure.ours, peer))
    return [
        _text(LABEL_WIDTH - 8, middle + 4, figure.measure.label, anchor="end"),
        f'<rect x="{LABEL_WIDTH}" y="{y + 4}" width="{ratio.median * scale:.1f}" height="{ROW - 8}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="{INK}"/>',
        _text(WIDTH - VALUE_WIDTH + 50, middle + 4, f"{ratio.median:.2f}x", anchor="end"),
        _text(WIDTH - VALUE_WIDTH + 62, middle + 4, f"{ours} / {theirs} {figure.measure.unit}", PALE),
    ]


def _ticks(top: float) -> list[float]:
    """0, 1 and a few more up to top."""
    step = max(1, math.ceil(top / 6))
    return sorted(
        {0.0, 1.0, *(float(tick) for tick in range(0, math.floor(top) + 1, step)), *([0.5] if top < 3 else [])}
    )


def _text(x: float, y: float, text: str, colour: str = INK, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
    )
