"""AsyncLLM: an LLM whose engine runs in a thread of its own, for an event loop that submits requests and hears of them.

The thread loads the model, steps the engine and frees what it held; the loop never waits for it, and wakes at most
once a step for all requests together. Owns the queue's limits and the engine's state. Knows no protocol.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Literal

from stepahead.async_llm.delivery import Collect, Delivery, Ticket, ended
from stepahead.async_llm.engine_thread import EngineThread
from stepahead.engine.engine import Engine
from stepahead.engine.request import Request
from stepahead.errors import CapacityError, StepaheadError
from stepahead.llm import LLM
from stepahead.request_builder import RequestBuilder

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "draining", "failed", "closed"]
MAX_RETRY_SECONDS = 120.0


class QueueFullError(CapacityError):
    """More was asked for than may wait; retry_after: seconds until it may be worth asking again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(StepaheadError):
    """The engine takes no requests: it is loading, draining, closed or failed."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Of requests that wait for a place: how many, and how many tokens their prompts may have together."""

    requests: int = 64
    tokens: int = 1 << 20


class AsyncLLM:
    """All methods are for the event loop that called `start`."""

    def __init__(self, load: Callable[[], LLM], limits: QueueLimits | None = None) -> None:
        """load is called by the engine's thread, which closes the model too."""
        self.state: State = "loading"
        self.error: BaseException | None = None  # if failed
        self.limits = limits or QueueLimits()
        self.num_rejected = 0
        self._load = load
        self._llm: LLM | None = None
        self._requests: RequestBuilder | None = None
        self._engine: Engine | None = None
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}  # until their last output is delivered
        self._seconds_each = 10.0  # that a request takes once it is admitted, lately
        self._thread = threading.Thread(target=self._run, name="stepahead-engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()  # no longer loading
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread.start()

    async def ready(self) -> None:
        """Wait until the model is loaded. Raises what loading raised."""
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    # --- requests ---
    @property
    def llm(self) -> LLM:
        """Raises UnavailableError before it is loaded."""
        if self._llm is None:
            raise UnavailableError("the model is loading" if self.state == "loading" else "no model is loaded")
        return self._llm

    @property
    def requests(self) -> RequestBuilder:
        self.llm  # noqa: B018 (raises)
        assert self._requests is not None
        return self._requests

    @property
    def engine(self) -> Engine:
        """To look at; its thread steps it."""
        self.llm  # noqa: B018 (raises)
        assert self._engine is not None
        return self._engine

    @property
    def waiting(self) -> list[Ticket]:
        """Submitted, and not yet admitted."""
        return [ticket for ticket in self._tickets.values() if ticket.admitted is None]

    @property
    def num_running(self) -> int:
        return sum(ticket.admitted is not None for ticket in self._tickets.values())

    def check_room(self, num_requests: int, num_tokens: int) -> None:
        """Raises QueueFullError if so much more may not wait, UnavailableError if nothing is taken now."""
        if self.state != "ready":
            raise UnavailableError(f"the server takes no requests now: it is {self.state}")
        waiting = self.waiting
        free = self.llm.config.max_num_seqs - self.num_running
        num_waiting = len(waiting) + num_requests - free
        tokens = sum(len(ticket.request.prompt_ids) for ticket in waiting) + num_tokens
        if num_waiting > self.limits.requests or (waiting and tokens > self.limits.tokens):
            self.num_rejected += 1
            what = "1 request is" if len(waiting) == 1 else f"{len(waiting)} requests are"
            raise QueueFullError(f"{what} waiting already: try again later", self.retry_after())

    def retry_after(self) -> float:
        """Seconds until a place in the queue can be expected."""
        if self._llm is None:
            return 5.0
        rounds = (len(self.waiting) + 1) / self._llm.config.max_num_seqs
        return min(max(self._seconds_each * rounds, 1.0), MAX_RETRY_SECONDS)

    def submit(self, requests: Iterable[tuple[Request, Collect]]) -> Delivery:
        """Queue requests that belong together; see `check_room`."""
        if self.state != "ready":
            raise UnavailableError(f"the server takes no requests now: it is {self.state}")
        delivery = Delivery(requests, self.abort)
        for ticket in delivery.tickets:
            self._tickets[ticket.request.request_id] = ticket
            self._inbox.put(ticket)
        self._idle.clear()
        return delivery

    def abort(self, tickets: Iterable[Ticket]) -> None:
        """End requests soon; one that the engine has not yet taken is not started."""
        for ticket in tickets:
            ticket.error = ticket.error or asyncio.CancelledError()
            self.engine.abort(ticket.request.request_id)

    # --- the end ---
    async def drain(self, seconds: float) -> None:
        """Take nothing new, and let what runs finish for so long; then end it with an error."""
        if self.state == "ready":
            self.state = "draining"
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for ticket in self._tickets.values():
                ticket.error = UnavailableError("the server shuts down")
            self.abort(list(self._tickets.values()))

    async def close(self) -> None:
        """End everything and let go of the model."""
        if self._thread.ident is None:
            return
        was_loading = self.state == "loading"
        await self.drain(0.0)
        if self.state != "failed":
            self.state = "closed"
        self._inbox.put(None)
        if not was_loading:  # a load cannot be cut short; the thread ends with the process
            await asyncio.to_thread(self._thread.join)

    # --- in the event loop, called by the thread ---
    def _opened(self, llm: LLM, engine: Engine, requests: RequestBuilder) -> None:
        self._llm, self._engine, self._requests = llm, engine, requests
        if self.state == "loading":
            self.state = "ready"
        self._settled.set()

    def _failed(self, error: BaseException) -> None:
        self.error, self.state = error, "failed"
        self._settled.set()
        lost = list(self._tickets.values())
        for ticket in lost:
            ticket.error = ticket.error or error
        self._deliver([(ticket, ended(ticket.request), True) for ticket in lost])

    def _deliver(self, items: Seq[tuple[Ticket, Any, bool]]) -> None:
        for ticket, item, is_last in items:
            if is_last:
                ticket.finished = time.perf_counter()
                if ticket.admitted is not None and ticket.error is None:
                    self._seconds_each += 0.2 * (ticket.finished - ticket.admitted - self._seconds_each)
                self._tickets.pop(ticket.request.request_id, None)
            ticket.delivery.put(ticket, item, is_last)
        if not self._tickets:
            self._idle.set()

    # --- in the thread ---
    def _post(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody listens
            log.debug("the event loop ended before the engine")

    def _run(self) -> None:
        try:
            llm = self._load()
            try:
                with llm.opened() as (engine, requests):
                    self._post(self._opened, llm, engine, requests)
                    EngineThread(engine, self._inbox, lambda items: self._post(self._deliver, items)).serve()
            finally:
                llm.close()
        except BaseException as error:
            log.debug("the engine's thread ended", exc_info=True)
            self._post(self._failed, error)
