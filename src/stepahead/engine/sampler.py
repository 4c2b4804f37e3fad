"""Logits to token: penalties, bias, grammar, temperature, top-k, top-p, min-p, and seeded noise.

One scheme for draft and target, greedy and random: the token is argmax(processed logits / T + Gumbel noise), with
noise keyed by seed, absolute position and token id (engine/philox.py). A draft token that equals the target's own
sample is accepted, so the text never depends on the drafter; and because draft and target share the noise, they
agree about as often as two samplers can (Daliri et al., "Coupling without Communication and Drafter-Invariant
Speculative Decoding", 2024). Every row is processed alone: the other rows of a batch cannot change a bit.

This file knows nothing about models, batches or text; a state is passed in, nothing is remembered here.
"""

import math
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import Floats, Ints
from stepahead.engine.params import Grammar, SamplingParams
from stepahead.engine.philox import GUMBEL_MAX, GUMBEL_MIN, gumbel_noise
from stepahead.engine.request import Sequence
from stepahead.engine.token_counts import TokenCounts
from stepahead.errors import BackendError, RequestError

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

# An id whose logit lies further than this below another's can never overtake it; 1e-6 covers the rounding.
_NOISE_REACH = GUMBEL_MAX - GUMBEL_MIN + 1e-6
# A nucleus is looked for among this many tokens before the whole vocabulary is sorted (0.2 ms against 10 ms).
_NUCLEUS_GUESS = 1024
# The largest of many are looked for among those that lie no further than this below the best, before among all.
_LIKELY = 10.0
# From this many contenders on, the noise of the likely ones is drawn first: it tells most of the others that they lost.
_MANY_CONTENDERS = 4096


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
    """The token ids that logits belong to, where they are not those of the whole vocabulary; in any order."""

    ids: Ints
    vocab_size: int

    def scatter(self, logits: Floats) -> Floats:
        """The whole vocabulary's, with nothing for the other ids."""
        row = np.full(self.vocab_size, -np.inf, np.float32)
        row[self.ids] = logits
        return row


@dataclass(frozen=True, slots=True, eq=False)
class _Noise:
    """The noise of one position. It goes by token id, so that a draft from a shortlist has the target's."""

    seed: int
    position: int
    shortlist: Shortlist | None

    def of(self, columns: Ids) -> Weights:
        if self.shortlist is None:
            return gumbel_noise(self.seed, self.position, columns)
        ids = self.shortlist.ids[columns].astype(np.int64)
        order = np.argsort(ids)
        noise = np.empty(len(ids))
        noise[order] = gumbel_noise(self.seed, self.position, ids[order])
        return noise


class Sampler:
    """Chooses tokens; stateless, so one serves every sequence, draft and target alike."""

    def sample(self, logits: Floats, state: SamplerState, position: int, shortlist: Shortlist | None = None) -> Sampled:
        """The token at absolute index `position` from its (vocab_size,) logits, which stay as they are.

        With a shortlist, `logits` are those of its ids, and no other id is chosen. Raises BackendError if the
        logits hold NaN or infinity, RequestError if nothing is allowed.
        """
        if shortlist is not None and _looks_at_ids(state):
            logits, shortlist = shortlist.scatter(logits), None
        processed = _processed(logits, state)
        best, margin = _top_two(processed)
        top = float(processed[best])
        if not math.isfinite(top):
            _refuse(logits, position)
        temperature = state.params.temperature
        if temperature == 0.0 or margin == math.inf:
            return Sampled(_token_id(best, shortlist), margin)
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, as it should
            scaled = (processed.astype(np.float64) - top) / temperature
        kept = _contenders(scaled, _filtered(scaled, state.params))
        noise = _Noise(state.seed, position, shortlist)
        if len(kept) >= _MANY_CONTENDERS:
            kept = _still_in(scaled, kept, noise)
        winner, margin = _top_two(scaled[kept] + noise.of(kept))
        return Sampled(_token_id(int(kept[winner]), shortlist), margin)

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


def _filtered(scaled: Weights, params: SamplingParams) -> Ids | None:
    """Ids that top-k, top-p and min-p keep, ascending; None: all. The largest of `scaled` is 0."""
    kept: Ids | None = None
    if 0 < params.top_k < len(scaled):
        kept = np.sort(_largest(scaled, params.top_k, -_LIKELY))
    if params.top_p < 1.0:
        kept = _nucleus(scaled, np.arange(len(scaled)) if kept is None else kept, params.top_p)
    if params.min_p > 0.0:
        is_kept = scaled >= math.log(params.min_p)  # p >= min_p * p_max
        kept = np.flatnonzero(is_kept) if kept is None else kept[is_kept[kept]]
    return kept


def _nucleus(scaled: Weights, ids: Ids, top_p: float) -> Ids:
    """The fewest of the ascending `ids`, likeliest first, that hold `top_p` of their probability; ascending."""
    weights = np.exp(scaled[ids])
    target = top_p * weights.sum()
    likely = np.flatnonzero(weights >= math.exp(-_LIKELY))
    order = _sorted(weights, likely) if len(likely) <= _NUCLEUS_GUESS else _largest(weights, _NUCLEUS_GUESS)
    cumulative = np.cumsum(weights[order])
    if cumulative[-1] < target:
        order = _largest(weights, len(ids))
        cumulative = np.cumsum(weights[order])
    num_kept = int(np.searchsorted(cumulative, target)) + 1
    return np.sort(ids[order[:num_kept]])


def _contenders(scaled: Weights, kept: Ids | None) -> Ids:
    """Of the kept ids those that noise can lift to the first or second place; ascending, never empty."""
    ids = np.arange(len(scaled)) if kept is None else kept
    values = scaled if kept is None else scaled[kept]
    if len(values) < 2:
        return ids
    best, margin = _top_two(values)
    second = values[best] - margin if margin < math.inf else -math.inf
    contenders: Ids = ids[values >= second - _NOISE_REACH]
    return contenders


def _still_in(scaled: Weights, kept: Ids, noise: _Noise) -> Ids:
    """Of many contenders those that the largest noise would lift above the second of the likely ones' true sums."""
    values = scaled[kept]
    likely = kept[values >= -_LIKELY]
    if len(likely) < 2:
        return kept
    second = float(np.partition(scaled[likely] + noise.of(likely), -2)[-2])
    still_in: Ids = kept[values >= second - GUMBEL_MAX - 1e-6]
    return still_in


def _largest(values: Weights, count: int, likely: float = math.inf) -> Ids:
    """Indices of the `count` largest, largest first, the lowest index first among equals.

    If `count` values are at least `likely`, no other is looked at twice.
    """
    if count == 0:
        return np.empty(0, dtype=np.int64)
    if count >= len(values):
        return _sorted(values, np.arange(len(values)))
    among = np.flatnonzero(values >= likely)
    is_enough = len(among) >= count
    found = values[among] if is_enough else values
    cut = np.partition(found, len(found) - count)[len(found) - count]
    above, level = np.flatnonzero(found > cut), np.flatnonzero(found == cut)
    chosen = np.sort(np.concatenate([above, level[: count - len(above)]]))
    return _sorted(values, among[chosen] if is_enough else chosen)


def _sorted(values: Weights, chosen: Ids) -> Ids:
    """The ascending `chosen` by value, largest first, the lowest index first among equals."""
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _top_two(values: Floats | Weights) -> tuple[int, float]:
    """Index of the largest, the lowest among equals, and its lead over the second. A NaN counts as the largest."""
    best = int(values.argmax())
    second = max(float(values[:best].max(initial=-math.inf)), float(values[best + 1 :].max(initial=-math.inf)))
    return best, float(values[best]) - second


def _refuse(logits: Floats, position: int) -> NoReturn:
    top = float(logits.max())
    if math.isfinite(top):
        raise RequestError(f"grammar and logit_bias forbid every token at position {position}: allow at least one")
    raise BackendError(
        f"the largest logit at position {position} is {top}: the model's weights are damaged, or its activations "
        "overflow; `stepahead doctor` checks the backend"
    )
