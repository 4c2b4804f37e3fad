"""What the engine's thread does: takes requests, steps the engine, contains failures, delivers what steps bring."""

import logging
import queue
import time
from collections.abc import Callable
from typing import Any

from stepahead.async_llm.delivery import PromptProgress, Ticket, ended
from stepahead.engine.engine import Engine
from stepahead.engine.request import RequestOutput

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.1
HOLD_SECONDS = 0.004
"""Steps shorter than this are delivered several at a time: a reader does not see the difference, and each delivery
takes the interpreter from the engine. Never a first token or a last, and never across a step that may be long."""

MAX_FAILURES = 4
"""Steps in a row that may fail: by then every request that ran was ended, and the fault is the engine's."""


class EngineThread:
    """What only the engine's thread touches."""

    def __init__(
        self, engine: Engine, inbox: "queue.SimpleQueue[Ticket | None]", deliver: Callable[[list[Any]], None]
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._deliver = deliver
        self._tickets: dict[int, Ticket] = {}  # of the engine's unfinished requests
        self._starting: dict[int, Ticket] = {}  # of these, those without a token yet
        self._held: list[tuple[Ticket, Any, bool]] = []  # not yet delivered
        self._delivered = 0.0  # when something last was
        self._num_failures = 0
        self._is_closing = False

    def serve(self) -> None:
        """Until told to end. Raises what the engine raises again and again."""
        while True:
            self._take()
            if self._is_closing and not self._tickets:
                return
            started = time.perf_counter()
            outputs = self._step()
            self._note_starts(started)
            has_news = self._collect(outputs)
            now = time.perf_counter()
            self._note_progress(now)
            if has_news or self._starting or now - self._delivered >= HOLD_SECONDS:
                self._flush()

    def _take(self) -> None:
        """Add what was submitted; without work, wait for it."""
        is_idle = not self._tickets and not self._is_closing
        while is_idle or not self._inbox.empty():
            self._flush()  # the next step may be a long one
            ticket = self._inbox.get()
            is_idle = False
            if ticket is None:
                self._is_closing = True
                continue
            request = ticket.request
            try:
                ticket.sequence = self._engine.add(request)
            except Exception as error:
                ticket.error = error
                self._deliver([(ticket, ended(request), True)])
                is_idle = not self._tickets and not self._is_closing
                continue
            self._tickets[request.request_id] = self._starting[request.request_id] = ticket
            if ticket.error is not None:  # aborted before the engine knew it
                self._engine.abort(request.request_id)

    def _step(self) -> list[RequestOutput]:
        try:
            outputs = self._engine.step()
        except Exception as error:
            self._num_failures += 1
            if self._num_failures > MAX_FAILURES:
                raise
            self._contain(error)
            return []
        self._num_failures = 0
        return outputs

    def _contain(self, error: Exception) -> None:
        """End the requests that made a step fail: those that know it, or those with foreign code, or all that run."""
        running = {id(sequence) for sequence in self._engine.scheduler.running}
        tickets = [ticket for ticket in self._tickets.values() if id(ticket.sequence) in running]
        guilty = [ticket for ticket in tickets if ticket.sequence is not None and ticket.sequence.error is not None]
        if not guilty and self._num_failures == 1:
            guilty = [ticket for ticket in tickets if ticket.request.params.grammar is not None]
        log.exception("a step failed; %d of %d running requests are ended", len(guilty or tickets), len(tickets))
        for ticket in guilty or tickets:
            ticket.error = error
            self._engine.abort(ticket.request.request_id)

    def _note_starts(self, started: float) -> None:
        if not self._starting:
            return
        running = {id(sequence) for sequence in self._engine.scheduler.running}
        for ticket in self._starting.values():
            sequence = ticket.sequence
            assert sequence is not None
            if ticket.admitted is None and (id(sequence) in running or sequence.num_output_tokens > 0):
                ticket.admitted = started

    def _collect(self, outputs: list[RequestOutput]) -> bool:
        """Hold what a step brought. True: it should not wait, being a request's first or last."""
        has_news = False
        for output in outputs:
            ticket = self._tickets[output.request_id]
            is_last = output.finish_reason is not None
            has_news |= is_last or self._starting.pop(output.request_id, None) is not None
            if is_last:
                self._starting.pop(output.request_id, None)
                del self._tickets[output.request_id]
            self._held.append((ticket, self._collected(ticket, output), is_last))
        return has_news

    def _note_progress(self, now: float) -> None:
        for ticket in self._starting.values():
            if now - ticket.progressed >= PROGRESS_SECONDS and (sequence := ticket.sequence) is not None:
                ticket.progressed = now
                progress = PromptProgress(
                    sequence.num_computed_tokens, sequence.num_cached_tokens, ticket.admitted is None
                )
                self._held.append((ticket, progress, False))

    def _flush(self) -> None:
        """Deliver what is held."""
        if self._held:
            self._deliver(self._held)
            self._held = []
            self._delivered = time.perf_counter()

    def _collected(self, ticket: Ticket, output: RequestOutput) -> Any:
        """What foreign code makes of an output; an error there ends this request alone."""
        assert ticket.sequence is not None
        try:
            return ticket.collect(output, ticket.sequence)
        except Exception as error:
            log.exception("request %s ended by an error", output.request_id)
            ticket.error = error
            self._engine.abort(output.request_id)
            return output
