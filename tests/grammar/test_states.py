"""States are values over shared matchers: whatever order they are asked in, each answers as a fresh one would."""

import random
import threading

import numpy as np
import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from stepahead.errors import RequestError
from stepahead.grammar import GrammarError, GrammarFactory, compiler
from stepahead.grammar.state import MAX_IDLE, MAX_KEYS
from stepahead.tokenizer import Tokenizer
from stepahead.tokenizer.vocabulary import BYTE_OF_CHAR
from stepahead.turns.output_format import GrammarText, JsonObject, JsonSchema

SCHEMA = JsonSchema({"type": "object", "properties": {"count": {"type": "integer"}, "name": {"type": "string"}}})


def facts(reader, state):
    if state.is_finished:
        return True, None, ()
    return False, frozenset(reader.allowed(state)), tuple(state.forced_ids())


def grown(reader, state, seed: int, count: int):
    """States along a random text, the first included."""
    rng, states = random.Random(seed), [state]
    for _ in range(count):
        if states[-1].is_finished:
            break
        states.append(states[-1].advance(rng.choice(sorted(reader.allowed(states[-1])))))
    return states


@pytest.mark.parametrize("seed", range(5))
def test_states_answer_the_same_in_any_order(reader, seed: int) -> None:
    first = reader.factory.for_output(SCHEMA)
    stem = grown(reader, first, seed, 12)
    tree = [*stem]
    for number, state in enumerate(stem[1:]):  # forks, as drafts are
        tree += grown(reader, state, 100 * seed + number, 4)[1:]
    expected = {id(state): facts(reader, state) for state in tree}
    random.Random(seed).shuffle(tree)
    for state in tree:
        token_ids = []
        walk = state
        while walk.parent is not None:
            token_ids.append(walk.token_id)
            walk = walk.parent
        fresh = first
        for token_id in reversed(token_ids):
            fresh = fresh.advance(token_id)
        if state._text.grammar.end_ids.isdisjoint(token_ids):
            assert facts(reader, fresh) == expected[id(state)] == facts(reader, state)


def test_texts_that_begin_at_one_state_do_not_disturb_each_other(reader) -> None:
    first = reader.factory.for_output(GrammarText("regex", "[a-c]{5}"))
    here, there = reader.read(first, "ab"), reader.read(first, "cc")
    assert here._text is not there._text
    assert reader.accepts(here, "abc")
    assert reader.accepts(there, "abc")
    assert reader.read(here, "abca") is None


def test_matchers_serve_one_text_after_another(reader) -> None:
    first = reader.factory.for_output(GrammarText("regex", "[x-z]{7}"))
    for _ in range(3):
        for _ in range(MAX_IDLE + 2):
            assert reader.accepts(first, "xyzxyzx")
    grammar = first._text.grammar
    assert 1 <= len(grammar._idle) <= MAX_IDLE


def test_a_long_text_comes_and_goes(reader) -> None:
    """No recursion, on the way or at the end; and what is remembered stays bounded."""
    state = reader.factory.for_output(GrammarText("regex", "[ab]*"))
    token_id = reader.ids("a")[0]
    for _ in range(30_000):
        state = state.advance(token_id)
    assert token_id in reader.allowed(state)
    assert not state.is_finished
    assert len(state._text._keys) <= MAX_KEYS
    back = state
    for _ in range(10):
        back = back.parent
    assert facts(reader, back) == facts(reader, state)
    del back, state


def test_a_token_that_breaks_the_grammar_is_an_error_and_no_other_text_feels_it(reader) -> None:
    first = reader.factory.for_output(GrammarText("regex", "a[bc]"))
    good = reader.read(first, "a")
    bad = good.advance(reader.ids("x")[0])
    for ask in (lambda: bad.is_finished, lambda: reader.allowed(bad), bad.forced_ids):
        with pytest.raises(RequestError, match="breaks the grammar at token 1"):
            ask()
    assert reader.accepts(good, "b")


def test_what_follows_an_end_token_is_nothing(demo) -> None:
    state = demo.read(demo.factory.for_output(GrammarText("regex", "a*")), "aa")
    ended = state.advance(min(demo.llm.tokenizer.end_ids))
    assert ended.is_finished
    assert demo.allowed(ended) == set()
    assert ended.forced_ids() == ()
    assert ended.num_allowed([1, 2]) == 0


def test_a_mask_changes_nothing_but_what_it_forbids(reader) -> None:
    state = reader.factory.for_output(JsonObject())
    logits = np.random.default_rng(1).normal(size=reader.vocab_size).astype(np.float32)
    before = logits.copy()
    state.mask(logits)
    kept = np.isfinite(logits)
    assert 0 < kept.sum() < 20
    assert np.array_equal(logits[kept], before[kept])
    assert np.all(logits[~kept] == -np.inf)


def test_drafts_are_cut_where_the_grammar_ends_them(reader) -> None:
    first = reader.factory.for_output(JsonSchema({"enum": ["alpha", "beta"]}))
    ids = reader.ids('"alpha" and')
    end = min(reader.llm.tokenizer.end_ids)
    text = reader.llm.tokenizer.decode(ids[: first.num_allowed(ids)])
    assert '"alpha"'.startswith(text)
    assert len(text) > 3
    assert first.num_allowed(reader.ids("no")) == 0
    assert first.num_allowed([]) == 0
    open_end = reader.factory.for_output(GrammarText("regex", "a+"))
    one = reader.ids("a")[0]
    assert open_end.num_allowed([one, one, end, one]) == 3  # nothing follows an end token
    assert open_end.num_allowed([one, *reader.ids("b"), end]) == 1


def test_a_vocabulary_that_is_shorter_than_the_logits(demo_llm) -> None:
    from stepahead.grammar import GrammarFactory

    size = demo_llm.model.vocab_size + 77
    state = GrammarFactory(demo_llm.tokenizer, size).for_output(JsonObject())
    logits = np.zeros(size, np.float32)
    state.mask(logits)
    assert np.all(logits[-77:] == -np.inf)


def test_grammars_are_kept_and_threads_may_share_a_factory(reader) -> None:
    factory = reader.factory
    assert factory.for_output(SCHEMA) is factory.for_output(SCHEMA)
    found, errors = [], []

    def ask(number: int) -> None:
        try:
            found.append(factory.for_output(GrammarText("regex", f"a{{{number % 3 + 2}}}b")))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(
        reader.accepts(state, "aab") or reader.accepts(state, "aaab") or reader.accepts(state, "aaaab")
        for state in found
    )


def test_delimiters_are_no_text(reader) -> None:
    """A free text holds no token that ends turns or opens calls; the same characters of other tokens are welcome."""
    state = reader.factory.for_output(GrammarText("regex", "(?s:.*)"))
    tokenizer = reader.llm.tokenizer
    assert tokenizer.delimiter_ids & reader.allowed(state) <= tokenizer.end_ids
    assert reader.accepts(state, reader.ids("<think> and <|im_start|>", parse_special=False))


@pytest.mark.parametrize("has_bos", [True, False])
def test_a_vocabulary_without_end_tokens(has_bos: bool) -> None:
    from stepahead.grammar import GrammarFactory

    special = ["<s>"] if has_bos else []
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": [*BYTE_OF_CHAR, *special],
        "tokenizer.ggml.token_type": [1] * 256 + [3] * len(special),
        "tokenizer.ggml.merges": [],
    } | ({"tokenizer.ggml.bos_token_id": 256} if has_bos else {})
    tokenizer = Tokenizer.from_metadata(metadata)
    assert not tokenizer.end_ids
    state = GrammarFactory(tokenizer, 300).for_output(GrammarText("regex", "ab*"))
    for token_id in tokenizer.encode("ab"):
        state = state.advance(token_id)
    logits = np.zeros(300, np.float32)
    state.mask(logits)
    end = 256 if has_bos else 299
    assert set(np.flatnonzero(logits == 0).tolist()) == {*tokenizer.encode("b"), end}
    assert state.advance(end).is_finished


def test_what_other_texts_needed_ends_none(demo_llm, monkeypatch) -> None:
    """All texts of a grammar learn together, up to a limit: here a few texts reach it, and one of them alone would."""
    monkeypatch.setattr(compiler, "MAX_LEXER_STATES", 60)
    factory = GrammarFactory(demo_llm.tokenizer, demo_llm.model.vocab_size)
    first = factory.for_output(GrammarText("regex", "(a|b)*a(a|b){14}"))
    a, b = (demo_llm.tokenizer.encode(char, add_bos=False)[0] for char in "ab")

    def read(state, rng: random.Random, length: int):
        for _ in range(length):
            state.mask(np.zeros(demo_llm.model.vocab_size, np.float32))
            assert not state.is_finished
            state = state.advance(rng.choice((a, b)))
        return state

    beside = read(first, random.Random(99), 3)
    for seed in range(30):
        read(first, random.Random(seed), 8)
    with pytest.raises(GrammarError, match="too many states"):
        read(first, random.Random(1), 100)
    read(beside, random.Random(5), 5)
    read(first, random.Random(2), 8)
