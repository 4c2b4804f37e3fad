"""`/v1/messages`: Anthropic's API, which Claude Code speaks."""

import logging
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from stepahead.server.agent_fields import notice
from stepahead.server.body import read_object
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.messages.events import MessageEvents
from stepahead.server.messages.request import FIELDS, MessagesRequest, read_request
from stepahead.server.openapi import body_schema
from stepahead.server.reasoning_state import seal, unseal
from stepahead.server.sse import EventStream, while_connected
from stepahead.server.turn_frames import streamed, whole
from stepahead.server.turn_service import TurnService

log = logging.getLogger(__name__)


def router(service: TurnService, settings: EndpointSettings) -> APIRouter:
    """Messages, and the count of their tokens."""
    routes = APIRouter(tags=["messages"])
    endpoint = _Messages(service, settings)
    routes.post(
        "/v1/messages",
        summary="Continue a conversation, as Anthropic's Messages; Claude Code asks here",
        openapi_extra=body_schema(FIELDS, ("max_tokens", "messages")),
    )(endpoint.create)
    routes.post(
        "/v1/messages/count_tokens",
        summary="Tokens of such a prompt",
        openapi_extra=body_schema(FIELDS, ("messages",)),
    )(endpoint.count)
    return routes


class _Messages:
    def __init__(self, service: TurnService, settings: EndpointSettings) -> None:
        self._service = service
        self._settings = settings

    async def create(self, request: Request) -> Response:
        """Continue a conversation by one message."""
        asked = self._read(await read_object(request), False)
        turn = await self._service.prepare(asked.turn)
        events = MessageEvents(turn.model, self._seal, asked.thinking)
        told = notice((*asked.ignored, *turn.warnings))
        if asked.is_streamed:
            frames = streamed(self._service, turn, events)
            settings = self._settings
            return EventStream(frames, events.ping, settings.keepalive_seconds, told, settings.stall_seconds)
        return JSONResponse(await while_connected(request, whole(self._service, turn, events)), headers=told)

    async def count(self, request: Request) -> Response:
        """The number of tokens that a request's prompt has."""
        asked = self._read(await read_object(request), True)
        return JSONResponse({"input_tokens": await self._service.count(asked.turn)})

    def _read(self, body: dict[str, Any], is_only_counted: bool) -> MessagesRequest:
        asked = read_request(body, self._unseal, self._settings, is_only_counted)
        if asked.ignored:
            log.info("left out of a request: %s", notice(asked.ignored))
        return asked

    def _seal(self, text: str) -> str:
        return seal(text, self._service.model_id, self._settings.state_key)

    def _unseal(self, state: object) -> str | None:
        return unseal(state, self._service.model_id, self._settings.state_key)
