"""What the numbers of one norm say of how often 1 was added to them.

Checkpoints keep norm weights around zero, in BF16; a file has them with 1 added, in F32. 1 + x has more digits than
BF16 holds unless x is large, so that exactly one of w, w - 1 and w - 2 is a BF16 number in every place: a fingerprint
of the conversion that needs no idea of how large trained weights are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepahead.gguf.block_quants import Floats

OFFSETS = (0, 1, 2)
ALL, NOT_ALL = 0.999, 0.95  # shares of values: that of the right offset, and the most that the others may have
MANY_NEGATIVE = 0.25  # of a norm without its 1
FEW_NEGATIVE = 0.02


@dataclass(frozen=True, slots=True)
class NormValues:
    """Of one tensor."""

    added: int | None  # how often 1 was added, by the fingerprint; None: it does not say
    negative: float  # share of values at or below zero
    hopeless: float  # share of values that would be with 1 added
    low: float  # the 5th percentile
    middle: float
    high: float  # the 95th

    @classmethod
    def of(cls, values: Floats) -> "NormValues":
        low, middle, high = np.quantile(values.astype(np.float64), (0.05, 0.5, 0.95))
        negative, hopeless = float(np.mean(values <= 0)), float(np.mean(values <= -1))
        return cls(_times_added(values), negative, hopeless, float(low), float(middle), float(high))

    @property
    def lacks_sign(self) -> bool:
        """As many values below zero as a scale never has, and 1 would mend it; the fingerprint does not object."""
        return self.added in (None, 0) and self.negative >= MANY_NEGATIVE and self.hopeless <= FEW_NEGATIVE


def _times_added(values: Floats) -> int | None:
    shares = [float(np.mean(_is_bf16(values.astype(np.float64) - offset))) for offset in OFFSETS]
    right = [offset for offset, share in zip(OFFSETS, shares, strict=True) if share >= ALL]
    return right[0] if len(right) == 1 and sorted(shares)[-2] <= NOT_ALL else None


def _is_bf16(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    narrow = values.astype(np.float32)
    found: npt.NDArray[np.bool_] = (narrow == values) & (narrow.view(np.uint32) & 0xFFFF == 0)
    return found
