"""Drafts longer than there are heads: the last one runs again, in three ways, behind every token of a finished text.

An experiment: the engine drafts no more tokens than a chain has heads.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.every_row import MAX_TOKENS, EveryRow, Rows
from benchmarks.rounds import Shares
from stepahead import LLM, SamplingParams, Speculation
from stepahead.backends.base import Floats, Ints
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.request import Request, Sequence
from stepahead.engine.runner import ModelRunner
from stepahead.speculative.draft_job import DraftJob
from stepahead.speculative.head_cache import HeadCache
from stepahead.speculative.head_passes import HeadPasses

LONGEST = 5
AS_HEAD, ON_OUTPUT, CATCHUP = "as a head", "on its output", "in catchup"

Choose = Callable[[Floats, int], int]
"""The draft token at a position, from a head's logits."""


class Reuse:
    """Chances of drafts up to LONGEST tokens in one text, (places, LONGEST) as rounds.reach wants them."""

    def __init__(self, llm: LLM) -> None:
        assert llm.model.draft is not None
        self._every = EveryRow(llm)
        self._spec = replace(llm.model.draft, max_depth=LONGEST)
        self._runner = ModelRunner.create(llm.model, llm.backend, llm.config.kv_type, MAX_TOKENS, 1, MAX_TOKENS)
        self._passes = HeadPasses(self._runner, self._spec)

    def chances(self, token_ids: list[int], first: int, choose: Choose) -> dict[str, Shares]:
        rows = self._every.run(token_ids, first, LONGEST)
        return {
            AS_HEAD: self._as_head(rows, choose),
            ON_OUTPUT: self._on_output(rows, choose),
            CATCHUP: self._catchup(rows, choose),
        }

    def _as_head(self, rows: Rows, choose: Choose) -> Shares:
        found = np.full((len(rows.trunk), LONGEST), np.nan)
        for index, logits in enumerate(rows.heads):
            for place in range(len(rows.trunk) - 1 - index):
                position = rows.first + place + index + 1
                found[place, index] = choose(logits[place], position) == rows.token_ids[position]
        return found

    def _on_output(self, rows: Rows, choose: Choose) -> Shares:
        """As before up to the last head. Its further rows stand where trained ones belong: those are put back."""
        num_heads, end = self._every.num_heads, len(rows.token_ids) - 1
        last, found = num_heads - 1, self._as_head(rows, choose)
        found[:, num_heads:] = np.where(np.isnan(found[:, num_heads:]), np.nan, 0.0)
        for place in np.flatnonzero(found[:, :num_heads].all(axis=1)):
            row = rows.first + int(place) + num_heads  # the first beyond the heads
            written = range(row, min(row + LONGEST - num_heads, end - 1))
            hidden = rows.levels[num_heads][row - 1 - num_heads : row - num_heads]  # the head's own, of the row before
            for row in written:
                logits, hidden = self._every.head(last, rows.token_ids, range(row, row + 1), hidden, row)
                found[place, row - rows.first - place] = choose(logits[0], row + 1) == rows.token_ids[row + 1]
            if written:
                trained = rows.levels[last][written.start - 1 - last : written.stop - 1 - last]
                self._every.head(last, rows.token_ids, written, trained, written.stop - 1)
        return found

    def _catchup(self, rows: Rows, choose: Choose) -> Shares:
        """By the engine's own passes, told of a longer draft: beyond the heads they take the last one."""
        found, ids = np.full((len(rows.trunk), LONGEST), np.nan), rows.token_ids
        request = Request(0, tuple(ids), SamplingParams(), Speculation(chain="catchup"), 0, 1, frozenset())
        backend, blocks = self._runner.backend, self._runner.kv_cache
        sequence = Sequence(request, blocks.new())
        cache = HeadCache(self._spec, backend, self._runner.model.hidden_size, blocks.slack)
        cache.use_chain("catchup")
        hidden = backend.upload(rows.levels[0])
        cache.observe(0, hidden, 0, rows.first)

        def draft(job: DraftJob, logits: LogitRows, number: int, short: Ints | None) -> None:
            assert short is None, "load with draft_vocab='full'"
            job.token_ids.append(choose(logits.values[number], job.position + len(job.token_ids) + 1))

        for place in range(len(rows.trunk) - 1):
            position = rows.first + place
            sequence.token_ids = ids[: position + 1]
            job = DraftJob(sequence, cache, position, min(LONGEST, len(ids) - 2 - position))
            self._passes.run([job], draft)
            for index, token in enumerate(job.token_ids):
                found[place, index] = token == ids[position + index + 1]
            cache.observe(position, hidden, position, position + 1)
        blocks.release(sequence.kv)
        return found
