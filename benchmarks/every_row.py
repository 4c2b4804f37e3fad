"""What the trunk and the heads say at every row of a finished text: the logits of all drafts that could have been made.

In the trained chain, row p of head k reads row p - 1 of the head before and token p. So a draft whose first k tokens
the text has, made after token p - k, has at its place k these very logits, whenever it is made.
"""

from dataclasses import dataclass

import numpy as np

from stepahead import LLM
from stepahead.backends.base import BLOCK_SIZE, Floats
from stepahead.engine.batch import RowSpan, ScheduledBatch, ScheduledRows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import NO_DRAFT, Request, Sequence
from stepahead.engine.runner import ModelRunner

MAX_TOKENS = 2048  # of a text, prompt included: one pass runs them all
MAX_LEVELS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Logits of the rows from `first` on, the last token's left out: row p is about token p + 1."""

    token_ids: list[int]
    first: int
    trunk: Floats
    heads: list[Floats]  # of head k, from row first + k on
    levels: list[Floats]  # level k (speculative/head_cache.py), from position k on


class EveryRow:
    """Runs trunk and heads over texts, with keys and values of its own. Heads beyond the last are the last one again:
    run over the outputs of the one before at every row, with keys of their own, as if they were heads of the chain."""

    def __init__(self, llm: LLM) -> None:
        assert llm.model.draft is not None, "a model without heads has nothing to propose"
        self.num_heads = llm.model.draft.num_heads
        self.runner = ModelRunner.create(
            llm.model, llm.backend, llm.config.kv_type, MAX_TOKENS, max(MAX_LEVELS - self.num_heads, 0) + 1, MAX_TOKENS
        )

    def run(self, token_ids: list[int], first: int, num_levels: int) -> Rows:
        """The first num_levels heads at every row."""
        end = len(token_ids) - 1
        assert num_levels <= first and end < MAX_TOKENS, "a text too short for its heads, or too long for one pass"
        trunk, hidden = self._trunk(token_ids, first)
        rows = Rows(token_ids, first, trunk, [], [hidden])
        for head in range(num_levels):
            span = range(head + 1, end)
            logits, hidden = self.head(head, token_ids, span, rows.levels[head][:-1], first + head)
            rows.heads.append(logits)
            rows.levels.append(hidden)
        return rows

    def head(
        self, head: int, token_ids: list[int], rows: range, hidden: Floats, first_wanted: int
    ) -> tuple[Floats, Floats]:
        """(logits of the rows from first_wanted on, outputs of all) of one pass; `hidden` is what the rows read."""
        number, backend = min(head, self.num_heads - 1), self.runner.backend
        blocks = MAX_TOKENS // BLOCK_SIZE
        table = np.arange(blocks, dtype=np.int32) + blocks * (head - number)
        backend.begin_step()
        output = self.runner.draft_forward(
            number,
            [RowSpan(rows.start, rows.stop, table.tolist(), head + 1)],
            np.array(token_ids[rows.start : rows.stop], np.int32),
            backend.upload(hidden),
            np.arange(first_wanted - rows.start, len(rows), dtype=np.int32),
        )
        assert output.logits is not None and output.logit_ids is None, "load with draft_vocab='full'"
        return backend.download(output.logits).copy(), backend.download(output.hidden).copy()

    def _trunk(self, token_ids: list[int], first: int) -> tuple[Floats, Floats]:
        request = Request(0, tuple(token_ids), SamplingParams(), Speculation(), 0, 1, frozenset())
        cache, end = self.runner.kv_cache, len(token_ids) - 1
        sequence = Sequence(request, cache.new())
        for group, spec in enumerate(self.runner.model.kv_specs):
            assert spec.is_draft or cache.claim(sequence.kv, group, 0, end)
        rows = ScheduledRows(sequence, 0, end, NO_DRAFT, 0, 0, end - first)
        # The rows of a batch that have logits are its last: those of a draft, as far as the runner knows.
        output = self.runner.forward(ScheduledBatch((rows,)))
        logits = self.runner.host_logits(output).copy()
        cache.release(sequence.kv)
        return logits, self.runner.backend.download(output.hidden).copy()
