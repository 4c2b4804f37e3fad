"""Logits to token: penalties, bias, grammar, temperature, top-k, top-p, min-p, and seeded noise.

One scheme for draft and target, greedy and random: the token is argmax(processed logits / T + Gumbel noise), with
noise keyed by seed, absolute position and token id (`token_words`). A draft token that equals the target's own
sample is accepted, so the text never depends on the drafter; and because draft and target share the noise, they
agree about as often as two samplers can (Daliri et al., "Coupling without Communication and Drafter-Invariant
Speculative Decoding", 2024). Every row is processed alone: the other rows of a batch cannot change a bit.

This file knows nothing about models, batches or text; a state is passed in, nothing is remembered here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import Floats, Ints
from stepahead.backends.reference.philox import token_words
from stepahead.engine.gumbel import GUMBEL_MAX, GUMBEL_MIN, gumbel_noise, least_word
from stepahead.engine.params import Grammar, SamplingParams
from stepahead.engine.request import Sequence
from stepahead.engine.token_counts import TokenCounts
from stepahead.errors import BackendError, RequestError

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
Words = npt.NDArray[np.unsignedinteger[Any]]
TokenWords = Callable[[int, int, Ids], Words]
"""Backend.token_words: random words by seed, position and token ids."""

_LEAST = float(np.finfo(np.float32).min)

# An id whose scaled logit lies further than this below another's can never overtake it; 1e-6 covers the rounding.
_NOISE_REACH = GUMBEL_MAX - GUMBEL_MIN + 1e-6
# A nucleus is looked for among those whose scaled logits lie this close to the best: sorting is what it costs.
_NUCLEUS_RINGS = (2.0, 4.0, 6.0, 8.0, 10.0, 13.0, math.inf)
# From this many contenders on, the noise of those no further than _FAVOURITE below the second is drawn first: it tells
# nearly all the others that they lost.
_MANY_CONTENDERS = 10_000
_FAVOURITE = 4.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token and how far ahead of the second it was, as compared: perturbed if noise took part.

    The margin is infinite if no other token was allowed.
    """

    token_id: int
    margin: float


@dataclass(frozen=True, slots=True, eq=False)
class SamplerState:
    """What the choice of the next token depends on beside its logits. A value: `advance` makes the next one.

    A state lies over the sequence's counts without copying them; it is good until the sequence grows.
    """

    params: SamplingParams
    seed: int
    grammar: Grammar | None = None
    counts: TokenCounts | None = None  # None: no penalty looks back
    pending: tuple[int, ...] = ()  # tokens after the counted ones
    num_counted: int = 0

    @classmethod
    def of(cls, sequence: Sequence) -> "SamplerState":
        """The state after the committed tokens; enters the new ones in the sequence's counts."""
        params, seed = sequence.request.params, sequence.request.seed
        if not _has_penalty(params):
            return cls(params, seed, sequence.grammar)
        if sequence.token_counts is None:
            sequence.token_counts = TokenCounts(sequence.request.prompt_ids)
        sequence.token_counts.catch_up(sequence.token_ids)
        return cls(params, seed, sequence.grammar, sequence.token_counts, (), len(sequence.token_ids))

    def advance(self, token_id: int) -> "SamplerState":
        """The state after one more token, which this state must allow."""
        grammar = None if self.grammar is None else self.grammar.advance(token_id)
        pending = self.pending if self.counts is None else (*self.pending, token_id)
        return replace(self, grammar=grammar, pending=pending)

    @property
    def is_finished(self) -> bool:
        """True when the grammar says that the text is complete."""
        return self.grammar is not None and self.grammar.is_finished


@dataclass(frozen=True, slots=True, eq=False)
class Shortlist:
    """The token ids that logits belong to, where they are not those of the whole vocabulary; in any order, and behind
    them -1 of columns that have none, and hold anything."""

    ids: Ints
    vocab_size: int

    def filled(self) -> "Shortlist":
        """Without these last columns."""
        if self.ids[-1] >= 0:
            return self
        return Shortlist(self.ids[: int((self.ids >= 0).sum())], self.vocab_size)

    def scatter(self, logits: Floats) -> Floats:
        """The whole vocabulary's, with nothing for the other ids."""
        row = np.full(self.vocab_size, -np.inf, np.float32)
        row[self.ids] = logits
        return row


@dataclass(frozen=True, slots=True, eq=False)
class _Noise:
    """The noise of one position. It goes by token id, so that a draft from a shortlist has the target's."""

    token_words: TokenWords
    seed: int
    position: int
    shortlist: Shortlist | None

    def words(self, columns: Ids) -> Words:
        ids = columns if self.shortlist is None else self.shortlist.ids[columns].astype(np.int64)
        return self.token_words(self.seed, self.position, ids)


@dataclass(frozen=True, slots=True, eq=False)
class _Logits:
    """Processed logits on their way to a choice. Scaled ones are taken of those columns alone that matter."""

    values: Floats
    top: float  # the largest value
    temperature: float
    noise: _Noise

    def scaled(self, ids: Ids | None = None) -> Weights:
        """(values - top) / temperature at `ids`, None: everywhere. The largest is 0."""
        scaled: Weights = (self.values if ids is None else self.values[ids]).astype(np.float64)
        scaled -= self.top
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, as it should
            scaled /= self.temperature
        return scaled

    def near(self, distance: float, ids: Ids | None = None) -> Ids:
        """Of `ids`, None: all, those whose scaled logit is no more than `distance` below 0; and some a bit further."""
        depth = distance * self.temperature
        floor = max(self.top - depth - 1e-6 * (abs(self.top) + depth), _LEAST)
        return np.flatnonzero(self.values >= floor) if ids is None else ids[self.values[ids] >= floor]

    def perturbed(self, ids: Ids) -> Weights:
        """Scaled logits plus noise at the ascending `ids`."""
        sums = self.scaled(ids)
        sums += gumbel_noise(self.noise.words(ids))
        return sums


class Sampler:
    """Chooses tokens; stateless, so one serves every sequence, draft and target alike."""

    def __init__(self, token_words: TokenWords = token_words) -> None:
        """token_words: where the words of the noise come from; every backend has the same ones."""
        self._token_words = token_words

    def sample(self, logits: Floats, state: SamplerState, position: int, shortlist: Shortlist | None = None) -> Sampled:
        """The token at absolute index `position` from its (vocab_size,) logits, which stay as they are.

        With a shortlist, `logits` are those of its ids, and no other id is chosen. Raises BackendError if the
        logits hold NaN or infinity, RequestError if nothing is allowed.
        """
        if shortlist is not None:
            shortlist = shortlist.filled()
            logits = logits[: len(shortlist.ids)]
            if _looks_at_ids(state):
                logits, shortlist = shortlist.scatter(logits), None
        processed = _processed(logits, state)
        best, margin = _top_two(processed)
        top = float(processed[best])
        if not math.isfinite(top):
            _refuse(logits, position)
        temperature = state.params.temperature
        if temperature == 0.0:
            return Sampled(_token_id(best, shortlist), margin)
        lead = margin / temperature
        if lead == math.inf:
            return Sampled(_token_id(best, shortlist), lead)
        values = _Logits(processed, top, temperature, _Noise(self._token_words, state.seed, position, shortlist))
        contenders = _contenders(values, _filtered(values, state.params), lead)
        if len(contenders) == 1:
            return Sampled(_token_id(int(contenders[0]), shortlist), math.inf)
        winner, margin = _top_two(values.perturbed(contenders))
        return Sampled(_token_id(int(contenders[winner]), shortlist), margin)

    def probabilities(self, logits: Floats, state: SamplerState) -> Weights:
        """(vocab_size,): how likely `sample` is to choose each token, over all seeds, from logits that it takes."""
        processed = _processed(logits, state)
        best, temperature = int(processed.argmax()), state.params.temperature
        weights = np.zeros(len(processed))
        if temperature == 0.0:
            weights[best] = 1.0
            return weights
        noise = _Noise(self._token_words, state.seed, 0, None)  # never drawn
        values = _Logits(processed, float(processed[best]), temperature, noise)
        kept = _filtered(values, state.params)
        likely = np.exp(values.scaled(kept))
        weights[slice(None) if kept is None else kept] = likely / likely.sum()
        return weights

    def logprobs(self, logits: Floats, token_id: int, num_best: int) -> dict[int, float]:
        """Log-probabilities, of the unprocessed logits, of the `num_best` likeliest tokens and of `token_id`."""
        values = logits.astype(np.float64)
        values -= values.max()
        values -= math.log(np.exp(values).sum())
        best = [int(number) for number in _largest(values, num_best)]
        return {number: float(values[number]) for number in dict.fromkeys([*best, token_id])}


def check_bias(params: SamplingParams, vocab_size: int) -> None:
    """Raise RequestError if logit_bias names a token that the model does not have."""
    for token_id in params.logit_bias:
        if token_id >= vocab_size:
            raise RequestError(f"logit_bias token id {token_id} is out of range: the model has {vocab_size} tokens")


def is_plain(sequence: Sequence) -> bool:
    """True if nothing but logits, seed, position and the filters decides a sequence's tokens."""
    params = sequence.request.params
    return sequence.grammar is None and not params.logit_bias and not _has_penalty(params)


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def _processed(logits: Floats, state: SamplerState) -> Floats:
    """Penalties, then bias, then grammar; the logits themselves if there is none of them."""
    if not _looks_at_ids(state):
        return logits
    processed = logits.copy()
    if state.counts is not None:
        _penalize(processed, state, state.counts)
    if state.params.logit_bias:
        check_bias(state.params, len(processed))
        ids = np.fromiter(state.params.logit_bias.keys(), dtype=np.int64)
        processed[ids] += np.fromiter(state.params.logit_bias.values(), dtype=np.float64)
    if state.grammar is not None:
        state.grammar.mask(processed)
    return processed


def _token_id(column: int, shortlist: Shortlist | None) -> int:
    return column if shortlist is None else int(shortlist.ids[column])


def _looks_at_ids(state: SamplerState) -> bool:
    return state.counts is not None or bool(state.params.logit_bias) or state.grammar is not None


def _penalize(logits: Floats, state: SamplerState, counts: TokenCounts) -> None:
    """Repetition over prompt and output (Keskar et al., "CTRL", 2019); presence and frequency, as OpenAI's API
    defines them, over the output alone."""
    assert counts.num_tokens == state.num_counted, "a state is used after its sequence grew"
    ids, times = counts.with_pending(state.pending)
    values = logits[ids].astype(np.float64)
    repetition = state.params.repetition_penalty
    if repetition != 1.0:
        values = np.where(values > 0.0, values / repetition, values * repetition)
    values -= state.params.presence_penalty * (times > 0) + state.params.frequency_penalty * times
    logits[ids] = values


def _contenders(values: _Logits, kept: Ids | None, lead: float) -> Ids:
    """Of the kept ids, None: all, those that may come first or second; ascending, never empty.

    lead: of the best scaled logit over the second, which is kept if any but the best is.
    """
    if (len(values.values) if kept is None else len(kept)) < _MANY_CONTENDERS:
        return values.near(lead + _NOISE_REACH, kept)
    # What the second of the favourites reaches, an outsider must exceed; only the word of its noise is looked at.
    favourites = values.near(lead + _FAVOURITE, kept)
    sums = values.perturbed(favourites)
    second = float(np.partition(sums, -2)[-2])
    others = values.near(GUMBEL_MAX - second + 1e-6, kept)
    outsiders = others[values.noise.words(others) >= least_word(second + lead + _FAVOURITE)]
    found: Ids = np.union1d(outsiders, favourites[sums >= second])
    return found


def _filtered(values: _Logits, params: SamplingParams) -> Ids | None:
    """Ids that top-k, top-p and min-p keep, ascending; None: all."""
    kept: Ids | None = None
    if 0 < params.top_k < len(values.values):
        kept = _top_k(values, params.top_k)
    if params.top_p < 1.0:
        kept = _nucleus(values.scaled(kept), kept, params.top_p)
    if params.min_p > 0.0:  # p >= min_p * p_max
        least = math.log(params.min_p)
        kept = values.near(-least) if kept is None else kept
        kept = kept[values.scaled(kept) >= least]
    return kept


def _top_k(values: _Logits, count: int) -> Ids:
    cut = float(np.partition(values.values, -count)[-count])
    among = values.near((values.top - cut) / values.temperature)
    return np.sort(among[_largest(values.scaled(among), count)])


def _nucleus(scaled: Weights, ids: Ids | None, top_p: float) -> Ids:
    """The fewest of the ascending `ids` (None: all), likeliest first, that hold `top_p` of their probability; they are
    ascending again. scaled: their logits, the largest 0."""
    weights = np.exp(scaled)
    target = top_p * weights.sum()
    for distance in _NUCLEUS_RINGS:
        likely = np.flatnonzero(weights >= math.exp(-distance))
        if weights[likely].sum() < target and distance < math.inf:
            continue
        order = _sorted(weights, likely)
        cumulative = np.cumsum(weights[order])
        if cumulative[-1] >= target:
            break
    num_kept = int(np.searchsorted(cumulative, target)) + 1
    kept = np.sort(order[:num_kept])
    return kept if ids is None else ids[kept]


def _largest(values: Weights, count: int) -> Ids:
    """Indices of the `count` largest, largest first, the lowest index first among equals."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    if count >= len(values):
        return _sorted(values, np.arange(len(values)))
    cut = np.partition(values, -count)[-count]
    above, level = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    return _sorted(values, np.sort(np.concatenate([above, level[: count - len(above)]])))


def _sorted(values: Weights, chosen: Ids) -> Ids:
    """The ascending `chosen` by value, largest first, the lowest index first among equals."""
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _top_two(values: Floats | Weights) -> tuple[int, float]:
    """Index of the largest, the lowest among equals, and its lead over the second. A NaN counts as the largest."""
    best = int(values.argmax())
    return best, float(values[best]) - max(_highest(values[:best]), _highest(values[best + 1 :]))


def _highest(values: Floats | Weights) -> float:
    return float(values[values.argmax()]) if len(values) else -math.inf  # `max` takes four times as long as `argmax`


def _refuse(logits: Floats, position: int) -> NoReturn:
    top = float(logits.max())
    if math.isfinite(top):
        raise RequestError(f"grammar and logit_bias forbid every token at position {position}: allow at least one")
    raise BackendError(
        f"the largest logit at position {position} is {top}: the model's weights are damaged, or its activations "
        "overflow; `stepahead doctor` checks the backend"
    )
