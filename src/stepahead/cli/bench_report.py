"""What `bench` says about its measurements: tables for people, one object for programs."""

import dataclasses
import hashlib
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepahead import __version__
from stepahead.cli.bench_cases import Group
from stepahead.cli.bench_rounds import AUTO, PLAIN, Row, choice
from stepahead.cli.console import stdout, visible
from stepahead.cli.loading import isa, summary
from stepahead.cli.report import percentages, table_of
from stepahead.machine import cpu_name, system_name

if TYPE_CHECKING:
    from rich.table import Table

    from stepahead import LLM

HASHED_TOKENS = 64
SHOWN_POSITIONS = 4  # of acceptance in a table: copies are longer


@dataclass(frozen=True, slots=True)
class Result:
    """A group and its rows."""

    group: Group
    rows: list[Row]


def facts(llm: "LLM", temperature: float, groups: Seq[Group], rounds: int) -> dict[str, Any]:
    """What a figure is nothing without. max_tokens: of each text; None: of some as many as their recordings have."""
    config = llm.config
    cases = [case for group in groups for case in group.cases]
    lengths = {case.max_tokens for case in cases}
    return {
        "version": __version__,
        "machine": f"{cpu_name()}, {system_name()}",
        "model": llm.info.name,
        "arch": llm.info.arch,
        "model_bytes": llm.info.nbytes,
        "bytes_per_token": llm.info.bytes_per_token,
        "backend": llm.backend.name,
        "device": str(llm.backend.describe().get("device", "")),
        "isa": isa(llm),
        "threads": config.threads,
        "repacked": [repacked.describe() for repacked in llm.repacked],
        "kv_type": config.kv_type,
        "temperature": temperature,
        "num_prompts": len(cases),
        "max_tokens": lengths.pop() if len(lengths) == 1 else None,
        "rates": cases[0].rates,
        "rounds": rounds,
        "logits_hash": _logits_hash(llm, cases[0].prompt),
    }


def as_object(found: dict[str, Any], results: list[Result]) -> dict[str, Any]:
    """The object of --json. Names are stable: "rows" of the only group, or "kinds", each with its own."""
    found = {**found, "plain_gb_per_second": _bandwidth(found, results)}
    if not results[0].group.name:
        return {**found, **_measured(results[0])}
    return {
        **found,
        "kinds": {
            result.group.name: {"num_prompts": len(result.group.cases), **_measured(result)} for result in results
        },
    }


def _measured(result: Result) -> dict[str, Any]:
    chosen = choice(result.rows)
    return {
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "best_fixed": None if chosen is None else chosen.best_fixed,
        "auto_to_best_fixed": None if chosen is None else chosen.ratio,
    }


def show(llm: "LLM", found: dict[str, Any], results: list[Result]) -> None:
    """The tables, on stdout."""
    console = stdout()
    console.print(summary(llm))
    console.print(visible(f"{found['machine']}, stepahead {found['version']}, isa {found['isa']}"))
    console.print(
        f"{found['rounds']} rounds of {_texts(found)}, temperature {found['temperature']:g}; "
        f"logits hash {found['logits_hash']}; plain reads {_bandwidth(found, results):.1f} GB/s"
    )
    for result in results:
        if result.group.name:
            console.print(f"\n{result.group.name}: {len(result.group.cases)} texts, {result.rows[0].num_tokens} tokens")
        console.print(_rows_table(result.rows))
    if results[0].group.name:
        console.print(_kinds_table(results))
    else:
        chosen = choice(results[0].rows)
        if chosen is not None:
            console.print(f"auto is {chosen.ratio:.2f}x of the best fixed depth, {chosen.best_fixed}")


def _texts(found: dict[str, Any]) -> str:
    length = "" if found["max_tokens"] is None else f" and {found['max_tokens']} tokens"
    forced = "" if found["rates"] is None else f", acceptance forced to {percentages(list(found['rates']))}"
    return f"{found['num_prompts']} prompts{length}{forced}"


def _rows_table(rows: list[Row]) -> "Table":
    table = table_of("depth", "tokens/s", "gain", "tok/step", "accepted", "trunk", "verify", "draft ms", "same")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.tokens_per_second:.1f}",
            f"{row.ratio_to_plain:.2f}x",
            f"{row.tokens_per_step:.2f}",
            _accepted(row),
            *(f"{row.milliseconds[phase]:.2f}" for phase in ("forward", "verify", "propose")),
            "yes" if row.is_same_text else "NO",
        )
    return table


def _accepted(row: Row) -> str:
    shown = percentages(row.acceptance[:SHOWN_POSITIONS])
    return shown.replace(" %", " … %") if len(row.acceptance) > SHOWN_POSITIONS else shown


def _kinds_table(results: list[Result]) -> "Table":
    """One line a kind: what drafting gains there, and how well its depth was chosen."""
    table = table_of("kind", "plain", "best fixed", "auto", "auto / plain", "auto / best")
    for result in results:
        rows = {row.name: row for row in result.rows}
        plain, chosen = rows[PLAIN], choice(result.rows)
        best = max(result.rows, key=lambda row: row.tokens_per_second) if chosen is None else rows[chosen.best_fixed]
        table.add_row(
            result.group.name,
            f"{plain.tokens_per_second:.1f}",
            f"{best.tokens_per_second:.1f} ({best.name})",
            f"{rows[AUTO].tokens_per_second:.1f}" if chosen else "–",
            f"{rows[AUTO].ratio_to_plain:.2f}x" if chosen else "–",
            f"{chosen.ratio:.2f}x" if chosen else "–",
        )
    return table


def _logits_hash(llm: "LLM", prompt: str) -> str:
    """Names the numbers: equal on machines and settings that give equal bits."""
    import numpy as np

    logits = llm.logits(llm.tokenize(prompt)[:HASHED_TOKENS])
    return hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").tobytes()).hexdigest()[:16]


def _bandwidth(found: dict[str, Any], results: list[Result]) -> float:
    """GB/s of the plain runs; of several groups, the first."""
    return float(found["bytes_per_token"]) / (results[0].rows[0].milliseconds["forward"] * 1e6)
