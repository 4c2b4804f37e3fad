"""The tokens of finished turns, by the prompt that each of them answered.

A conversation that goes on is rendered anew, and what a template makes of an answer need not be the tokens that the
model wrote: 1.0 comes back from a client as 1, and text has more than one way into tokens. With these tokens at hand
the next prompt begins with exactly what is cached.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_ANSWERS = 8  # to one prompt
_ENTRY_BYTES = 500  # what an entry costs beside its tokens
_TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class FinishedTurn:
    """said: see said.py. token_ids: all that the model wrote, but for the token that ended it."""

    said: bytes
    token_ids: "array[int]"


class Answers:
    """The turns that answered one prompt, the latest first."""

    __slots__ = ("read", "turns")

    def __init__(self) -> None:
        self.turns: tuple[FinishedTurn, ...] = ()
        self.read: tuple[bytes, FinishedTurn | None] | None = None  # a rendering's digest, and which of them it is

    @property
    def num_bytes(self) -> int:
        return sum(_ENTRY_BYTES + _TOKEN_BYTES * len(turn.token_ids) for turn in self.turns)


class TurnMemory:
    """What was used least recently goes first. Safe to share between threads."""

    def __init__(self, max_bytes: int = 4 << 20) -> None:
        """`max_bytes` 0: nothing is remembered."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._places: OrderedDict[bytes, Answers] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What it holds, about."""
        return self._num_bytes

    def remember(self, place: bytes, said: bytes, token_ids: Sequence[int]) -> None:
        """Keep a turn. place: the digest of its prompt, see turn_recall.py."""
        turn = FinishedTurn(said, array("I", token_ids))
        if _ENTRY_BYTES + _TOKEN_BYTES * len(token_ids) > self._max_bytes:
            return
        with self._lock:
            answers = self._places.setdefault(place, Answers())
            self._places.move_to_end(place)
            self._num_bytes -= answers.num_bytes
            answers.turns = (turn, *(one for one in answers.turns if one.token_ids != turn.token_ids))[:MAX_ANSWERS]
            answers.read = None
            self._num_bytes += answers.num_bytes
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._places.popitem(last=False)[1].num_bytes

    def at(self, place: bytes) -> Answers | None:
        """What answered a prompt."""
        with self._lock:
            return self._places.get(place)

    def note_use(self, places: Iterable[bytes]) -> None:
        """Of a conversation, in its order. Its later turns are of no use without the earlier ones, so they go first."""
        with self._lock:
            for place in reversed(list(places)):
                if place in self._places:
                    self._places.move_to_end(place)
