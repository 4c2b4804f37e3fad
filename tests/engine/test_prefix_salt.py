"""Prompts find only what requests with the same salt have computed."""

import random

import pytest

from support.toy_engine import assert_all_free, continuation, make_engine, make_request, prompt_of, run

TEXT = prompt_of(200)


def cached(engine, request_id, prompt, salt):
    """Run one request to its end; how many tokens of its prompt were found."""
    sequence = engine.add(make_request(request_id, prompt, 6, cache_salt=salt))
    run(engine)
    assert sequence.output_ids == continuation(prompt, 6)
    return sequence.num_cached_tokens


def test_other_salts_find_nothing():
    engine = make_engine()
    assert cached(engine, 0, TEXT, "a") == 0
    assert [cached(engine, number, TEXT, salt) for number, salt in ((1, "b"), (2, ""), (3, "A"), (4, "a "))] == [0] * 4
    assert [cached(engine, number, TEXT, salt) for number, salt in ((5, "a"), (6, "b"), (7, ""))] == [199] * 3
    assert_all_free(engine)


def test_salts_share_no_block():
    engine = make_engine()
    for number, salt in enumerate("ab"):
        engine.add(make_request(number, TEXT, 20, cache_salt=salt))
    for _ in range(8):
        engine.step()
    first, second = (set(sequence.kv.tables[0]) for sequence in engine.scheduler.running)
    assert not first & second
    run(engine)
    assert_all_free(engine)


def test_a_salt_whose_snapshots_are_gone_leaves_nothing():
    engine = make_engine(cache_nbytes=8)
    for number in range(20):
        assert cached(engine, number, prompt_of(20), f"salt {number}") == 0
    assert len(engine.scheduler.prefix_cache._tree._roots) <= 8
    assert_all_free(engine)


@pytest.mark.parametrize("seed", range(4))
def test_random_traffic_of_several(seed):
    """What was found is never more than what the same owner has computed before."""
    rng = random.Random(seed)
    engine = make_engine(cache_nbytes=rng.choice([None, 20]))
    texts = {salt: [] for salt in ("", "x", "y")}
    for number in range(40):
        salt = rng.choice(list(texts))
        prompt = TEXT[: rng.randint(1, len(TEXT))] + tuple(rng.choices(range(40), k=rng.randint(0, 5)))
        found = cached(engine, number, prompt, salt)
        assert found <= max((_common(prompt, text) for text in texts[salt]), default=0)
        texts[salt].append((*prompt, *continuation(prompt, 6)))
    assert engine.metrics.num_reused_tokens > 0
    assert_all_free(engine)


def _common(a, b):
    return next(
        (index for index, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b))
    )
