"""POST /v1/completions."""

from fastapi import APIRouter, Request, Response

from stepahead.server.body import read_object
from stepahead.server.completion_answer import CompletionAnswer, CompletionStream
from stepahead.server.completion_request import COMPLETION_FIELDS, CompletionRequest, read_completion
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.openapi import body_schema
from stepahead.server.service import LLMService
from stepahead.server.turn_frames import streamed, whole
from stepahead.server.turn_service import PreparedTurn
from stepahead.server.wire import event_stream, ignored, one_piece


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
            return event_stream(streamed(service, turn, CompletionStream(asked, turn, echo)), settings, headers)
        return await one_piece(request, whole(service, turn, CompletionAnswer(asked, turn, echo)), headers)

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
