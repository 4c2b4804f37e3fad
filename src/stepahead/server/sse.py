"""Server-sent events: frames go out as they are made, silence is bridged by the clock, and a client that is gone or
does not read ends the work at once.

Frames are bytes, made by the endpoints: no object is validated or copied for each of them.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
COMMENT = b": keepalive\n\n"
STALL_SECONDS = 60.0
FRAMES_WITHOUT_REST = 32
Result = TypeVar("Result")

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # reverse proxies would hold back what is meant to be seen now
}


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    """One event; everything outside ASCII is escaped, so that no line separator of Unicode can cut it."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class StalledError(Exception):
    """The client does not read what it is sent."""


class EventStream(Response):
    """A streaming answer.

    frames is closed when the client is gone, or has not read for stall_seconds: closing it aborts what it stands for.
    keepalive makes what is sent after keepalive_seconds of silence.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        keepalive: Callable[[], bytes] = lambda: COMMENT,
        keepalive_seconds: float = 10.0,
        headers: Mapping[str, str] | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({**HEADERS, **(headers or {})})
        self._frames = frames
        self._keepalive = keepalive
        self._keepalive_seconds = keepalive_seconds
        self._stall_seconds = stall_seconds
        self._num_sending = 0
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ends when the frames do, or the client."""
        tasks = {
            asyncio.create_task(self._pump(send)),
            asyncio.create_task(self._bridge_silence(send)),
            asyncio.create_task(_gone(receive)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if not task.cancelled() and isinstance(task.exception(), StalledError):
                log.info("a client did not read for %g s: its request is ended", self._stall_seconds)
            elif not task.cancelled():
                task.result()

    async def _pump(self, send: Send) -> None:
        count = 0
        async with aclosing(self._frames) as frames:
            await self._send(
                send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async for data in frames:
                await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})
                count += 1
                if count % FRAMES_WITHOUT_REST == 0:
                    await asyncio.sleep(0)  # a backlog must not hold up everyone else
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _bridge_silence(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        self._last_sent = clock()
        while True:
            await asyncio.sleep(self._keepalive_seconds / 4)
            if self._num_sending == 0 and clock() - self._last_sent >= self._keepalive_seconds:
                await self._send(send, {"type": "http.response.body", "body": self._keepalive(), "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        self._num_sending += 1
        try:
            async with asyncio.timeout(self._stall_seconds):
                await send(message)
        except TimeoutError:
            raise StalledError from None
        except OSError:  # how some servers tell of a lost client: `_gone` ends it
            pass
        finally:
            self._num_sending -= 1
            self._last_sent = asyncio.get_running_loop().time()


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of work, which is cancelled if the client leaves meanwhile: ClientGoneError is raised then.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


async def _gone(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
