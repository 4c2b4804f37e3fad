"""The picture of `bench --plot`: speed by depth, acceptance by position, and where the time of a step goes."""

from typing import TYPE_CHECKING, Any

from stepahead.cli.bench_report import Result
from stepahead.cli.bench_rounds import AUTO, COPY, PHASES, Row
from stepahead.cli.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, entitle, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stepahead.engine.metrics import Phase

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9")  # one a kind
PHASE_COLOURS: dict["Phase", str] = {"forward": BLUE, "verify": GREEN, "propose": ORANGE, "commit": GREY}
PHASE_NAMES: dict["Phase", str] = {
    "forward": "trunk",
    "verify": "sampling",
    "propose": "drafting",
    "commit": "the rest",
}
SIZE = (13.0, 4.2)  # inches


def draw(figure: "Figure", found: dict[str, Any], results: list[Result]) -> None:
    """Three panels, a line or a group of bars for each kind of text."""
    figure.set_size_inches(SIZE)
    entitle(figure, f"{found['model']} · {found['machine']}, {found['threads']} threads ({found['isa']})")
    speed, acceptance, time = figure.subplots(1, 3)
    _draw_speed(speed, results)
    _draw_acceptance(acceptance, results)
    _draw_time(time, results[0])
    for axes in (speed, acceptance, time):
        tidy(axes)


def _draw_speed(axes: "Axes", results: list[Result]) -> None:
    names = list(dict.fromkeys(row.name for result in results for row in result.rows))
    names.sort(
        key=lambda name: (COPY, AUTO).index(name) + 1 if name in (COPY, AUTO) else 0
    )  # also where one lacks them
    for result, colour in zip(results, COLOURS, strict=False):
        # A line through the depths; what chooses its depth stands beside it.
        depths = [row for row in result.rows if row.name not in (COPY, AUTO)]
        others = [row for row in result.rows if row.name in (COPY, AUTO)]
        _draw_rates(axes, names, depths, colour, "o-", result.group.name or None)
        _draw_rates(axes, names, others, colour, "D", None)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(bottom=0)
    axes.set(title="Speed", xlabel="draft tokens a step", ylabel="tokens/s, median and range of the rounds")
    if results[0].group.name:
        axes.legend(frameon=False)


def _draw_rates(axes: "Axes", names: list[str], rows: list[Row], colour: str, style: str, label: str | None) -> None:
    rates = [row.tokens_per_second for row in rows]
    below = [row.tokens_per_second - min(row.tokens_per_second_by_round) for row in rows]
    above = [max(row.tokens_per_second_by_round) - row.tokens_per_second for row in rows]
    places = [names.index(row.name) for row in rows]
    axes.errorbar(places, rates, [below, above], fmt=style, capsize=3, color=colour, label=label)


def _draw_acceptance(axes: "Axes", results: list[Result]) -> None:
    """Of the deepest fixed depth, where each position was drafted each time."""
    for result, colour in zip(results, COLOURS, strict=False):
        row = _deepest(result.rows)
        if row is not None:
            positions = range(1, len(row.acceptance) + 1)
            shares = [100 * share for share in row.acceptance]
            axes.plot(positions, shares, marker="o", color=colour, label=result.group.name or None)
            axes.set_xticks(positions)
    axes.set_ylim(0, 100)
    axes.set(title="Acceptance", xlabel="position in the draft", ylabel="draft tokens accepted, %")


def _deepest(rows: list[Row]) -> Row | None:
    fixed = [row for row in rows if row.name.isdecimal()]
    return fixed[-1] if fixed else None


def _draw_time(axes: "Axes", result: Result) -> None:
    """Stacked: milliseconds of one step, by what they were spent on."""
    names = [row.name for row in result.rows]
    below = [0.0] * len(names)
    for phase in PHASES:
        heights = [row.milliseconds[phase] for row in result.rows]
        axes.bar(names, heights, bottom=below, color=PHASE_COLOURS[phase], label=PHASE_NAMES[phase], width=0.6)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    title = "Time of a step" + (f", {result.group.name}" if result.group.name else "")
    axes.set(title=title, xlabel="draft tokens a step", ylabel="ms, median")
    axes.legend(frameon=False, reverse=True)
