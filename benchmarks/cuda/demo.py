"""M8: the embedded model on the GPU: the text that it writes without drafts, and faster than the CPU writes it.

Cycles run ahead of the host wherever they are expected to pay; beside them stands what the host's steps write, and how
fast.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.decoding import by_host
from stepahead import LLM, SamplingParams, Speculation
from stepahead.engine.batch import ScheduledBatch
from stepahead.models.model import ForwardOutput

PROMPTS = (
    "def fibonacci(n):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\ndef read_lines(path):\n",
)
TOKENS, WARM_TOKENS = 160, 48
MODES = {"plain": Speculation("off"), "drafts": Speculation("mtp", 3, adaptive=False), "auto": Speculation()}


@dataclass(frozen=True, slots=True)
class Run:
    """texts: of each prompt, and of the first one with a seed; rate: tokens a second behind the first one of each."""

    texts: tuple[tuple[int, ...], ...]
    sampled: tuple[int, ...]
    rate: float


def measure(bench: Bench) -> None:
    bench.made = None  # it takes nearly all of the memory
    bench.free_memory()
    gpu = "cpu" if bench.is_toy else "cuda"  # in the interpreter four tokens take minutes
    with LLM.demo(device=gpu, max_num_seqs=1) as llm:
        ahead = _runs(bench, llm, gpu)
        with by_host(llm._engine):
            others = _runs(bench, llm, f"{gpu}, by the host")
    with LLM.demo(device="cpu", max_num_seqs=1) as llm:
        on_cpu = _runs(bench, llm, "cpu")
    found = {**ahead, **{f"{mode}, by the host": run for mode, run in others.items()}}
    if "plain" in found:
        plain = found["plain"]
        greedy = {mode for mode, run in found.items() if run.texts != plain.texts}
        seeded = {f"{mode}, with a seed" for mode, run in found.items() if run.sampled != plain.sampled}
        faults = sorted(greedy | seeded)
        bench.report("M8", f"texts that differ, of {len(found)} ways", names="; ".join(faults) or "none",
                     target="demo exact", value=float(not faults))  # fmt: skip
    for mode in (mode for mode in ahead if mode in on_cpu):
        same = sum(a == b for a, b in zip(ahead[mode].texts, on_cpu[mode].texts, strict=True))
        ratio = ahead[mode].rate / on_cpu[mode].rate
        # Of drafts, what "auto" makes of them is asked.
        asked = {"ratio": ratio} if mode == "drafts" else {"target": "demo speed", "value": ratio}
        bench.report("M8", f"{mode} ÷ CPU", texts_as_the_cpus=f"{same} of {len(ahead[mode].texts)}", **asked)


def _runs(bench: Bench, llm: LLM, device: str) -> dict[str, Run]:
    """In every mode that there is time for."""
    found = {}
    for mode in ("plain", "drafts") if bench.is_toy else MODES:
        if bench.has_time("M8", f"{device}, {mode}"):
            found[mode] = _run(bench, llm, mode, device)
    return found


def _run(bench: Bench, llm: LLM, mode: str, device: str) -> Run:
    num_tokens, prompts = (2, PROMPTS[:1]) if bench.is_toy else (TOKENS, PROMPTS)
    speculation = MODES[mode]
    if not bench.is_toy:
        llm.generate(prompts[0], SamplingParams(max_tokens=WARM_TOKENS, ignore_eos=True), speculation)
    seconds = timed = 0.0
    texts = []
    with _steps_of_host(llm) as steps:
        before = llm.metrics.num_steps
        for prompt in prompts:
            done = llm.generate(prompt, SamplingParams(max_tokens=num_tokens, ignore_eos=True), speculation)
            texts.append(tuple(done.token_ids))
            seconds += done.timings.generation_seconds
            timed += done.timings.generated_tokens - 1
        num_ahead = llm.metrics.num_steps - before - len(steps)
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True, temperature=0.8, top_p=0.95, seed=5)
    sampled = tuple(llm.generate(prompts[0], params, speculation).token_ids)
    rate = timed / seconds if seconds else float("nan")
    bench.report("M8", f"{device}, {mode}", tokens_s=rate, tokens=sum(map(len, texts)), cycles_ahead=num_ahead)
    return Run(tuple(texts), sampled, rate)


@contextlib.contextmanager
def _steps_of_host(llm: LLM) -> Iterator[list[None]]:
    """As many entries as the host has run passes of the trunk, prompts included."""
    runner, found = llm._runner, list[None]()
    forward = runner.forward

    def counted(batch: ScheduledBatch) -> ForwardOutput:
        found.append(None)
        return forward(batch)

    runner.forward = counted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        del runner.forward
