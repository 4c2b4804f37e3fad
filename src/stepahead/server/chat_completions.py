"""POST /v1/chat/completions."""

from fastapi import APIRouter, Request, Response

from stepahead.server.body import read_object
from stepahead.server.chat_answer import ChatAnswer, ChatStream
from stepahead.server.chat_request import CHAT_FIELDS, read_chat
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.openapi import body_schema
from stepahead.server.turn_frames import streamed, whole
from stepahead.server.turn_service import TurnService
from stepahead.server.wire import event_stream, ignored, one_piece


def router(service: TurnService, settings: EndpointSettings) -> APIRouter:
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
            writer = ChatStream(asked, turn, settings.reasoning_field)
            return event_stream(streamed(service, turn, writer), settings, headers)
        answer = ChatAnswer(asked, turn, settings.reasoning_field)
        return await one_piece(request, whole(service, turn, answer), headers)

    return routes
