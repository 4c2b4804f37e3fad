"""Everything `stepahead doctor` knows, measured in a bounded time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stepahead.diagnosis.gain import Overhead
from stepahead.diagnosis.machine_report import MachineReport, report_machine
from stepahead.diagnosis.text_report import TextBench, TextReport
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.llm import LLM
from stepahead.machine import OtherPrograms
from stepahead.model_info import ModelInfo
from stepahead.speculative.cost import CostSeed
from stepahead.texts import KINDS, Text, load

SECONDS = 20.0
COST_SHARE = 0.15  # of the time
PROMPT_SHARE = 0.1
OVERHEAD_SHARE = 0.1
PROMPT_TOKENS = 512
MIN_PROMPT_TOKENS = 16

OnProgress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of one model on one machine."""

    seconds: float  # it took
    machine: MachineReport
    info: ModelInfo
    num_heads_usable: int
    mtp: str  # as the model was loaded: "auto", "off" or a companion's path
    kv_type: str
    repacked: tuple[str, ...]
    cost: CostSeed
    overhead: Overhead
    prompt_tokens_per_second: float
    texts: tuple[TextReport, ...]
    skipped_kinds: tuple[str, ...]  # for want of time


def diagnose(llm: LLM, seconds: float = SECONDS, on_progress: OnProgress | None = None) -> Diagnosis:
    """Measure for about `seconds`: what passes cost, which is kept for later starts, and at least one kind of text."""
    started = time.perf_counter()
    others = OtherPrograms()
    texts = _in_turn()
    say = on_progress or _ignore
    cost = llm.costs(anew=True, seconds=COST_SHARE * seconds)
    say(1, len(texts) + 3)
    prompt_rate = _prompt_rate(llm, cost, PROMPT_SHARE * seconds)
    say(2, len(texts) + 3)
    bench = TextBench(llm, cost, prompt_rate, seconds, started + seconds)
    overhead = bench.measure_overhead(texts[0], OVERHEAD_SHARE * seconds)
    say(3, len(texts) + 3)
    for number, text in enumerate(texts):
        if not bench.run(text):
            break
        say(number + 4, len(texts) + 3)
    reports = bench.reports()
    machine = report_machine(llm.backend, others)
    return Diagnosis(
        seconds=time.perf_counter() - started,
        machine=machine,
        info=llm.info,
        num_heads_usable=0 if llm.model.draft is None else llm.model.draft.num_heads,
        mtp=llm.config.mtp,
        kv_type=llm.config.kv_type,
        repacked=tuple(repacked.describe() for repacked in llm.repacked),
        cost=cost,
        overhead=overhead,
        prompt_tokens_per_second=prompt_rate,
        texts=reports,
        skipped_kinds=tuple(kind for kind in KINDS if kind not in {report.kind for report in reports}),
    )


def _in_turn() -> list[Text]:
    """The first text of every kind, then the second ones: time may end anywhere."""
    by_kind = [load(kind) for kind in KINDS]
    longest = max(map(len, by_kind))
    return [texts[number] for number in range(longest) for texts in by_kind if number < len(texts)]


def _prompt_rate(llm: LLM, cost: CostSeed, seconds: float) -> float:
    """Tokens a second of a prompt, the better of two. Sixteen rows of a verify pass say how long it may be."""
    row_seconds = cost.pass_ms[-1] / cost.rows[-1] / 1e3
    room = min(PROMPT_TOKENS, llm.config.context_length - 1)
    num_tokens = max(min(room, MIN_PROMPT_TOKENS), min(room, int(seconds / 2 / row_seconds)))
    ids = [token for text in _in_turn() for token in llm.tokenizer.encode(text.prompt, add_bos=False)]
    rates = []
    for start in (0, num_tokens):  # another prompt: the first one's keys are still there
        prompt = (ids * (2 * num_tokens // len(ids) + 1))[start : start + num_tokens]
        completion = llm.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True), Speculation("off"))
        rates.append(completion.timings.prompt_tokens_per_second)
    return max(rates)


def _ignore(*_: object) -> None:
    pass
