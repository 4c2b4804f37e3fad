"""What is decided about a request before an endpoint sees it: who asks, from where, and how much it may send.

Pure ASGI, because a middleware that wraps responses costs every chunk of every stream.
"""

import asyncio
import ipaddress
import logging
import secrets
import time
from collections import Counter
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepahead.server.api_error import ApiError
from stepahead.server.config import ServerConfig, find_key, is_loopback
from stepahead.server.errors import error_response, speaks_anthropic, unexpected
from stepahead.server.request_context import OWNER, REQUEST_ID
from stepahead.server.sse import ClientGoneError

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset(("/", "/health", "/docs", "/openapi.json", "/favicon.ico"))
OPEN_FOLDER = "/ui/"
BODY_METHODS = ("POST", "PUT", "PATCH")
_CORS_METHODS = "GET, HEAD, POST, OPTIONS"
_CORS_SECONDS = "600"
_BYTES_PER_SECOND = 1_000_000
_MAX_REQUEST_ID = 64


class Guard:
    """Wraps the application; the outermost of all."""

    def __init__(self, app: ASGIApp, config: ServerConfig, responses: "Counter[int]") -> None:
        self._app = app
        self._config = config
        self._responses = responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = _Exchange(scope, send, _request_id(headers), self._origin(headers))
        REQUEST_ID.set(exchange.request_id)  # each request has a task of its own, and so a context
        OWNER.set("")
        try:
            await self._answer(scope, headers, receive, exchange)
        except ClientGoneError:
            exchange.status = exchange.status or 499
        except ApiError as error:
            await exchange.fail(error, receive)
        except Exception:
            log.exception("%s: %s %s failed", exchange.request_id, scope["method"], scope["path"])
            await exchange.fail(unexpected(), receive)
        finally:
            self._responses[exchange.status] += 1
            exchange.log()

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, exchange: "_Exchange") -> None:
        self._check_host(headers)
        self._check_origin(scope, headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await exchange.preflight()
            return
        self._check_key(scope, headers, exchange)
        if scope["method"] == "HEAD":  # as GET; the transport leaves the body out
            scope = {**scope, "method": "GET"}
            exchange.is_head = True
        if scope["method"] == "POST":  # others have no endpoint, and no page may send them without asking
            _check_content_type(headers)
        if scope["method"] in BODY_METHODS:
            receive = _BoundedBody(receive, headers, self._config)
        await self._app(scope, receive, exchange.send)

    def _check_host(self, headers: Headers) -> None:
        """A name that resolves to this machine may be anyone's: web pages rebind theirs."""
        config, host = self._config, _host_name(headers.get("host", ""))
        if config.keys and not config.allowed_hosts:
            return
        if is_loopback(host) or host in config.allowed_hosts or (not config.is_loopback and _is_address(host)):
            return
        raise ApiError("forbidden", "this Host is not allowed; start the server with --allowed-host if it is yours")

    def _origin(self, headers: Headers) -> str | None:
        """The Origin that an answer may name."""
        origin = headers.get("origin")
        if origin is None or not (origin in self._config.cors_origins or "*" in self._config.cors_origins):
            return None
        return origin

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or self._origin(headers) is not None:
            return
        try:
            same = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:
            same = False
        if not same:
            raise ApiError(
                "forbidden", "this Origin is not allowed; start the server with --cors-origin if it is yours"
            )

    def _check_key(self, scope: Scope, headers: Headers, exchange: "_Exchange") -> None:
        path = scope["path"]
        if not self._config.keys or path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return
        kind, _, secret = headers.get("authorization", "").partition(" ")
        given = [secret.strip()] if kind.lower() == "bearer" else []
        given += [value] if (value := headers.get("x-api-key")) else []
        keys = [found for one in given if (found := find_key(self._config.keys, one)) is not None]
        if not keys:
            raise ApiError(
                "authentication",
                "give the server's key, as Authorization: Bearer KEY or as x-api-key" if not given else "wrong key",
            )
        exchange.key = keys[0].label
        OWNER.set(self._config.owner(keys[0]))


class _Exchange:
    """A request's answer on its way out: its headers, its status, its time."""

    def __init__(self, scope: Scope, send: Send, request_id: str, origin: str | None) -> None:
        self.request_id = request_id
        self.status = 0
        self.key: str | None = None
        self.is_head = False
        self._scope = scope
        self._send = send
        self._origin = origin
        self._started = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            if speaks_anthropic(self._scope["path"]):
                headers["request-id"] = self.request_id
            headers.setdefault("x-content-type-options", "nosniff")
            if self._origin is not None:
                headers["access-control-allow-origin"] = self._origin
                headers["access-control-expose-headers"] = "x-request-id, retry-after, x-stepahead-ignored"
                headers.add_vary_header("Origin")
        elif self.is_head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    async def fail(self, error: ApiError, receive: Receive) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status == 0:
            await error_response(error, self._scope["path"], self.request_id)(self._scope, receive, self.send)

    async def preflight(self) -> None:
        headers = MutableHeaders()
        if self._origin is not None:
            headers["access-control-allow-methods"] = _CORS_METHODS
            headers["access-control-allow-headers"] = "*, Authorization"
            headers["access-control-max-age"] = _CORS_SECONDS
        await self.send({"type": "http.response.start", "status": 204, "headers": headers.raw})
        await self.send({"type": "http.response.body", "body": b""})

    def log(self) -> None:
        log.info(
            "%s %s %s %d %.0f ms%s",
            self.request_id,
            self._scope["method"],
            _plain(self._scope["path"]),
            self.status,
            1e3 * (time.perf_counter() - self._started),
            f" {self.key}" if self.key else "",
        )


class _BoundedBody:
    """Receives a body of limited length within limited time."""

    def __init__(self, receive: Receive, headers: Headers, config: ServerConfig) -> None:
        self._receive = receive
        self._limit = config.max_body_bytes
        self._num_bytes = 0
        self._is_complete = False
        length = headers.get("content-length", "0")
        expected = int(length) if length.isdecimal() and len(length) < 20 else 0
        if expected > self._limit:
            raise self._too_large()
        seconds = config.body_seconds + (expected or self._limit) / _BYTES_PER_SECOND
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def __call__(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise ApiError("timeout", "the body did not come in time") from None
        if message["type"] != "http.request":
            raise ClientGoneError
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limit:
            raise self._too_large()
        self._is_complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> ApiError:
        return ApiError("too_large", f"the body is more than {self._limit} bytes")


def _check_content_type(headers: Headers) -> None:
    """A page of another origin may send text/plain without asking; JSON it may not.

    What has no body needs no type: such a page could send that, too, but its Origin has been looked at before.
    """
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError("unsupported_media_type", "Content-Type must be application/json")


def _request_id(headers: Headers) -> str:
    """The client's own, if it is fit for a header and a log."""
    given = headers.get("x-request-id", "")
    if 0 < len(given) <= _MAX_REQUEST_ID and all(
        char.isascii() and (char.isalnum() or char in "-_.") for char in given
    ):
        return given
    return f"req_{secrets.token_hex(12)}"


def _host_name(host: str) -> str:
    """Without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _plain(path: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in path[:200])
