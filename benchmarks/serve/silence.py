"""Whether a stream stays alive while a long prompt is read: python -m benchmarks.serve.silence --minutes 5.

Agents give a stream up that is silent for long, and some of them take comments for silence. Here an engine is held up
in each pass over a prompt, for longer than any of them waits; each endpoint streams one answer, all at the same time.
Told is the longest time without an event that has data; on chat completions, where no client minds, without a byte.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stepahead import LLM
from stepahead.async_llm import AsyncLLM
from stepahead.demo import demo_path
from stepahead.server.app import make_app
from stepahead.server.config import ServerConfig
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.service import LLMService
from stepahead.server.transport import address, listen, serve
from stepahead.texts import load

LIMIT = 1.5  # longest silence to the time after which it is broken: 15 s of 10
NUM_PASSES = 10  # that share the time: at 5 minutes each takes longer than a silence may
PROMPT_CHARS = 2400


@dataclass(frozen=True, slots=True)
class Silence:
    """Of one stream, in seconds."""

    path: str
    longest: float
    until_end: float
    is_whole: bool  # and it was the proper one


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What it is asked, and how its stream speaks."""

    path: str
    body: dict[str, Any]
    end: str  # in the last line of an answer
    counts_comments: bool = False


def endpoints(prompt: str) -> list[Endpoint]:
    """Prompts differ from the first token on: none is found in the cache."""

    def said(path: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{path} {prompt}"}]

    few = {"temperature": 0, "stream": True}
    chat, messages, responses = "/v1/chat/completions", "/v1/messages", "/v1/responses"
    return [
        Endpoint(responses, {"input": said(responses), "max_output_tokens": 16, **few}, '"type":"response.incomplete"'),
        Endpoint(messages, {"messages": said(messages), "max_tokens": 16, **few}, "message_stop"),
        Endpoint(chat, {"messages": said(chat), "max_tokens": 16, **few}, "[DONE]", counts_comments=True),
    ]


def held_up(model: Path, seconds: float) -> LLM:
    """A model whose prompts take so long, all of them together."""
    llm = LLM(model, threads=1, chunk_tokens=32, context_length=4096)
    runner, forward, deadline = llm._runner, llm._runner.forward, 0.0

    def slow(batch: Any) -> Any:
        nonlocal deadline
        if any(rows.is_prompt for rows in batch.rows):
            now = time.monotonic()
            deadline = deadline or now + seconds
            time.sleep(max(min(seconds / NUM_PASSES, deadline - now), 0.0))
        return forward(batch)

    runner.forward = slow  # type: ignore[method-assign]
    return llm


async def measure(model: Path, seconds: float, settings: EndpointSettings) -> list[Silence]:
    """All endpoints at once, behind the real transport."""
    asked = endpoints(load("code")[0].prompt[:PROMPT_CHARS])
    async with (
        _served(lambda: held_up(model, seconds), settings) as url,
        httpx.AsyncClient(base_url=url, timeout=10 * seconds + 60) as http,
    ):
        return await asyncio.gather(*(_stream(http, endpoint) for endpoint in asked))


@asynccontextmanager
async def _served(make: Callable[[], LLM], settings: EndpointSettings) -> AsyncIterator[str]:
    config = ServerConfig(port=0, endpoints=settings)
    service = LLMService(AsyncLLM(make, config.queue), config, "held-up")
    listener, ready = listen(config), asyncio.Event()
    serving = asyncio.create_task(serve(service, make_app(service), listener, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield address(listener)
    finally:
        waiting.cancel()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _stream(http: httpx.AsyncClient, endpoint: Endpoint) -> Silence:
    started = last = time.monotonic()
    longest, is_whole = 0.0, False
    async with http.stream("POST", endpoint.path, json=endpoint.body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:") or (endpoint.counts_comments and line):
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                is_whole |= endpoint.end in line
    return Silence(endpoint.path, longest, last - started, is_whole)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.silence", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="that prompts take; default: %(default)g")
    parser.add_argument(
        "--model", type=Path, default=demo_path(), help="a GGUF file with a chat template; default: the demo model"
    )
    parser.add_argument("--keepalive", type=float, default=10.0, help="as of the server; default: %(default)g seconds")
    parser.add_argument("--responses-keepalive", choices=("keepalive", "comment", "off"), default="keepalive")
    options = parser.parse_args(arguments)
    settings = EndpointSettings(
        keepalive_seconds=options.keepalive, responses_keepalive=options.responses_keepalive, state_key=bytes(32)
    )
    found = asyncio.run(measure(options.model, 60 * options.minutes, settings))
    limit = LIMIT * options.keepalive
    for one in found:
        sys.stdout.write(
            f"{one.path}: answered after {one.until_end:.1f} s, longest silence {one.longest:.2f} s, at most "
            f"{limit:g} s are allowed{'' if one.is_whole else '; it broke off'}\n"
        )
    return 0 if all(one.is_whole and one.longest <= limit for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
