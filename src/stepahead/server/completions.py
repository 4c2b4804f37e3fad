"""POST /v1/completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from stepahead.server.api_error import ApiError
from stepahead.server.body import read_object
from stepahead.server.completion_request import COMPLETION_FIELDS, CompletionRequest, read_completion
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.openapi import body_schema
from stepahead.server.service import LLMService
from stepahead.server.sse import DONE, EventStream, while_connected
from stepahead.server.step_extension import FIELD, step_extension
from stepahead.server.turn_service import PreparedTurn, Progress, TokenLogprob, TurnEnd, TurnStep
from stepahead.server.wire import (
    Envelope,
    compact,
    error_frame,
    error_of,
    finish_reason,
    ignored,
    members,
    prompt_progress,
    statistics,
    total_usage,
)
from stepahead.turns.event import ContentText


def router(service: LLMService, settings: EndpointSettings) -> APIRouter:
    routes = APIRouter(tags=["Completions"])

    @routes.post(
        "/v1/completions",
        summary="Continue text, as OpenAI's Completions",
        openapi_extra=body_schema(COMPLETION_FIELDS, ("prompt",)),
    )
    async def completions(request: Request) -> Response:
        asked = read_completion(await read_object(request), settings)
        turn, echo = await prepare(service, asked)
        headers = ignored(asked.warnings)
        if asked.is_stream:
            return EventStream(
                _frames(service, asked, turn, echo),
                keepalive_seconds=settings.keepalive_seconds,
                headers=headers,
                stall_seconds=settings.stall_seconds,
            )
        content = await while_connected(request, whole(service, asked, turn, echo))
        return Response(content, headers=headers, media_type="application/json")

    return routes


async def prepare(service: LLMService, asked: CompletionRequest) -> tuple[PreparedTurn, list[str]]:
    """The turn, and what each choice begins with. Raises ApiError."""
    turn = await service.prepare_texts(asked.prompts, asked.turn)
    return turn, await service.in_worker(lambda: _echo(service, asked))


def _echo(service: LLMService, asked: CompletionRequest) -> list[str]:
    if not asked.has_echo:
        return [""] * asked.num_choices
    texts = [one if isinstance(one, str) else service.llm.llm.detokenize(one) for one in asked.prompts]
    return [text for text in texts for _ in range(asked.turn.num_choices)]


class _Logprobs:
    """Of one choice: text_offset goes on from step to step."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._offset = 0

    def as_object(self, tokens: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any] | None:
        if not self._is_wanted:
            return None
        told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for one in tokens:
            text = one.token.decode("utf-8", "replace")
            told["tokens"].append(text)
            told["token_logprobs"].append(max(one.logprob, -9999.0))
            told["top_logprobs"].append({token.decode("utf-8", "replace"): value for token, value in one.top})
            told["text_offset"].append(self._offset)
            self._offset += len(text)
        return told


async def _frames(
    service: LLMService, asked: CompletionRequest, turn: PreparedTurn, echo: list[str]
) -> AsyncGenerator[bytes, None]:
    envelope = Envelope("cmpl", "text_completion", turn.model)
    logprobs = [_Logprobs(asked.turn.params.logprobs is not None) for _ in echo]
    ends: list[TurnEnd] = []
    no_usage: dict[str, Any] = {"usage": None} if asked.has_usage else {}

    def chunk(choice: int, text: str, told: Any, extra: dict[str, Any], finish: str | None = None) -> bytes:
        one = {"index": choice, "text": text, "logprobs": told, "finish_reason": finish}
        return envelope.frame(compact([one]), members({**no_usage, **extra}))

    yield b"".join(chunk(choice, text, None, {}) for choice, text in enumerate(echo))
    try:
        async with aclosing(service.run(turn)) as items:
            async for item in items:
                if isinstance(item, TurnStep):
                    text = "".join(event.text for event in item.events if isinstance(event, ContentText))
                    extra = {FIELD: step_extension(item)} if asked.has_steps else {}
                    told = logprobs[item.choice].as_object(item.logprobs)
                    if text or extra or item.logprobs:
                        yield chunk(item.choice, text, told, extra)
                elif isinstance(item, Progress):
                    if asked.has_progress:
                        yield chunk(0, "", None, {"prompt_progress": prompt_progress(item)})
                else:
                    if item.finish_reason == "error":
                        raise error_of(item)
                    ends.append(item)
                    is_last = asked.has_steps and not asked.has_usage and len(ends) == len(echo)
                    yield chunk(item.choice, "", None, statistics(ends) if is_last else {}, finish_reason(item))
    except ApiError as error:
        yield error_frame(error)
        return
    if asked.has_usage:
        told_at_end = statistics(ends) if asked.has_steps else {}
        yield envelope.frame("[]", members({"usage": total_usage(ends, asked.turn.num_choices), **told_at_end}))
    yield DONE


async def whole(service: LLMService, asked: CompletionRequest, turn: PreparedTurn, echo: list[str]) -> bytes:
    """The answer in one piece. Raises ApiError."""
    texts = [[text] for text in echo]
    logprobs: list[list[TokenLogprob]] = [[] for _ in echo]
    ends: dict[int, TurnEnd] = {}
    async with aclosing(service.run(turn)) as items:
        async for item in items:
            if isinstance(item, TurnStep):
                texts[item.choice] += [event.text for event in item.events if isinstance(event, ContentText)]
                logprobs[item.choice] += item.logprobs
            elif isinstance(item, TurnEnd):
                if item.finish_reason == "error":
                    raise error_of(item)
                ends[item.choice] = item
    in_order = [ends[choice] for choice in range(len(echo))]
    choices = [
        {
            "index": choice,
            "text": "".join(texts[choice]),
            "logprobs": _Logprobs(asked.turn.params.logprobs is not None).as_object(logprobs[choice]),
            "finish_reason": finish_reason(in_order[choice]),
        }
        for choice in range(len(echo))
    ]
    answer = {
        **Envelope("cmpl", "text_completion", turn.model).as_object(),
        "choices": choices,
        "usage": total_usage(in_order, asked.turn.num_choices),
        **(statistics(in_order) if asked.has_steps else {}),
    }
    return compact(answer).encode()
