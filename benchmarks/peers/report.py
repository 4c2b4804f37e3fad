"""What is said about a comparison: the table for people, the object for programs. Measures nothing."""

import dataclasses
import statistics
from typing import Any

from benchmarks.peers.measure import Figure, Results, Spread

NOTHING = "–"
BUSY_CPUS = 0.05  # of others, on average: threads that meet at barriers wait for the slowest
BUSY_LOAD = 0.5  # runnable tasks, before anything of ours runs
DOUBTFUL_AGREEMENT = 0.8
"""Below this the two sides hardly compute the same model. Random weights have near ties, and both sides round
activations to int8, each in its own way: a few choices always differ."""


def as_object(facts: dict[str, Any], results: Results) -> dict[str, Any]:
    """Everything, samples included. Names are stable."""
    return {
        **facts,
        "bandwidth_bytes_per_second": statistics.median(results.bandwidth) if results.bandwidth else None,
        "sides": results.facts,
        "cpus_of_others": results.others,
        "agreement": results.agreement and dataclasses.asdict(results.agreement),
        "memory": {
            side: {kind: dataclasses.asdict(m) for kind, m in kinds.items()} for side, kinds in results.memory.items()
        },
        "figures": [_figure_object(figure) for figure in results.figures],
    }


def _figure_object(figure: Figure) -> dict[str, Any]:
    ratio = figure.times_as_fast
    return {
        "key": figure.measure.key,
        "label": figure.measure.label.strip(),
        "unit": figure.measure.unit,
        "floor_bytes": figure.measure.floor_bytes,
        "floor": figure.floor,
        "peer": figure.peer,
        "times_as_fast": ratio and dataclasses.asdict(ratio),
        "bandwidth_bytes_per_second": figure.bandwidth,
        "sides": {
            side: {
                **dataclasses.asdict(figure.spread(side)),
                "times_floor": figure.times_floor(side),
                "seconds_by_round": seconds,
            }
            for side, seconds in figure.samples.items()
        },
    }


def as_text(facts: dict[str, Any], results: Results) -> str:
    """The whole report, in lines."""
    return "\n".join([*_head(facts, results), "", *_table(results), "", *_memory(results), *_notes(results)])


def doubtful_peers(results: Results) -> list[str]:
    """Those whose answers are not ours."""
    shares = results.agreement.shares if results.agreement is not None else {}
    return [name for name, share in shares.items() if share < DOUBTFUL_AGREEMENT]


def _head(facts: dict[str, Any], results: Results) -> list[str]:
    lines = [
        f"{facts['model']}, {facts['model_bytes'] / 1e9:.2f} GB; {facts['threads']} threads, {facts['rounds']} rounds, "
        f"prefix {facts['prefix']}",
        f"{facts['machine']}, stepahead {facts['version']} ({facts['commit']}), {facts['date']}",
    ]
    lines += [
        f"{side}: {', '.join(f'{key} {value}' for key, value in said.items())}" for side, said in results.facts.items()
    ]
    if facts["load_average"] > BUSY_LOAD:
        lines.append(f"load average {facts['load_average']:.1f} before the first figure: NOT A QUIET MACHINE")
    shares = ", ".join(f"{share:.2f} ({side})" for side, share in results.others.items())
    doubt = ": NOT A QUIET MACHINE" if max(results.others.values(), default=0.0) > BUSY_CPUS else ""
    lines.append(f"CPUs that other processes used meanwhile: {shares or NOTHING}{doubt}")
    if results.bandwidth:
        lines.append(f"reading memory with the same threads: {statistics.median(results.bandwidth) / 1e9:.1f} GB/s")
    agreement = results.agreement
    if agreement is not None:
        lines.append(f"logits hash {agreement.logits_hash}, ours, of {agreement.num_tokens} tokens")
        doubtful = doubtful_peers(results)
        for name, share in agreement.shares.items():
            doubt = "  DOUBTFUL: the sides do not compute the same" if name in doubtful else ""
            lines.append(f"same greedy choice as {name}: {100 * share:.0f} %{doubt}")
    return lines


def _table(results: Results) -> list[str]:
    """Of llama.cpp, the better setting of each figure; the other one's samples are in the JSON."""
    if not results.figures:
        return []
    has_peer = results.figures[0].peer is not None
    head = ["", "unit", results.figures[0].ours, "spread", "x floor"]
    rows = [[*head, *(["llama.cpp", "spread", "x floor", "setting"] if has_peer else []), "floor"]]
    if has_peer:
        rows[0] += ["faster by", "spread"]
    for figure in results.figures:
        cells = [figure.measure.label, figure.measure.unit, *_side_cells(figure, figure.ours)]
        if figure.peer is not None:
            cells += [*_side_cells(figure, figure.peer), figure.peer.removeprefix("llama.cpp ")]
        cells.append(NOTHING if figure.floor is None else number(figure.floor))
        if has_peer:
            cells += _ratio_cells(figure.times_as_fast)
        rows.append(cells)
    return align(rows)


def _side_cells(figure: Figure, side: str) -> list[str]:
    spread, distance = figure.spread(side), figure.times_floor(side)
    return [number(spread.median), _range(spread), NOTHING if distance is None else f"{distance:.2f}"]


def _ratio_cells(ratio: Spread | None) -> list[str]:
    return [NOTHING, ""] if ratio is None else [f"{ratio.median:.2f}x", f"{ratio.low:.2f}–{ratio.high:.2f}"]


def _memory(results: Results) -> list[str]:
    rows = [["memory, MB", "peak resident", "anonymous", "file pages"]]
    for side, kinds in results.memory.items():
        for kind, memory in kinds.items():
            if memory.peak:
                values = (memory.peak, memory.anonymous, memory.file)
                rows.append([f"{side}, {kind}", *(f"{value / 1e6:,.0f}" for value in values)])
    return align(rows) if len(rows) > 1 else ["memory: this system does not say"]


def _notes(results: Results) -> list[str]:
    lines = ["", "x floor: times the time that reading the bytes takes; below 1, caches held some of them."]
    if any(figure.measure.key.startswith("prompt") for figure in results.figures):
        lines.append("A prompt is bound by arithmetic: its floor says how far from memory it is, not how good.")
    if any(figure.peer for figure in results.figures):
        lines.append(
            "faster by: ours over llama.cpp in its better setting (repacked, or the file's layout), within each round."
        )
    if any(figure.measure.uses_heads for figure in results.figures):
        lines.append(
            "Our heads catch up inside the draft passes; llama.cpp's run all rows again after each verify pass."
        )
    return lines


def number(value: float) -> str:
    """Three digits or so."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _range(spread: Spread) -> str:
    return f"{number(spread.low)}–{number(spread.high)}"


def align(rows: list[list[str]]) -> list[str]:
    """The first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
