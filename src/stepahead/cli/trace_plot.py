"""The picture of `trace --plot`: four panels over the steps: depths, worth and price, times, throughput."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepahead.cli.plotting import BLUE, GREEN, GREY, ORANGE, entitle, tidy
from stepahead.cli.trace_figures import SHORTEST_MS, passes_of
from stepahead.engine.trace import StepTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (10.0, 11.0)  # inches
WINDOW = 32  # passes: over so many the observed throughput is taken
SHOWN = 0.98  # of the actual times; a pass that was interrupted must not flatten all others


def draw(figure: "Figure", title: str, steps: Sequence[StepTrace]) -> None:
    """`steps` are at least one."""
    figure.set_size_inches(SIZE)
    entitle(figure, title)
    panels = figure.subplots(4, 1, sharex=True)
    _draw_depths(panels[0], steps)
    _draw_worth(panels[1], steps)
    _draw_times(panels[2], passes_of(steps))
    _draw_throughput(panels[3], steps)
    for axes in panels:
        tidy(axes)
        axes.margins(x=0.01)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("step of the engine")
    figure.align_ylabels()


def _draw_depths(axes: "Axes", steps: Sequence[StepTrace]) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = [step.step for step in steps]
    axes.vlines(numbers, 0, [step.depth for step in steps], color="#cccccc", linewidth=1.2, label="verified")
    verified = [step for step in steps if step.depth > 0]
    shadows = [step for step in steps if step.num_drafted > step.depth]
    if shadows:
        axes.plot(
            [step.step for step in shadows],
            [step.num_drafted for step in shadows],
            "x",
            color=ORANGE,
            markersize=3,
            label="drafted, not all verified",
        )
    if verified:
        accepted = [step.num_accepted for step in verified]
        axes.plot([step.step for step in verified], accepted, ".", color=BLUE, markersize=4, label="accepted")
    axes.set_ylabel("draft tokens")
    axes.set_ylim(bottom=-0.2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Depth", loc="left", fontsize=10)


def _draw_worth(axes: "Axes", steps: Sequence[StepTrace]) -> None:
    """Of the first draft token: what it decides is whether there is anything to verify at all."""
    priced = [step for step in steps if step.probabilities and step.prices]
    groups = (("verified", BLUE, ".", True), ("not verified", ORANGE, "x", False))
    for name, colour, marker, is_verified in groups:
        mine = [step for step in priced if (step.depth > 0) == is_verified]
        if mine:
            numbers, worth = [step.step for step in mine], [step.probabilities[0] for step in mine]
            axes.plot(numbers, worth, marker, color=colour, markersize=4, label=f"acceptance expected, {name}")
    if priced:
        numbers, prices = [step.step for step in priced], [step.prices[0] for step in priced]
        axes.plot(numbers, prices, color=GREY, linewidth=1.0, label="price")
    axes.set_ylabel("tokens")
    axes.set_ylim(0, 1.05)
    axes.set_title("First draft token: worth and price", loc="left", fontsize=10)


def _draw_times(axes: "Axes", passes: Sequence[StepTrace]) -> None:
    numbers = [one.step for one in passes]
    actual = [one.actual_ms + one.actual_draft_ms for one in passes]
    predicted = [(one.step, one.predicted_ms + one.predicted_draft_ms) for one in passes if one.predicted_ms > 0]
    axes.plot(numbers, actual, ".", color=GREY, markersize=4, label="actual, with drafting")
    if predicted:
        axes.plot(*zip(*predicted, strict=True), color=BLUE, linewidth=1.0, label="predicted")
    top = max([sorted(actual)[int(SHOWN * (len(actual) - 1))], *(value for _, value in predicted)])
    if top > SHORTEST_MS:
        axes.set_ylim(0, 1.15 * top)
    hidden = sum(value > 1.15 * top for value in actual)
    above = f" ({hidden} above the panel)" if hidden else ""
    axes.set_ylabel("ms a pass")
    axes.set_title(f"Time{above}", loc="left", fontsize=10)


def _draw_throughput(axes: "Axes", steps: Sequence[StepTrace]) -> None:
    axes.plot(
        [step.step for step in steps],
        [1e3 * step.throughput for step in steps],
        color=GREEN,
        linewidth=1.0,
        label="drafts were priced with",
    )
    observed = _observed(steps)
    if observed:
        axes.plot(*zip(*observed, strict=True), color=GREY, linewidth=1.0, label=f"observed, {WINDOW} passes")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.set_title("Throughput", loc="left", fontsize=10)


def _observed(steps: Sequence[StepTrace]) -> list[tuple[int, float]]:
    """(step, tokens a second) over stretches of WINDOW passes, at their ends."""
    tokens: dict[int, int] = {}
    for step in steps:
        tokens[step.step] = tokens.get(step.step, 0) + step.num_accepted + 1
    passes, points = passes_of(steps), []
    for end in range(WINDOW, len(passes) + 1):
        stretch = passes[end - WINDOW : end]
        milliseconds = sum(one.actual_ms + one.actual_draft_ms for one in stretch)
        if milliseconds > SHORTEST_MS:
            points.append((stretch[-1].step, 1e3 * sum(tokens[one.step] for one in stretch) / milliseconds))
    return points
