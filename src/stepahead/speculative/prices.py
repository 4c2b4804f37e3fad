"""What time is worth and what passes cost, for each number of sequences that decode side by side.

Throughput is that of steps with drafts from heads, or with none: what the next tokens would take otherwise. Steps with
copied or forced drafts are left out, or every quotation would raise the price of time for the rest of the text.

Knows steps, tokens and milliseconds; not who drafted.
"""

from collections.abc import Sequence as Seq

from stepahead.speculative.cost import MAX_ROWS, CostSeed, HeadCost, PassCost
from stepahead.speculative.long_passes import LongPasses

_KEPT = 0.5 ** (1 / 32)  # of throughput's sums, a step: half of what decides is the last 32 steps


class ClassPrices:
    """Prices in steps of about so many sequences."""

    __slots__ = ("_milliseconds", "_num_sequences", "_tokens", "cost")

    def __init__(self, seed: CostSeed, num_sequences: int, longer: LongPasses | None = None) -> None:
        self.cost = PassCost(seed, longer)
        self._num_sequences = num_sequences
        self._tokens = float(num_sequences)
        self._milliseconds = self.cost(num_sequences)

    @property
    def rate(self) -> float:
        """Tokens per millisecond, all sequences together; never below plain decoding, which is always to be had."""
        plain = self._num_sequences / self.cost(self._num_sequences)
        return max(self._tokens / self._milliseconds, plain)

    def earn(self, num_tokens: int, milliseconds: float) -> None:
        """A step brought so many tokens in so long, drafting included."""
        predicted = self.cost(self._num_sequences)
        milliseconds = min(milliseconds, 8.0 * predicted)  # a disturbed step says nothing of the text
        self._tokens = self._tokens * _KEPT + num_tokens
        self._milliseconds = self._milliseconds * _KEPT + milliseconds


class Prices:
    """Of one model on one machine. Classes are 1, 2, 3 to 4, 5 to 8 ... sequences."""

    def __init__(self, seed: CostSeed) -> None:
        self._seed = seed
        self._classes: dict[int, ClassPrices] = {}
        self._longer = LongPasses(MAX_ROWS)
        self.heads = HeadCost(seed) if seed.head_ms else None

    def of(self, num_sequences: int) -> ClassPrices:
        number = 1 << (num_sequences - 1).bit_length()
        found = self._classes.get(number)
        if found is None:
            found = self._classes[number] = ClassPrices(self._seed, num_sequences, self._longer)
        return found

    def learn_mixed(self, num_sequences: int, num_rows: int, milliseconds: float) -> None:
        """A pass with rows of prompts, and so many sequences that decode, took so long."""
        self.of(max(num_sequences, 1)).cost.learn_long(num_rows, milliseconds)

    def learn_growth(self, growth: Seq[int]) -> None:
        """The distinct experts of a prompt's first rows tell what rows of such a text will touch."""
        for prices in self._classes.values():
            prices.cost.learn_growth(growth)


def chain_prices(
    prices: ClassPrices, heads: HeadCost, num_rows: int, num_sequences: int, sharers: Seq[float]
) -> tuple[list[float], list[float]]:
    """(of drafting, of verifying) each token of a sequence's chain, in tokens. sharers: how many sequences are expected
    in each of its passes; num_sequences: how many a row each is added for, to those that the pass has anyway."""
    rate, cost = prices.rate, prices.cost
    drafting = [rate * heads(step) / count for step, count in enumerate(sharers)]
    verifying = [
        rate * (cost(num_rows + num_sequences * (step + 1)) - cost(num_rows + num_sequences * step)) / num_sequences
        for step in range(len(sharers))
    ]
    return drafting, verifying
