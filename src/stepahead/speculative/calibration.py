"""How often draft tokens of one kind are accepted: counted by bin, forgotten slowly, and made monotone.

A bin stands for what is known before the target has spoken: the margin between the two best tokens as sampled, or the
length of a match. A token counts only if those drafted before it were right (censoring: what follows a wrong token
tells nothing about the model), so rates are conditional, and a chain's acceptance is their product.

Knows numbers only: not who drafts, nor what a token costs.
"""

from bisect import bisect_right
from collections.abc import Sequence as Seq

MARGIN_EDGES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0)
MATCH_EDGES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)
NUM_BINS = len(MARGIN_EDGES) + 1

_DECAY = 0.999  # an observation among the counts; half of it is left after 700
_BIN_WEIGHT = 4.0  # observations that a bin borrows from the mean of all
_PRIOR_WEIGHT = 2.0  # observations that the prior mean is worth
_RECENT_DECAY = 31.0 / 32.0  # an observation in a text's own counts
_SHARED_WEIGHT = 4.0  # observations that the mean of all texts is worth beside them
_REFRESH = 64  # observations between two fits, once there are many


def margin_bin(margin: float) -> int:
    """Of the lead of a drafted token over the second, in logits over temperature, perturbed if noise took part."""
    return bisect_right(MARGIN_EDGES, margin)


def match_bin(length: int) -> int:
    """Of the number of tokens that agree before a copied one."""
    return bisect_right(MATCH_EDGES, length)


class Calibration:
    """Beta counters of one source and position, a pair a bin; rates[b] is the fitted acceptance of bin b.

    Rates rise with the bin: pooled by adjacent violators (Ayer et al., "An empirical distribution function for sampling
    with incomplete information", 1955) after each doubling of what was seen, then every 64 observations.
    """

    __slots__ = ("_hits", "_prior", "_tries", "_until_fit", "mean", "num_seen", "rates", "weights")

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._hits = [0.0] * NUM_BINS
        self._tries = [0.0] * NUM_BINS
        self._until_fit = 1
        self.num_seen = 0
        self.mean = prior
        self.rates = [prior] * NUM_BINS
        self.weights = [1.0 / NUM_BINS] * NUM_BINS  # how often each bin occurs

    def count(self, number: int, is_hit: bool) -> None:
        """Enter one token of bin `number`."""
        # Counts of a bin decay when the bin is seen: a rare one keeps what it knows.
        self._tries[number] = self._tries[number] * _DECAY + 1.0
        self._hits[number] = self._hits[number] * _DECAY + is_hit
        self.num_seen += 1
        self._until_fit -= 1
        if self._until_fit <= 0:
            self._fit()
            self._until_fit = min(self.num_seen, _REFRESH)

    def _fit(self) -> None:
        num_tries = sum(self._tries)
        self.mean = (sum(self._hits) + self._prior * _PRIOR_WEIGHT) / (num_tries + _PRIOR_WEIGHT)
        weights = [tries + _BIN_WEIGHT for tries in self._tries]
        rates = [(hits + self.mean * _BIN_WEIGHT) / weight for hits, weight in zip(self._hits, weights, strict=True)]
        self.rates = monotone(rates, weights)
        total = num_tries + 1.0
        self.weights = [(tries + 1.0 / NUM_BINS) / total for tries in self._tries]


class Recent:
    """Acceptance in one text of late, beside the mean of all texts: what bins do not know of the matter at hand."""

    __slots__ = ("_calibration", "_hits", "_tries")

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._hits = 0.0
        self._tries = 0.0

    @property
    def mean(self) -> float:
        """Of the last 32 or so, drawn a little towards that of all texts."""
        return (self._hits + _SHARED_WEIGHT * self._calibration.mean) / (self._tries + _SHARED_WEIGHT)

    def count(self, is_hit: bool) -> None:
        self._tries = self._tries * _RECENT_DECAY + 1.0
        self._hits = self._hits * _RECENT_DECAY + is_hit

    def rate(self, number: int) -> float:
        """The rate of a bin, its odds scaled by how this text's differ from all texts'."""
        return self._scaled((self._calibration.rates[number],))[0]

    def rates(self) -> list[float]:
        """Of each bin."""
        return self._scaled(self._calibration.rates)

    @property
    def weights(self) -> list[float]:
        """How often each bin occurs, over all texts."""
        return self._calibration.weights

    def _scaled(self, rates: Seq[float]) -> list[float]:
        mean, shared = self.mean, self._calibration.mean  # within 0 and 1, as priors are
        hits, misses = mean * (1.0 - shared), (1.0 - mean) * shared
        return [rate * hits / (rate * hits + (1.0 - rate) * misses) for rate in rates]


def monotone(values: Seq[float], weights: Seq[float]) -> list[float]:
    """The rising sequence nearest to `values` in weighted squares, by pooling adjacent violators."""
    pools: list[tuple[float, float, int]] = []  # value, weight, number of entries
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, low_weight, low_count), (high, high_weight, high_count) = pools[-2], pools[-1]
            total = low_weight + high_weight
            pools[-2:] = [((low * low_weight + high * high_weight) / total, total, low_count + high_count)]
    return [value for value, _, count in pools for _ in range(count)]
