"""A request on its way from an event loop through the engine's thread, and what comes back of it."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stepahead.engine.request import FinishReason, Request, RequestOutput, Sequence


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of a prompt is computed, or taken from an earlier one."""

    num_computed_tokens: int
    num_cached_tokens: int
    is_queued: bool


Collect = Callable[[RequestOutput, Sequence], Any]
"""Makes of a step's output what is delivered; called by the engine's thread, between two steps."""


class Ticket:
    """A request on its way. Times are those of time.perf_counter."""

    __slots__ = ("admitted", "collect", "delivery", "error", "finished", "progressed", "request", "sequence", "started")

    def __init__(self, request: Request, collect: Collect, delivery: "Delivery") -> None:
        self.request = request
        self.collect = collect
        self.delivery = delivery
        self.sequence: Sequence | None = None  # once the engine has it
        self.error: BaseException | None = None  # why it ended by no wish of the caller
        self.started = time.perf_counter()
        self.admitted: float | None = None
        self.finished: float | None = None
        self.progressed = 0.0


class Delivery(AsyncIterator[tuple[Ticket, Any, bool]]):
    """What becomes of requests submitted together: (ticket, PromptProgress or what collect made of a step, whether it
    is the ticket's last).

    A ticket with an error ends with an item that says nothing.
    """

    def __init__(self, requests: Iterable[tuple[Request, Collect]], abort: Callable[[Iterable[Ticket]], None]) -> None:
        """abort: what ends tickets."""
        self.tickets = [Ticket(request, collect, self) for request, collect in requests]
        self._abort = abort
        self._items: deque[tuple[Ticket, Any, bool]] = deque()
        self._num_open = len(self.tickets)
        self._wake: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> tuple[Ticket, Any, bool]:
        while not self._items:
            if self._num_open == 0:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._items.popleft()

    def take_ready(self, ticket: Ticket) -> tuple[Any, bool] | None:
        """What is next of a ticket, if it is here and nothing of another comes first."""
        if not self._items or self._items[0][0] is not ticket:
            return None
        _, item, is_last = self._items.popleft()
        return item, is_last

    def abort(self) -> None:
        """End what is not done, within a step; nothing more is delivered of it."""
        self._abort(ticket for ticket in self.tickets if ticket.finished is None)
        self._items.clear()
        self._num_open = 0
        self._ring()

    @property
    def is_done(self) -> bool:
        """Whether everything was delivered and taken, or aborted."""
        return self._num_open == 0 and not self._items

    def put(self, ticket: Ticket, item: Any, is_last: bool) -> None:
        """Of AsyncLLM: in the event loop."""
        if self._num_open > 0:
            self._items.append((ticket, item, is_last))
            self._num_open -= is_last
            self._ring()

    def _ring(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def ended(request: Request) -> RequestOutput:
    """The last output of a request that the engine does not answer for any more."""
    return RequestOutput(request.request_id, (), "", (), 0, FinishReason.ABORT)
