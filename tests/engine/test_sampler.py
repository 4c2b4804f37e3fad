"""The sampler: each filter by its definition, every shortcut against none, and the distribution that comes out."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from stepahead.backends.reference.philox import token_words
from stepahead.engine import sampler
from stepahead.engine.gumbel import gumbel_noise
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import Request, Sequence, SequenceKV
from stepahead.engine.sampler import Sampler, SamplerState, Shortlist, check_bias
from stepahead.engine.token_counts import TokenCounts
from stepahead.errors import BackendError, RequestError

SAMPLER = Sampler()


def state_of(prompt_ids=(), output_ids=(), seed=1, grammar=None, **params) -> SamplerState:
    return SamplerState.of(sequence_of(prompt_ids, output_ids, seed, grammar, **params))


def sequence_of(prompt_ids=(), output_ids=(), seed=1, grammar=None, **params) -> Sequence:
    request = Request(0, tuple(prompt_ids), SamplingParams(**params), Speculation(), seed, 100, frozenset())
    sequence = Sequence(request, SequenceKV(1, 0))
    sequence.token_ids += output_ids
    sequence.grammar = grammar
    return sequence


def logits_of(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def draws(logits, state: SamplerState, count: int, first: int = 0) -> np.ndarray:
    """How often each token comes up at `count` positions."""
    tokens = [SAMPLER.sample(logits, state, first + position).token_id for position in range(count)]
    return np.bincount(tokens, minlength=len(logits))


class Only:
    """A grammar that allows certain tokens, and is finished after `length` of them."""

    def __init__(self, allowed, length: int = 99) -> None:
        self.allowed, self.length = tuple(allowed), length

    def mask(self, logits) -> None:
        forbidden = np.ones(len(logits), bool)
        forbidden[list(self.allowed)] = False
        logits[forbidden] = -np.inf

    def advance(self, token_id: int) -> "Only":
        assert token_id in self.allowed
        return Only(self.allowed, self.length - 1)

    @property
    def is_finished(self) -> bool:
        return self.length == 0


# --- choice ---
def test_greedy_takes_the_best_and_the_lowest_id_among_equals() -> None:
    sampled = SAMPLER.sample(logits_of(1, 3, 3, 2), state_of(), 0)
    assert (sampled.token_id, sampled.margin) == (1, 0.0)
    sampled = SAMPLER.sample(logits_of(1, 5, 3.5), state_of(), 0)
    assert (sampled.token_id, sampled.margin) == (1, 1.5)


def test_a_single_allowed_token_has_an_infinite_margin() -> None:
    for temperature in (0.0, 1.0):
        state = state_of(grammar=Only([2]), temperature=temperature)
        sampled = SAMPLER.sample(logits_of(1, 5, 3), state, 0)
        assert (sampled.token_id, sampled.margin) == (2, math.inf)
    assert SAMPLER.sample(logits_of(1, 5, 3), state_of(temperature=1.0, top_k=1), 0).margin == math.inf


@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 40, "top_p": 0.99}])
@pytest.mark.parametrize(("size", "spread"), [(300, 6.0), (20_000, 0.1), (20_000, 1.0), (20_000, 3.0), (20_000, 30.0)])
def test_sampling_is_the_argmax_of_all_perturbed_logits(params: dict, size: int, spread: float) -> None:
    # Without the shortcuts: noise for every token, filters as masks.
    rng = np.random.default_rng(0)
    for position in range(18_000 // size or 4):
        logits = (rng.normal(size=size) * spread).astype(np.float32)
        scaled = (logits.astype(np.float64) - logits.max()) / 0.7
        kept = naive_filter(scaled, **params)
        perturbed = np.where(kept, scaled + gumbel_noise(token_words(9, position, np.arange(size))), -np.inf)
        second, best = np.sort(perturbed)[-2:]
        sampled = SAMPLER.sample(logits, state_of(seed=9, temperature=0.7, **params), position)
        assert (sampled.token_id, sampled.margin) == (perturbed.argmax(), best - second)


def naive_filter(scaled, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    order = sorted(range(len(scaled)), key=lambda token_id: (-scaled[token_id], token_id))
    if top_k:
        order = order[:top_k]
    weights = np.exp(scaled)
    total, cumulative, nucleus = sum(weights[order]), 0.0, []
    for token_id in order:
        nucleus.append(token_id)
        cumulative += weights[token_id]
        if cumulative >= top_p * total:
            break
    order = nucleus if top_p < 1 else order
    kept = np.zeros(len(scaled), bool)
    kept[[token_id for token_id in order if weights[token_id] >= min_p]] = True
    return kept


def plain_sample(logits: np.ndarray, state: SamplerState, position: int) -> tuple[int, float]:
    """Without a shortcut, and with the arithmetic of the first version: everything scaled, sorted and perturbed."""
    params = state.params
    with np.errstate(over="ignore"):
        scaled = (logits.astype(np.float64) - float(logits.max())) / params.temperature
    order = np.argsort(-scaled, kind="stable")
    kept = np.sort(order[: params.top_k] if params.top_k else order)
    if params.top_p < 1.0:
        weights = np.exp(scaled[kept])
        likeliest = np.argsort(-weights, kind="stable")
        count = np.searchsorted(np.cumsum(weights[likeliest]), params.top_p * weights.sum()) + 1
        kept = np.sort(kept[likeliest[:count]])
    if params.min_p > 0.0:
        kept = kept[scaled[kept] >= math.log(params.min_p)]
    sums = scaled[kept] + gumbel_noise(token_words(state.seed, position, kept))
    second = np.sort(sums)[-2] if len(kept) > 1 else -math.inf
    return int(kept[sums.argmax()]), float(sums.max() - second)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_p": 0.95},
        {"top_p": 0.999999},
        {"min_p": 0.05},
        {"min_p": 1e-9},
        {"top_k": 20, "top_p": 0.95},
        {"top_k": 1},
        {"top_k": 3000},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [1e-320, 1e-3, 0.6, 0.8, 1.0, 1.5, 100.0])
def test_no_shortcut_changes_a_token_or_a_margin(params: dict, temperature: float) -> None:
    rng = np.random.default_rng(round(1e4 * temperature))
    state = state_of(seed=2**63 + 5, temperature=temperature, **params)
    for size, spread in [(2, 1.0), (7, 3.0), (2048, 3.0), (9_999, 2.0), (10_000, 0.3), (40_000, 2.5)]:
        normal = rng.normal(size=size).astype(np.float32) * np.float32(spread)
        peaked, tied, masked = normal.copy(), np.round(normal), normal.copy()
        peaked[rng.integers(size)] += 14
        masked[rng.random(size) < 0.99] = -np.inf
        masked[:1] = 0.0
        for position, logits in enumerate((normal, peaked, tied, masked)):
            sampled = SAMPLER.sample(logits, state, position)
            assert (sampled.token_id, sampled.margin) == plain_sample(logits, state, position), (size, position)


@pytest.mark.parametrize("favourite", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("gap", [0.0, 4.0])
def test_outsiders_win_as_often_as_they_should(monkeypatch: pytest.MonkeyPatch, favourite: float, gap: float) -> None:
    # Few favourites against many others, close behind or far, that the word of their noise must lift above them.
    monkeypatch.setattr(sampler, "_MANY_CONTENDERS", 2)
    monkeypatch.setattr(sampler, "_FAVOURITE", favourite)
    rng, state = np.random.default_rng(1), state_of(temperature=1.0)
    num_outsiders = 0
    for position in range(300):
        logits = -gap - rng.random(500, np.float32)
        logits[[30, 200]] = 0.0
        sampled = SAMPLER.sample(logits, state, position)
        assert (sampled.token_id, sampled.margin) == plain_sample(logits, state, position)
        num_outsiders += sampled.token_id not in (30, 200)
    assert 200 < num_outsiders < 300  # of 300: at a gap of 4 they have 85 % of the weight


def test_logits_stay_as_they_are() -> None:
    logits = logits_of(1, 2, 3, 4)
    logits.flags.writeable = False
    state = state_of([0], [1, 1], temperature=0.5, repetition_penalty=2.0, logit_bias={3: -5.0}, grammar=Only([1, 3]))
    SAMPLER.sample(logits, state, 3)


def test_a_tiny_temperature_is_greedy() -> None:
    assert SAMPLER.sample(logits_of(1, 2, 1.9), state_of(temperature=1e-320), 0).token_id == 1


# --- filters ---
def test_top_k_prefers_the_lowest_id_among_equals() -> None:
    assert (draws(logits_of(1, 2, 2, 2, 1), state_of(temperature=5.0, top_k=2), 200) > 0).tolist() == [0, 1, 1, 0, 0]


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = np.log(logits_of(0.1, 0.4, 0.3, 0.2))
    for top_p, kept in ((0.39, [0, 1, 0, 0]), (0.41, [0, 1, 1, 0]), (0.71, [0, 1, 1, 1]), (0.95, [1, 1, 1, 1])):
        assert (draws(logits, state_of(temperature=1.0, top_p=top_p), 300) > 0).tolist() == kept


def test_top_p_takes_the_lowest_id_among_equals() -> None:
    assert (draws(logits_of(0, 0, 0, 0), state_of(temperature=1.0, top_p=0.5), 200) > 0).tolist() == [1, 1, 0, 0]


def test_top_p_looks_beyond_its_first_guess() -> None:
    logits = np.zeros(5000, np.float32)
    counts = draws(logits, state_of(temperature=1.0, top_p=0.5), 3000)
    assert counts[:2500].sum() == 3000 and (counts[1024:2500] > 0).any()


def test_top_p_applies_to_what_top_k_left() -> None:
    logits = np.log(logits_of(0.25, 0.25, 0.25, 0.25))
    state = state_of(temperature=1.0, top_k=2, top_p=0.5)
    assert (draws(logits, state, 100) > 0).tolist() == [1, 0, 0, 0]


def test_min_p_is_relative_to_the_best() -> None:
    logits = np.log(logits_of(0.5, 0.26, 0.24))
    assert (draws(logits, state_of(temperature=1.0, min_p=0.5), 300) > 0).tolist() == [1, 1, 0]


def test_temperature_comes_before_top_p() -> None:
    logits = logits_of(2, 1, 0)  # T=1: .67 .24 .09; T=4: .42 .33 .25
    assert (draws(logits, state_of(temperature=1.0, top_p=0.6), 200) > 0).tolist() == [1, 0, 0]
    assert (draws(logits, state_of(temperature=4.0, top_p=0.6), 200) > 0).tolist() == [1, 1, 0]


# --- penalties and bias ---
def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_output() -> None:
    greedy = {"repetition_penalty": 2.0}
    assert SAMPLER.sample(logits_of(4, 3, 2.5), state_of([0], [1], **greedy), 2).token_id == 2
    assert SAMPLER.sample(logits_of(-1, -1.5, -3), state_of([0], [], **greedy), 1).token_id == 1
    # Once is as good as often.
    assert SAMPLER.sample(logits_of(4, 1.9), state_of([0, 0, 0], [0], **greedy), 4).token_id == 0


def test_presence_and_frequency_look_at_the_output_alone() -> None:
    assert SAMPLER.sample(logits_of(4, 3.5), state_of([0, 0], [], presence_penalty=1.0), 2).token_id == 0
    assert SAMPLER.sample(logits_of(4, 3.5), state_of([1], [0], presence_penalty=1.0), 2).token_id == 1
    assert SAMPLER.sample(logits_of(4, 3.5), state_of([1], [0, 0], presence_penalty=0.4), 3).token_id == 0
    assert SAMPLER.sample(logits_of(4, 3.5), state_of([1], [0, 0], frequency_penalty=0.4), 3).token_id == 1


def test_bias_comes_after_penalties_and_before_the_grammar() -> None:
    state = state_of([0], [0], repetition_penalty=2.0, logit_bias={0: 3.0})
    assert SAMPLER.sample(logits_of(4, 4.5), state, 2).token_id == 0  # 4/2 + 3
    state = state_of(logit_bias={0: 100.0}, grammar=Only([1]))
    assert SAMPLER.sample(logits_of(4, 4.5), state, 0).token_id == 1


def test_bias_may_forbid() -> None:
    assert SAMPLER.sample(logits_of(4, 3), state_of(logit_bias={0: -math.inf}), 0).token_id == 1


def test_bias_of_an_unknown_token_is_refused() -> None:
    with pytest.raises(RequestError, match=r"logit_bias token id 2 .* 2 tokens"):
        SAMPLER.sample(logits_of(4, 3), state_of(logit_bias={2: 1.0}), 0)
    with pytest.raises(RequestError, match="logit_bias token id 7"):
        check_bias(SamplingParams(logit_bias={7: 1.0}), 7)


# --- state ---
@pytest.mark.parametrize("split", range(7))
def test_a_forked_state_equals_one_of_the_longer_sequence(split: int) -> None:
    rng = np.random.default_rng(4)
    prompt, output = rng.integers(0, 12, 5).tolist(), rng.integers(0, 12, 6).tolist()
    params = {"temperature": 1.0, "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2}
    whole = state_of(prompt, output, **params)
    forked = state_of(prompt, output[:split], **params)
    for token_id in output[split:]:
        forked = forked.advance(token_id)
    for position in range(50):
        logits = rng.normal(size=12).astype(np.float32)
        assert SAMPLER.sample(logits, forked, position) == SAMPLER.sample(logits, whole, position)


def test_advancing_leaves_the_state_behind_as_it_was() -> None:
    state = state_of([], [0], frequency_penalty=1.0, grammar=Only([0, 1], length=2))
    later = state.advance(0).advance(1)
    assert later.is_finished and not state.is_finished
    assert SAMPLER.sample(logits_of(2, 1.5), state, 1).token_id == 1
    assert SAMPLER.sample(logits_of(2, 0.5), state, 1).token_id == 0
    assert SAMPLER.sample(logits_of(2, 0.5), state.advance(0), 1).token_id == 1


def test_history_is_counted_once() -> None:
    sequence = sequence_of([1, 2], [3], frequency_penalty=1.0)
    SamplerState.of(sequence)
    counts = sequence.token_counts
    assert counts is not None and counts.num_tokens == 3
    sequence.token_ids.append(3)
    SamplerState.of(sequence)
    assert sequence.token_counts is counts
    ids, times = counts.with_pending((9, 9, 3))
    assert dict(zip(ids.tolist(), times.tolist(), strict=True)) == {1: 0, 2: 0, 3: 3, 9: 2}


def test_nothing_is_counted_without_penalties() -> None:
    sequence = sequence_of([1, 2], [3], temperature=1.0)
    assert SamplerState.of(sequence).advance(4).pending == ()
    assert sequence.token_counts is None


def test_counts_of_many_tokens() -> None:
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(0, 50, 40).tolist(), rng.integers(0, 400, 700).tolist()
    counts = TokenCounts(prompt)
    for end in range(0, 701, 7):
        counts.catch_up([*prompt, *output[:end]])
    ids, times = counts.with_pending(())
    expected = {token_id: output.count(token_id) for token_id in {*prompt, *output}}
    assert dict(zip(ids.tolist(), times.tolist(), strict=True)) == expected


# --- errors ---
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(temperature: float, bad: float) -> None:
    with pytest.raises(BackendError, match="position 7"):
        SAMPLER.sample(logits_of(1, bad, 3), state_of(temperature=temperature), 7)
    with pytest.raises(BackendError, match="position 7"):
        SAMPLER.sample(logits_of(-math.inf, -math.inf), state_of(temperature=temperature), 7)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_forbids_everything_is_the_requests_fault(temperature: float) -> None:
    with pytest.raises(RequestError, match="forbid every token at position 7"):
        SAMPLER.sample(logits_of(1, 2), state_of(temperature=temperature, grammar=Only([])), 7)


# --- log-probabilities ---
def test_logprobs_are_of_the_unprocessed_logits() -> None:
    logits = np.log(logits_of(0.5, 0.3, 0.15, 0.05))
    best = SAMPLER.logprobs(logits, 3, 2)
    assert list(best) == [0, 1, 3]
    assert [math.exp(value) for value in best.values()] == pytest.approx([0.5, 0.3, 0.05], rel=1e-6)
    assert list(SAMPLER.logprobs(logits, 0, 0)) == [0]
    assert list(SAMPLER.logprobs(logits_of(1, 1), 1, 20)) == [0, 1]


# --- I4: the distribution ---
CRITICAL = {3: 16.27, 4: 18.47, 5: 20.52, 7: 24.32}  # chi-square, p = 0.001, by degrees of freedom


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize(
    ("params", "probabilities"),
    [
        ({"temperature": 1.0}, [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01]),
        ({"temperature": 0.5}, np.square([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01])),
        ({"temperature": 1.0, "top_k": 4}, [0.3, 0.2, 0.15, 0.12, 0, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.85}, [0.3, 0.2, 0.15, 0.12, 0.1, 0, 0, 0]),
        ({"temperature": 1.0, "min_p": 0.25}, [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0, 0]),
    ],
)
def test_tokens_come_up_as_often_as_they_should(seed: int, params: dict, probabilities) -> None:
    logits = np.log(logits_of(0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01))
    expected = np.asarray(probabilities) / np.sum(probabilities) * 8000
    counts = draws(logits, state_of(seed=seed, **params), 8000)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < CRITICAL[possible.sum() - 1]
    assert SAMPLER.probabilities(logits, state_of(**params)) == pytest.approx(expected / 8000, abs=1e-7)


def test_probabilities_are_those_of_processed_logits() -> None:
    logits = logits_of(1, 3, 3, 2)
    assert SAMPLER.probabilities(logits, state_of()).tolist() == [0, 1, 0, 0]
    state = state_of(temperature=1.0, grammar=Only([0, 2]), logit_bias={2: -2.0})
    assert SAMPLER.probabilities(logits, state).tolist() == [0.5, 0, 0.5, 0]
    assert SAMPLER.probabilities(logits, state_of(temperature=1e-300, logit_bias={1: 1.0})).tolist() == [0, 1, 0, 0]
    assert logits.tolist() == [1, 3, 3, 2]


def test_draws_at_neighbouring_positions_are_independent() -> None:
    logits, state = logits_of(0, 0), state_of(temperature=1.0)
    tokens = [SAMPLER.sample(logits, state, position).token_id for position in range(8001)]
    pairs = np.bincount([2 * a + b for a, b in pairwise(tokens)], minlength=4)
    assert ((pairs - 2000) ** 2 / 2000).sum() < CRITICAL[3]


def test_draft_and_target_agree_about_as_often_as_they_can() -> None:
    # Coupled by the noise: at least (1 - TV) / (1 + TV); independent draws would agree in sum(p q) of the cases.
    rng = np.random.default_rng(2)
    target = rng.normal(size=50).astype(np.float32) * 2
    draft = target + rng.normal(size=50).astype(np.float32) * 0.3
    p, q = (np.exp(x) / np.exp(x).sum() for x in (target, draft))
    distance = 0.5 * np.abs(p - q).sum()
    state = state_of(temperature=1.0)
    agreed = np.mean(
        [SAMPLER.sample(target, state, i).token_id == SAMPLER.sample(draft, state, i).token_id for i in range(2000)]
    )
    assert agreed > (1 - distance) / (1 + distance) - 0.02
    assert agreed > (p * q).sum() + 0.3


def test_another_seed_gives_other_tokens() -> None:
    logits = np.zeros(1000, np.float32)
    state = state_of(temperature=1.0, seed=1)
    one, two = (
        [SAMPLER.sample(logits, s, i).token_id for i in range(20)] for s in (state, replace(state, seed=1 + 2**32))
    )
    assert one != two


# --- a shortlist ---
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 0.8},
        {"temperature": 5.0},
        {"temperature": 0.8, "top_k": 7},
        {"temperature": 0.8, "top_p": 0.7},
        {"temperature": 0.8, "min_p": 0.1},
        {"temperature": 0.8, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.8, "logit_bias": {3: 4.0, 90: -100.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [100, 9000])
def test_a_shortlist_is_the_vocabulary_without_the_other_ids(params, size: int) -> None:
    """Bit by bit as if the other logits were -inf, in whatever order the ids come."""
    rng = np.random.default_rng(8)
    ids = rng.permutation(size)[: size * 2 // 3].astype(np.int32)
    for position in range(25):
        logits = rng.normal(size=len(ids)).astype(np.float32) * 3
        whole = np.full(size, -np.inf, np.float32)
        whole[ids] = logits
        state = state_of((1, 3, 3), (5,), seed=9, **params)
        assert SAMPLER.sample(logits, state, position, Shortlist(ids, size)) == SAMPLER.sample(whole, state, position)


@pytest.mark.parametrize("bad", [9.0, np.nan, np.inf])
@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.9, "top_k": 5}, {"temperature": 0.9, "top_p": 0.6}, {"logit_bias": {39: 3.0}}]
)
def test_columns_without_an_id_hold_anything(params, bad: float) -> None:
    ids, logits = np.array([4, 9, 2, 7, 12], np.int32), logits_of(1.0, 3.0, 2.5, 2.0, 1.5)
    state = state_of((1, 3), seed=4, **params)
    more_ids, more = np.append(ids, [-1, -1]).astype(np.int32), np.append(logits, [bad, bad]).astype(np.float32)
    for position in range(10):
        expected = SAMPLER.sample(logits, state, position, Shortlist(ids, 40))
        assert SAMPLER.sample(more, state, position, Shortlist(more_ids, 40)) == expected


def test_a_grammar_looks_at_true_ids() -> None:
    shortlist = Shortlist(np.array([40, 7, 20], np.int32), 50)
    logits = logits_of(3.0, 2.0, 1.0)
    assert SAMPLER.sample(logits, state_of(), 0, shortlist).token_id == 40
    assert SAMPLER.sample(logits, state_of(grammar=Only([20, 7])), 0, shortlist).token_id == 7
    with pytest.raises(RequestError, match="forbid every token"):
        SAMPLER.sample(logits, state_of(grammar=Only([8])), 0, shortlist)
