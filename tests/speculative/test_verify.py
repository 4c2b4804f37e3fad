"""Verdicts: what is accepted is what the target would have said itself, whatever was drafted."""

import math

import numpy as np
import pytest

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.request import (
    NO_DRAFT,
    Draft,
    Request,
    SamplingParams,
    Sequence,
    SequenceKV,
    Speculation,
    Verdict,
)
from stepahead.engine.sampler import Sampler
from stepahead.speculative.verify import verify

SAMPLER = Sampler()
VOCAB = 6


class Counted:
    """A grammar of `length` tokens, none of them 0."""

    def __init__(self, length: int) -> None:
        self.length = length

    def mask(self, logits) -> None:
        assert self.length > 0, "asked about what follows the end"
        logits[0] = -np.inf

    def advance(self, token_id: int) -> "Counted":
        assert token_id != 0
        return Counted(self.length - 1)

    @property
    def is_finished(self) -> bool:
        return self.length == 0


def sequence_of(prompt=(1, 2, 3), end_ids=(), grammar=None, seed=0, **params) -> Sequence:
    request = Request(0, tuple(prompt), SamplingParams(**params), Speculation(), seed, 100, frozenset(end_ids))
    sequence = Sequence(request, SequenceKV(1, 0))
    sequence.grammar = grammar
    return sequence


def scheduled(sequence: Sequence, draft_ids=(), logits_start=0, num_logits=None) -> ScheduledRows:
    draft = Draft(tuple(draft_ids), (1.0,) * len(draft_ids), "test") if draft_ids else NO_DRAFT
    count = 1 + len(draft_ids) if num_logits is None else num_logits
    return ScheduledRows(sequence, 0, 3 + len(draft_ids), draft, 0, logits_start, count)


def says(*token_ids: int) -> np.ndarray:
    """Logits whose best tokens are these."""
    logits = np.zeros((len(token_ids), VOCAB), np.float32)
    logits[np.arange(len(token_ids)), token_ids] = 5.0
    return logits


def verdict_of(sequence: Sequence, draft_ids, logits) -> Verdict | None:
    return verify(ScheduledBatch((scheduled(sequence, draft_ids),)), LogitRows.of(logits), SAMPLER)[0]


@pytest.mark.parametrize(
    ("draft_ids", "accepted", "next_id"),
    [((), (), 4), ((4, 5, 1), (4, 5, 1), 2), ((3, 5, 1), (), 4), ((4, 3, 1), (4,), 5), ((4, 5, 2), (4, 5), 1)],
)
def test_accepts_up_to_the_first_difference(draft_ids, accepted, next_id) -> None:
    logits = says(4, 5, 1, 2)[: len(draft_ids) + 1]
    assert verdict_of(sequence_of(), draft_ids, logits) == Verdict(accepted, next_id)


def test_each_row_reads_its_own_logits() -> None:
    a, b, c = sequence_of(), sequence_of(), sequence_of()
    rows = (scheduled(a, (4,), 0), scheduled(b, num_logits=0), scheduled(c, (5, 5), 2))
    verdicts = verify(ScheduledBatch(rows), LogitRows.of(says(4, 1, 5, 2, 3)), SAMPLER)
    assert verdicts == [Verdict((4,), 1), None, Verdict((5,), 2)]


@pytest.mark.parametrize("seed", range(30))
def test_any_draft_gives_the_text_of_none(seed: int) -> None:
    params = {"temperature": 1.2, "top_p": 0.95, "repetition_penalty": 1.5, "frequency_penalty": 0.5}
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(200, VOCAB)).astype(np.float32)  # of the position that follows token number i

    def text(max_draft: int) -> list[int]:
        sequence = sequence_of(seed=seed, **params)
        while len(sequence.token_ids) < 60:
            start = len(sequence.token_ids)
            draft_ids = rng.integers(0, VOCAB, rng.integers(0, max_draft + 1)).tolist()
            verdict = verdict_of(sequence, draft_ids, logits[start : start + 1 + len(draft_ids)])
            sequence.token_ids += verdict.token_ids
        return sequence.token_ids[:60]

    assert text(4) == text(0)


def test_a_finished_grammar_is_not_asked_again() -> None:
    sequence = sequence_of(grammar=Counted(2))
    assert verdict_of(sequence, (4, 5, 1), says(4, 5, 1, 2)) == Verdict((4,), 5)
    assert verdict_of(sequence, (4, 5), says(4, 5, 1)) == Verdict((4,), 5)
    assert sequence.grammar.length == 2  # committing is not verifying


def test_a_forbidden_draft_token_is_rejected() -> None:
    logits = says(4, 0, 1)
    logits[1, 3] = 1.0
    assert verdict_of(sequence_of(grammar=Counted(9)), (4, 0), logits) == Verdict((4,), 3)


def test_a_grammar_is_not_advanced_by_an_end_token() -> None:
    class NoEnd(Counted):
        def advance(self, token_id: int) -> "NoEnd":
            assert token_id != 5
            return NoEnd(self.length - 1)

    assert verdict_of(sequence_of(end_ids=[5], grammar=NoEnd(9)), (4, 5, 1), says(4, 5, 1, 2)) == Verdict((4,), 5)


def test_logprobs_cover_the_verdicts_tokens() -> None:
    sequence = sequence_of(logprobs=1)
    assert verdict_of(sequence, (4, 3), says(4, 5, 1)) == Verdict((4,), 5)
    assert [list(entry) for entry in sequence.logprobs] == [[4], [5]]
    expected = 5.0 - math.log(math.exp(5.0) + VOCAB - 1)
    assert sequence.logprobs[0][4] == pytest.approx(expected)


def test_no_logprobs_unless_asked_for() -> None:
    sequence = sequence_of()
    verdict_of(sequence, (4,), says(4, 5))
    assert sequence.logprobs == []
