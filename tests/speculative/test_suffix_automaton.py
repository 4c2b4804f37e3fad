"""The longest end of a text that occurred before, against a search that looks at every place."""

import random

from hypothesis import given
from hypothesis import strategies as st

from stepahead.speculative import suffix_automaton
from stepahead.speculative.suffix_automaton import SuffixAutomaton


def longest_earlier(text: list[int]) -> tuple[int, set[int]]:
    """The longest proper suffix that also ends earlier, and all places after it."""
    best, ends = 0, set()
    for end in range(1, len(text)):
        length = 0
        while length < end and text[end - 1 - length] == text[-1 - length]:
            length += 1
        if length > best:
            best, ends = length, set()
        if length == best > 0:
            ends.add(end)
    return best, ends


def check(text: list[int], latest: bool) -> None:
    automaton = SuffixAutomaton()
    for position, token_id in enumerate(text):
        automaton.append(token_id)
        length, ends = longest_earlier(text[: position + 1])
        assert automaton.match_length == length
        assert automaton.num_tokens == position + 1
        if length:
            assert automaton.match_end in ends
            assert not latest or automaton.match_end == max(ends)
    assert automaton.num_states <= max(2, 2 * len(text))


@given(st.lists(st.integers(0, 2), max_size=60))
def test_few_tokens_that_overlap(text: list[int]) -> None:
    check(text, latest=False)


@given(st.lists(st.integers(0, 8), max_size=60))
def test_more_tokens(text: list[int]) -> None:
    check(text, latest=False)


@given(st.lists(st.integers(0, 2), max_size=60))
def test_the_latest_place_is_told_when_all_are_refreshed(text: list[int]) -> None:
    limit, suffix_automaton.MAX_REFRESHED = suffix_automaton.MAX_REFRESHED, 1000
    try:
        check(text, latest=True)
    finally:
        suffix_automaton.MAX_REFRESHED = limit


def test_a_run_of_one_token_matches_all_but_its_last() -> None:
    automaton = SuffixAutomaton()
    for count in range(1, 5000):
        automaton.append(7)
        assert (automaton.match_length, automaton.match_end) == (count - 1, count - 1)


def test_an_edited_repetition_is_found_again_at_its_latest_place() -> None:
    rng = random.Random(1)
    passage = [rng.randrange(2000) for _ in range(300)]
    text = [*passage, 5000, *passage, 5001, *passage[:100], 5002, *passage[100:200]]
    automaton = SuffixAutomaton()
    for token_id in text:
        automaton.append(token_id)
    assert (automaton.match_length, automaton.match_end) == (100, 301 + 200)


def test_a_longer_text_with_many_branches() -> None:
    rng = random.Random(2)
    check([rng.randrange(5) for _ in range(400)], latest=False)
