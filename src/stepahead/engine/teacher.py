"""Teacher forcing: logits of given tokens, outside of any schedule. For evaluation, perplexity and parity tests.

Uses the engine's runner and a sequence of its own, which is gone when the iteration ends. Chooses no tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from stepahead.backends.base import Floats
from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import NO_DRAFT, Request, Sequence
from stepahead.engine.runner import ModelRunner
from stepahead.errors import CapacityError
from stepahead.models.model import Chain
from stepahead.speculative.mtp import MtpProposer


def trunk_logits(runner: ModelRunner, token_ids: list[int], chunk_tokens: int) -> Iterator[Floats]:
    """Logits of every position, (num_rows, vocab_size) a chunk. Raises CapacityError if the tokens do not fit."""
    with _sequence(runner, token_ids, "exact") as sequence:
        for batch in _chunks(sequence, len(token_ids), chunk_tokens, with_logits=True):
            _claim(runner, sequence, batch)
            yield runner.host_logits(runner.forward(batch))
            _advance(runner, sequence, batch)


def draft_logits(
    runner: ModelRunner, proposer: MtpProposer, token_ids: list[int], chain: Chain, chunk_tokens: int
) -> Floats:
    """(num_heads, vocab_size): each head's logits in the chain that follows token_ids, greedy drafts in between.

    The last token is the one just sampled: it has not been through the trunk.
    """
    with _sequence(runner, token_ids, chain) as sequence:
        proposer.begin(sequence)
        try:
            for batch in _chunks(sequence, len(token_ids) - 1, chunk_tokens, with_logits=False):
                _claim(runner, sequence, batch)
                output = runner.forward(batch)
                _advance(runner, sequence, batch)
                proposer.observe(batch, output.hidden, [None])
            return proposer.draft_logits(sequence, chain)
        finally:
            proposer.forget(sequence.kv)


@contextmanager
def _sequence(runner: ModelRunner, token_ids: list[int], chain: Chain) -> Iterator[Sequence]:
    request = Request(
        request_id=-1,
        prompt_ids=tuple(token_ids),
        params=SamplingParams(),
        speculation=Speculation(chain=chain),
        seed=0,
        max_new_tokens=1,
        end_ids=frozenset(),
    )
    sequence = Sequence(request, runner.kv_cache.new())
    try:
        yield sequence
    finally:
        runner.kv_cache.release(sequence.kv)


def _chunks(sequence: Sequence, end: int, chunk_tokens: int, with_logits: bool) -> Iterator[ScheduledBatch]:
    for start in range(0, end, chunk_tokens):
        stop = min(start + chunk_tokens, end)
        num_logits = stop - start if with_logits else 0
        yield ScheduledBatch((ScheduledRows(sequence, start, stop, NO_DRAFT, 0, 0, num_logits),))


def _claim(runner: ModelRunner, sequence: Sequence, batch: ScheduledBatch) -> None:
    rows = batch.rows[0]
    for group, spec in enumerate(runner.model.kv_specs):
        if not spec.is_draft and not runner.kv_cache.claim(sequence.kv, group, rows.start, rows.end):
            raise CapacityError(
                f"{rows.end} tokens do not fit into the KV cache beside what it holds: "
                "give fewer tokens, or a larger context_length or max_num_seqs"
            )


def _advance(runner: ModelRunner, sequence: Sequence, batch: ScheduledBatch) -> None:
    runner.kv_cache.advance(sequence.kv, batch.rows[0].end, batch.rows[0].end)
    sequence.num_computed_tokens = batch.rows[0].end
