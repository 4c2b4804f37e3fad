"""Tokens that a grammar forces, and grammars that cannot be trusted to say."""

import itertools
import logging
from dataclasses import dataclass

import numpy as np
import pytest

from stepahead.engine.request import NO_DRAFT, Draft, Sequence, SequenceKV
from stepahead.speculative import forced
from stepahead.speculative.copy import CopyProposer
from stepahead.speculative.forced import allowed_ids, forced_ids
from stepahead.speculative.proposer import NoProposer
from support.toy_engine import VOCAB, Countdown, make_engine, make_request, run


@dataclass(frozen=True)
class Fixed:
    """Spells `text`; -1 stands for a token that is free. `step` ids are told at once."""

    text: tuple[int, ...]
    step: int = 1

    def mask(self, logits):
        if self.text[0] >= 0:
            kept = logits[self.text[0]]
            logits[:] = -np.inf
            logits[self.text[0]] = kept

    def advance(self, token_id):
        assert self.text[0] in (-1, token_id)
        return Fixed(self.text[1:], self.step)

    @property
    def is_finished(self):
        return not self.text

    def forced_ids(self):
        ids = self.text[: self.step]
        return ids[: ids.index(-1)] if -1 in ids else ids


class Broken(Countdown):
    def forced_ids(self):
        raise RuntimeError("not today")


def sequence_of(grammar, end_ids=()):
    return Sequence(make_request(0, (1,), 50, end_ids=end_ids, grammar=grammar), SequenceKV(0, 1))


@pytest.fixture(autouse=True)
def forget_warnings():
    forced._warn_once.cache_clear()


@pytest.mark.parametrize("step", [1, 2, 9])
@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ((5, 6, 7, -1, 8), 10, (5, 6, 7)),
        ((5, 6, 7, -1, 8), 2, (5, 6)),
        ((5, 6), 10, (5, 6)),
        ((-1, 6), 10, ()),
        ((5, 6, 7, 8), 10, (5, 6, 7)),  # 7 ends the text
        ((5, 6, 7, 8), 0, ()),
    ],
)
def test_what_is_forced(step, text, limit, expected) -> None:
    assert forced_ids(sequence_of(Fixed(text, step), end_ids={7}), limit, VOCAB) == expected


def test_grammars_that_do_not_say_force_nothing() -> None:
    assert forced_ids(sequence_of(None), 9, VOCAB) == ()
    assert forced_ids(sequence_of(Countdown(5)), 9, VOCAB) == ()


@pytest.mark.parametrize("grammar", [Broken(5), Fixed((3, VOCAB)), Fixed((3, -7), 2), Fixed(("a",))])
def test_a_grammar_that_fails_forces_nothing_more_and_is_named_once(grammar, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ids = forced_ids(sequence_of(grammar), 9, VOCAB)
    assert ids in ((), (3,))
    assert [record.name for record in caplog.records] == ["stepahead.speculative.forced"]
    assert type(grammar).__qualname__ in caplog.text


def test_a_claim_beyond_the_grammars_end_is_cut_there(caplog) -> None:
    class Boastful(Countdown):
        def advance(self, token_id):
            assert not self.is_finished
            return Boastful(self.left - 1)

        def forced_ids(self):
            return itertools.repeat(7)

    assert forced_ids(sequence_of(Boastful(3)), 9, VOCAB) == (7, 7, 7)
    assert not caplog.records


class ForcedProposer(NoProposer):
    def propose(self, sequences):
        for sequence in sequences:
            limit = min(15, sequence.num_remaining_tokens - 1) if sequence.is_decoding else 0
            ids = forced_ids(sequence, limit, VOCAB)
            sequence.draft = Draft(ids, (0.0,) * len(ids), "forced") if ids else NO_DRAFT


@dataclass(frozen=True)
class Liar(Fixed):
    """Claims tokens that its own mask forbids."""

    def advance(self, token_id):
        return Liar(self.text[1:])

    def forced_ids(self):
        return ((self.text[0] + 1) % VOCAB,) * 3


def texts(proposer, grammar):
    engine = make_engine(proposer)
    sequence = engine.add(make_request(0, (1, 2, 3), 30, grammar=grammar))
    return run(engine), sequence.stats


def test_forced_tokens_are_accepted_and_change_no_text() -> None:
    grammar = Fixed((4, 5, 6, -1, -1, 7, 8, 9, -1, 3, 3, 3, 3))
    plain, _ = texts(NoProposer(), grammar)
    drafted, stats = texts(ForcedProposer(), grammar)
    assert drafted == plain
    assert stats.num_accepted_tokens == stats.num_draft_tokens - 1 > 5  # what completes a grammar is sampled


def test_a_wrong_claim_costs_time_and_no_text() -> None:
    grammar = Liar((4, 5, 6, 7, 8, 9))
    plain, _ = texts(NoProposer(), grammar)
    drafted, stats = texts(ForcedProposer(), grammar)
    assert drafted == plain
    assert stats.num_accepted_tokens == 0 < stats.num_draft_tokens


class Strict(Countdown):
    """Allows only even tokens, and says so."""

    def num_allowed(self, token_ids):
        return next((at for at, token_id in enumerate(token_ids) if token_id % 2), len(token_ids))


class Unsure(Countdown):
    def num_allowed(self, token_ids):
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [(None, (2, 4, 5, 6)), (Countdown(9), (2, 4, 5, 6)), (Strict(9), (2, 4)), (Unsure(9), (2, 4, 5, 6))],
)
def test_a_draft_is_cut_where_the_grammar_ends_it(grammar, expected) -> None:
    assert allowed_ids(sequence_of(grammar), (2, 4, 5, 6)) == expected


def test_a_copy_is_cut_where_the_grammar_ends_it() -> None:
    prompt = (2, 4, 5, 6, 8, 10) * 3 + (2, 4)
    found = {}
    for grammar in (None, Strict(9)):
        sequence = Sequence(make_request(0, prompt, 50, grammar=grammar), SequenceKV(0, 1))
        for _ in range(3):
            match = CopyProposer().continuation(sequence, 4)
        found[grammar is None] = match
    assert found[True].token_ids == (5, 6, 8, 10)
    assert found[False] is None
