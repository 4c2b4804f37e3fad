"""`stepahead trace`: what a file of --trace says: how drafts were chosen, and how good the expectations were."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import one_line, stdout
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead.cli.trace_figures import Times, TraceFigures
    from stepahead.engine.trace import StepTrace
    from stepahead.trace_file import Trace, TraceHeader

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # of a row of bars
LONGEST_BAR = 30


def trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What --trace wrote.", show_default=False)],
    request: Annotated[
        int | None, typer.Option("--request", help="The steps of this request alone.", show_default=False)
    ] = None,
    json_output: o.JsonOption = False,
    plot: o.PlotOption = None,
) -> None:
    """Show what a trace says: depths, expected and observed acceptance, predicted and actual times, the price.

    \b
    Examples:
      stepahead trace run.jsonl
      stepahead trace run.jsonl --plot run.svg
      stepahead trace bench.jsonl --request 7 --json
    """
    from stepahead.cli.plotting import figure, save
    from stepahead.cli.trace_figures import trace_figures
    from stepahead.trace_file import read_trace

    picture = None if plot is None else figure(plot)
    found = read_trace(file)
    steps = _chosen(file, found.steps, request)
    figures = trace_figures(steps)
    if json_output:
        json.dump(
            {**dataclasses.asdict(found.header), "is_cut": found.is_cut, **dataclasses.asdict(figures)}, sys.stdout
        )
        sys.stdout.write("\n")
    else:
        _show(found, steps, figures)
    if plot is not None and picture is not None:
        from stepahead.cli.trace_plot import draw

        draw(picture, title(found.header), steps)
        save(picture, plot)


def _chosen(file: Path, steps: list["StepTrace"], request: int | None) -> list["StepTrace"]:
    """Raises ConfigError if there are none."""
    if not steps:
        raise ConfigError(f"{file}: a trace without steps: nothing was generated while it was written")
    if request is None:
        return steps
    chosen = [step for step in steps if step.request_id == request]
    if not chosen:
        known = sorted({step.request_id for step in steps})
        shown = ", ".join(map(str, known[:20])) + (" …" if len(known) > 20 else "")
        raise ConfigError(f"--request {request}: {file} has no steps of it: give one of {shown}")
    return chosen


def title(header: "TraceHeader") -> str:
    """What ran where, in one harmless line."""
    return one_line(
        f"{header.model} · {header.machine} · isa {header.isa}, {header.threads} threads · stepahead {header.stepahead}"
    )


def _show(found: "Trace", steps: list["StepTrace"], figures: "TraceFigures") -> None:
    out = stdout().print
    out(title(found.header))
    out(
        f"{figures.num_steps} steps of {_counted(figures.num_requests, 'request')} in {figures.num_passes} passes · "
        f"{figures.num_tokens} tokens · {figures.tokens_per_step:.2f} tokens/step · "
        f"{figures.tokens_per_second:.1f} tokens/s"
    )
    if found.is_cut:
        out("the last line of the file is cut off and was left out")
    _show_sources(figures)
    _show_depths(figures)
    _show_expectations(figures)
    for line in _lines(steps, figures):
        out(line)


def _show_sources(figures: "TraceFigures") -> None:
    from stepahead.cli.report import table_of

    table = table_of("source", "steps", "share", "verified", "accepted", "")
    for one in figures.sources:
        share = f"{100 * one.num_accepted_tokens / one.num_draft_tokens:.0f} %" if one.num_draft_tokens else "–"
        table.add_row(
            one.source or "none",
            str(one.num_steps),
            f"{100 * one.num_steps / figures.num_steps:.0f} %",
            str(one.num_draft_tokens),
            str(one.num_accepted_tokens),
            share,
        )
    stdout().print(table)


def _show_depths(figures: "TraceFigures") -> None:
    from stepahead.cli.report import table_of

    table = table_of("depth", "steps", "accepted", "")
    table.columns[-1].justify = "left"
    most = max(one.num_steps for one in figures.depths)
    for one in figures.depths:
        bar = "█" * max(1, round(LONGEST_BAR * one.num_steps / most))
        table.add_row(str(one.depth), str(one.num_steps), f"{one.num_accepted_tokens / one.num_steps:.2f}", bar)
    stdout().print(table)


def _show_expectations(figures: "TraceFigures") -> None:
    """Side by side: a draft token's expected acceptance and how often it was right, by position and by tenth."""
    from stepahead.cli.report import table_of

    if not figures.acceptance:
        return
    by_position = table_of("position", "tokens", "expected", "accepted")
    for one in figures.acceptance:
        by_position.add_row(str(one.position), str(one.num_draft_tokens), f"{one.expected:.2f}", f"{one.accepted:.2f}")
    by_tenth = table_of("expected", "tokens", "mean", "accepted")
    for one in figures.calibration:
        name = f"{(one.position - 1) / 10:.1f}–{one.position / 10:.1f}"
        by_tenth.add_row(name, str(one.num_draft_tokens), f"{one.expected:.2f}", f"{one.accepted:.2f}")
    stdout().print(by_position)
    stdout().print(by_tenth)


def _lines(steps: list["StepTrace"], figures: "TraceFigures") -> list[str]:
    lines = [
        f"verifying: {_times(figures.verify_times)}",
        f"drafting:  {_times(figures.draft_times)}",
    ]
    if figures.throughput_high > 0:
        lines.append(
            f"priced at: {_row([step.throughput for step in steps])} "
            f"{figures.throughput_low:.3g} to {figures.throughput_high:.3g} tokens/ms"
        )
    if figures.num_shadow_steps:
        lines.append(
            f"shadow:    {_counted(figures.num_shadow_steps, 'step')} drafted "
            f"{_counted(figures.num_shadow_tokens, 'token')} more than were verified"
        )
    if figures.num_catch_up_rows:
        lines.append(
            f"catch-up:  {_counted(figures.num_catch_up_rows, 'row')} of heads in "
            f"{_counted(figures.num_steps_with_catch_up, 'step')}"
        )
    return lines


def _times(times: "Times | None") -> str:
    if times is None:
        return "nothing was predicted"
    return (
        f"actual ÷ predicted ms {times.median_ratio:.2f} (80 % of {_counted(times.num_passes, 'pass', 'passes')}: "
        f"{times.low_ratio:.2f} to {times.high_ratio:.2f}) · {times.actual_ms:.0f} ms in all, "
        f"{times.predicted_ms:.0f} predicted"
    )


def _row(values: list[float]) -> str:
    """A row of bars over time, from the least value to the greatest."""
    from stepahead.cli.trace_figures import means

    heights = means(values, WIDTH)
    low, high = min(heights), max(heights)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((height - low) * scale)] for height in heights)


def _counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
