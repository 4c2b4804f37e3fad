"""A process that loads a model, fills every context, and prints what it was planned to take and what it takes.

Run by test_estimate.py: model file, settings of LLM as JSON, how many short prompts to read first.
"""

import json
import sys
from pathlib import Path

import numpy as np

from stepahead import LLM, SamplingParams, Speculation
from stepahead.memory.passes import pass_sizes
from stepahead.speculative.head_passes import MAX_ROWS

NEW_TOKENS = 24
SHORT = 40  # with what is written, one block of keys and values


def resident() -> dict[str, int]:
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    found = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
    return {"bytes": found["Rss"], "anonymous_bytes": found["Anonymous"]}


def main(model: str, settings: str, num_short: str) -> None:
    # Prompts are cut by the clock otherwise, and no two runs leave the same pool behind.
    with LLM(model, memory_gb=float("inf"), max_step_ms=None, **json.loads(settings)) as llm:
        rng = np.random.default_rng(1)
        params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
        drafts = Speculation("off") if llm.model.draft is None else Speculation("mtp", depth=3, adaptive=False)
        for rows in sorted({*pass_sizes(llm.config.chunk_tokens), *pass_sizes(MAX_ROWS)}):
            if rows + NEW_TOKENS < llm.config.context_length:
                llm.generate(rng.integers(0, llm.model.vocab_size, rows).tolist(), params, drafts)
        for _ in range(int(num_short)):
            llm.generate(rng.integers(0, llm.model.vocab_size, SHORT).tolist(), params, drafts)
        _fill(llm, rng, drafts)
        planned = {"bytes": llm.memory.nbytes, "anonymous_bytes": llm.memory.anonymous_nbytes}
        parts = {f"{name}, {kind}": nbytes for (name, kind), nbytes in llm.memory.by_name().items()}
        json.dump({"planned": planned, "resident": resident(), "parts": parts}, sys.stdout)


def _fill(llm: LLM, rng: np.random.Generator, drafts: Speculation) -> None:
    """All sequences at once: none may end before the last one's prompt is read."""
    config = llm.config
    steps = config.max_num_seqs * config.context_length // (config.chunk_tokens - config.max_num_seqs)
    new_tokens = min(NEW_TOKENS + 2 * steps, config.context_length // 2)
    shape = config.max_num_seqs, config.context_length - new_tokens
    params = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
    llm.generate(rng.integers(0, llm.model.vocab_size, shape).tolist(), params, drafts)


if __name__ == "__main__":
    main(*sys.argv[1:])
