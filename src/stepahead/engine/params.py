"""What the user may set for a request: `SamplingParams` and `Speculation`. Impossible values are refused by name."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from stepahead.errors import RequestError
from stepahead.models.model import Chain

MAX_LOGPROBS = 20
MODES = ("auto", "off", "mtp", "copy")
CHAINS = ("exact", "catchup")
MAX_SEED = 2**64 - 1


class Grammar(Protocol):
    """Constrains the next token. States are values: `advance` returns a new one, so drafts fork it for nothing.

    A grammar may also have a method forced_ids() that returns the ids, possibly none, that must come next one after
    another: they are drafted without asking the model; and num_allowed(token_ids), how many of a draft's tokens it
    would have: the others are not verified. One without them works as well.
    """

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the (vocab_size,) logits of forbidden tokens to -inf, in place."""
        ...

    def advance(self, token_id: int) -> "Grammar": ...

    @property
    def is_finished(self) -> bool:
        """True when the text is complete: the sequence ends here."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. The order is: penalties, logit_bias, grammar, temperature, top_k, top_p, min_p.

    temperature 0 is greedy. seed None draws one from the system; the result reports it. max_tokens None goes to
    the context limit. A penalty of 1 (repetition) or 0 (presence, frequency) does nothing; repetition looks at
    prompt and output, presence and frequency at the output alone. logprobs k returns the k best log-probabilities
    of each position, of the unprocessed logits. Raises RequestError for a value out of range.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        _check_sampling_params(self)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


@dataclass(frozen=True, slots=True)
class Speculation:
    """Whether and how far to draft. Never changes the text, only the speed.

    mode: "auto" lets the engine decide, "mtp" insists on the MTP heads, "copy" drafts from prompt and output alone,
    "off" decodes plainly. depth is the most draft tokens a step (None: the engine's choice); adaptive False fixes it
    there. chain: see models.model.Chain.
    """

    mode: Literal["auto", "off", "mtp", "copy"] = "auto"
    depth: int | None = None
    adaptive: bool = True
    chain: Chain = "exact"

    def __post_init__(self) -> None:
        _check_speculation(self)


def _check_sampling_params(params: SamplingParams) -> None:
    """Raise RequestError, naming field, value and limit, for the first value out of range."""
    if params.max_tokens is not None:
        _integer("max_tokens", params.max_tokens, 1)
    _number("temperature", params.temperature, 0.0, 100.0)
    _integer("top_k", params.top_k, 0)
    _number("top_p", params.top_p, 0.0, 1.0)
    if params.top_p == 0.0:
        raise RequestError("top_p=0 keeps no token: give a value above 0 and up to 1, or temperature=0 for greedy")
    _number("min_p", params.min_p, 0.0, 1.0)
    _number("repetition_penalty", params.repetition_penalty, 1e-3, 100.0)
    _number("presence_penalty", params.presence_penalty, -100.0, 100.0)
    _number("frequency_penalty", params.frequency_penalty, -100.0, 100.0)
    if params.seed is not None:
        _integer("seed", params.seed, 0, MAX_SEED)
    if params.n != 1:
        raise RequestError(f"n={params.n!r} is not supported: give the prompt n times, each with a seed of its own")
    if params.logprobs is not None:
        _integer("logprobs", params.logprobs, 0, MAX_LOGPROBS)
    if not isinstance(params.ignore_eos, bool):
        raise RequestError(f"ignore_eos={params.ignore_eos!r} is not a bool")
    if params.grammar is not None and not callable(getattr(params.grammar, "advance", None)):
        raise RequestError(f"grammar={params.grammar!r} is no Grammar: it needs mask, advance and is_finished")
    _check_bias(params.logit_bias)
    _check_stops(params)


def _check_speculation(speculation: Speculation) -> None:
    """Raise RequestError for an unknown mode or chain, or a depth below 0. The model's own limit is checked later."""
    if speculation.mode not in MODES:
        raise RequestError(f"mode={speculation.mode!r} is unknown: give one of {', '.join(MODES)}")
    if speculation.chain not in CHAINS:
        raise RequestError(f"chain={speculation.chain!r} is unknown: give one of {', '.join(CHAINS)}")
    if not isinstance(speculation.adaptive, bool):
        raise RequestError(f"adaptive={speculation.adaptive!r} is not a bool")
    if speculation.depth is not None:
        _integer("depth", speculation.depth, 0)


def _integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{name}={value!r} is not an integer")
    if value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"from {low} to {high}"
        raise RequestError(f"{name}={value} is out of range: give a value {limit}")


def _number(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(f"{name}={value!r} is not a finite number")
    if not low <= value <= high:
        raise RequestError(f"{name}={value} is out of range: give a value from {low:g} to {high:g}")


def _check_bias(bias: Any) -> None:
    if not isinstance(bias, dict):
        raise RequestError(f"logit_bias is a {type(bias).__name__}: give a dict of token id to bias")
    for token_id, value in bias.items():
        _integer("logit_bias token id", token_id, 0)
        if value != -math.inf:
            _number(f"logit_bias[{token_id}]", value, -1e6, 1e6)


def _check_stops(params: SamplingParams) -> None:
    if not isinstance(params.stop, str | list | tuple):
        raise RequestError(f"stop={params.stop!r} is not a string or a list of strings")
    for stop in params.stops:
        if not isinstance(stop, str) or not stop:
            raise RequestError(f"stop={stop!r} is not a non-empty string")
    if not isinstance(params.stop_token_ids, list | tuple | set | frozenset):
        raise RequestError(f"stop_token_ids={params.stop_token_ids!r} is not a list of token ids")
    for token_id in params.stop_token_ids:
        _integer("stop_token_ids", token_id, 0)
