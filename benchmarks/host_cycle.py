"""What a cycle takes of the host: texts decoded with a device that answers at once, and whatever comes to its mind.

All that the engine does between two cycles is real: launching, commit, text, hidden rows, statistics. What a GPU's
launch takes is not in it. `python -m benchmarks.host_cycle`
"""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from stepahead import LLM, SamplingParams, Speculation
from stepahead.backends.base import SampleRows
from stepahead.demo import demo_path
from stepahead.engine.cycle_queue import CycleQueue
from stepahead.models.cycles import CycleResult, CycleStart
from stepahead.speculative.cycle_planner import CyclePlanner

NUM_TOKENS, ROUNDS = 1500, 5
DEPTHS = (0, 1, 3)
TEXT_IDS = 300, 2000
"""From where its tokens come: no special ones."""


class IdleDevice:
    """Accepts any number of draft tokens, each as likely as the others."""

    def __init__(self, llm: LLM) -> None:
        self._backend = llm.backend
        self._hidden_size = llm.model.hidden_size
        self._random = np.random.default_rng(0)

    def can_run(self, num_sequences: int, depth: int, num_blocks: int) -> bool:
        return True

    def begin(self, starts: Sequence[CycleStart], depth: int, num_blocks: int, sample: SampleRows) -> None:
        self._count, self._depth = len(starts), depth
        self._rows = self._backend.zeros(len(starts) * (depth + 1), self._hidden_size)

    def launch(self, tables: Sequence[Sequence[Sequence[int]]]) -> "IdleDevice":
        return self

    def wait(self) -> CycleResult:
        count, depth = self._count, self._depth
        chosen = self._random.integers(*TEXT_IDS, (count, depth + 1), np.int32)
        accepted = self._random.integers(0, depth + 1, count, np.int32)
        drafts = chosen[:, :depth] + (np.arange(depth, dtype=np.int32) >= accepted[:, None])
        margins = np.ones((count, depth), np.float32)
        return CycleResult(accepted, chosen, drafts, margins, self._rows, (self._rows,) * depth)


def microseconds(llm: LLM, depth: int) -> float:
    """Of a cycle, the prompt's step among them."""
    speculation = Speculation("mtp", depth, adaptive=False) if depth else Speculation("off")
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    before, started = llm.metrics.num_steps, time.perf_counter()
    llm.generate("A device that answers at once", params, speculation)
    return 1e6 * (time.perf_counter() - started) / (llm.metrics.num_steps - before)


def main() -> None:
    with LLM(demo_path(), context_length=2048) as llm:
        with llm.opened() as (engine, _):
            planner = CyclePlanner(llm._arbiter, llm._mtp)
            engine.cycles = CycleQueue(IdleDevice(llm), planner, engine.scheduler, engine.metrics)
        found = [[microseconds(llm, depth) for depth in DEPTHS] for _ in range(ROUNDS)]
        for depth, times in zip(DEPTHS, zip(*found, strict=True), strict=True):
            print(f"depth {depth}: {statistics.median(times):.0f} us a cycle, {min(times):.0f} to {max(times):.0f}")


if __name__ == "__main__":
    main()
