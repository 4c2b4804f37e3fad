"""A turn service that says what a test tells it to: steps, pauses, errors. And an application around one endpoint."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI, Request

from stepahead.engine.request import SpeculationStats
from stepahead.server.api_error import ApiError
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.errors import error_response
from stepahead.server.turn_service import PreparedTurn, TurnEnd, TurnStep
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, ReasoningText
from stepahead.turns.turn_request import TurnRequest

try:
    import httpx2 as anthropics  # anthropic left httpx for it
except ImportError:
    anthropics = httpx

MODEL = "step-test"
SETTINGS = EndpointSettings(state_key=b"a key of the tests")


def reasoning(*texts: str) -> list:
    return [ReasoningText(text) for text in texts]


def content(*texts: str) -> list:
    return [ContentText(text) for text in texts]


def call(index: int, name: str, *pieces: str, is_cut: bool = False) -> list:
    events = [CallStarted(index, f"call_{index}", name), *(CallArguments(index, piece) for piece in pieces)]
    return events if is_cut else [*events, CallEnded(index)]


def steps(events: Sequence, size: int = 1) -> list[TurnStep]:
    """The events, `size` of them a step."""
    return [
        TurnStep(0, tuple(events[start : start + size]), num_tokens=size, num_accepted=0)
        for start in range(0, len(events), size)
    ]


def end(reason: str = "stop", **changes: Any) -> TurnEnd:
    values = {
        "choice": 0,
        "finish_reason": reason,
        "stop_sequence": None,
        "prompt_tokens": 70,
        "cached_tokens": 64,
        "completion_tokens": 12,
        "reasoning_tokens": 5,
        "speculation": SpeculationStats(),
        "timings": {},
    }
    return TurnEnd(**{**values, **changes})


FULL_TURN = [
    *reasoning("First ", "look."),
    *content("I read ", "the file."),
    *call(0, "read", '{"path": "', "a.py", '"}'),
    *call(1, "list", "{}"),
]


@dataclass
class ScriptedService:
    """script: steps and ends to be given, seconds to wait, errors to raise."""

    script: list = field(default_factory=lambda: [*steps(FULL_TURN), end("tool_calls")])
    error: ApiError | None = None  # of prepare and count
    warnings: tuple[str, ...] = ()
    model_id: str = MODEL
    context_length: int = 32768
    asked: list[TurnRequest] = field(default_factory=list)
    num_closed: int = 0

    async def count(self, request: TurnRequest) -> int:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return len(json.dumps(request.messages).split())

    async def prepare(self, request: TurnRequest) -> PreparedTurn:
        return PreparedTurn(request, tuple(range(await self.count(request))), MODEL, self.warnings)

    async def run(self, turn: PreparedTurn) -> AsyncIterator:
        try:
            for entry in self.script:
                if isinstance(entry, Exception):
                    raise entry
                if isinstance(entry, int | float):
                    await asyncio.sleep(entry)
                else:
                    yield entry
        finally:
            self.num_closed += 1


def application(router: Callable, service: ScriptedService, settings: EndpointSettings = SETTINGS) -> FastAPI:
    app = FastAPI()
    app.include_router(router(service, settings))

    @app.exception_handler(ApiError)
    async def explain(request: Request, error: ApiError):
        return error_response(error, request.url.path)

    return app


def http_client(app: FastAPI, library: Any = httpx) -> Any:
    """library: the one that the client to be tested is made of."""
    return library.AsyncClient(transport=library.ASGITransport(app), base_url="http://test")


def post(app: FastAPI, path: str, body: dict) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with http_client(app) as client:
            return await client.post(path, json=body)

    return asyncio.run(ask())


def frames_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event; its type must be that of the event line. Comments are left out."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.split("\n\n"):
        if block and not block.startswith(":"):
            first, second = block.split("\n")
            data = json.loads(second.removeprefix("data: "))
            assert first == f"event: {data['type']}"
            found.append(data)
    return found
