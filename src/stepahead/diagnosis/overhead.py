"""What a step takes beyond its passes, and a draft token beyond its head's: Python, sampling, keys of a longer context.

Nothing to a large model, a third of a draft to a small one.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from stepahead.completion import StreamChunk
from stepahead.diagnosis.gain import Overhead, draft_ms, pass_ms
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.llm import LLM
from stepahead.speculative.cost import CostSeed

MAX_TOKENS, MIN_TOKENS = 64, 8  # decoded without drafts, and again with them


@dataclass(frozen=True, slots=True)
class _Steps:
    ms: float  # median
    num_accepted: float  # mean


def measure_overhead(llm: LLM, cost: CostSeed, depth: int, ids: list[int], seconds: float) -> Overhead:
    """From decoding after `ids`, in `seconds`; none if that is too short for a few tokens."""
    predicted = pass_ms(cost, depth + 1, {}) + draft_ms(cost, depth, 0.0)
    num_tokens = min(MAX_TOKENS, int(1e3 * seconds / (cost.pass_ms[0] + predicted)))
    num_tokens = min(num_tokens, llm.config.context_length - len(ids))
    if num_tokens < MIN_TOKENS:
        return Overhead()
    plain = _decode(llm, ids, num_tokens, Speculation("off"))
    step = max(plain.ms - cost.pass_ms[0], 0.0)
    if depth == 0:
        return Overhead(step)
    drafted = _decode(llm, ids, num_tokens, Speculation("mtp", depth, adaptive=False))
    predicted = pass_ms(cost, depth + 1, {}) + draft_ms(cost, depth, drafted.num_accepted)
    return Overhead(step, max(drafted.ms - predicted - step, 0.0) / depth)


def _decode(llm: LLM, ids: list[int], num_tokens: int, speculation: Speculation) -> _Steps:
    stream = llm.stream(ids, SamplingParams(max_tokens=num_tokens, ignore_eos=True), speculation)
    next(stream)  # of the prompt
    times: list[float] = []
    accepted: list[int] = []
    for milliseconds, chunk in _timed(stream):
        times.append(milliseconds)
        accepted.append(chunk.num_accepted)
    return _Steps(statistics.median(times), statistics.fmean(accepted))


def _timed(stream: Iterator[StreamChunk]) -> Iterator[tuple[float, StreamChunk]]:
    before = time.perf_counter()
    for chunk in stream:
        now = time.perf_counter()
        yield 1e3 * (now - before), chunk
        before = now
