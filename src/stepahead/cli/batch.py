"""`stepahead batch`: answer a file of requests, and go on where an earlier run ended."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar, stderr, visible
from stepahead.cli.loading import introduce, open_llm
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead.batch_file import BatchAnswer, BatchInput, BatchOutput, BatchRequest
    from stepahead.server.service import LLMService


def batch(
    requests: Annotated[
        Path, typer.Argument(metavar="IN.JSONL", help="A request a line, in the format of OpenAI's Batch API.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Answers, a line each, as they come. A run that was cut short goes on there."
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "-m",
            "--model",
            help="A GGUF file, or the first shard of a split one. Without it: the embedded demo model.",
            rich_help_panel=o.MODEL_PANEL,
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", help="How many answers are computed side by side.")] = 8,
    default_temperature: Annotated[
        float, typer.Option("--default-temperature", help="Of requests that give none.")
    ] = 1.0,
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
) -> None:
    """Answer a file of requests to /v1/chat/completions and /v1/completions. Needs the extra 'server'.

    Each answer is on the disk before the next one. After a kill, or on a full disk, give the same command again: what
    has an answer is skipped. What is wrong with a request is its answer. A small file beside the answers, OUT.batch,
    says what they are answers to.

    \b
    Examples:
      stepahead batch in.jsonl -o out.jsonl
      stepahead batch in.jsonl -o out.jsonl --model model.gguf --parallel 16
    """
    try:
        from stepahead.async_llm import AsyncLLM, QueueLimits
        from stepahead.batch_file import BatchInput, BatchOutput
        from stepahead.server.config import ServerConfig
        from stepahead.server.endpoint import EndpointSettings
        from stepahead.server.service import LLMService
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'stepahead[server]'") from None
    load = o.LoadOptions(
        model, mtp, kv_type, threads, context_length, device, repack, draft_vocab, draft_type, memory_gb, cpu_experts,
        gpu_layers,
    )  # fmt: skip
    name = "stepahead-demo" if model is None else model.name.removesuffix(".gguf")
    limits = QueueLimits(1 << 20, 1 << 40)  # a request waits here only for those of its own line
    settings = EndpointSettings(default_temperature=default_temperature)
    config = ServerConfig(queue=limits, memory_bytes=0, endpoints=settings)  # no line depends on those before it
    run = _Run()
    with BatchInput(requests) as lines, BatchOutput(output, lines, name) as answers:
        if len(answers.done) < len(lines):
            # Nobody watches: a prompt may keep the others waiting, whole chunks are read faster.
            engine = AsyncLLM(lambda: open_llm(load, parallel, max_step_ms=None), config.queue)
            num_before = len(answers.done)
            try:
                asyncio.run(_serve(LLMService(engine, config, name), lines, answers, parallel, run))
            finally:
                _say(f"{len(answers.done) - num_before} requests answered, {len(answers.done)} of {len(lines)} in all")
        if run.num_wrong:
            _say(f"{run.num_wrong} of the answers are errors")


@dataclass(slots=True)
class _Run:
    """What a run says of itself at its end."""

    num_wrong: int = 0


async def _serve(service: "LLMService", lines: "BatchInput", answers: "BatchOutput", parallel: int, run: _Run) -> None:
    from stepahead.batch_run import answer_all
    from stepahead.server.batch import answer

    async def answer_line(request: "BatchRequest") -> "BatchAnswer":
        answered = await answer(service, request)
        run.num_wrong += answered.status_code != 200
        return answered

    service.llm.start()
    try:
        await service.warm_up()
        introduce(service.llm.llm)
        with Bar("answering") as bar:
            await answer_all(lines, answers, answer_line, parallel, bar)
    finally:
        service.close()
        await service.llm.close()


def _say(text: str) -> None:
    stderr().out(visible(text), style="dim", highlight=False)
