"""`stepahead bench`: what drafting gains on this machine, with this model. A table, or JSON with --json."""

import dataclasses
import hashlib
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepahead import __version__
from stepahead.cli import options as o
from stepahead.cli.bench_rounds import PLAIN, Row, Setting, measure
from stepahead.cli.console import Bar, stdout, visible
from stepahead.cli.loading import open_llm, summary
from stepahead.cli.prompt import read_prompt
from stepahead.cli.report import percentages
from stepahead.errors import BackendError, ConfigError
from stepahead.machine import cpu_name, system_name

if TYPE_CHECKING:
    from stepahead import LLM
    from stepahead.model_info import ModelInfo

HASHED_TOKENS = 64
NOT_READ_BY_THE_TRUNK = ("embeddings", "heads")  # of the embeddings, one row a token

PROMPTS = (
    "def parse_arguments(argv):\n    parser = argparse.ArgumentParser(description=__doc__)\n",
    'class Stack:\n    """A last-in, first-out list."""\n\n    def __init__(self):\n',
    "import os\nimport sys\n\n\ndef main():\n    for name in sorted(os.listdir(sys.argv[1])):\n",
)


def bench(
    model: o.ModelArgument = None,
    prompt: o.PromptOption = None,
    file: o.FileOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Tokens for each prompt and run.")] = 96,
    rounds: Annotated[int, typer.Option("--rounds", help="Rounds over all depths; medians are shown.")] = 5,
    depths: Annotated[
        str | None,
        typer.Option("--depths", help="Depths to measure, such as '1,3'. Default: each head, then auto."),
    ] = None,
    temperature: o.TemperatureOption = 0.0,
    seed: o.SeedOption = 0,
    chain: o.ChainOption = "exact",
    mtp: o.MtpOption = "auto",
    kv_type: o.KVTypeOption = "f16",
    threads: o.ThreadsOption = None,
    backend: o.BackendOption = "cpu",
    repack: o.RepackOption = "auto",
    json_output: o.JsonOption = False,
) -> None:
    """Measure decoding without drafts and at each depth: tokens/s, gain, acceptance, where the time goes.

    Depths take turns within each round, ratios are taken within a round, and the text of every run is compared.

    \b
    Examples:
      stepahead bench
      stepahead bench model.gguf --max-tokens 200 --rounds 9
      stepahead bench model.gguf --depths 1,2 --temperature 0.8 --json
    """
    from stepahead import SamplingParams

    if rounds < 1 or max_tokens < 2:
        raise ConfigError(f"--rounds {rounds} --max-tokens {max_tokens}: give at least 1 round of 2 tokens")
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, ignore_eos=True)
    given = prompt is not None or file is not None
    prompts = [read_prompt(prompt, file, is_demo=False)] if given else list(PROMPTS)
    with open_llm(o.LoadOptions(model, mtp, kv_type, threads, None, backend, repack)) as llm:
        settings = _settings(llm, depths, chain)
        digest = _logits_hash(llm, prompts[0])
        with Bar("measuring") as bar:
            rows = measure(llm, prompts, params, settings, rounds, bar)
        facts = _facts(llm, params.temperature, len(prompts), max_tokens, rounds, digest)
        bandwidth = _bytes_per_token(llm.info) / (rows[0].milliseconds["forward"] * 1e6)
        if json_output:
            json.dump(
                {**facts, "plain_gb_per_second": bandwidth, "rows": [dataclasses.asdict(row) for row in rows]},
                sys.stdout,
            )
            sys.stdout.write("\n")
        else:
            _show(llm, facts, bandwidth, rows)
    changed = [row.name for row in rows if not row.is_same_text]
    if changed:
        raise BackendError(
            f"the text at depth {', '.join(changed)} differs from the plain one: this is a bug, report it"
        )


def _settings(llm: "LLM", depths: str | None, chain: o.Chain) -> list[Setting]:
    """Plain first. Raises ConfigError for depths that are no numbers, RequestError for those the model has not."""
    from stepahead import Speculation

    plain = Setting(PLAIN, Speculation("off"))
    draft = llm.model.draft
    if depths is None:
        fixed = list(range(1, draft.num_heads + 1)) if draft is not None else []
    else:
        fixed = _parse_depths(depths)
    drafting = [Setting(str(depth), Speculation("mtp", depth, adaptive=False, chain=chain)) for depth in fixed]
    auto = [Setting("auto", Speculation("auto", chain=chain))] if depths is None and draft is not None else []
    return [plain, *drafting, *auto]


def _parse_depths(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--depths {text!r} is not understood: give numbers such as '1,2,3'")
    return sorted({int(part) for part in parts} - {0})


def _logits_hash(llm: "LLM", prompt: str) -> str:
    """Names the numbers: equal on machines and settings that give equal bits."""
    import numpy as np

    logits = llm.logits(llm.tokenize(prompt)[:HASHED_TOKENS])
    return hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").tobytes()).hexdigest()[:16]


def _bytes_per_token(info: "ModelInfo") -> float:
    """Weights that one row of the trunk reads: of routed experts, the share that is used."""
    experts = info.bytes_by_part.get("experts", 0)
    rest = sum(count for part, count in info.bytes_by_part.items() if part not in (*NOT_READ_BY_THE_TRUNK, "experts"))
    return rest + (experts * info.num_experts_used / info.num_experts if info.num_experts else 0)


def _facts(
    llm: "LLM", temperature: float, num_prompts: int, max_tokens: int, rounds: int, digest: str
) -> dict[str, Any]:
    config = llm.config
    return {
        "version": __version__,
        "machine": f"{cpu_name()}, {system_name()}",
        "model": llm.info.name,
        "arch": llm.info.arch,
        "model_bytes": llm.info.nbytes,
        "bytes_per_token": _bytes_per_token(llm.info),
        "backend": config.backend,
        "isa": _isa(llm),
        "threads": config.threads,
        "repacked": [repacked.describe() for repacked in llm.repacked],
        "kv_type": config.kv_type,
        "temperature": temperature,
        "num_prompts": num_prompts,
        "max_tokens": max_tokens,
        "rounds": rounds,
        "logits_hash": digest,
    }


def _isa(llm: "LLM") -> str:
    """The instruction set that runs, which a figure is nothing without."""
    return str(llm.backend.describe().get("isa", llm.backend.name))


def _show(llm: "LLM", facts: dict[str, Any], bandwidth: float, rows: list[Row]) -> None:
    from rich import box
    from rich.table import Table

    console = stdout()
    console.print(summary(llm))
    console.print(visible(f"{facts['machine']}, stepahead {facts['version']}, isa {facts['isa']}"))
    console.print(
        f"{facts['rounds']} rounds of {facts['num_prompts']} prompts and {facts['max_tokens']} tokens, temperature "
        f"{facts['temperature']:g}; logits hash {facts['logits_hash']}; plain reads {bandwidth:.1f} GB/s"
    )
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("depth", "tokens/s", "gain", "tok/step", "accepted", "trunk", "verify", "draft ms", "same"):
        table.add_column(name, justify="left" if name == "depth" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.tokens_per_second:.1f}",
            f"{row.ratio_to_plain:.2f}x",
            f"{row.tokens_per_step:.2f}",
            percentages(row.acceptance),
            *(f"{row.milliseconds[phase]:.2f}" for phase in ("forward", "verify", "propose")),
            "yes" if row.is_same_text else "NO",
        )
    console.print(table)
