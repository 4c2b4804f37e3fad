"""`stepahead run`: continue one prompt."""

import json
import sys
from typing import TYPE_CHECKING

import typer

from stepahead.cli import options as o
from stepahead.cli.console import prompt_bar, stderr
from stepahead.cli.loading import introduce, open_llm
from stepahead.cli.prompt import read_prompt
from stepahead.cli.report import completion_object, stats_lines
from stepahead.cli.token_printer import TokenPrinter
from stepahead.cli.tracing import traced

if TYPE_CHECKING:
    from stepahead import LLM, SamplingParams, Speculation, StreamChunk

MAX_TOKENS = 128


def run(
    context: typer.Context,
    model: o.ModelArgument = None,
    prompt: o.PromptOption = None,
    file: o.FileOption = None,
    max_tokens: o.MaxTokensOption = MAX_TOKENS,
    temperature: o.TemperatureOption = 0.0,
    top_k: o.TopKOption = 0,
    top_p: o.TopPOption = 1.0,
    min_p: o.MinPOption = 0.0,
    repetition_penalty: o.RepetitionOption = 1.0,
    presence_penalty: o.PresenceOption = 0.0,
    frequency_penalty: o.FrequencyOption = 0.0,
    seed: o.SeedOption = None,
    stop: o.StopOption = None,
    stop_token_id: o.StopIdOption = None,
    ignore_eos: o.IgnoreEosOption = False,
    speculation: o.SpeculationOption = None,
    depth: o.DepthOption = None,
    max_depth: o.MaxDepthOption = None,
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
    svg: o.SvgOption = None,
) -> None:
    """Continue a prompt. Draft tokens that were accepted are green in a terminal.

    \b
    Examples:
      stepahead run
      stepahead run model.gguf -p "def quicksort(xs):" --max-tokens 200
      stepahead run model.gguf --file prompt.txt --temperature 0.8 --seed 7
      cat main.py | stepahead run model.gguf --file - --depth 3 --json
    """
    params = o.SamplingOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        stop=stop,
        stop_token_ids=stop_token_id,
        ignore_eos=ignore_eos,
    ).params()
    drafting = o.speculation(speculation, depth, max_depth, chain)
    text = read_prompt(prompt, file, is_demo=model is None)
    load = o.LoadOptions(
        model, mtp, kv_type, threads, context_length, device, repack, draft_vocab, draft_type, memory_gb, cpu_experts,
        gpu_layers,
    )  # fmt: skip
    with open_llm(load) as llm, traced(llm, trace):
        chunks = _generate(llm, text, params, drafting, is_quiet=json_output)
        _conclude(chunks, json_output)
        if svg is not None:
            from stepahead.cli.svg import write_svg

            write_svg(svg, context.obj, text, chunks)


def _generate(
    llm: "LLM", text: str, params: "SamplingParams", drafting: "Speculation", is_quiet: bool
) -> list["StreamChunk"]:
    """All chunks, printed as they come unless is_quiet."""
    chunks: list[StreamChunk] = []
    printer = TokenPrinter()
    with prompt_bar() as bar:
        stream = llm.stream(text, params, drafting, bar)
        if not is_quiet:
            introduce(llm)
        for chunk in stream:
            bar.stop()
            if not is_quiet:
                if not chunks:
                    printer.show_prompt(text)
                printer.push(chunk)
            chunks.append(chunk)
    if not is_quiet:
        printer.finish()
    return chunks


def _conclude(chunks: list["StreamChunk"], json_output: bool) -> None:
    """What follows the text: the numbers, or the object that stands for all of it."""
    completion = chunks[-1].completion
    assert completion is not None
    if json_output:
        json.dump(completion_object(completion), sys.stdout)
        sys.stdout.write("\n")
    else:
        for line, style in zip(stats_lines(completion), ("bold", "dim"), strict=True):
            stderr().out(line, style=style, highlight=False)
