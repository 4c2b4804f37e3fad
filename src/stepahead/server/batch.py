"""The lines of a batch file, answered as the endpoints that they name would answer them."""

import json
from typing import Any

from stepahead.batch_file import BatchAnswer, BatchRequest
from stepahead.errors import StepaheadError
from stepahead.server.api_error import ApiError
from stepahead.server.body import parse_object
from stepahead.server.chat_answer import ChatAnswer
from stepahead.server.chat_request import read_chat
from stepahead.server.completion_answer import CompletionAnswer
from stepahead.server.completion_request import read_completion
from stepahead.server.completions import prepare
from stepahead.server.errors import openai_error, status_of
from stepahead.server.fields import wrong
from stepahead.server.service import LLMService
from stepahead.server.turn_frames import whole

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


async def answer(service: LLMService, request: BatchRequest) -> BatchAnswer:
    """What is the line's fault is an answer. Raises StepaheadError where nothing more can be answered."""
    try:
        return BatchAnswer(200, await _answer(service, request))
    except ApiError as error:
        if error.kind == "overloaded":
            raise StepaheadError(error.message) from None
        return BatchAnswer(status_of(error), openai_error(error))


async def _answer(service: LLMService, request: BatchRequest) -> dict[str, Any]:
    body, settings = _body(request), service.config.endpoints
    if request.url == CHAT:
        asked = read_chat(body, settings)
        turn = await service.prepare(asked.turn)
        return await whole(service, turn, ChatAnswer(asked, turn, settings.reasoning_field))
    text = read_completion(body, settings)
    turn, echo = await prepare(service, text)
    return await whole(service, turn, CompletionAnswer(text, turn, echo))


def _body(request: BatchRequest) -> dict[str, Any]:
    if request.method != "POST":
        raise wrong("method", "must be POST")
    if request.url not in (CHAT, COMPLETIONS):
        raise wrong("url", f"must be {CHAT} or {COMPLETIONS}", "unsupported_value")
    if not isinstance(request.body, dict):
        raise wrong("body", "must be a JSON object")
    body = parse_object(json.dumps(request.body).encode())  # what a server refuses is refused here
    if body.get("stream"):
        raise wrong("body.stream", "must be false: answers stand in a file", "unsupported_value")
    return body
