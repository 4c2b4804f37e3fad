"""The command: python -m benchmarks.edits. Finds files, edits them, replays the edits, reports."""

import argparse
import json
import statistics
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.edits.changes import Edit, excerpts, make_edits
from stepahead import LLM, SamplingParams, __version__
from stepahead.cli.bench_cases import make_settings
from stepahead.cli.bench_rounds import AUTO, Case, Row, measure
from stepahead.errors import ConfigError, StepaheadError
from stepahead.machine import cpu_name, system_name

MODULES = ("bisect", "colorsys", "fnmatch", "sched", "linecache", "reprlib", "queue", "textwrap", "shlex", "string")
LEAST, MOST = 1800, 6000  # characters of a file
TARGET = 2.0  # auto to plain, in the median

DESCRIPTION = """\
Replay edits of standard-library files as if the model made them: the file stands in the prompt, the edited file is what
the target chooses. The time is the engine's, what is accepted is the text's. Settings take turns within each round,
ratios are taken within a round, and medians are shown."""


@dataclass(frozen=True, slots=True)
class Task:
    """One file, one edit."""

    file: str
    edit: Edit
    case: Case


def main(arguments: list[str] | None = None) -> int:
    try:
        _run(_parse(arguments))
    except StepaheadError as error:
        sys.stderr.write(f"edits: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=DESCRIPTION)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the demo model")
    parser.add_argument("--threads", type=int, help="default: the cores")
    parser.add_argument("--files", type=int, default=5, help="how many files; default: 5")
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more warms up; default: 3")
    parser.add_argument("--max-tokens", type=int, help="of each edited file; default: all")
    parser.add_argument("--depths", help="settings beside plain, such as '1 copy auto'; default: all")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    for name in ("files", "rounds"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: give at least 1")
    if options.json is not None and not options.json.parent.is_dir():
        raise ConfigError(f"{options.json}: no such folder {options.json.parent}; create it first")
    params = SamplingParams(seed=0)
    names = None if options.depths is None else options.depths.split()
    with (LLM.demo if options.model is None else lambda **load: LLM(options.model, **load))(
        threads=options.threads, max_num_seqs=1
    ) as llm:
        tasks = find_tasks(llm, options.files, options.max_tokens)
        settings = make_settings(llm, names, "exact", with_copies=True)
        found: list[tuple[Task, list[Row]]] = []
        for task in tasks:
            rows = measure(llm, [task.case], params, settings, options.rounds, _quiet)
            found.append((task, rows))
            _say(f"{len(found)} of {len(tasks)} edits")
        facts = {
            "version": __version__,
            "machine": f"{cpu_name()}, {system_name()}",
            "python": sys.version.split()[0],
            "model": llm.info.name,
            "isa": str(llm.backend.describe().get("isa", llm.backend.name)),
            "threads": llm.config.threads,
            "rounds": options.rounds,
        }
    _say("")
    report = as_object(facts, found)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(as_text(report) + "\n")


def find_tasks(llm: LLM, num_files: int, max_tokens: int | None) -> list[Task]:
    """Every edit of the first files of which one beginning and its edits fit the context."""
    tasks: list[Task] = []
    folder = Path(sysconfig.get_path("stdlib"))
    for path in (folder / f"{module}.py" for module in MODULES):
        fitting = _tasks_of(llm, path, max_tokens) if path.is_file() else []
        tasks += fitting
        num_files -= bool(fitting)
        if num_files == 0:
            return tasks
    if not tasks:
        raise ConfigError(f"no file of {folder} fits a context of {llm.config.context_length}: load a larger model")
    return tasks


def _tasks_of(llm: LLM, path: Path, max_tokens: int | None) -> list[Task]:
    for text in excerpts(path.read_text(encoding="utf-8"), MOST, LEAST):
        edits = make_edits(text)
        tasks = [Task(path.name, edit, _case(path.name, text, edit, max_tokens)) for edit in edits]
        if len(edits) == 3 and all(_fits(llm, task.case) for task in tasks):
            return tasks
    return []


def _case(name: str, text: str, edit: Edit, max_tokens: int | None) -> Case:
    prompt = f"This is the file {name}:\n\n```python\n{text}```\n\n{edit.instruction}\n\n```python\n"
    return Case(prompt, max_tokens, edit.edited + "```\n")


def _fits(llm: LLM, case: Case) -> bool:
    assert isinstance(case.recording, str)
    num_recorded = len(llm.tokenizer.encode(case.recording, add_bos=False))
    return len(llm.tokenize(case.prompt)) + num_recorded <= llm.config.context_length


def as_object(facts: dict[str, Any], found: list[tuple[Task, list[Row]]]) -> dict[str, Any]:
    names = [row.name for row in found[0][1]]
    ratios = {name: [_row(rows, name).ratio_to_plain for _, rows in found] for name in names}
    return {
        **facts,
        "median_ratio_to_plain": {name: statistics.median(values) for name, values in ratios.items()},
        "edits": [
            {
                "file": task.file,
                "edit": task.edit.kind,
                "num_characters": len(task.edit.edited),
                "rows": [asdict(row) for row in rows],
            }
            for task, rows in found
        ],
    }


def _row(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def as_text(report: dict[str, Any]) -> str:
    names = list(report["median_ratio_to_plain"])
    lines = [
        f"{report['model']} on {report['machine']}, {report['threads']} threads ({report['isa']}), stepahead "
        f"{report['version']}; files of Python {report['python']}; {report['rounds']} rounds; gain over plain",
        f"{'file':<14}{'edit':<10}{'tokens':>7}{'plain/s':>9}" + "".join(f"{name:>8}" for name in names[1:]),
    ]
    for edit in report["edits"]:
        plain, *others = edit["rows"]
        gains = "".join(f"{row['ratio_to_plain']:>7.2f}x" for row in others)
        same = "" if all(row["is_same_text"] for row in others) else "  TEXTS DIFFER"
        lines.append(
            f"{edit['file']:<14}{edit['edit']:<10}{plain['num_tokens']:>7}{plain['tokens_per_second']:>9.1f}"
            f"{gains}{same}"
        )
    medians = report["median_ratio_to_plain"]
    lines.append(f"{'median':<40}" + "".join(f"{medians[name]:>7.2f}x" for name in names[1:]))
    if AUTO in medians:
        verdict = "reached" if medians[AUTO] >= TARGET else "missed"
        lines.append(f"auto is to reach {TARGET:.1f}x of plain: {verdict}")
    return "\n".join(lines)


def _quiet(done: int, total: int) -> None:
    pass


def _say(text: str) -> None:
    """Progress, over itself on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
