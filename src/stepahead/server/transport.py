"""Listens: uvicorn with the limits that it lacks, and an end that lets answers finish.

h11 parses, because it bounds headers. A connection that does not send its headers in time is closed.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from stepahead.errors import ConfigError
from stepahead.server.config import ServerConfig, is_loopback
from stepahead.server.service import LLMService

log = logging.getLogger(__name__)

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_CROWDED = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LAST_SECONDS = 5  # for what is still being sent when the engine is done


def listen(config: ServerConfig) -> socket.socket:
    """The bound socket. Raises ConfigError for an address that cannot be had."""
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((config.host, config.port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen at {config.host} port {config.port}: {reason}; give another --port") from None


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(service: LLMService, app: ASGIApp, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until a signal ends it; the engine is started and closed here. Raises what loading raised.

    The first signal lets answers finish, for at most the configured time; a second ends at once.
    """
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # what matters of it is logged by the guard
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = False
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every client that left
    server = DrainingServer(service, app)
    service.llm.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]))
            tasks.create_task(_report_ready(service, server, on_ready))
    except* Exception as group:
        raise group.exceptions[0] from None
    finally:
        listener.close()
        service.close()
        await service.llm.close()


async def _report_ready(service: LLMService, server: "DrainingServer", on_ready: Callable[[], None]) -> None:
    loading = asyncio.create_task(service.warm_up())
    leaving = asyncio.create_task(server.leaving.wait())
    await asyncio.wait({loading, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not loading.done():
        loading.cancel()
        return
    try:
        loading.result()
    except BaseException:
        server.should_exit = True
        raise
    on_ready()


class DrainingServer(uvicorn.Server):
    """Ends in two steps: nothing new is taken, then nothing is listened to."""

    def __init__(self, service: LLMService, app: ASGIApp) -> None:
        config = service.config
        super().__init__(
            uvicorn.Config(
                app,
                http=_protocol(config.header_seconds, config.max_connections_per_address),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=config.max_header_bytes,
                timeout_keep_alive=int(config.keep_alive_seconds),
                timeout_graceful_shutdown=_LAST_SECONDS,
                limit_concurrency=config.max_connections,
            )
        )
        self.leaving = asyncio.Event()
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._drain_task: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal."""
        if self.leaving.is_set():
            self.force_exit = self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.leave)

    def leave(self) -> None:
        """Begin to end; in the event loop."""
        if not self.leaving.is_set():
            self.leaving.set()
            self._drain_task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._service.llm.drain(self._service.config.drain_seconds)
        self.should_exit = True


def _protocol(header_seconds: float, max_per_address: int) -> Any:
    class BoundedProtocol(H11Protocol):
        """Closes a connection that takes too long to send a request's headers, or is one too many of its address."""

        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # asyncio does so for sockets that say TCP by their protocol number, which those of create_server do not:
            # the second piece of an answer would wait for the client's delayed acknowledgement, some 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._is_one_too_many:
                transport.write(_CROWDED)
                transport.close()
                return
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            if not self._is_answering and self._header_timer is None:
                self._expect_headers()
            super().data_received(data)
            if self._is_answering:
                self._forget_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_headers()
            super().connection_lost(exc)

        @property
        def _is_one_too_many(self) -> bool:
            host = self.client[0] if self.client is not None else ""
            if not host or is_loopback(host):
                return False
            clients = [one.client for one in self.connections if isinstance(one, BoundedProtocol)]
            return sum(client is not None and client[0] == host for client in clients) > max_per_address

        @property
        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect_headers(self) -> None:
            self._header_timer = self.loop.call_later(header_seconds, self._give_up)

        def _forget_headers(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _give_up(self) -> None:
            self._header_timer = None
            if not self._is_answering and not self.transport.is_closing():
                self.transport.write(_LATE)
                self.transport.close()

    return BoundedProtocol
