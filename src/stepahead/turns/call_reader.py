"""What reads one tool call out of the text, and what can become of it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stepahead.turns.text_window import TextWindow

MAX_SPACE = 64  # characters of white space that are waited for where some may come
MAX_NAME = 256  # characters of a parameter's name


class Fate(enum.Enum):
    """What one step of a reader came to."""

    WAITS = "waits"  # needs more text
    RUNS = "runs"
    REFUSED = "refused"  # this is no call of a known tool; nothing was announced
    BROKEN = "broken"  # it was announced, and what comes next is no part of a call
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class CallSink:
    """Where a reader puts what it has read: the name once, then the pieces of the arguments."""

    start: Callable[[str], None]
    add: Callable[[str], None]


class CallReader(Protocol):
    """Reads a call from the character after its opening mark."""

    @property
    def tail(self) -> tuple[str, ...]:
        """What is to follow after the end, white space aside; each may be missing."""
        ...

    def step(self) -> Fate: ...

    def closing(self) -> str:
        """What makes the arguments a JSON object after BROKEN."""
        ...


class CallSyntaxReader(Protocol):
    """Makes readers: what all calls of one turn have in common."""

    def reader(self, window: TextWindow, sink: CallSink) -> CallReader: ...
