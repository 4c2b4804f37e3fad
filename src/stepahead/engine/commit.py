"""What one verdict does to one sequence: tokens are taken one by one, and the first that ends it ends it.

Owns the end of a sequence: end token, stop string, finished grammar, length. Knows no blocks and no other sequence.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from stepahead.engine.batch import ScheduledRows
from stepahead.engine.request import NO_DRAFT, FinishReason, RequestOutput, Sequence, Verdict

logger = logging.getLogger(__name__)


def commit_verdict(rows: ScheduledRows, verdict: Verdict) -> RequestOutput:
    """Append a verdict's tokens to their sequence, up to the one that ends it; what follows it never happened.

    A text stream or grammar that raises ends its own sequence with ABORT and the error as stop_reason; the others of
    the batch go on.
    """
    sequence = rows.sequence
    num_before = len(sequence.token_ids)
    pieces: list[str] = []
    with _contained(sequence):
        for token_id in verdict.token_ids:
            pieces.append(_take(sequence, token_id))
            if sequence.is_finished:
                pieces[-1] += _flush(sequence)
                break
    taken = tuple(sequence.token_ids[num_before:])
    num_accepted = min(len(taken), len(verdict.accepted_ids))
    sequence.stats.count(len(rows.draft.token_ids), num_accepted, rows.draft.source)
    sequence.num_passes += 1
    sequence.draft = NO_DRAFT
    del sequence.logprobs[sequence.num_output_tokens :]  # verify entered those of dropped tokens too
    return _output(sequence, taken, pieces, num_accepted)


def commit_abort(sequence: Sequence) -> RequestOutput:
    """End a sequence as it stands; text that was held back is its last."""
    sequence.finish_reason = FinishReason.ABORT
    sequence.draft = NO_DRAFT
    pieces: list[str] = []
    with _contained(sequence):
        pieces.append(_flush(sequence))
    return _output(sequence, (), pieces, 0)


def _output(sequence: Sequence, token_ids: tuple[int, ...], pieces: list[str], num_accepted: int) -> RequestOutput:
    text_delta = "".join(pieces)
    sequence.text += text_delta
    return RequestOutput(
        request_id=sequence.request.request_id,
        token_ids_delta=token_ids,
        text_delta=text_delta,
        pieces=tuple(pieces),
        num_accepted=num_accepted,
        finish_reason=sequence.finish_reason,
    )


@contextmanager
def _contained(sequence: Sequence) -> Iterator[None]:
    """Text streams and grammars are foreign code: an error there ends this sequence, not the whole batch."""
    try:
        yield
    except Exception as error:
        logger.exception("request %s ended by an error", sequence.request.request_id)
        sequence.finish_reason = FinishReason.ABORT
        sequence.stop_reason = f"{type(error).__name__}: {error}"


def _take(sequence: Sequence, token_id: int) -> str:
    """Append one token and decide whether it is the last; returns the text that it releases."""
    sequence.token_ids.append(token_id)
    if token_id in sequence.request.end_ids:
        _stop(sequence, token_id)  # an end token is no part of the text
        return ""
    text = sequence.request.text
    piece = "" if text is None else text.push(token_id)
    if sequence.grammar is not None:
        sequence.grammar = sequence.grammar.advance(token_id)
    if text is not None and text.stopped:
        _stop(sequence, text.matched_stop)
    elif sequence.grammar is not None and sequence.grammar.is_finished:
        _stop(sequence, None)
    elif sequence.num_remaining_tokens == 0:
        sequence.finish_reason = FinishReason.LENGTH
    return piece


def _stop(sequence: Sequence, reason: int | str | None) -> None:
    sequence.finish_reason = FinishReason.STOP
    sequence.stop_reason = reason


def _flush(sequence: Sequence) -> str:
    return "" if sequence.request.text is None else sequence.request.text.flush()
