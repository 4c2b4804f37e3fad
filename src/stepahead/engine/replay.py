"""A recorded text in the place of the target's choices: what drafting gains on a text that the model would not write.

Every pass and every sampler runs as always, so the time is the engine's; which draft tokens are accepted is the
text's. With `rates`, the heads' drafts are right as often as asked for, whatever the heads say. Plain data and
arithmetic: no model, no logits, no sequence.
"""

from dataclasses import dataclass

import numpy as np

from stepahead.errors import RequestError
from stepahead.models.cycles import RecordedText

FORCED_MARGIN = 1.0
"""Of every forced draft token: nothing but its position tells how likely it is."""

_WORD = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """token_ids[i] stands at the absolute position first_position + i, and nothing is known of what follows the last.

    rates[j]: the share of drafts whose tokens 0 .. j are all right; beyond the last rate every one is wrong.
    Raises RequestError for rates that are none.
    """

    token_ids: tuple[int, ...]
    first_position: int
    rates: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rates is not None:
            _check_rates(self.rates)

    def target(self, position: int, sampled: int) -> int:
        """The token at `position`, where the target would have chosen `sampled`."""
        index = position - self.first_position
        return self.token_ids[index] if 0 <= index < len(self.token_ids) else sampled

    def draft(self, position: int, index: int, sampled: int, vocab_size: int) -> int:
        """The token that a draft has at `position` as its token number `index`; `sampled` is what its head chose."""
        recorded = self.target(position, sampled)
        if self._is_right(position, index):
            return recorded
        return sampled if sampled != recorded else (recorded + 1) % vocab_size

    def laid_out(self, start: int, limit: int, depth: int) -> RecordedText:
        """The same for a device: what is known from the position `start` on, `limit` tokens of it at most."""
        first = start - self.first_position
        assert first >= 0, "a recorded text begins where the prompt ends"
        token_ids = np.array(self.token_ids[first : first + limit], np.int32)
        is_right = np.full((len(token_ids), depth), -1, np.int8)
        if self.rates is not None:
            for place, index in np.ndindex(is_right.shape):
                is_right[place, index] = self._is_right(start + place, index)
        return RecordedText(start, token_ids, is_right)

    def _is_right(self, position: int, index: int) -> bool:
        assert self.rates is not None, "without rates, drafts are the heads' own"
        before = self.rates[index - 1] if 0 < index <= len(self.rates) else 1.0
        share = self.rates[index] / before if index < len(self.rates) and before > 0.0 else 0.0
        return _uniform(self.seed, position, index) < share


def _check_rates(rates: tuple[float, ...]) -> None:
    if not isinstance(rates, tuple) or not rates:
        raise RequestError(f"rates={rates!r} is not a tuple of shares: give such as (0.8, 0.6), or None")
    before = 1.0
    for position, rate in enumerate(rates):
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0.0 <= rate <= 1.0:
            raise RequestError(f"rates[{position}]={rate!r} is not a share: give a number from 0 to 1")
        if rate > before:
            raise RequestError(
                f"rates[{position}]={rate:g} is above the {before:g} before it: rates are cumulative, they never rise"
            )
        before = rate


def _uniform(seed: int, position: int, index: int) -> float:
    """In [0, 1), the same for the same arguments. SplitMix64's mixer (Steele, Lea and Flood, OOPSLA 2014): 2 us of
    Python, where one draw of Philox in numpy takes 88, as much as some draft passes."""
    word = seed
    for part in (position, index):
        word = (word + 0x9E3779B97F4A7C15 * (part + 1)) & _WORD
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
        word ^= word >> 31
    return (word >> 11) * 2.0**-53
