"""Copies: what is proposed, how they survive edits, and that the text does not depend on them."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.replay import Replay
from stepahead.engine.request import NO_DRAFT, FinishReason, Request, Sequence, SequenceKV
from stepahead.speculative import copy_index
from stepahead.speculative.copy import CopyProposer, Match
from stepahead.speculative.copy_source import MAX_LOST
from stepahead.speculative.proposer import NoProposer
from support.toy_engine import make_engine, make_request, prompt_of, run

RNG = random.Random(4)
FILE = [RNG.randrange(1000) for _ in range(400)]
MARK = [2000, 2001]  # between prompt and output


def sequence_of(prompt, max_new_tokens=10_000, end_ids=(), depth=15):
    request = Request(
        request_id=1,
        prompt_ids=tuple(prompt),
        params=SamplingParams(),
        speculation=Speculation(mode="copy"),
        seed=0,
        max_new_tokens=max_new_tokens,
        end_ids=frozenset(end_ids),
        depth=depth,
    )
    sequence = Sequence(request, SequenceKV(0, 1))
    sequence.num_computed_tokens = len(prompt) - 1
    return sequence


def feed(sequence, proposer, token_ids):
    """Token by token, as plain decoding gives them; what would have been proposed after each."""
    matches = []
    for token_id in token_ids:
        sequence.token_ids.append(token_id)
        sequence.num_computed_tokens += 1
        matches.append(proposer.continuation(sequence, 15))
    return matches


def replay(prompt, target, limit=15):
    """Tokens a pass when every match is verified, and every token is as `target` says."""
    sequence, proposer = sequence_of(prompt), CopyProposer()
    done = num_passes = 0
    while done < len(target):
        match = proposer.continuation(sequence, min(limit, len(target) - done - 1))
        drafted = match.token_ids if match else ()
        agreed = 0
        while agreed < len(drafted) and drafted[agreed] == target[done + agreed]:
            agreed += 1
        sequence.token_ids += target[done : done + agreed + 1]
        done += agreed + 1
        num_passes += 1
    return len(target) / num_passes


def test_three_tokens_are_a_match_and_two_are_none() -> None:
    matches = feed(sequence_of(FILE + MARK), CopyProposer(), FILE[100:104])
    assert matches[:2] == [None, None]
    assert matches[2] == Match(3, tuple(FILE[103:118]), is_resumed=False)
    assert matches[3] == Match(4, tuple(FILE[104:119]), is_resumed=False)


def test_limit_and_end_tokens_bound_a_copy() -> None:
    proposer = CopyProposer()
    sequence = sequence_of(FILE + MARK + FILE[:3], end_ids={FILE[6]})
    assert proposer.continuation(sequence, 2).token_ids == tuple(FILE[3:5])
    assert proposer.continuation(sequence, 15).token_ids == tuple(FILE[3:7])
    assert proposer.continuation(sequence, 0) is None


def test_a_copy_that_reaches_the_end_of_the_text_goes_on_into_itself() -> None:
    match = CopyProposer().continuation(sequence_of([9, 1, 2, 1, 2, 1, 2]), 7)
    assert match.token_ids == (1, 2, 1, 2, 1, 2, 1)


def test_a_substituted_token_costs_one_rejection_not_three_tokens() -> None:
    proposer, sequence = CopyProposer(), sequence_of(FILE + MARK)
    feed(sequence, proposer, FILE[:20])
    assert feed(sequence, proposer, [3000]) == [None]
    (match,) = feed(sequence, proposer, FILE[21:22])
    assert match == Match(1, tuple(FILE[22:37]), is_resumed=True)
    matches = feed(sequence, proposer, FILE[22:24])
    assert [(match.length, match.is_resumed) for match in matches] == [(2, True), (3, False)]


@pytest.mark.parametrize(
    ("inserted", "num_deleted"),
    [([3000, 3001, 3002], 0), ([], 5), ([3000, 3001], 4), (list(range(3000, 3000 + MAX_LOST - 1)), 0)],
)
def test_insertions_and_deletions_are_survived(inserted, num_deleted) -> None:
    proposer, sequence = CopyProposer(), sequence_of(FILE + MARK)
    feed(sequence, proposer, FILE[:20] + inserted)
    (match,) = feed(sequence, proposer, [FILE[20 + num_deleted]])
    assert match.is_resumed
    assert match.token_ids == tuple(FILE[21 + num_deleted : 36 + num_deleted])
    *_, match = feed(sequence, proposer, FILE[21 + num_deleted : 28 + num_deleted])
    assert match == Match(8, tuple(FILE[28 + num_deleted : 43 + num_deleted]), is_resumed=False)


def test_of_equal_places_that_of_a_substitution_is_taken() -> None:
    source = [*FILE[:20], 50, 60, 70, 60, 80, 60, *FILE[20:40]]  # 50 is substituted, and 60 follows
    proposer, sequence = CopyProposer(), sequence_of(source + MARK)
    feed(sequence, proposer, [*FILE[:20], 3000])
    assert feed(sequence, proposer, [60])[0].token_ids[:2] == (70, 60)
    proposer, sequence = CopyProposer(), sequence_of(source + MARK)
    feed(sequence, proposer, [*FILE[:20], 3000, 3001, 3002])
    assert feed(sequence, proposer, [60])[0].token_ids[:2] == (80, 60)


def test_a_longer_match_elsewhere_is_preferred() -> None:
    proposer, sequence = CopyProposer(), sequence_of(FILE + MARK)
    matches = feed(sequence, proposer, [*FILE[:20], *FILE[200:202], 3000])
    assert matches[-1] is None
    proposer, sequence = CopyProposer(), sequence_of([*FILE, *FILE[300:302], FILE[22], 7, 8, 9, *MARK])
    (*_, match) = feed(sequence, proposer, [*FILE[:20], *FILE[300:302], FILE[22]])
    assert match.length == 3
    assert match.token_ids[:3] == (7, 8, 9)


def test_a_copy_lost_for_long_is_not_looked_for() -> None:
    proposer, sequence = CopyProposer(), sequence_of(FILE + MARK)
    feed(sequence, proposer, FILE[:20] + list(range(3000, 3000 + MAX_LOST)))
    assert feed(sequence, proposer, FILE[20:22]) == [None, None]
    assert feed(sequence, proposer, FILE[22:23])[0].token_ids == tuple(FILE[23:38])


def test_a_place_that_was_right_for_few_tokens_is_not_looked_for_again() -> None:
    proposer, sequence = CopyProposer(), sequence_of(FILE + MARK)
    feed(sequence, proposer, FILE[:20])
    feed(sequence, proposer, FILE[200:206])  # a match of three, and three that follow
    assert feed(sequence, proposer, [3000, FILE[207]]) == [None, None]
    (match,) = feed(sequence, proposer, [FILE[20]])  # where the copy before broke off
    assert match == Match(1, tuple(FILE[21:36]), is_resumed=True)


def renamed(token_ids, old, new):
    out = []
    while token_ids:
        if token_ids[: len(old)] == old:
            out, token_ids = out + new, token_ids[len(old) :]
        else:
            out, token_ids = out + token_ids[:1], token_ids[1:]
    return out


@pytest.mark.parametrize(("old", "new"), [([7777], [8888]), ([7777, 7778], [8888]), ([7777], [8888, 8889, 8890])])
def test_a_rename_is_learnt_from_its_first_use(old, new) -> None:
    source = []
    for start in range(0, 396, 12):
        source += FILE[start : start + 12] + old
    target = renamed(source, old, new)
    sequence, proposer = sequence_of(source + MARK), CopyProposer()
    first = 12 + len(new) + 5  # a use, the token that shows where it ends, and four that confirm it
    next_use = 24 + len(new)
    *_, unsure, sure = feed(sequence, proposer, target[:first])
    assert unsure.token_ids == tuple(target[first - 1 : next_use] + old + FILE[24:])[:15]
    assert sure.token_ids == tuple(target[first : first + 15])
    *_, within = feed(sequence, proposer, target[first : next_use + 1])
    assert within.token_ids == tuple(target[next_use + 1 : next_use + 16])
    assert replay(source + MARK, target) > 12  # below 7 where each use is a surprise


def spaced(name):
    """Stretches of ten tokens, `name` after each."""
    return [token_id for start in range(0, 100, 10) for token_id in [*FILE[start : start + 10], *name]]


def test_a_rename_that_changes_is_learnt_anew() -> None:
    proposer, sequence = CopyProposer(), sequence_of(spaced([7777]) + MARK)
    feed(sequence, proposer, [*FILE[:10], 8888, 8889, *FILE[10:20], 8888, 9999, *FILE[20:26]])
    assert proposer.continuation(sequence, 7).token_ids == (*FILE[26:30], 8888, 9999, FILE[30])


def test_what_a_prompt_renames_is_not_expected_of_the_output() -> None:
    edited = spaced([8888])[:50]
    proposer, sequence = CopyProposer(), sequence_of(spaced([7777]) + MARK + edited + MARK)
    *_, match = feed(sequence, proposer, [*FILE[50:55]])
    assert match.token_ids[:7] == (*FILE[55:60], 7777, FILE[60])


def test_a_rename_that_no_longer_holds_is_forgotten() -> None:
    proposer, sequence = CopyProposer(), sequence_of(spaced([7777]) + MARK)
    feed(sequence, proposer, [*FILE[:10], 8888, *FILE[10:15]])
    assert proposer.continuation(sequence, 7).token_ids == (*FILE[15:20], 8888, FILE[20])
    feed(sequence, proposer, [*FILE[15:20], 7777])
    assert proposer.continuation(sequence, 12) == Match(11, (*FILE[20:30], 7777, FILE[30]), is_resumed=False)


def test_a_long_prompt_is_indexed_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(copy_index, "MAX_INDEXED", 100)
    proposer = CopyProposer()
    sequence = sequence_of(FILE[:300] + FILE[:30])
    results = [proposer.continuation(sequence, 5) for _ in range(4)]
    assert results[:3] == [None] * 3
    assert results[3] == Match(30, tuple(FILE[30:35]), is_resumed=False)


def test_a_prompt_is_indexed_while_it_is_computed() -> None:
    proposer, sequence = CopyProposer(), sequence_of(FILE + FILE[:30])
    sequence.num_computed_tokens = 0
    proposer.propose([sequence])
    assert sequence.draft is NO_DRAFT
    assert sequence.copy_index.match_length == 30


def test_drafts_keep_to_depth_and_tokens_wanted() -> None:
    proposer = CopyProposer()
    for depth, max_new_tokens, expected in [(15, 100, 15), (4, 100, 4), (15, 4, 3), (15, 1, 0), (0, 100, 0)]:
        sequence = sequence_of(FILE + FILE[:30], max_new_tokens, depth=depth)
        proposer.propose([sequence])
        assert sequence.draft.token_ids == tuple(FILE[30 : 30 + expected])
        assert len(sequence.draft.confidence) == expected
    sequence = sequence_of(FILE + FILE[:30])
    sequence.finish_reason = FinishReason.STOP
    proposer.propose([sequence])
    assert sequence.draft is NO_DRAFT


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(0, 80), st.integers(1, 15))
def test_any_text_gives_drafts_within_bounds(text, num_prompt, limit) -> None:
    """Rules, breaks and sources at the very end of the text: every token offered was in the text."""
    prompt, output = text[: max(num_prompt, 1)], text[max(num_prompt, 1) :]
    proposer, sequence = CopyProposer(), sequence_of(prompt)
    for token_id in [*output, None]:
        match = proposer.continuation(sequence, limit)
        if match is not None:
            assert len(match.token_ids) == limit
            assert set(match.token_ids) <= set(sequence.token_ids)
            assert match.length >= 1
            assert match.is_resumed == (match.length < 3)
        if token_id is not None:
            sequence.token_ids.append(token_id)


FEW = {1: 50.0, 2: 50.0, 3: 50.0}  # a text of three letters repeats itself by chance


def results(proposer, temperature, depth):
    engine = make_engine(proposer)
    sequences = [
        engine.add(
            make_request(
                number, prompt_of(length), 60, depth=depth, seed=number, logit_bias=FEW, temperature=temperature
            )
        )
        for number, length in enumerate([1, 150, 7])
    ]
    return run(engine), sequences


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_does_not_depend_on_copies(temperature) -> None:
    plain, _ = results(NoProposer(), temperature, 0)
    for depth in (1, 4, 15):
        copied, sequences = results(CopyProposer(), temperature, depth)
        assert copied == plain
        drafted = sum(sequence.stats.num_draft_tokens for sequence in sequences)
        accepted = sum(sequence.stats.num_accepted_tokens for sequence in sequences)
        assert 0 < accepted < drafted
        assert all(sequence.copy_index is None for sequence in sequences), "an index outlived its sequence"


@pytest.mark.parametrize(
    ("speculation", "depth", "is_indexed"),
    [
        (Speculation("copy"), 15, True),
        (Speculation("copy", adaptive=False), 4, True),
        (Speculation(), 15, True),
        (Speculation(adaptive=False), 3, False),  # heads alone
        (Speculation("mtp"), 3, False),
        (Speculation("off"), 0, False),
        (Speculation("copy", 0), 0, False),
    ],
)
def test_only_what_may_copy_is_indexed(speculation, depth, is_indexed) -> None:
    sequence = sequence_of(FILE, depth=depth)
    sequence.request = dataclasses.replace(sequence.request, speculation=speculation)
    prompt = ScheduledRows(sequence, 0, 100, NO_DRAFT, 0, 0, 0)
    CopyProposer().observe(ScheduledBatch((prompt,)), None, [None])
    assert (sequence.copy_index is not None) == is_indexed


@pytest.mark.parametrize(("rates", "is_copied"), [(None, True), ((0.8,), False)])
def test_a_replay_with_forced_acceptance_copies_nothing(rates, is_copied):
    recording = FILE[50:120]
    sequence, proposer = sequence_of(FILE), CopyProposer()
    forced = dataclasses.replace(sequence.request, replay=Replay(tuple(recording), len(FILE), rates))
    sequence.request = forced
    matches = feed(sequence, proposer, recording)
    assert any(match is not None for match in matches) == is_copied
