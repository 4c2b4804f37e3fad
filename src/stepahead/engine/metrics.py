"""Counters of one engine: passes, rows, tokens, seconds, drafts by length. Bench, /metrics and responses read them.

Plain numbers that only grow, but for what is held now; whoever wants a rate subtracts two copies. Knows nothing about
how they are shown.
"""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.request import RequestOutput, Sequence

Phase = Literal["propose", "forward", "verify", "commit"]


def _no_seconds() -> dict[Phase, float]:
    return {"propose": 0.0, "forward": 0.0, "verify": 0.0, "commit": 0.0}


@dataclass(slots=True)
class EngineMetrics:
    """Since the engine was made. Passes count when they are completed; an abandoned one is an interruption."""

    num_steps: int = 0  # committed
    num_interruptions: int = 0  # steps abandoned for an abort
    num_trunk_passes: int = 0
    num_trunk_rows: int = 0
    num_draft_passes: int = 0
    num_draft_rows: int = 0
    num_prompt_tokens: int = 0  # of admitted requests: what the prefix cache is asked for
    num_reused_tokens: int = 0  # of these, how many it had
    num_generated_tokens: int = 0
    num_accepted_tokens: int = 0  # of these, how many were draft tokens
    num_snapshots_evicted: int = 0
    num_snapshots: int = 0  # in the prefix cache now
    cache_nbytes: int = 0  # it holds now
    seconds: dict[Phase, float] = field(default_factory=_no_seconds)
    # [n]: sequences that a pass verified with n draft tokens, 0 included; and with n of them kept.
    num_by_drafted: list[int] = field(default_factory=list)
    num_by_accepted: list[int] = field(default_factory=list)

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Add the seconds of a with-block to a phase, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def count_admission(self, sequence: Sequence) -> None:
        self.num_prompt_tokens += sequence.num_prompt_tokens
        self.num_reused_tokens += sequence.num_computed_tokens

    def count_cache(self, cache: PrefixCache) -> None:
        self.num_snapshots, self.cache_nbytes, self.num_snapshots_evicted = len(cache), cache.nbytes, cache.num_evicted

    def count_step(self, batch: ScheduledBatch, outputs: Seq[RequestOutput]) -> None:
        """After commit: outputs are those of this batch."""
        self.num_steps += 1
        num_drafted = {
            rows.sequence.request.request_id: len(rows.draft.token_ids) for rows in batch.rows if rows.num_logits
        }
        for output in outputs:
            self.num_generated_tokens += len(output.token_ids_delta)
            self.num_accepted_tokens += output.num_accepted
            _count(self.num_by_drafted, num_drafted[output.request_id])
            _count(self.num_by_accepted, output.num_accepted)


def _count(histogram: list[int], value: int) -> None:
    histogram.extend([0] * (value + 1 - len(histogram)))
    histogram[value] += 1
