"""Judges drafts: which draft tokens the target would have chosen itself, and the token after them.

The target samples every row with its own noise (engine/sampler.py); a draft token is accepted iff it equals that
sample. So the text is the target's, whatever was drafted. Sequences are read, never changed, but for the
log-probabilities they asked for: those of every token of the verdict are appended, and commit cuts what it drops. An
error in a sequence's own sampling or grammar is noted in it, so that whoever runs several knows whose it is.
"""

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.request import Verdict
from stepahead.engine.sampler import Sampler, SamplerState


def verify(batch: ScheduledBatch, logits: LogitRows, sampler: Sampler) -> list[Verdict | None]:
    """A verdict for each of batch.rows, None where no logits were wanted."""
    verdicts: list[Verdict | None] = []
    for rows in batch.rows:
        try:
            verdicts.append(verify_rows(rows, logits, sampler) if rows.num_logits else None)
        except Exception as error:
            rows.sequence.error = error
            raise
    return verdicts


def verify_rows(rows: ScheduledRows, logits: LogitRows, sampler: Sampler) -> Verdict:
    """One sequence: a row of logits for the last committed token and each draft token. No draft is plain sampling.

    A token that completes the grammar is the last one sampled, and stands as next_id even if it was drafted.
    """
    sequence, draft_ids = rows.sequence, rows.draft.token_ids
    assert rows.num_logits == len(draft_ids) + 1 <= len(logits) - rows.logits_start, "a row of logits for each token"
    num_best, replay = sequence.request.params.logprobs, sequence.request.replay
    state = SamplerState.of(sequence)
    accepted: list[int] = []
    while True:
        number = rows.logits_start + len(accepted)
        position = len(sequence.token_ids) + len(accepted)
        token_id = logits.choose(number, sampler, state, position).token_id
        if replay is not None:
            token_id = replay.target(position, token_id)
        if num_best is not None:
            sequence.logprobs.append(sampler.logprobs(logits.values[number], token_id, num_best))
        if len(accepted) == len(draft_ids) or token_id != draft_ids[len(accepted)]:
            break
        # A grammar is not asked about what follows the end of the text.
        if state.grammar is not None and token_id in sequence.request.end_ids:
            break
        state = state.advance(token_id)
        if state.is_finished:
            break
        accepted.append(token_id)
    return Verdict(tuple(accepted), token_id)
