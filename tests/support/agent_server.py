"""A server to try clients with: no model, but what agent_scenarios.py says; it writes down what clients send.

`PYTHONPATH=src:tests python -m support.agent_server --port 8080 --log traffic.jsonl`, then a client with the settings
of `stepahead serve --print-config`, and a message such as `scenario-tools`.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from stepahead import LLM
from stepahead.async_llm import AsyncLLM
from stepahead.server.api_error import ApiError
from stepahead.server.app import make_app
from stepahead.server.body import _decoded
from stepahead.server.config import ApiKey, ServerConfig
from stepahead.server.transport import address, listen, serve
from support.agent_scenarios import Scenarios
from support.scripted_service import ScriptedLLMService, write_step_like

MODEL = "step-scripted"


class Recorder:
    """Writes requests and answers down, a line each."""

    def __init__(self, service: ScriptedLLMService, path: Path) -> None:
        self._app = make_app(service)
        self._prompts = service.prompts
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, answer = bytearray(), bytearray()
        entry: dict[str, Any] = {}

        async def received() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.update(status=message["status"], told=_words(message["headers"]))
            answer.extend(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            if scope["type"] == "http":
                self._write(scope, bytes(body), bytes(answer), entry)

    def _write(self, scope: Scope, body: bytes, answer: bytes, entry: Mapping[str, Any]) -> None:
        headers = _words(scope["headers"])
        path = f"{scope['path']}?{scope['query_string'].decode()}".removesuffix("?")
        told = answer.decode(errors="replace")
        line = {"method": scope["method"], "path": path, "headers": headers, **entry, "answer": told}
        line["prompts"], self._prompts[:] = self._prompts[:], []
        try:
            line["body"] = json.loads(_decoded(body, headers.get("content-encoding", "identity")) or b"null")
        except (ValueError, ApiError):
            line["body"] = repr(body[:300])
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _words(headers: Any) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in headers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context", type=int, default=262_144)
    parser.add_argument("--key", action="append", default=[])
    parser.add_argument("--failures", type=int, default=2)
    parser.add_argument("--log", type=Path, default=Path("traffic.jsonl"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_step_like(Path(folder) / "model.gguf", options.context)
        asyncio.run(_serve(path, options))


async def _serve(path: Path, options: argparse.Namespace) -> None:
    config = ServerConfig(port=options.port, keys=tuple(ApiKey.of(key, "tried") for key in options.key))
    llm = AsyncLLM(lambda: LLM(path, threads=1, context_length=options.context), config.queue)
    service = ScriptedLLMService(llm, config, MODEL, Scenarios(options.failures))
    listener = listen(config)
    url = address(listener)
    await serve(service, Recorder(service, options.log), listener, lambda: print(url, flush=True))


if __name__ == "__main__":
    main()
