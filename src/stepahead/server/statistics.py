"""What one choice took: milliseconds and counts, in the shapes that vLLM and llama.cpp made known."""

from collections.abc import Mapping
from typing import Any

from stepahead.async_llm import Ticket
from stepahead.engine.request import SpeculationStats
from stepahead.server.turn_service import TurnEnd


class Clock:
    """When the tokens of one choice came, by time.perf_counter; its request's ticket knows the rest."""

    __slots__ = ("first_token", "last_token")

    def __init__(self) -> None:
        self.first_token: float | None = None
        self.last_token: float | None = None

    def tick(self, now: float) -> None:
        self.first_token = self.first_token or now
        self.last_token = now


def timings(ticket: Ticket, clock: Clock) -> dict[str, Any]:
    """In llama.cpp's names; queue_ms, ttft_ms and total_ms are ours. The first token belongs to the prompt."""
    sequence = ticket.sequence
    finished = ticket.finished or ticket.started
    admitted = ticket.admitted or finished
    first = clock.first_token or finished
    last = clock.last_token or first
    num_prompt = len(ticket.request.prompt_ids)
    num_cached = 0 if sequence is None else sequence.num_cached_tokens
    num_generated = 0 if sequence is None else sequence.num_output_tokens
    stats = SpeculationStats() if sequence is None else sequence.stats
    prompt_ms, predicted_ms = 1e3 * (first - admitted), 1e3 * (last - first)
    return {
        "cache_n": num_cached,
        "prompt_n": num_prompt - num_cached,
        "prompt_ms": prompt_ms,
        "prompt_per_second": _per_second(num_prompt - num_cached, prompt_ms),
        "predicted_n": num_generated,
        "predicted_ms": predicted_ms,
        "predicted_per_second": _per_second(num_generated - 1, predicted_ms),
        "draft_n": stats.num_draft_tokens,
        "draft_n_accepted": stats.num_accepted_tokens,
        "queue_ms": 1e3 * (admitted - ticket.started),
        "ttft_ms": 1e3 * (first - ticket.started),
        "total_ms": 1e3 * (finished - ticket.started),
        "num_steps": 0 if sequence is None else sequence.num_passes,
    }


def request_metrics(end: TurnEnd) -> dict[str, Any]:
    """The object `metrics` of a response, in vLLM's shape."""
    times = end.timings
    num_gaps = end.completion_tokens - 1
    return {
        "time_to_first_token_ms": times.get("ttft_ms"),
        "generation_time_ms": times.get("predicted_ms"),
        "queue_time_ms": times.get("queue_ms"),
        "mean_itl_ms": times.get("predicted_ms", 0.0) / num_gaps if num_gaps > 0 else None,
        "tokens_per_second": times.get("predicted_per_second"),
        "speculative_decoding": _speculation(end.speculation),
    }


def llama_timings(end: TurnEnd) -> Mapping[str, Any]:
    """The object `timings` of a response, in llama.cpp's shape."""
    own = ("queue_ms", "ttft_ms", "total_ms", "num_steps")
    return {name: value for name, value in end.timings.items() if name not in own}


def _speculation(stats: SpeculationStats) -> dict[str, Any]:
    """acceptance_histogram[n]: drafts of which n tokens were accepted."""
    at_least = [stats.num_drafts, *stats.num_accepted_tokens_per_pos]
    return {
        "mean_acceptance_length": 1.0 + stats.num_accepted_tokens / stats.num_drafts if stats.num_drafts else None,
        "draft_acceptance_rate": (
            stats.num_accepted_tokens / stats.num_draft_tokens if stats.num_draft_tokens else None
        ),
        "acceptance_histogram": [count - after for count, after in zip(at_least, [*at_least[1:], 0], strict=True)],
        "num_spec_steps": stats.num_drafts,
        "num_accepted_draft_tokens": stats.num_accepted_tokens,
        "num_draft_tokens": stats.num_draft_tokens,
        "num_spec_tokens": len(stats.num_accepted_tokens_per_pos),
        "per_step_accepted": None,
        "per_step_drafted": None,
    }


def _per_second(count: int, milliseconds: float) -> float:
    return 1e3 * count / milliseconds if count > 0 and milliseconds > 0.0 else 0.0
