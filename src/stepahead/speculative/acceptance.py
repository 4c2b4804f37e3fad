"""Calibrated acceptance of every source of drafts, shared by all requests of a model, and the judges that feed it.

Heads are calibrated one by one, by margin. Copied tokens are calibrated by the number of tokens that agree before them,
those copied before included; the first one also by what the first head says of it, where it was asked.
"""

from dataclasses import dataclass

from stepahead.speculative.calibration import Calibration, Recent, match_bin
from stepahead.speculative.track import Track

ENOUGH = 4
"""Observations before a source is believed at all: until then it drafts in the shadow."""

HEADS_ENOUGH = 2
"""As many of the first head, whose shadow takes time."""

FORCED_RATE = 0.999
"""Of a token that a grammar claims to force."""


class Acceptance:
    """Of one model."""

    def __init__(self, num_positions: int) -> None:
        # By position in the chain: a head that is used again counts anew.
        self.heads = [Calibration(0.5 if number == 0 else 0.6) for number in range(num_positions)]
        self.copy = Calibration(0.5)
        self.resumed = Calibration(0.5)  # first tokens of copies that go on after a change
        self.agrees = Calibration(0.5)  # the first head has a copy's first token
        self.copy_if_agreed = Calibration(0.8)
        self.copy_if_not = Calibration(0.2)

    def new_track(self) -> Track:
        return Track([Recent(calibration) for calibration in self.heads], Recent(self.copy))

    def chain_rates(self, track: Track, depth: int) -> list[list[float]]:
        """Of each position of a chain, each bin's acceptance; of a head that is not known yet, the rates of the one
        before: it is tried."""
        rates: list[list[float]] = []
        for calibration, recent in zip(self.heads[:depth], track.heads, strict=False):
            is_known = calibration.num_seen >= ENOUGH or not rates
            rates.append(recent.rates() if is_known else rates[-1])
        return rates

    def copy_chain(self, track: Track, match_length: int, count: int, first: Calibration | None = None) -> list[float]:
        """Cumulative acceptance of `count` tokens copied after a match; `first`: what calibrates the first one."""
        rates = track.copies.rates()
        here = match_bin(match_length)
        probability = rates[here] if first is None else first.rates[here]
        chain = [probability]
        for length in range(match_length + 1, match_length + count):
            probability *= rates[match_bin(length)]
            chain.append(probability)
        return chain


@dataclass(slots=True)
class HeadsJudge:
    """Of a chain of heads; bins[j] is the margin bin of its token j."""

    acceptance: Acceptance
    track: Track
    bins: tuple[int, ...]
    is_shadow: bool

    def count(self, offset: int, is_hit: bool) -> None:
        head = min(offset, len(self.acceptance.heads) - 1)
        self.acceptance.heads[head].count(self.bins[offset], is_hit)
        self.track.heads[head].count(is_hit)
        if self.is_shadow and offset == 0:
            self.track.shadow_was(is_hit)


@dataclass(slots=True)
class CopyJudge:
    """Of a copy after a match of `match_length` tokens; first: further calibrations of its first token."""

    acceptance: Acceptance
    track: Track
    match_length: int
    first: tuple[Calibration, ...] = ()
    is_resumed: bool = False

    def count(self, offset: int, is_hit: bool) -> None:
        number = match_bin(self.match_length + offset)
        if offset == 0:
            for calibration in self.first:
                calibration.count(number, is_hit)
        if offset > 0 or not self.is_resumed:
            self.acceptance.copy.count(number, is_hit)
            self.track.copies.count(is_hit)
