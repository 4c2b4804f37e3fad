"""What endpoints know of the engine: turns are prepared, which finds all that is the caller's fault, and then run."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from stepahead.engine.request import SpeculationStats
from stepahead.server.api_error import Kind
from stepahead.turns.event import Event, joined
from stepahead.turns.turn_request import TurnRequest

FinishReason = Literal["stop", "length", "context_length", "stop_sequence", "tool_calls", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A content token's log-probability, and those of the best, of the unprocessed logits."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """The prompt is being computed, or waits: told now and then."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_computed_tokens: int
    is_queued: bool


@dataclass(frozen=True, slots=True)
class TurnStep:
    """What one step added to one choice, or several short ones; all tokens of a step are in one of these."""

    choice: int
    events: tuple[Event, ...]
    num_tokens: int
    num_accepted: int  # of them drafted
    logprobs: tuple[TokenLogprob, ...] = ()
    num_drafted: int = 0
    pieces: tuple[str, ...] = ()  # the content that came out with each token: see server/step_extension.py

    def then(self, following: "TurnStep") -> "TurnStep":
        """This one and the next of the same choice as one."""
        return TurnStep(
            choice=self.choice,
            events=joined((*self.events, *following.events)),
            num_tokens=self.num_tokens + following.num_tokens,
            num_accepted=self.num_accepted + following.num_accepted,
            logprobs=self.logprobs + following.logprobs,
            num_drafted=self.num_drafted + following.num_drafted,
            pieces=self.pieces + following.pieces,
        )


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The last of a choice."""

    choice: int
    finish_reason: FinishReason  # tool_calls: it ended after at least one complete call; context_length: no room left
    stop_sequence: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    speculation: SpeculationStats
    timings: Mapping[str, Any]  # milliseconds and counts: see server/statistics.py
    error: str | None = None
    error_kind: Kind = "internal"  # whose fault that was


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """Checked, rendered and counted; nothing is queued yet."""

    request: TurnRequest
    prompt_ids: tuple[int, ...]
    model: str  # the id that answers name
    warnings: tuple[str, ...] = ()  # shown in a response header and the log
    details: Any = field(default=None, repr=False)  # the service's own


class TurnService(Protocol):
    """Of one loaded model."""

    @property
    def model_id(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    async def count(self, request: TurnRequest) -> int:
        """Tokens of the prompt. Raises ApiError."""
        ...

    async def prepare(self, request: TurnRequest) -> PreparedTurn:
        """Raises ApiError for everything that can be wrong with a request, a full queue included."""
        ...

    def run(self, turn: PreparedTurn) -> AsyncIterator[Progress | TurnStep | TurnEnd]:
        """Choices interleave; each has one TurnEnd. Closing the iterator aborts what is not done, within a step."""
        ...
