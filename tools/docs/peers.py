"""Puts the comparisons in benchmarks/results/ into the README and docs/performance.md.

    python tools/docs/peers.py

The results are what `python -m benchmarks.peers --json` and `python -m benchmarks.peers.matrices --json` wrote.
Measures nothing; a test holds that the pages say what the files say.
"""

import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks is no package that is installed

from benchmarks.peers.plot import draw  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "peers-mid.svg"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- {}: made by tools/docs/peers.py -->\n", "<!-- /{} -->\n"

MODELS = ("demo", "small", "mid", "mid288")
SHORT = (
    "decode", "prompt-512", "verify-1", "verify-2", "verify-4", "verify-8", "cycle-1-kept-0", "cycle-3-kept-3",
    "first_token",
)  # fmt: skip
OURS, THEIRS = ("plain", "interleaved"), ("ggml", "ggml repacked")
ROWS = (1, 2, 4, 5, 8, 16)  # of the matrices' table


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def results() -> dict[str, dict[str, Any]]:
    """By model, those that are there."""
    paths = {name: RESULTS / f"peers-{name}.json" for name in MODELS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def comparison(found: dict[str, dict[str, Any]], keys: Iterable[str] | None) -> list[str]:
    """A line a figure, a column a model: times as fast, and ours beside theirs. keys: which, None for all."""
    figures = {name: {figure["key"]: figure for figure in result["figures"]} for name, result in found.items()}
    compared = {key: f for by_key in figures.values() for key, f in by_key.items() if f["times_as_fast"]}
    chosen = [key for key in compared if keys is None or key in keys]
    head = ["", *(f"{name}, {found[name]['model_bytes'] / 1e9:.3g} GB" for name in found)]
    lines = []
    for key in chosen:
        cells = [_compared(figures[name].get(key), next(iter(found[name]["sides"]))) for name in found]
        lines.append([f"{compared[key]['label']}, {compared[key]['unit']}", *cells])
    return markdown(head, lines)


def _compared(figure: dict[str, Any] | None, ours: str) -> str:
    if figure is None or figure["times_as_fast"] is None:
        return "–"
    values = [number(figure["sides"][side]["median"]) for side in (ours, figure["peer"])]
    return f"**{figure['times_as_fast']['median']:.2f}x** ({values[0]} / {values[1]})"


def provenance(found: dict[str, dict[str, Any]]) -> str:
    first = next(iter(found.values()))
    commits = ", ".join(sorted({result["commit"] for result in found.values()}))
    isa = first["sides"]["stepahead"]["isa"]
    bandwidth = statistics.median(result["bandwidth_bytes_per_second"] for result in found.values())
    return (
        f"{first['machine']}, {first['threads']} threads ({isa}), {bandwidth / 1e9:.0f} GB/s of memory; stepahead "
        f"{first['version']} ({commits}) beside {first['peer']}, {first['date'][:10]}."
    )


def matrices() -> list[str]:
    """A line a type: our own cost of more rows, and times as fast as ggml."""
    cells = json.loads((RESULTS / "matrices.json").read_text(encoding="utf-8"))
    by_type: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cells:
        by_type.setdefault(cell["type"], {})[cell["rows"]] = cell
    head = ["type", "1 row, ms", "of bandwidth", *(f"{n} rows / 1" for n in ROWS[1:]),
            *(f"{n} rows, times as fast" for n in ROWS)]  # fmt: skip
    return markdown(head, (_matrix_line(name, rows) for name, rows in by_type.items()))


def _matrix_line(name: str, rows: dict[int, dict[str, Any]]) -> list[str]:
    one = _median(rows[1], _best(rows[1], OURS))
    floor = rows[1]["nbytes"] / rows[1]["bandwidth"]
    costs = [f"{_median(rows[n], _best(rows[n], OURS)) / one:.2f}" for n in ROWS[1:]]
    return [name, f"{1e3 * one:.2f}", f"{floor / one:.2f}", *costs, *(_times_as_fast(rows[n]) for n in ROWS)]


def _times_as_fast(cell: dict[str, Any]) -> str:
    ours, theirs = _best(cell, OURS), _best(cell, THEIRS)
    pairs = zip(cell["seconds"][theirs], cell["seconds"][ours], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


def _best(cell: dict[str, Any], sides: tuple[str, ...]) -> str:
    return min((side for side in sides if side in cell["seconds"]), key=lambda side: _median(cell, side))


def _median(cell: dict[str, Any], side: str) -> float:
    return statistics.median(cell["seconds"][side])


def short(found: dict[str, dict[str, Any]]) -> str:
    """The README's section."""
    lines = [*comparison(found, SHORT), "", f"Times as fast, and ours beside theirs. {provenance(found)}"]
    return "\n".join(lines) + "\n"


def whole(found: dict[str, dict[str, Any]]) -> str:
    """The page's section."""
    return "\n".join([provenance(found), "", *comparison(found, None), "", *memory(found)]) + "\n"


def memory(found: dict[str, dict[str, Any]]) -> list[str]:
    """Megabytes of a process of its own, and of file pages that it may share."""
    lines = [
        [name, side, *(number(kinds["plain"][part] / 1e6) for part in ("anonymous", "file"))]
        for name, result in found.items()
        for side, kinds in result["memory"].items()
    ]
    return markdown(["model", "", "own memory, MB", "file pages, MB"], lines)


def put(text: str, name: str, section: str) -> str:
    """A page's text with its section `name` made anew."""
    begin, end = BEGIN.format(name), END.format(name)
    head, marker, rest = text.partition(begin)
    assert marker, f"no section {name}"
    return head + begin + section + end + rest.partition(end)[2]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A figure of a result file, as the picture takes it."""

    figure: dict[str, Any]
    ours: str

    @property
    def measure(self) -> SimpleNamespace:
        return SimpleNamespace(label=self.figure["label"], unit=self.figure["unit"])

    @property
    def peer(self) -> str | None:
        return self.figure["peer"]

    @property
    def times_as_fast(self) -> SimpleNamespace | None:
        ratio = self.figure["times_as_fast"]
        return SimpleNamespace(**ratio) if ratio else None

    def spread(self, side: str) -> SimpleNamespace:
        return SimpleNamespace(median=self.figure["sides"][side]["median"])


def picture(result: dict[str, Any]) -> str:
    ours = next(iter(result["sides"]))
    return draw(result, [Recorded(figure, ours) for figure in result["figures"]])


def pages() -> dict[Path, str]:
    """What the pages should say."""
    found = results()
    page = put(PAGE.read_text(encoding="utf-8"), "models", whole(found))
    return {
        README: put(README.read_text(encoding="utf-8"), "peers", short(found)),
        PAGE: put(page, "matrices", "\n".join(matrices()) + "\n"),
        PICTURE: picture(found["mid"]),
    }


def main() -> None:
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
