"""What is asked of both engines: the same passes over the same ids. One class a side implements `Side`.

Seconds come from here; what they mean, and how often they are taken, does not.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

CHUNK = 512  # rows of a prompt that run at once, on both sides
WARM_UPS = 2  # passes before the clock counts: the first after a pause wakes threads, the first cycle fills heads
MIN_REPEATS = 3
MAX_REPEATS = 48  # of a sample: bounds how far the context of a cycle grows
SPARE_IDS = 16  # at the end of a vocabulary, where special tokens stand

Seconds = dict[str, float]
"""Part -> seconds. The parts of one thing; "total" where there is but one."""


@dataclass(slots=True)
class Clock:
    """Adds up the seconds of each part."""

    seconds: Seconds = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample: a list of parts, one entry a repeat, and the tokens that came out, if any."""

    repeats: list[Seconds]
    token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Forced:
    """One decode with forced acceptance, from its first token to its last."""

    seconds: float
    num_tokens: int  # that the seconds were for
    num_drafted: int
    num_accepted: int
    expected: float  # of the drafted tokens, how many the rates would have accepted

    @property
    def rate(self) -> float:
        """Tokens a second at the rates that were asked for, without the luck of a sample of some dozen drafts."""
        return (self.num_tokens - self.num_accepted + self.expected) / self.seconds


@dataclass(frozen=True, slots=True)
class Text:
    """One decode of a text, from its first token to its last."""

    seconds: float
    num_tokens: int  # that the seconds were for


class Side(Protocol):
    """A loaded model. Every method starts from the given ids, whatever was run before."""

    vocab_size: int

    def first_token(self) -> int:
        """Run one token and choose the next: a load is over when this is."""
        ...

    def decode(self, prefix: list[int], num_tokens: int) -> Answer:
        """Plain greedy decoding, from the first token after the prefix to the last of num_tokens."""
        ...

    def prompt(self, ids: list[int]) -> Answer:
        """From nothing to the token after the ids."""
        ...

    def verify(self, prefix: list[int], rows: list[int], seconds: float) -> Answer:
        """Passes over `rows` behind a cached prefix, a choice for each row; rolled back after each pass."""
        ...

    def cycle(self, prefix: list[int], depth: int, kept: int, seconds: float) -> Answer:
        """Draft `depth` tokens, verify them, keep the first `kept` whatever they are: draft, verify, catch_up."""
        ...

    def choices(self, ids: list[int]) -> tuple[list[int], str]:
        """The greedy choice after each id, and a hash of all logits."""
        ...

    def facts(self) -> dict[str, object]:
        """What computes here."""
        ...


def some_ids(vocab_size: int, count: int, seed: int) -> list[int]:
    """The same ids for both sides; never special ones."""
    ids: list[int] = np.random.default_rng(seed).integers(0, max(1, vocab_size - SPARE_IDS), count).tolist()
    return ids


def repeat(run: Callable[[Clock], None], seconds: float) -> list[Seconds]:
    """Warm up, then run until `seconds` are spent; each repeat with a clock of its own."""
    for _ in range(WARM_UPS):
        run(Clock())
    repeats: list[Seconds] = []
    spent = 0.0
    while len(repeats) < MIN_REPEATS or (spent < seconds and len(repeats) < MAX_REPEATS):
        clock = Clock()
        run(clock)
        repeats.append(clock.seconds)
        spent += sum(clock.seconds.values())
    return repeats
