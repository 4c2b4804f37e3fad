"""`stepahead bench`: what drafting gains on this machine, with this model. A table, or JSON with --json."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.bench_cases import (
    Group,
    TextOptions,
    make_groups,
    make_settings,
    parse_depths,
    parse_rates,
    with_rates,
)
from stepahead.cli.bench_report import Result, as_object, facts, show
from stepahead.cli.bench_rounds import Row, measure
from stepahead.cli.console import Bar
from stepahead.cli.loading import open_llm
from stepahead.cli.plotting import figure
from stepahead.cli.tracing import traced
from stepahead.errors import BackendError, ConfigError
from stepahead.texts import KINDS

if TYPE_CHECKING:
    from stepahead import LLM, SamplingParams

TEXTS_PANEL = "Texts"


def bench(
    model: o.ModelArgument = None,
    prompt: o.PromptOption = None,
    file: o.FileOption = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            "--kinds",
            help=f"Built-in texts, a table for each kind: {', '.join(KINDS)}, or all.",
            rich_help_panel=TEXTS_PANEL,
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            help="A text in the place of what the model would write: what drafting gains on it. '-': standard input.",
            rich_help_panel=TEXTS_PANEL,
            show_default=False,
        ),
    ] = None,
    synth_rates: Annotated[
        str | None,
        typer.Option(
            "--synth-rates",
            help="Force acceptance: shares of drafts right up to each position, such as '.8,.6,.45'.",
            rich_help_panel=TEXTS_PANEL,
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            help="Tokens for each prompt and run. Default: 96; of a recording, all.",
            rich_help_panel=TEXTS_PANEL,
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Rounds over all depths; medians are shown.")] = 5,
    depths: Annotated[
        str | None,
        typer.Option(
            "--depths", help="What to measure beside plain, such as '1,3,auto'. Default: each head, then auto."
        ),
    ] = None,
    temperature: o.TemperatureOption = 0.0,
    seed: o.SeedOption = 0,
    chain: o.ChainOption = "exact",
    trace: o.TraceOption = None,
    mtp: o.MtpOption = "auto",
    kv_type: o.KVTypeOption = "f16",
    threads: o.ThreadsOption = None,
    context_length: o.ContextOption = None,
    device: o.DeviceOption = "auto",
    repack: o.RepackOption = "auto",
    draft_vocab: o.DraftVocabOption = "auto",
    draft_type: o.DraftTypeOption = "file",
    memory_gb: o.MemoryOption = None,
    cpu_experts: o.CpuExpertsOption = "auto",
    gpu_layers: o.GpuLayersOption = None,
    json_output: o.JsonOption = False,
    plot: o.PlotOption = None,
) -> None:
    """Measure decoding without drafts and at each depth: tokens/s, gain, acceptance, where the time goes.

    Depths take turns within each round, ratios are taken within a round, and the text of every run is compared.

    With --replay, and for the kind "edit", a recorded text stands in for the model's choices: acceptance is the
    text's, the time is the engine's. With --synth-rates, acceptance is what you say.

    \b
    Examples:
      stepahead bench
      stepahead bench model.gguf --max-tokens 200 --rounds 9
      stepahead bench model.gguf --depths 1,2 --temperature 0.8 --json
      stepahead bench model.gguf --kinds code,edit,prose,json --plot kinds.svg
      stepahead bench model.gguf --file original.py --replay edited.py
      stepahead bench model.gguf --synth-rates .8,.6,.45
    """
    from stepahead import SamplingParams

    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: give at least 1")
    groups = make_groups(TextOptions(prompt, file, kinds, replay, max_tokens))
    rates = None if synth_rates is None else parse_rates(synth_rates)
    names = None if depths is None else parse_depths(depths)
    picture = None if plot is None else figure(plot)
    params = SamplingParams(temperature=temperature, seed=seed, ignore_eos=True)
    load = o.LoadOptions(
        model, mtp, kv_type, threads, context_length, device, repack, draft_vocab, draft_type, memory_gb, cpu_experts,
        gpu_layers,
    )  # fmt: skip
    with open_llm(load) as llm, traced(llm, trace):
        if rates is not None:
            groups = with_rates(llm, groups, params, rates)
        found = facts(llm, temperature, groups, rounds)
        results = [Result(group, _measure(llm, group, params, names, chain, rounds)) for group in groups]
        if json_output:
            json.dump(as_object(found, results), sys.stdout)
            sys.stdout.write("\n")
        else:
            show(llm, found, results)
    if plot is not None and picture is not None:
        from stepahead.cli.bench_plot import draw
        from stepahead.cli.plotting import save

        draw(picture, found, results)
        save(picture, plot)
    _refuse_changed_texts(results)


def _measure(
    llm: "LLM", group: Group, params: "SamplingParams", names: list[str] | None, chain: o.Chain, rounds: int
) -> list[Row]:
    settings = make_settings(llm, names, chain, with_copies=group.has_recordings)
    with Bar(f"measuring {group.name}".strip()) as bar:
        return measure(llm, group.cases, params, settings, rounds, bar)


def _refuse_changed_texts(results: list[Result]) -> None:
    changed = [
        " ".join((result.group.name, row.name)).strip()
        for result in results
        for row in result.rows
        if not row.is_same_text
    ]
    if changed:
        raise BackendError(
            f"the text at depth {', '.join(changed)} differs from the plain one: this is a bug, report it"
        )
