"""Drafts copied from the sequence itself: what followed the same tokens when they stood there before.

Edits of a file in the prompt, quotations and tables of alike rows are largely copies. The index is the sequence's own
and ends with it; nothing is shared between sequences.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from stepahead.backends.base import Tensor
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.request import NO_DRAFT, Draft, Request, Sequence, SequenceKV, Verdict
from stepahead.speculative.copy_index import CopyIndex
from stepahead.speculative.copy_source import MIN_MATCH
from stepahead.speculative.forced import allowed_ids


@dataclass(frozen=True, slots=True)
class Match:
    """A continuation of the text, and the number of tokens before it that agree with where it comes from.

    is_resumed: too few of them to be a match anywhere, but close to where a copy broke off.
    """

    length: int
    token_ids: tuple[int, ...]
    is_resumed: bool


class CopyProposer:
    """A Proposer (speculative/proposer.py) that needs no model. A draft token's confidence is the match's length."""

    def begin(self, sequence: Sequence) -> None:
        pass

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Draft where a match is found; while a prompt is computed, its index is built beside it."""
        for sequence in sequences:
            sequence.draft = NO_DRAFT
            if sequence.request.depth == 0 or sequence.is_finished or sequence.is_aborted:
                continue
            limit = min(sequence.request.depth, sequence.num_remaining_tokens - 1) if sequence.is_decoding else 0
            match = self.continuation(sequence, limit)
            if match is not None:
                confidence = (float(match.length),) * len(match.token_ids)
                sequence.draft = Draft(match.token_ids, confidence, "copy")

    def continuation(self, sequence: Sequence, limit: int) -> Match | None:
        """What the text would go on with, at most `limit` tokens, to the end of the text at most; None: no idea.

        Brings the index up to date first, as far as a step has time for it. A replay with forced acceptance is about
        the heads: a copy of what is recorded would be right more often than was asked for.
        """
        replay = sequence.request.replay
        if replay is not None and replay.rates is not None:
            return None
        index = sequence.copy_index
        if index is None:
            index = sequence.copy_index = CopyIndex(sequence)
        assert isinstance(index, CopyIndex)
        if not index.catch_up() or limit < 1 or index.match_length == 0:
            return None
        token_ids = allowed_ids(sequence, _up_to_end(index.read(limit), sequence.request.end_ids))
        if not token_ids:
            return None
        return Match(index.match_length, token_ids, is_resumed=index.match_length < MIN_MATCH)

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """Index a prompt while it is computed, so that no token waits for it. An index is no use to a sequence that has
        ended, and its result may be kept for long."""
        for rows in batch.rows:
            sequence = rows.sequence
            if sequence.is_finished:
                sequence.copy_index = None
                continue
            is_early = rows.is_prompt or sequence.copy_index is None  # None: most of the prompt was in the cache
            if is_early and _may_copy(sequence.request):
                self.continuation(sequence, 0)

    def forget(self, kv: SequenceKV) -> None:
        pass


def _may_copy(request: Request) -> bool:
    """Whether copies are ever proposed to it: mode "auto" at a fixed depth drafts by heads alone."""
    mode = request.speculation.mode
    return request.depth > 0 and (mode == "copy" or (mode == "auto" and request.speculation.adaptive))


def _up_to_end(token_ids: list[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    for count, token_id in enumerate(token_ids, 1):
        if token_id in end_ids:
            return tuple(token_ids[:count])
    return tuple(token_ids)
