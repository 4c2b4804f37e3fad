"""POST /v1/chat/completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from stepahead.server.api_error import ApiError
from stepahead.server.body import read_object
from stepahead.server.chat_answer import ChatAnswer, ChatStream
from stepahead.server.chat_request import CHAT_FIELDS, ChatRequest, read_chat
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.openapi import body_schema
from stepahead.server.service import LLMService
from stepahead.server.sse import DONE, EventStream, while_connected
from stepahead.server.turn_service import PreparedTurn, TurnEnd
from stepahead.server.wire import compact, error_frame, error_of, ignored


def router(service: LLMService, settings: EndpointSettings) -> APIRouter:
    routes = APIRouter(tags=["Completions"])

    @routes.post(
        "/v1/chat/completions",
        summary="Continue a conversation, as OpenAI's Chat Completions",
        openapi_extra=body_schema(CHAT_FIELDS, ("messages",)),
    )
    async def chat_completions(request: Request) -> Response:
        asked = read_chat(await read_object(request), settings)
        turn = await service.prepare(asked.turn)
        headers = ignored((*asked.warnings, *turn.warnings))
        if asked.is_stream:
            return EventStream(
                _frames(service, settings, asked, turn),
                keepalive_seconds=settings.keepalive_seconds,
                headers=headers,
                stall_seconds=settings.stall_seconds,
            )
        content = await while_connected(request, whole(service, settings, asked, turn))
        return Response(content, headers=headers, media_type="application/json")

    return routes


async def _frames(
    service: LLMService, settings: EndpointSettings, asked: ChatRequest, turn: PreparedTurn
) -> AsyncGenerator[bytes, None]:
    stream = ChatStream(asked, turn, settings.reasoning_field)
    yield stream.begin()
    try:
        async with aclosing(service.run(turn)) as items:
            async for item in items:
                if isinstance(item, TurnEnd) and item.finish_reason == "error":
                    raise error_of(item)
                if data := stream.take(item):
                    yield data
    except ApiError as error:
        yield error_frame(error)
        return
    yield DONE


async def whole(service: LLMService, settings: EndpointSettings, asked: ChatRequest, turn: PreparedTurn) -> bytes:
    """The answer in one piece. Raises ApiError."""
    answer = ChatAnswer(asked, turn, settings.reasoning_field)
    async with aclosing(service.run(turn)) as items:
        async for item in items:
            if isinstance(item, TurnEnd) and item.finish_reason == "error":
                raise error_of(item)
            answer.take(item)
    return compact(answer.as_object()).encode()
