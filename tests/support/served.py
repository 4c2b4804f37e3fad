"""A model behind the server, for tests: called as an application, or listening at a port of its own."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stepahead import LLM
from stepahead.async_llm import AsyncLLM
from stepahead.server.app import make_app
from stepahead.server.config import ServerConfig
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.service import LLMService
from stepahead.server.transport import address, listen, serve

MODEL = "test-model"
SETTINGS = EndpointSettings(keepalive_seconds=0.2)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Served:
    service: LLMService
    client: httpx.AsyncClient
    url: str = ""

    async def chat(self, content: str = "hello", **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        body = {"messages": messages, "max_tokens": 8, "temperature": 0, **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    @property
    def num_used_blocks(self) -> int:
        """KV blocks that running requests hold: what is cached for others is not among them."""
        engine = self.service.llm.engine
        engine.scheduler.prefix_cache.clear()
        cache = engine.runner.kv_cache
        return sum(count - cache.num_free(group) for group, count in enumerate(cache.num_blocks))

    async def until_idle(self, seconds: float = 5.0) -> float:
        """How long it took until nothing was running."""
        started = time.monotonic()
        while self.service.llm.num_running or self.service.llm.waiting:
            assert time.monotonic() - started < seconds
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)  # the engine's thread waits again
        return time.monotonic() - started

    def slow_down(self, seconds: float) -> None:
        """Each pass takes that much longer."""
        runner = self.service.llm.engine.runner
        forward = runner.forward

        def slow(batch: Any) -> Any:
            time.sleep(seconds)
            return forward(batch)

        runner.forward = slow


def make_service(path: Path, load: dict[str, Any] | None = None, **config: Any) -> LLMService:
    """load: of LLM; config: of ServerConfig."""
    settings = ServerConfig(**{"port": 0, "endpoints": SETTINGS, **config})
    return LLMService(AsyncLLM(lambda: LLM(path, threads=1, **(load or {})), settings.queue), settings, MODEL)


@asynccontextmanager
async def in_process(path: Path, load: dict[str, Any] | None = None, **config: Any) -> AsyncIterator[Served]:
    """Called without a socket."""
    service = make_service(path, load, **config)
    service.llm.start()
    transport = httpx.ASGITransport(make_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        await service.warm_up()
        try:
            yield Served(service, client)
        finally:
            service.close()
            await service.llm.close()


@asynccontextmanager
async def listening(path: Path, load: dict[str, Any] | None = None, **config: Any) -> AsyncIterator[Served]:
    """At a free port, by the real transport."""
    service = make_service(path, load, **config)
    listener = listen(service.config)
    url, ready = address(listener), asyncio.Event()
    serving = asyncio.create_task(serve(service, make_app(service), listener, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), serving.exception()
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield Served(service, client, url)
    finally:
        waiting.cancel()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def serve_process(path: Path, *args: str) -> tuple[subprocess.Popen[str], str]:
    """(process, url) of `stepahead serve` in a process of its own, ready."""
    command = [sys.executable, "-m", "stepahead.cli", "serve", str(path), "--port", "0", "--threads", "1", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert " is served at http://127.0.0.1:" in line, process.stderr.read()
    return process, line.split(" at ")[1].split(" ")[0]
