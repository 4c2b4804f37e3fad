"""Toy MTP heads over a toy trunk, for tests of drafting: a few lines of numpy whose every row depends on every key.

`ToyRunner` keeps keys in blocks, as an engine does; memory that no row has written is NaN, and so are blocks that were
given back, so a wrong row, key or block shows at once. `naive_draft` computes the same draft from nothing but the
tokens: full prefill, no cache. Both compute a row by the same function, so they agree to the last bit or not at all.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, AttentionRows
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.batch import RowSpan, ScheduledBatch, ScheduledRows, attention_rows
from stepahead.engine.kv_cache import KVCache
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import NO_DRAFT, Request, Sequence, SequenceKV
from stepahead.engine.runner import StepInterrupted
from stepahead.models.model import DraftSpec, ForwardOutput, KVSpec
from stepahead.speculative.mtp import MtpProposer

WIDTH, VOCAB = 8, 23


class ToyModel:
    """Weights and specs. Heads are layers 1 .. num_heads, all in KV group 1; the trunk is layer 0 in group 0."""

    def __init__(
        self, num_heads: int = 3, window: int | None = 5, is_recurrent: bool = False, max_depth: int = 0
    ) -> None:
        rng = np.random.default_rng(7)
        self.hidden_size, self.vocab_size = WIDTH, VOCAB
        self.draft_vocab = None
        self.embedding = rng.normal(size=(VOCAB, WIDTH))
        self.trunk = rng.normal(size=(WIDTH, WIDTH)) * 0.5
        self.joins = rng.normal(size=(num_heads, 2 * WIDTH, WIDTH)) * 0.5
        self.outputs = rng.normal(size=(num_heads, WIDTH, VOCAB))
        self.draft = DraftSpec(
            num_heads=num_heads,
            layers=tuple(range(1, num_heads + 1)),
            window=window,
            is_recurrent=is_recurrent,
            max_depth=max_depth or num_heads,
        )
        self.layers = (SimpleNamespace(kv_group=0), *[SimpleNamespace(kv_group=1)] * num_heads)
        self.kv_specs = (
            KVSpec("full", None, (0,), is_draft=False),
            KVSpec("mtp", window, self.draft.layers, is_draft=True),
        )

    def trunk_rows(self, token_ids: Seq[int]) -> np.ndarray:
        """(num_tokens, WIDTH) float32: row p depends on every token up to p."""
        rows, state = np.zeros((len(token_ids), WIDTH), np.float32), np.zeros(WIDTH)
        for position, token_id in enumerate(token_ids):
            state = np.tanh(self.embedding[token_id] + np.einsum("i,ij->j", state, self.trunk))
            rows[position] = state
        return rows

    def key(self, head: int, token_id: int, hidden: np.ndarray) -> np.ndarray:
        joined = np.concatenate([self.embedding[token_id], hidden])
        return np.tanh(np.einsum("i,ij->j", joined, self.joins[head])).astype(np.float32)

    def output(self, keys: np.ndarray) -> np.ndarray:
        """The newest key last; all of them count, by distance."""
        weights = np.cos(np.arange(len(keys))[::-1] * 0.7)
        return np.tanh(keys[-1] + np.einsum("n,ni->i", weights, keys) * 0.5).astype(np.float32)

    def logits(self, head: int, out: np.ndarray) -> np.ndarray:
        return np.einsum("i,ij->j", out, self.outputs[head]).astype(np.float32)


class PoisonedKVCache(KVCache):
    """Tells which blocks are given back."""

    on_free: Callable[[int], None]

    def _put_back(self, table: list[int], group: int, index: int) -> None:
        if table[index] >= 0 and group == 1:
            self.on_free(table[index])
        super()._put_back(table, group, index)


class ToyRunner:
    """The runner that drafting sees. interrupt_at: raise in the pass of that number."""

    def __init__(self, model: ToyModel, num_blocks: int = 64, slack: int = BLOCK_SIZE) -> None:
        self.model = model
        self.backend = ReferenceBackend()
        self.kv_cache = PoisonedKVCache(model.kv_specs, (num_blocks, num_blocks), slack)
        self.keys = np.full((model.draft.num_heads, num_blocks * BLOCK_SIZE, WIDTH), np.nan, np.float32)
        self.kv_cache.on_free = self._poison
        self.num_passes = 0
        self.num_outputs = [0] * model.draft.num_heads  # rows of which a head computed more than keys and values
        self.max_rows = 0
        self.interrupt_at = -1

    def _poison(self, block: int) -> None:
        self.keys[:, block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = np.nan

    def draft_forward(
        self, head, spans: Seq[RowSpan], token_ids, hidden, logit_rows, output_rows=None, sample=None
    ) -> ForwardOutput:
        rows = attention_rows(spans, self.model.draft.window)
        assert len(token_ids) == len(hidden) == len(rows.positions)
        for row, token_id in enumerate(token_ids):
            self.keys[head, rows.slots[row]] = self.model.key(head, token_id, hidden[row])
        if self.num_passes == self.interrupt_at:
            self.interrupt_at = -1
            raise StepInterrupted
        self.num_passes += 1
        self.max_rows = max(self.max_rows, len(token_ids))
        wanted = list(range(len(token_ids)) if output_rows is None else output_rows)
        self.num_outputs[head] += len(wanted)
        out = np.array([self.model.output(self._keys(head, rows, row)) for row in wanted], np.float32).reshape(
            -1, WIDTH
        )
        logits = [self.model.logits(head, out[wanted.index(row)]) for row in logit_rows]
        return ForwardOutput(np.stack(logits) if logits else None, out)

    def _keys(self, head: int, rows: AttentionRows, row: int) -> np.ndarray:
        positions = np.arange(rows.first_keys[row], rows.positions[row] + 1)
        blocks = rows.block_tables[rows.sequences[row], positions // BLOCK_SIZE]
        assert blocks.min() >= 0, "a key has no block"
        # NaN among them spreads to the logits, which the sampler refuses.
        return self.keys[head, blocks * BLOCK_SIZE + positions % BLOCK_SIZE]


def naive_draft(model: ToyModel, token_ids: Seq[int], chain: str, depth: int) -> tuple[list[int], list[float]]:
    """Greedy draft tokens and margins, everything computed anew from position 0."""
    position, spec = len(token_ids) - 1, model.draft
    trunk = {-1: np.zeros(WIDTH, np.float32), **dict(enumerate(model.trunk_rows(token_ids[:-1])))}
    tokens, margins, links = list(token_ids), [], []
    if position == 0 and chain == "exact":
        return [], []  # head 0 has no row 0
    level = dict(trunk)  # position -> row that the next head reads
    for step in range(depth):
        head = 0 if spec.is_recurrent else step
        is_chained = chain == "exact" and not spec.is_recurrent
        first = head + 1 if chain == "exact" else 0
        inputs = level if is_chained else {**trunk, **{position + number: row for number, row in enumerate(links)}}
        keys, outputs = [], {}
        for row in range(first, position + step + 1):
            keys.append(model.key(head, tokens[row], inputs[row - 1]))
            seen = keys if spec.window is None else keys[-spec.window :]
            outputs[row] = model.output(np.stack(seen))
        level = outputs
        links.append(outputs[position + step])
        logits = model.logits(head, outputs[position + step])
        tokens.append(int(logits.argmax()))
        second, best = np.sort(logits)[-2:]
        margins.append(float(best) - float(second))
    return tokens[len(token_ids) :], margins


class Simulation:
    """One sequence and what an engine does to it, with the verdicts the test wants."""

    def __init__(
        self,
        proposer: MtpProposer,
        runner: ToyRunner,
        prompt_ids: Seq[int],
        speculation: Speculation,
        depth: int,
        kv: SequenceKV | None = None,
        max_new_tokens: int = 10_000,
        **params: object,
    ) -> None:
        request = Request(
            0, tuple(prompt_ids), SamplingParams(**params), speculation, 5, max_new_tokens, frozenset(), depth=depth
        )
        self.proposer, self.runner = proposer, runner
        self.sequence = Sequence(request, kv or runner.kv_cache.new())
        self.sequence.num_computed_tokens = self.sequence.kv.num_tokens
        proposer.begin(self.sequence)

    def set_depth(self, depth: int) -> None:
        self.sequence.request = replace(self.sequence.request, depth=depth)

    def prefill(self, chunk: int) -> None:
        """Everything but the last token."""
        while not self.sequence.is_decoding:
            start = self.sequence.num_computed_tokens
            end = min(start + chunk, len(self.sequence.token_ids) - 1)
            self._observe(start, end, end, self.sequence.token_ids)

    def propose_and_check(self) -> list[int]:
        self.proposer.propose([self.sequence])
        return self.check()

    def check(self) -> list[int]:
        """The draft that lies ready has the bits of one made from nothing; returns its tokens."""
        request, draft = self.sequence.request, self.sequence.draft
        expected = naive_draft(self.runner.model, self.sequence.token_ids, request.speculation.chain, request.depth)
        assert (list(draft.token_ids), list(draft.confidence)) == expected
        return list(draft.token_ids)

    def commit(self, draft: Seq[int], num_accepted: int, next_id: int | None = None) -> None:
        """A step that accepts num_accepted draft tokens and then goes another way."""
        sequence, start = self.sequence, self.sequence.num_computed_tokens
        rows_ids = [*sequence.token_ids, *draft]
        wrong = (
            next_id if next_id is not None else (draft[num_accepted] + 1 if num_accepted < len(draft) else 3) % VOCAB
        )
        sequence.token_ids += [*draft[:num_accepted], wrong]
        sequence.draft = NO_DRAFT
        self._observe(start, len(rows_ids), len(sequence.token_ids) - 1, rows_ids)

    def _observe(self, start: int, end: int, num_tokens: int, row_ids: Seq[int]) -> None:
        assert self.runner.kv_cache.claim(self.sequence.kv, 0, start, end)
        hidden = np.concatenate(
            [np.full((2, WIDTH), np.nan, np.float32), self.runner.model.trunk_rows(row_ids[:end])[start:]]
        )
        self.runner.kv_cache.advance(self.sequence.kv, end, num_tokens)
        self.sequence.num_computed_tokens = num_tokens
        rows = ScheduledRows(self.sequence, start, end, NO_DRAFT, first_row=2, logits_start=0, num_logits=0)
        self.proposer.observe(ScheduledBatch((rows,)), hidden, [None])
