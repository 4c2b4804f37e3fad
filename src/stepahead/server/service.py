"""LLMService: the turn service of one AsyncLLM. Prepares requests beside the event loop, and runs them.

All that can be the caller's fault is found by `prepare`: the template, the length, the grammar, the settings, a full
queue. Owns what a request becomes; knows no wire format.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from stepahead.async_llm import AsyncLLM, Delivery, PromptProgress, QueueFullError, Ticket, UnavailableError
from stepahead.engine.params import MAX_SEED, Grammar
from stepahead.engine.request import Request, seed_from_system
from stepahead.errors import CapacityError, RequestError
from stepahead.llm import LLM
from stepahead.server import cache_salt
from stepahead.server.api_error import ApiError
from stepahead.server.choice import Choice, PlainText
from stepahead.server.config import ServerConfig
from stepahead.server.metrics import ServerMetrics
from stepahead.server.rendering import RenderedPrompt, Renderer
from stepahead.server.request_context import OWNER, REQUEST_ID
from stepahead.server.turn_service import PreparedTurn, Progress, TurnEnd, TurnStep
from stepahead.turns.history import normalised_turn
from stepahead.turns.reasoning_memory import ReasoningMemory
from stepahead.turns.turn_format import TurnFormat
from stepahead.turns.turn_memory import TurnMemory
from stepahead.turns.turn_request import TurnRequest
from stepahead.turns.turn_text import TurnText

if TYPE_CHECKING:
    from stepahead.grammar import GrammarFactory
    from stepahead.grammar.state import GrammarState

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Prepared = list[tuple[Request, Choice]]
_NUM_WORKERS = 2  # the engine needs the cores
_RETRY_SECONDS = 5.0
_CALL_ID_BYTES = 12


class LLMService:
    """See TurnService. For one event loop."""

    def __init__(self, llm: AsyncLLM, config: ServerConfig, model_id: str) -> None:
        self.llm = llm
        self.config = config
        self.metrics = ServerMetrics()
        self._model_id = model_id
        self._reasoning = ReasoningMemory(config.memory_bytes)
        self._turns = TurnMemory(config.memory_bytes)
        self._workers = ThreadPoolExecutor(_NUM_WORKERS, "stepahead-prepare")

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def context_length(self) -> int:
        """Raises ApiError before the model is loaded."""
        return self._loaded().config.context_length

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self._loaded(), self.config.protects_special, self._turns)

    @property
    def turn_format(self) -> TurnFormat:
        return self.renderer.turn_format

    @cached_property
    def grammars(self) -> "GrammarFactory":
        """Raises ApiError where its library is missing."""
        try:
            from stepahead.grammar import GrammarFactory  # noqa: PLC0415 (an optional library)
        except ImportError:
            raise ApiError("invalid_request", "this server has no llguidance, which structured output needs") from None
        llm = self._loaded()
        return GrammarFactory(llm.tokenizer, llm.model.vocab_size)

    async def warm_up(self) -> None:
        """Make what the first request would wait for."""
        await self.llm.ready()
        await self.in_worker(self._warm_up)

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    # --- the turn service ---
    async def count(self, request: TurnRequest) -> int:
        return len((await self.render(request)).ids)

    async def render(self, request: TurnRequest, add_generation_prompt: bool = True) -> RenderedPrompt:
        """Raises ApiError."""
        self._loaded()
        owner = OWNER.get()
        return await self.in_worker(lambda: self._rendered(request, owner, add_generation_prompt))

    async def prepare(self, request: TurnRequest) -> PreparedTurn:
        self._check_ready()
        owner = OWNER.get()
        turn = await self.in_worker(lambda: self._prepare_turn(request, owner))
        self._check_room(turn)
        return turn

    async def prepare_texts(self, prompts: Sequence[str | list[int]], request: TurnRequest) -> PreparedTurn:
        """Prompts to be continued as they are; choices go by prompt. The messages of `request` are not looked at."""
        self._check_ready()
        owner = OWNER.get()
        turn = await self.in_worker(lambda: self._prepare_texts(prompts, request, owner))
        self._check_room(turn)
        return turn

    async def run(self, turn: PreparedTurn) -> AsyncGenerator[Progress | TurnStep | TurnEnd, None]:
        prepared: Prepared = turn.details
        choices = {id(request): choice for request, choice in prepared}
        try:
            delivery = self.llm.submit([(request, choice.collect) for request, choice in prepared])
        except UnavailableError as error:
            raise ApiError("overloaded", str(error), retry_after=_RETRY_SECONDS) from None
        try:
            async for ticket, first, ends in delivery:
                joins = not turn.request.tells_steps
                item, is_last = _with_ready(delivery, ticket, first, ends) if joins else (first, ends)
                choice = choices[id(ticket.request)]
                if isinstance(item, PromptProgress):
                    num_prompt = len(ticket.request.prompt_ids)
                    yield Progress(num_prompt, item.num_cached_tokens, item.num_computed_tokens, item.is_queued)
                    continue
                if isinstance(item, TurnStep):
                    now = time.perf_counter()
                    choice.note(item.events)
                    self.metrics.count_step(choice.clock, item.num_tokens, now)
                    if item.num_tokens > 0:
                        choice.clock.tick(now)
                    if item.num_tokens > 0 or item.events:
                        yield item
                if is_last:
                    end = choice.end(ticket)
                    self.metrics.count_end(end.finish_reason, ticket, choice.clock)
                    choice.remember(ticket, self._reasoning, self._turns, OWNER.get())
                    _log_end(end)
                    yield end
        finally:
            if not delivery.is_done:
                self.metrics.finished["abort"] += sum(ticket.finished is None for ticket in delivery.tickets)
            delivery.abort()

    # --- beside the event loop ---
    def _warm_up(self) -> None:
        self.turn_format  # noqa: B018
        with suppress(ApiError):
            self.grammars.prepare()

    async def in_worker(self, work: Callable[[], Result]) -> Result:
        """Its result; errors of the caller's become ApiError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work)
        except (RequestError, CapacityError) as error:
            raise ApiError("invalid_request", str(error)[:500], _param(error)) from None
        except UnavailableError as error:
            raise ApiError("overloaded", str(error), retry_after=_RETRY_SECONDS) from None

    def _rendered(self, request: TurnRequest, owner: str, add_generation_prompt: bool = True) -> RenderedPrompt:
        wants_text = self.turn_format.wants_argument_text
        turns = [normalised_turn(message, wants_text) for message in request.messages]
        messages = [self._reasoning.restored(turn, owner) for turn in turns]
        tools = () if request.tool_choice.mode == "none" else request.tools
        salt = cache_salt.mixed(owner, request.cache_salt)
        arguments, callable_tools = request.template_args, request.callable_tools
        return self.renderer.render(messages, tools, arguments, add_generation_prompt, salt, callable_tools)

    def _prepare_turn(self, request: TurnRequest, owner: str) -> PreparedTurn:
        rendered = self._rendered(request, owner)
        self._check_length(len(rendered.ids))
        is_reasoning = self.turn_format.starts_in_reasoning(rendered.ending)
        parses_calls = bool(request.callable_tools) and request.tool_choice.mode != "none"

        def make_text() -> TurnText:
            return TurnText(
                self.llm.llm.tokenizer,
                self.turn_format,
                request.callable_tools,
                request.params.stops,
                starts_in_reasoning=is_reasoning,
                parses_calls=parses_calls,
                is_parallel=request.tool_choice.is_parallel,
                make_call_id=lambda: f"call_{secrets.token_hex(_CALL_ID_BYTES)}",
                buffers_calls=request.buffers_calls,
            )

        warnings = tuple(name for name in request.template_args if name not in self.renderer.arguments)
        grammar = self._grammar(request, is_reasoning)
        warnings += () if grammar is None else grammar.warnings
        prepared = self._choices([list(rendered.ids)], request, owner, grammar, make_text)
        for _, choice in prepared:
            choice.place = rendered.place
        return PreparedTurn(request, rendered.ids, self._model_id, warnings, prepared)

    def _prepare_texts(self, prompts: Sequence[str | list[int]], request: TurnRequest, owner: str) -> PreparedTurn:
        llm = self.llm.llm
        ids = [
            llm.tokenizer.encode(prompt) if isinstance(prompt, str) else self.llm.requests.checked_ids(prompt)
            for prompt in prompts
        ]
        for one in ids:
            self._check_length(len(one))
        grammar = self._grammar(request, is_reasoning=False)
        stops = request.params.stops
        prepared = self._choices(ids, request, owner, grammar, lambda: PlainText(llm.tokenizer, stops))
        return PreparedTurn(request, tuple(ids[0]), self._model_id, (), prepared)

    def _choices(
        self,
        prompts: list[list[int]],
        request: TurnRequest,
        owner: str,
        grammar: Grammar | None,
        make_text: Callable[[], TurnText | PlainText],
    ) -> Prepared:
        if len(prompts) * request.num_choices > self.config.max_choices:
            raise ApiError("invalid_request", f"n: at most {self.config.max_choices} choices are given at once", "n")
        # Stop strings are the text's: it knows what is content.
        params = replace(request.params, grammar=grammar, stop=(), seed=seed_from_system(request.params.seed))
        tokenizer, build = self.llm.llm.tokenizer, self.llm.requests.build
        salt = cache_salt.mixed("" if self.config.shares_prefixes else owner, request.cache_salt)
        prepared: Prepared = []
        for prompt in prompts:
            room = self.context_length - len(prompt)
            is_clamped = params.max_tokens is None or params.max_tokens > room
            for number in range(request.num_choices):
                text = make_text()
                has_logprobs = params.logprobs is not None
                choice = Choice(len(prepared), text, tokenizer, is_clamped, has_logprobs)
                own = replace(params, seed=((params.seed or 0) + number) & MAX_SEED)
                prepared.append((build(prompt, own, request.speculation, choice.stream, salt), choice))
        return prepared

    def _grammar(self, request: TurnRequest, is_reasoning: bool) -> "GrammarState | None":
        choice, tools = request.tool_choice, request.callable_tools
        is_called = bool(tools) and choice.mode != "none"
        needs_calls = choice.mode in ("required", "named") or any(tool.is_strict for tool in tools)
        if request.output_format is None and not (is_called and needs_calls):
            return None
        return self.grammars.for_tools(tools, choice, self.turn_format, is_reasoning, request.output_format)

    # --- checks ---
    def _loaded(self) -> LLM:
        try:
            return self.llm.llm
        except UnavailableError as error:
            raise ApiError("overloaded", str(error), retry_after=_RETRY_SECONDS) from None

    def _check_ready(self) -> None:
        self._loaded()
        if self.llm.state != "ready":
            self.metrics.rejected[self.llm.state] += 1
            raise ApiError("overloaded", f"the server is {self.llm.state}", retry_after=_RETRY_SECONDS)

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens == 0:
            raise ApiError("invalid_request", "the prompt is empty: give at least one token")
        limit = self.context_length
        if num_tokens >= limit:
            raise overflow(num_tokens, limit)

    def _check_room(self, turn: PreparedTurn) -> None:
        prepared: Prepared = turn.details
        try:
            self.llm.check_room(len(prepared), sum(len(request.prompt_ids) for request, _ in prepared))
        except QueueFullError as error:
            self.metrics.rejected["queue_full"] += 1
            raise ApiError("overloaded", str(error), retry_after=error.retry_after) from None
        except UnavailableError as error:
            self.metrics.rejected[self.llm.state] += 1
            raise ApiError("overloaded", str(error), retry_after=_RETRY_SECONDS) from None


def _with_ready(delivery: Delivery, ticket: Ticket, item: Any, is_last: bool) -> tuple[Any, bool]:
    """A step and those that came with it, as one; and whether the ticket's last is among them."""
    while isinstance(item, TurnStep) and not is_last and (ready := delivery.take_ready(ticket)) is not None:
        following, is_last = ready
        item = item.then(following) if isinstance(following, TurnStep) else item
    return item, is_last


def _log_end(end: TurnEnd) -> None:
    """Counts and times, never text."""
    log.info(
        "%s choice %d: %s, %d prompt tokens (%d cached), %d tokens in %.0f ms after %.0f ms, %d of %d drafts accepted",
        REQUEST_ID.get(),
        end.choice,
        end.finish_reason,
        end.prompt_tokens,
        end.cached_tokens,
        end.completion_tokens,
        end.timings["predicted_ms"],
        end.timings["ttft_ms"],
        end.speculation.num_accepted_tokens,
        end.speculation.num_draft_tokens,
    )


def overflow(num_tokens: int, limit: int) -> ApiError:
    """Clients know an overflow by words; these are the ones that any of them looks for."""
    return ApiError(
        "invalid_request",
        f"prompt is too long: {num_tokens} tokens > {limit} maximum. This model's maximum context length is {limit} "
        "tokens and the request exceeds the available context size. Please reduce the length of the messages.",
        "messages",
        "context_length_exceeded",
    )


def _param(error: Exception) -> str | None:
    """The setting that an error of ours begins with, as in `top_p=2 is out of range`, or the place in a schema."""
    if (places := getattr(error, "places", ())) and places[0]:
        return str(places[0])[:200]
    name, equals, _ = str(error).partition("=")
    return name if equals and name.isidentifier() else None
