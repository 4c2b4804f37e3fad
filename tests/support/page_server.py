"""A server with the chat page and a model that says what a test scripts: no engine, so that answers are known."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from stepahead.server import page

GATE = "gate"  # the answer waits here until the test opens it
# A script: the text that is marked as drafted and accepted.
MARKED = """() => [...CSS.highlights.get('accepted')].map(
    (range) => range.startContainer.data.slice(range.startOffset, range.endOffset)).join('')"""


@dataclass
class Script:
    """One answer. chunks: each ("content" | "reasoning" | "call" | "text", ...), seconds to wait, or GATE."""

    chunks: list[Any]
    finish: str = "stop"
    status: int = 200
    error: dict[str, Any] | None = None  # with a status: the whole answer; with 200: the last event
    breaks_off: bool = False


@dataclass
class ScriptedModel:
    """Answers with the next script; the last one stays."""

    scripts: list[Script] = field(default_factory=lambda: [Script(content("Hello."))])
    requests: list[dict[str, Any]] = field(default_factory=list)
    num_aborted: int = 0
    is_open: bool = False
    num_passes: int = 0  # answers that may still go through a gate while it is closed
    key: str = ""
    has_template: bool = True
    is_demo: bool = False
    model_id: str = "step-tiny"

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def says(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    def open_gate(self) -> None:
        """For one that waits there; is_open opens it for all."""
        self.num_passes += 1

    def next_script(self) -> Script:
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


def content(text: str, step: int = 12, depth: int = 0, pause: float = 0.0) -> list[Any]:
    """A text in steps of `step` characters. depth: drafts a step, all but every third accepted."""
    chunks: list[Any] = []
    for number, start in enumerate(range(0, len(text), step)):
        part = text[start : start + step]
        pieces = [part[i : i + 4] for i in range(0, len(part), 4)]
        num_accepted = min(len(pieces) - 1, depth, number % 3)
        chunks.append(("content", part, {
            "num_tokens": len(pieces), "num_accepted": num_accepted, "num_drafted": depth, "pieces": pieces,
        }))  # fmt: skip
        if pause:
            chunks.append(pause)
    return chunks


def accepted_text(text: str, depth: int) -> str:
    return "".join("".join(step["pieces"][: step["num_accepted"]]) for _, _, step in content(text, depth=depth))


def reasoning(text: str, pause: float = 0.0) -> list[Any]:
    chunks: list[Any] = []
    for word in text.split(" "):
        chunks += [("reasoning", f"{word} "), *([pause] if pause else [])]
    return chunks


def call(index: int, name: str, arguments: str) -> list[Any]:
    start = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [arguments[i : i + 9] for i in range(0, len(arguments), 9)]
    return [("call", start), *(("call", {"index": index, "function": {"arguments": piece}}) for piece in pieces)]


METRICS = {"time_to_first_token_ms": 12.0, "tokens_per_second": 87.25}
USAGE = {"prompt_tokens": 120, "completion_tokens": 40, "total_tokens": 160}


def make_app(model: ScriptedModel) -> FastAPI:
    app = FastAPI()
    app.include_router(page.router())

    def refusal(request: Request) -> Response | None:
        if not model.key or request.headers.get("authorization") == f"Bearer {model.key}":
            return None
        error = {"message": "wrong key", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
        return JSONResponse({"error": error}, 401)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return refusal(request) or JSONResponse({"object": "list", "data": [{"id": model.model_id, "object": "model"}]})

    @app.get("/props")
    async def props(request: Request) -> Response:
        return refusal(request) or JSONResponse(
            {"has_chat_template": model.has_template, "is_demo": model.is_demo, "context_length": 4096}
        )

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        if refused := refusal(request):
            return refused
        model.requests.append(await request.json())
        script = model.next_script()
        if script.status != 200:
            return JSONResponse({"error": script.error}, script.status, {"Retry-After": "7"})
        is_chat = request.url.path.startswith("/v1/chat")
        return StreamingResponse(events(model, script, is_chat), media_type="text/event-stream")

    return app


async def events(model: ScriptedModel, script: Script, is_chat: bool) -> AsyncIterator[bytes]:
    is_done = False
    try:
        yield b": ping\n\n"
        for item in script.chunks:
            if item is GATE:
                while not model.is_open and model.num_passes == 0:
                    await asyncio.sleep(0.01)
                model.num_passes = max(model.num_passes - 1, 0)
                continue
            if isinstance(item, float):
                await asyncio.sleep(item)
                continue
            yield event(chunk_of(item, is_chat))
            await asyncio.sleep(0)
        is_done = True
        if script.breaks_off:
            return
        if script.error:
            yield event({"error": script.error})
            return
        yield event({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": script.finish}]})
        yield event({"choices": [], "usage": USAGE, "metrics": METRICS})
        yield b"data: [DONE]\n\n"
    finally:
        model.num_aborted += not is_done


def chunk_of(item: tuple[Any, ...], is_chat: bool) -> dict[str, Any]:
    kind, value = item[:2]
    if kind == "progress":
        return {"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": None}], "prompt_progress": value}
    if not is_chat:
        choice = {"index": 0, "text": value, "finish_reason": None}
    elif kind == "call":
        choice = {"index": 0, "delta": {"tool_calls": [value]}, "finish_reason": None}
    else:
        name = {"content": "content", "reasoning": "reasoning_content"}[kind]
        choice = {"index": 0, "delta": {name: value}, "finish_reason": None}
    return {"choices": [choice], **({"stepahead": item[2]} if len(item) > 2 else {})}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


class PageServer:
    """Of a scripted model, on a free port, in a thread of its own."""

    def __init__(self) -> None:
        self.model = ScriptedModel()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = uvicorn.Config(make_app(self.model), "127.0.0.1", self.port, log_level="error", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.url = f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> "PageServer":
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
