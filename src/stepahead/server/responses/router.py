"""`/v1/responses`: OpenAI's newer API, which Codex speaks. Nothing is kept: each request brings its conversation."""

import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from stepahead.server.agent_fields import notice
from stepahead.server.api_error import ApiError
from stepahead.server.body import read_object
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.openapi import body_schema
from stepahead.server.reasoning_state import seal, unseal
from stepahead.server.responses.events import ResponseEvents
from stepahead.server.responses.request import FIELDS, ResponsesRequest, read_request
from stepahead.server.responses.response import ResponseObject
from stepahead.server.sse import COMMENT, EventStream, while_connected
from stepahead.server.turn_frames import streamed, whole
from stepahead.server.turn_service import TurnService

_NOT_KEPT = "404: this server keeps no responses"
log = logging.getLogger(__name__)


def router(service: TurnService, settings: EndpointSettings) -> APIRouter:
    """The routes of the API that this server can serve; the others say that nothing is kept."""
    routes = APIRouter(tags=["responses"])
    endpoint = _Responses(service, settings)
    body = body_schema(FIELDS)
    routes.post(
        "/v1/responses", summary="Continue a conversation, as OpenAI's Responses; Codex asks here", openapi_extra=body
    )(endpoint.create)
    routes.post("/v1/responses/input_tokens", summary="Tokens of such a prompt", openapi_extra=body)(endpoint.count)
    for method in ("GET", "DELETE"):
        routes.add_api_route("/v1/responses/{response_id}", _not_kept, methods=[method], summary=_NOT_KEPT)
    routes.add_api_route("/v1/responses/{response_id}/input_items", _not_kept, methods=["GET"], summary=_NOT_KEPT)
    routes.add_api_route("/v1/responses/{response_id}/cancel", _not_kept, methods=["POST"], summary=_NOT_KEPT)
    return routes


class _Responses:
    def __init__(self, service: TurnService, settings: EndpointSettings) -> None:
        self._service = service
        self._settings = settings

    async def create(self, request: Request) -> Response:
        """Continue a conversation by one turn."""
        asked = self._read(await read_object(request))
        events = ResponseEvents(ResponseObject(self._service.model_id, asked.echo, self._seal), asked.names)
        try:
            turn = await self._service.prepare(asked.turn)
        except ApiError as error:
            # Codex takes it for what it is if a stream says so, and for a request that is wrong if the status does.
            if asked.is_streamed and error.code == "context_length_exceeded":
                return self._stream(_failed(events, error), events, notice(asked.ignored))
            raise
        told = notice((*asked.ignored, *turn.warnings))
        if asked.is_streamed:
            return self._stream(streamed(self._service, turn, events), events, told)
        return JSONResponse(await while_connected(request, whole(self._service, turn, events)), headers=told)

    async def count(self, request: Request) -> Response:
        """The number of tokens that a request's prompt has."""
        asked = self._read(await read_object(request))
        number = await self._service.count(asked.turn)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": number})

    def _read(self, body: dict[str, Any]) -> ResponsesRequest:
        asked = read_request(body, self._unseal, self._settings)
        if asked.ignored:
            log.info("left out of a request: %s", notice(asked.ignored))
        return asked

    def _seal(self, text: str) -> str:
        return seal(text, self._service.model_id, self._settings.state_key)

    def _unseal(self, state: object) -> str | None:
        return unseal(state, self._service.model_id, self._settings.state_key)

    def _stream(self, frames: AsyncGenerator[bytes, None], events: ResponseEvents, told: dict[str, str]) -> EventStream:
        kind, seconds = self._settings.responses_keepalive, self._settings.keepalive_seconds
        return EventStream(
            frames,
            events.keepalive if kind == "keepalive" else lambda: COMMENT,
            seconds if kind != "off" else float("inf"),
            told,
            self._settings.stall_seconds,
        )


async def _failed(events: ResponseEvents, error: ApiError) -> AsyncGenerator[bytes, None]:
    yield events.begin(0)
    yield events.fail(error)


async def _not_kept() -> Response:
    """This server keeps no responses."""
    raise ApiError("not_found", "this server keeps no responses", "response_id", "not_found")
