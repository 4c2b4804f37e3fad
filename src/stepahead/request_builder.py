"""What a caller asks for, checked and resolved into a Request. Knows the model's limits; runs nothing."""

import itertools
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.replay import Replay
from stepahead.engine.request import Request, TextStream, seed_from_system
from stepahead.engine.sampler import check_bias
from stepahead.errors import RequestError
from stepahead.models.model import Model
from stepahead.speculative.policy import resolve_depth
from stepahead.tokenizer import Detokenizer, Tokenizer

Prompt = str | list[int]


class RequestBuilder:
    """Builds the requests of one loaded model, and numbers them."""

    def __init__(self, tokenizer: Tokenizer, model: Model, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._context_length = context_length
        self._request_ids = itertools.count(1)  # next() is atomic: requests may be built by several threads

    def build(
        self,
        prompt: Prompt,
        params: SamplingParams,
        speculation: Speculation,
        text: TextStream | None = None,
        cache_salt: str = "",
    ) -> Request:
        """text: what makes the text, instead of a Detokenizer with the params' stop strings.
        cache_salt: the prompt finds only what requests with the same one have computed.

        Raises RequestError for a prompt or a setting that is wrong.
        """
        ids = self._prompt_ids(prompt)
        self.check_length(ids, with_room=True)
        room = self._context_length - len(ids)
        ends = frozenset() if params.ignore_eos else self._tokenizer.end_ids
        return self._request(
            ids,
            params,
            speculation,
            max_new_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            end_ids=ends | frozenset(params.stop_token_ids),
            text=text,
            cache_salt=cache_salt,
        )

    def build_replay(
        self,
        prompt: Prompt,
        continuation: Prompt,
        params: SamplingParams,
        speculation: Speculation,
        rates: Seq[float] | None,
    ) -> Request:
        """A request whose text is `continuation`, to its end or to max_tokens; nothing else ends it."""
        _check_replayable(params)
        ids, recorded = self._prompt_ids(prompt), self._recorded_ids(continuation)
        self.check_length(ids)
        recorded = recorded[: params.max_tokens]
        if len(ids) + len(recorded) > self._context_length:
            raise RequestError(
                f"the prompt has {len(ids)} tokens and the recording {len(recorded)}, the context "
                f"{self._context_length}: shorten them, give max_tokens, or load with a larger context_length (this "
                f"model: up to {self._model.context_length})"
            )
        seed = seed_from_system(params.seed)
        if rates is not None and isinstance(rates, Seq | np.ndarray):
            rates = tuple(rate.item() if isinstance(rate, np.generic) else rate for rate in rates)
        replay = Replay(tuple(recorded), len(ids), rates, seed)
        return self._request(ids, params, speculation, max_new_tokens=len(recorded), seed=seed, replay=replay)

    def checked_ids(self, token_ids: Seq[int]) -> list[int]:
        """Raises RequestError for what is no integer, or no token of this model."""
        ids = [int(token) if isinstance(token, np.integer) else token for token in token_ids]
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool):
                raise RequestError(f"token id {token!r} is a {type(token).__name__}: give integers")
        self._check_range("token id", ids)
        return ids

    def check_length(self, ids: Seq[int], with_room: bool = False) -> None:
        """Raises RequestError for a prompt that is empty, or that the context cannot hold."""
        limit = self._context_length
        if not ids:
            raise RequestError("the prompt has no tokens: give at least one")
        if len(ids) + with_room > limit:
            raise RequestError(
                f"the prompt has {len(ids)} tokens, the context {limit}"
                f"{', and one is needed for the answer' if with_room else ''}: "
                f"shorten it or load with a larger context_length (this model: up to {self._model.context_length})"
            )

    def _request(
        self,
        ids: list[int],
        params: SamplingParams,
        speculation: Speculation,
        *,
        max_new_tokens: int,
        end_ids: frozenset[int] = frozenset(),
        seed: int | None = None,
        replay: Replay | None = None,
        text: TextStream | None = None,
        cache_salt: str = "",
    ) -> Request:
        check_bias(params, self._model.vocab_size)
        self._check_range("stop_token_ids", list(params.stop_token_ids))
        return Request(
            request_id=next(self._request_ids),
            prompt_ids=tuple(ids),
            params=params,
            speculation=speculation,
            seed=seed_from_system(params.seed) if seed is None else seed,
            max_new_tokens=max_new_tokens,
            end_ids=end_ids,
            text=text or Detokenizer(self._tokenizer, skip_special=True, stop=params.stops),
            depth=resolve_depth(speculation, self._model.draft),
            replay=replay,
            snapshot_positions=tuple(self._message_ends(ids)),
            cache_salt=cache_salt,
        )

    def _message_ends(self, ids: list[int]) -> Iterator[int]:
        """Where another conversation may part from this one: behind the tokens that end the messages of a chat."""
        ends = self._tokenizer.end_ids
        return (position for position, token in enumerate(ids, 1) if token in ends)

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        return self._ids("prompt", prompt, add_bos=None)

    def _recorded_ids(self, continuation: Prompt) -> list[int]:
        """A text goes on where the prompt ends: no BOS, and no token that spans the joint."""
        ids = self._ids("continuation", continuation, add_bos=False)
        if not ids:
            raise RequestError("the continuation has no tokens: give at least one")
        return ids

    def _ids(self, name: str, text: Prompt, add_bos: bool | None) -> list[int]:
        if isinstance(text, str):
            return self._tokenizer.encode(text, add_bos=add_bos)
        if isinstance(text, list | tuple | np.ndarray):
            return self.checked_ids(text)
        raise RequestError(f"{name} is a {type(text).__name__}: give text or a list of token ids")

    def _check_range(self, name: str, ids: list[int]) -> None:
        size = self._model.vocab_size
        for token in ids:
            if not 0 <= token < size:
                raise RequestError(f"{name} {token} is out of range: this model's ids are 0 to {size - 1}")


def as_prompts(prompt: Prompt | list[str] | list[list[int]]) -> tuple[list[Prompt], bool]:
    """(prompts, whether the caller gave a list of them)."""
    if isinstance(prompt, str):
        return [prompt], False
    if not isinstance(prompt, list | tuple | np.ndarray):
        raise RequestError(f"prompt is a {type(prompt).__name__}: give text, a list of token ids, or a list of either")
    items: list[Any] = list(prompt)
    if items and all(isinstance(item, int | np.integer) for item in items):
        return [items], False
    for item in items:
        if not isinstance(item, str | list | tuple | np.ndarray):
            raise RequestError(f"a prompt in the list is a {type(item).__name__}: give text or a list of token ids")
    return [item if isinstance(item, str) else list(item) for item in items], True


def _check_replayable(params: SamplingParams) -> None:
    """A recording ends where it ends, and says what it says."""
    wrong = {"stop": params.stops, "stop_token_ids": params.stop_token_ids, "grammar": params.grammar}
    for name, value in wrong.items():
        if value:
            raise RequestError(f"{name}={value!r} cannot change a recorded text: leave it out of a replay's params")
