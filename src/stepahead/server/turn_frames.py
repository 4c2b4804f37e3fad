"""One turn as an answer, streamed or in one piece, in whatever format a writer makes of it.

What fails while an answer is written is a fault of this server or of its model; formats only say it their way.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from stepahead.server.api_error import ApiError
from stepahead.server.errors import UNEXPECTED, unexpected
from stepahead.server.turn_service import PreparedTurn, Progress, TurnEnd, TurnService, TurnStep

log = logging.getLogger(__name__)

Item = Progress | TurnStep | TurnEnd


class TurnWriter(Protocol):
    """Called in this order: begin, take for each item, and finish or fail. All give bytes to send, none where empty."""

    def begin(self, num_prompt_tokens: int) -> bytes: ...

    def take(self, item: Item) -> bytes: ...

    def finish(self) -> bytes:
        """What follows the end of the last choice."""
        ...

    def fail(self, error: ApiError) -> bytes: ...


class TurnAnswer(Protocol):
    """Takes each item, and is then the answer in one piece."""

    def take(self, item: Item) -> object: ...

    def as_object(self) -> dict[str, Any]: ...


class OneChoice:
    """A TurnWriter and TurnAnswer in one, for formats in which a turn has one choice: push and end are the format's."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] = {}

    def push(self, step: TurnStep) -> bytes:
        """Everything that a step brought; empty if nothing of it is to be seen yet."""
        raise NotImplementedError

    def end(self, end: TurnEnd) -> tuple[bytes, dict[str, Any]]:
        """The last frames, and the same answer in one piece."""
        raise NotImplementedError

    def take(self, item: Item) -> bytes:
        if isinstance(item, TurnStep):
            return self.push(item)
        if isinstance(item, TurnEnd):
            frames, self._answer = self.end(item)
            return frames
        return b""

    def finish(self) -> bytes:
        return b""

    def as_object(self) -> dict[str, Any]:
        return self._answer


async def streamed(service: TurnService, turn: PreparedTurn, writer: TurnWriter) -> AsyncGenerator[bytes, None]:
    """All frames. What fails now is told in the stream: its status has been sent."""
    yield writer.begin(len(turn.prompt_ids))
    try:
        async with aclosing(_items(service, turn)) as items:
            async for item in items:
                if frames := writer.take(item):
                    yield frames
        last = writer.finish()
    except ApiError as error:
        last = writer.fail(error)
    except Exception:
        log.exception("an answer was ended by a fault of this server")
        last = writer.fail(unexpected())
    if last:
        yield last


async def whole(service: TurnService, turn: PreparedTurn, answer: TurnAnswer) -> dict[str, Any]:
    """The answer in one piece. Raises ApiError if it cannot be finished."""
    async with aclosing(_items(service, turn)) as items:
        async for item in items:
            answer.take(item)
    return answer.as_object()


async def _items(service: TurnService, turn: PreparedTurn) -> AsyncGenerator[Item, None]:
    """What the turn brings. Raises ApiError where a choice ends by an error, and where none ends at all."""
    has_ended = False
    async with aclosing(service.run(turn)) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, TurnEnd):
                if item.finish_reason == "error":
                    raise ApiError(item.error_kind, item.error or UNEXPECTED)
                has_ended = True
            yield item
    if not has_ended:
        raise unexpected()
