"""One turn as an answer, streamed or in one piece, in whatever format a writer makes of its steps."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from stepahead.server.api_error import ApiError
from stepahead.server.errors import unexpected
from stepahead.server.turn_service import PreparedTurn, TurnEnd, TurnService, TurnStep
from stepahead.server.wire import error_of

log = logging.getLogger(__name__)


class TurnWriter(Protocol):
    """Called in this order: begin, push for each step, and end or fail. All give bytes to send, none where empty."""

    def begin(self, num_prompt_tokens: int) -> bytes: ...

    def push(self, step: TurnStep) -> bytes: ...

    def end(self, end: TurnEnd) -> tuple[bytes, dict[str, Any]]:
        """The last frames, and the same answer in one piece."""
        ...

    def fail(self, error: ApiError) -> bytes: ...


async def streamed(service: TurnService, turn: PreparedTurn, writer: TurnWriter) -> AsyncGenerator[bytes, None]:
    """All frames. What fails now is told in the stream: its status has been sent."""
    yield writer.begin(len(turn.prompt_ids))
    try:
        async with aclosing(service.run(turn)) as steps:  # type: ignore[type-var]
            async for step in steps:
                if isinstance(step, TurnStep):
                    frames = writer.push(step)
                    if frames:
                        yield frames
                elif isinstance(step, TurnEnd):
                    yield writer.end(_finished(step))[0]
                    return
        raise unexpected()
    except ApiError as error:
        yield writer.fail(error)
    except Exception:
        log.exception("an answer was ended by a fault of this server")
        yield writer.fail(unexpected())


async def whole(service: TurnService, turn: PreparedTurn, writer: TurnWriter) -> dict[str, Any]:
    """The answer in one piece. Raises ApiError if it cannot be finished."""
    async with aclosing(service.run(turn)) as steps:  # type: ignore[type-var]
        async for step in steps:
            if isinstance(step, TurnStep):
                writer.push(step)
            elif isinstance(step, TurnEnd):
                return writer.end(_finished(step))[1]
    raise unexpected()


def _finished(end: TurnEnd) -> TurnEnd:
    if end.finish_reason == "error":
        raise error_of(end)
    return end
