"""What is known of one sequence's drafts: guesses that the text has yet to judge, and how the text treats each source.

Every guess is compared with the tokens that the text turns out to have, whether it was verified or not: a draft that
was not worth a row teaches as much as one that was. Knows tokens and counters; not prices, passes or blocks.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from stepahead.speculative.calibration import Recent
from stepahead.speculative.policy import NO_PLAN, ChainPlan

FIRST_INTERVAL = 16
LAST_INTERVAL = 64
"""Steps between drafts in the shadow; the longest costs half a percent where a head takes a third of a pass."""

DOUBTFUL_INTERVAL = 4
"""The first one after drafting has just stopped to pay, which may have been bad luck."""


class Judge(Protocol):
    """Told of each guessed token whether the text has it, as long as those before it were right."""

    def count(self, offset: int, is_hit: bool) -> None: ...


@dataclass(slots=True)
class Guess:
    """Tokens guessed for the positions from `start` on."""

    start: int
    token_ids: tuple[int, ...]
    judge: Judge
    is_copy: bool = False
    num_judged: int = 0

    def compare(self, text: Seq[int]) -> bool:
        """Judge what the text has by now; True if nothing is left to be judged."""
        while self.num_judged < len(self.token_ids):
            position = self.start + self.num_judged
            if position >= len(text):
                return False
            is_hit = text[position] == self.token_ids[self.num_judged]
            self.judge.count(self.num_judged, is_hit)
            if not is_hit:
                return True
            self.num_judged += 1
        return True


class Track:
    """One sequence."""

    __slots__ = (
        "copies",
        "deeper_interval",
        "guesses",
        "heads",
        "interval",
        "may_pay",
        "num_steps",
        "plan",
        "shadow_ms",
        "until_deeper",
        "until_plan",
        "until_shadow",
    )

    def __init__(self, heads: list[Recent], copies: Recent) -> None:
        self.heads = heads  # of each head: acceptance in this text of late
        self.copies = copies
        self.guesses: list[Guess] = []
        self.plan: ChainPlan = NO_PLAN
        self.num_steps = 0
        self.until_plan = 1  # steps
        self.until_shadow = FIRST_INTERVAL
        self.shadow_ms = 0.0  # spent on catching up for the next draft in the shadow
        self.interval = FIRST_INTERVAL
        self.may_pay = True  # False: not even a draft that is certain to be right would be worth its cost
        self.until_deeper = self.deeper_interval = FIRST_INTERVAL  # rounds

    @property
    def depth(self) -> int:
        """Heads that may be wanted in this step."""
        return self.plan.depth + (self.until_deeper <= 1)

    def goes_deeper(self) -> bool:
        """True now and then: one head more than is thought to pay drafts, in the shadow, and is not forgotten."""
        self.until_deeper -= 1
        if self.until_deeper > 0:
            return False
        self.deeper_interval = min(2 * self.deeper_interval, LAST_INTERVAL)
        self.until_deeper = self.deeper_interval
        return True

    def rests(self, num_steps: int) -> bool:
        """True, and so many steps are counted, while heads do not pay and neither a plan nor a shadow is due."""
        if self.plan.value > 0.0 or self.until_plan <= num_steps or self.until_shadow <= num_steps:
            return False
        self.until_plan -= num_steps
        self.until_shadow -= num_steps
        self.num_steps += num_steps
        return True

    @property
    def has_copy(self) -> bool:
        """True while a copy waits to be compared."""
        return any(guess.is_copy for guess in self.guesses)

    def compare(self, text: Seq[int]) -> None:
        self.guesses = [guess for guess in self.guesses if not guess.compare(text)]

    def planned(self, plan: ChainPlan) -> None:
        """Plans are made anew after 8 steps, then less and less often, at least every 64."""
        if plan.value <= 0.0 < self.plan.value:
            self.until_shadow = self.interval = DOUBTFUL_INTERVAL
        self.plan = plan
        self.until_plan = min(64, max(8, self.num_steps))

    def shadow_was(self, is_hit: bool) -> None:
        """A draft that nobody asked for was right or wrong: the next one comes soon, or after twice as many steps."""
        if is_hit and self.may_pay:
            self.interval = FIRST_INTERVAL
            self.until_shadow = min(self.until_shadow, 2)
            self.until_plan = 1
        else:
            self.interval = min(2 * self.interval, LAST_INTERVAL)
