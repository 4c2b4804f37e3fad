"""`stepahead doctor`: what is wrong with a file, what drafting gains with it here, why, and what could be better."""

import dataclasses
import json
import sys
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepahead import __version__
from stepahead.cli import options as o
from stepahead.cli.console import Bar, stdout, visible
from stepahead.cli.file_report import report_file
from stepahead.cli.loading import open_llm, size
from stepahead.cli.report import percentages, table_of
from stepahead.errors import ConfigError, StepaheadError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stepahead import LLM
    from stepahead.cli.file_report import FileReport
    from stepahead.diagnosis.diagnosis import Diagnosis

FILE_PANEL = "File"
MAX_SECONDS = 3600.0
MIN_SECONDS = 1.0


def doctor(
    model: o.ModelArgument = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="About how long to measure; a slow model shows fewer kinds of text.")
    ] = 20.0,
    mtp: o.MtpOption = "auto",
    kv_type: o.KVTypeOption = "f16",
    threads: o.ThreadsOption = None,
    device: o.DeviceOption = "auto",
    repack: o.RepackOption = "auto",
    draft_vocab: o.DraftVocabOption = "auto",
    draft_type: o.DraftTypeOption = "file",
    cpu_experts: o.CpuExpertsOption = "auto",
    gpu_layers: o.GpuLayersOption = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Try the heads under every contract a converter may have got wrong. Default: if the file is small.",
            rich_help_panel=FILE_PANEL,
            show_default=False,
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            help="Write the repaired file here, and measure no speed.",
            rich_help_panel=FILE_PANEL,
            show_default=False,
        ),
    ] = None,
    json_output: o.JsonOption = False,
) -> None:
    """Say what is wrong with a file, what drafting gains with it on this machine, and what could be better.

    Looks for heads that are missing, empty or wrongly converted. Measures memory, passes of 1 to 16 rows, the heads
    and built-in texts of six kinds. The costs are kept: later starts price their drafts with them.

    \b
    Examples:
      stepahead doctor
      stepahead doctor model.gguf --seconds 60
      stepahead doctor trunk.gguf --mtp heads.gguf --json
      stepahead doctor model.gguf --measure --fix repaired.gguf
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ConfigError(f"--seconds {seconds:g} is out of range: give {MIN_SECONDS:g} to {MAX_SECONDS:g}")
    # The texts that are measured are short: their contexts never fill.
    of_weights = device, repack, draft_vocab, draft_type, inf, cpu_experts, gpu_layers
    load = o.LoadOptions(model, mtp, kv_type, threads, None, *of_weights)
    report = report_file(load, measure, seconds, fix)
    if fix is not None:
        _show_fixed(report, fix, json_output)
        if report.refusal is not None:
            raise report.refusal
        return
    with _opened(load, report, json_output) as llm:
        from stepahead.diagnosis.advice import advise, auto_plan
        from stepahead.diagnosis.diagnosis import diagnose

        with Bar("measuring") as bar:
            diagnosis = diagnose(llm, seconds, bar)
        plan, advice = auto_plan(diagnosis), advise(diagnosis, llm.backend)
    if json_output:
        json.dump({**_object(diagnosis, plan, advice), **report.as_object()}, sys.stdout)
        sys.stdout.write("\n")
    else:
        report.show(with_contracts=bool(measure))
        _show(diagnosis, plan, advice)


def _opened(load: o.LoadOptions, report: "FileReport", json_output: bool) -> "LLM":
    """Where the model cannot be loaded, what is wrong with its file is worth all the more."""
    try:
        return open_llm(load)
    except StepaheadError:
        if not json_output:
            report.show(with_contracts=True)
        raise


def _show_fixed(report: "FileReport", out: Path, json_output: bool) -> None:
    if json_output:
        json.dump({"version": __version__, **report.as_object()}, sys.stdout)
        sys.stdout.write("\n")
        return
    report.show(with_contracts=True)
    stdout().print(visible(f"nothing to repair: {out} is not written" if report.fixed is None else f"written: {out}"))
    for path in report.left_over:
        stdout().print(visible(f"{path} was left by a run that was killed: delete it, unless one is still running"))


def _object(diagnosis: "Diagnosis", plan: tuple[str, ...], advice: tuple[str, ...]) -> dict[str, Any]:
    return {
        "version": __version__,
        **dataclasses.asdict(diagnosis),
        "heads_verdict": diagnosis.info.heads_verdict,
        "bytes_per_token": diagnosis.info.bytes_per_token,
        "auto": plan,
        "advice": advice,
    }


def _show(diagnosis: "Diagnosis", plan: tuple[str, ...], advice: tuple[str, ...]) -> None:
    from rich.table import Table

    console = stdout()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, value in _facts(diagnosis):
        grid.add_row(name, visible(value))
    console.print(grid)
    console.print()
    console.print(_cost_table(diagnosis))
    if any(report.overlap for report in diagnosis.texts):
        console.print(_overlap_table(diagnosis))
    if diagnosis.num_heads_usable:
        console.print(_text_table(diagnosis))
    if diagnosis.skipped_kinds:
        console.print(f"no time for {', '.join(diagnosis.skipped_kinds)}: give more --seconds", style="dim")
        console.print()
    _show_lines(console, "what auto will do", plan)
    _show_lines(console, "advice", advice or ("nothing: all is as it should be",))


def _show_lines(console: "Console", title: str, lines: tuple[str, ...]) -> None:
    console.print(title, style="bold")
    for line in lines:
        console.print(visible(f"  {line}"))


def _facts(diagnosis: "Diagnosis") -> list[tuple[str, str]]:
    machine, info, cost = diagnosis.machine, diagnosis.info, diagnosis.cost
    isa = f"{machine.backend} {machine.isa}".strip()
    rate = 1e3 * info.bytes_per_token / cost.pass_ms[0]
    outputs = f", {info.num_head_outputs} with an output matrix of their own" if info.num_heads_found else ""
    return [
        ("machine", f"{machine.cpu}, {machine.system}"),
        ("device", f"{machine.device}, {isa}")
        if machine.device
        else ("threads", f"{machine.threads} on {machine.cores} cores, {isa}"),
        *(
            [("memory", f"{machine.bytes_per_second / 1e9:.1f} GB/s read by these threads")]
            if machine.bytes_per_second is not None
            else []
        ),
        ("model", f"{info.name}, {size(info.nbytes)}, {size(info.bytes_per_token)} a token"),
        ("MTP heads", f"{info.num_heads_found} found, {diagnosis.num_heads_usable} usable{outputs}"),
        ("", info.heads_verdict),
        *(("weights", repacked) for repacked in diagnosis.repacked),
        ("plain step", f"{cost.pass_ms[0]:.2f} ms, {rate / 1e9:.1f} GB/s; {_around(diagnosis)}"),
        ("prompt", f"{diagnosis.prompt_tokens_per_second:.0f} tokens/s"),
    ]


def _around(diagnosis: "Diagnosis") -> str:
    overhead = diagnosis.overhead
    drafts = f", {overhead.draft_ms:.2f} ms of a draft token" if diagnosis.num_heads_usable else ""
    return f"beyond passes: {overhead.step_ms:.2f} ms of a step{drafts}"


def _cost_table(diagnosis: "Diagnosis") -> "Table":
    cost = diagnosis.cost
    plain = cost.pass_ms[0]
    table = table_of("pass", "ms", "÷ plain step")
    for rows, milliseconds in zip(cost.rows, cost.pass_ms, strict=True):
        table.add_row("1 row" if rows == 1 else f"{rows} rows", f"{milliseconds:.2f}", f"{milliseconds / plain:.2f}")
    for number, milliseconds in enumerate(cost.head_ms, 1):
        table.add_row(f"head {number}", f"{milliseconds:.2f}", f"{milliseconds / plain:.2f}")
    if cost.head_ms:
        table.add_row("a head's further row", f"{cost.head_row_ms:.3f}", f"{cost.head_row_ms / plain:.3f}")
    return table


def _overlap_table(diagnosis: "Diagnosis") -> "Table":
    """Experts that rows touch, as a multiple of one row's."""
    info = diagnosis.info
    counts = next(list(report.overlap) for report in diagnosis.texts if report.overlap)
    table = table_of("experts touched by rows", *map(str, counts))
    for report in diagnosis.texts:
        if report.overlap:
            table.add_row(report.kind, *(f"{report.overlap[count]:.2f}" for count in counts))
    missed = 1.0 - info.num_experts_used / info.num_experts
    independent = [(1.0 - missed**count) * info.num_experts / info.num_experts_used for count in counts]
    table.add_row("if rows had nothing in common", *(f"{ratio:.2f}" for ratio in independent))
    return table


def _text_table(diagnosis: "Diagnosis") -> "Table":
    depths = max((len(report.expectations) for report in diagnosis.texts), default=0)
    table = table_of("text", "tokens", "accepted", *(f"depth {depth}" for depth in range(1, depths + 1)))
    for report in diagnosis.texts:
        gains = [f"{one.gain:.2f}x" for one in report.expectations]
        table.add_row(report.kind, str(report.num_tokens), percentages(list(report.acceptance)), *gains)
    return table
