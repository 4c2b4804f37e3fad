"""What the numbers of one norm say of how often 1 was added to them.

Checkpoints keep norm weights around zero, in BF16; a file has them with 1 added, in F32. 1 + x has more digits than
BF16 holds unless x is large, so that of w, w - 1 and w - 2 as a rule one is a BF16 number in every place: a fingerprint
of the conversion that needs no idea of how large trained weights are. Where several are, it is the one that uses the
last of its digits: those of the others are zeros.
"""

from dataclasses import dataclass

import numpy as np

from stepahead.gguf.block_quants import Floats

OFFSETS = (0, 1, 2)
ALL, NOT_ALL = 0.999, 0.95  # shares of values: that of the right offset, and the most that the others may have
MANY_NEGATIVE = 0.25  # of a norm without its 1
FEW_NEGATIVE = 0.02
LAST_DIGIT = 0.2  # share of values with a last digit that is not 0: half of those of BF16 weights


@dataclass(frozen=True, slots=True)
class NormValues:
    """Of one tensor."""

    added: int | None  # how often 1 was added, by the fingerprint; None: it does not say
    is_narrow: bool  # as they are, all values are BF16 numbers, down to the last digit
    has_fingerprint: bool  # something in it is a BF16 number everywhere, though it may not say what was added
    negative: float  # share of values at or below zero
    hopeless: float  # share of values that would be with 1 added
    low: float  # the 5th percentile
    middle: float
    high: float  # the 95th

    @classmethod
    def of(cls, values: Floats) -> "NormValues":
        low, middle, high = np.quantile(values.astype(np.float64), (0.05, 0.5, 0.95))
        negative, hopeless = float(np.mean(values <= 0)), float(np.mean(values <= -1))
        exact, fine = _fingerprint(values)
        added = _times_added(exact, fine)
        is_narrow = exact[0] >= ALL and fine[0] >= LAST_DIGIT
        return cls(added, is_narrow, max(exact) >= ALL, negative, hopeless, float(low), float(middle), float(high))

    @property
    def lacks_sign(self) -> bool:
        """As many values below zero as a scale never has, and 1 would mend it; the fingerprint does not object."""
        return self.added in (None, 0) and self.negative >= MANY_NEGATIVE and self.hopeless <= FEW_NEGATIVE


def _fingerprint(values: Floats) -> tuple[list[float], list[float]]:
    """By offset: the share of values that are BF16 numbers without it, and of those that need the last digit."""
    exact, fine = [], []
    for offset in OFFSETS:
        wide = values.astype(np.float64) - offset
        narrow = wide.astype(np.float32)
        bits = narrow.view(np.uint32)
        exact.append(float(np.mean((narrow == wide) & (bits & 0xFFFF == 0))))
        fine.append(float(np.mean(bits & 0x10000 != 0)))
    return exact, fine


def _times_added(exact: list[float], fine: list[float]) -> int | None:
    right = [offset for offset in OFFSETS if exact[offset] >= ALL]
    if len(right) == 1 and sorted(exact)[-2] <= NOT_ALL:
        return right[0]
    # Numbers that are BF16 as they are, down to the last digit, were either not added to, or the sum was rounded.
    told = [offset for offset in right if fine[offset] >= LAST_DIGIT]
    return told[0] if len(told) == 1 and told[0] > 0 else None
