"""How long a stream stands still while a long prompt is read beside it: python -m benchmarks.serve_gap [MODEL].

One request decodes; after a while another comes with a long prompt. Gaps are times between the steps that bring the
first one tokens, before the prompt and while it is read, without a limit to what a step may take and with it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from stepahead import LLM, SamplingParams, Speculation, __version__, texts
from stepahead.config import DEFAULT_MAX_STEP_MS
from stepahead.errors import StepaheadError
from stepahead.machine import cpu_name

NUM_BEFORE = 40  # steps of decoding alone


@dataclass(slots=True)
class Gaps:
    """Of all rounds; milliseconds."""

    max_step_ms: float | None
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)  # while the prompt is read
    tokens_beside: int = 0
    prompt_ms: list[float] = field(default_factory=list)  # until the prompt's first token


def prompt_ids(llm: LLM, count: int) -> list[int]:
    """Built-in texts, one after the other."""
    found: list[int] = []
    while len(found) < count:
        for kind in texts.KINDS:
            for text in texts.load(kind):
                found += llm.tokenizer.encode(text.prompt + (text.continuation or ""), add_bos=False)
    return found[:count]


def one_round(llm: LLM, gaps: Gaps, number: int, num_prompt: int, speculation: Speculation) -> None:
    """The engine is stepped here: what a server's loop does, without a server."""
    engine, ids = llm._engine, prompt_ids(llm, num_prompt + 64)
    first = number + 1  # of each prompt: no round finds another one's in the cache
    most = llm.config.context_length - 80
    decoding = llm._job([first, *ids[-64:]], SamplingParams(max_tokens=most, ignore_eos=True), speculation).request
    reading = llm._job([first + 99, *ids[:num_prompt]], SamplingParams(max_tokens=1), speculation).request
    llm._arbiter.prepare()
    engine.add(decoding)
    last, added = 0.0, 0.0
    while True:
        outputs = {output.request_id: output for output in engine.step()}
        now = time.perf_counter()
        if decoding.request_id in outputs:
            if last:
                (gaps.beside if added else gaps.alone).append(1e3 * (now - last))
            if added:
                gaps.tokens_beside += len(outputs[decoding.request_id].token_ids_delta)
            last = now
        if reading.request_id in outputs:
            gaps.prompt_ms.append(1e3 * (now - added))
            break
        if not added and len(gaps.alone) >= NUM_BEFORE * (number + 1):
            engine.add(reading)
            added = now
    engine.abort(decoding.request_id)
    while engine.has_unfinished:
        engine.step()


def measure(
    load: Callable[..., LLM], limits: list[float | None], num_prompt: int, num_rounds: int, speculation: Speculation
) -> list[Gaps]:
    """Limits in turns, a model for each: what one learns is not another's."""
    loaded = [load(max_step_ms=limit) for limit in limits]
    found = [Gaps(limit) for limit in limits]
    try:
        for number in range(num_rounds):
            for llm, gaps in zip(loaded, found, strict=True):
                one_round(llm, gaps, number, num_prompt, speculation)
    finally:
        for llm in loaded:
            llm.close()
    return found


def as_text(found: list[Gaps]) -> str:
    lines = [
        f"{'limit, ms':>10}{'alone: p50':>12}{'p99':>8}{'beside: p50':>13}{'p99':>8}{'longest':>9}{'tokens/s':>10}"
        f"{'prompt, s':>11}"
    ]
    for gaps in found:
        limit = "none" if gaps.max_step_ms is None else f"{gaps.max_step_ms:.0f}"
        rate = 1e3 * gaps.tokens_beside / sum(gaps.prompt_ms)
        lines.append(
            f"{limit:>10}{np.percentile(gaps.alone, 50):>12.1f}{np.percentile(gaps.alone, 99):>8.1f}"
            f"{np.percentile(gaps.beside, 50):>13.1f}{np.percentile(gaps.beside, 99):>8.1f}{max(gaps.beside):>9.1f}"
            f"{rate:>10.1f}{np.median(gaps.prompt_ms) / 1e3:>11.2f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_gap", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file; default: the demo model")
    parser.add_argument(
        "--limits", default=f"none,{DEFAULT_MAX_STEP_MS:.0f}", help="of a step, ms; default: %(default)s"
    )
    parser.add_argument("--prompt", type=int, default=3000, help="tokens; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: the cores")
    parser.add_argument("--speculation", choices=("auto", "off"), default="auto")
    parser.add_argument("--json", type=Path, help="also write all gaps into this file")
    options = parser.parse_args(arguments)
    settings = {"threads": options.threads, "max_num_seqs": 2, "context_length": options.prompt + 512}

    def load(max_step_ms: float | None) -> LLM:
        if options.model is None:
            return LLM.demo(max_step_ms=max_step_ms, **settings)
        return LLM(options.model, max_step_ms=max_step_ms, **settings)

    try:
        limits = [None if limit == "none" else float(limit) for limit in options.limits.split(",")]
        found = measure(load, limits, options.prompt, max(options.rounds, 1), Speculation(options.speculation))
    except (StepaheadError, ValueError) as error:
        sys.stderr.write(f"serve_gap: {error}\n")
        return 2
    name = "the demo model" if options.model is None else options.model.stem
    sys.stdout.write(
        f"{name} on {cpu_name()}, stepahead {__version__}; a prompt of {options.prompt} tokens beside a stream, "
        f"speculation {options.speculation}; milliseconds between steps\n{as_text(found)}\n"
    )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(gaps) for gaps in found]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
