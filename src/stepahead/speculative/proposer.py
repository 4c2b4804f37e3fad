"""Where draft tokens come from. A proposer guesses; the engine verifies; a wrong guess costs time, never text."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Protocol

from stepahead.backends.base import Tensor
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.request import NO_DRAFT, Sequence, SequenceKV, Verdict


class Proposer(Protocol):
    """begin, then in every step propose and observe, at last forget."""

    def begin(self, sequence: Sequence) -> None:
        """A sequence was admitted; sequence.kv may already hold a prefix: see sequence.hidden_rows."""
        ...

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Set `sequence.draft` of every sequence that is decoding; it may stay NO_DRAFT. Never longer than
        request.depth, nor than the tokens still wanted minus one."""
        ...

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """After commit. `hidden` has the batch's rows; bookkeeping only, no pass over the model.

        Whoever needs hidden rows sets those of sequence.snapshots, which were taken within the step.
        """
        ...

    def forget(self, kv: SequenceKV) -> None:
        """The sequence is gone: drop what is kept for it."""
        ...


class NoProposer:
    """Drafts nothing: plain decoding."""

    def begin(self, sequence: Sequence) -> None:
        pass

    def propose(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            sequence.draft = NO_DRAFT

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        pass

    def forget(self, kv: SequenceKV) -> None:
        pass
