"""What a quantised type is once packed for the GPU: one table, of which all that packs, decodes or multiplies is made.

A matrix (out, in) becomes records of 16 output rows x 256 inputs, for each 16 rows one record after the other along
the inputs. A record is int32 words: the planes of the codes, low bits first, then what scales them. Both sides are
padded with scales of zero. A weight is

    scale * (level(code) - offset) - minimum

where a scale is d times a whole number of each group (INTEGERS), or a float of each group.
"""

from dataclasses import dataclass
from enum import IntEnum

from stepahead.gguf.quants import QuantType

TILE_ROWS = 16
BLOCK = 256
"""Inputs of a record, and of a step along K."""


class Scales(IntEnum):
    """Of a group; the first four multiply a half-precision d of the record's row."""

    NONE = 0  # d alone
    UNSIGNED = 1  # 8 bits
    SIGNED = 2  # 8 bits, two's complement
    NIBBLES = 3  # low nibble the scale, high nibble the minimum
    HALF = 4  # a half of its own, no d
    EXPONENT = 5  # 2^(byte - 128), no d


class Mins(IntEnum):
    NONE = 0
    INTEGERS = 1  # 8 bits (or the nibbles above) times a half-precision dmin of the record's row, subtracted
    HALF = 2  # a half of its own, added


class Levels(IntEnum):
    """What a code stands for."""

    LINEAR = 0  # itself
    E2M1 = 1  # a 4-bit float, doubled
    IQ4 = 2  # sixteen levels, finer near zero


@dataclass(frozen=True, slots=True)
class Format:
    """high_bits: of the second plane, above the first; 0: there is none. unit: what every weight is multiplied with."""

    low_bits: int
    group: int
    scales: Scales
    high_bits: int = 0
    offset: int = 0
    mins: Mins = Mins.NONE
    levels: Levels = Levels.LINEAR
    unit: float = 1.0
    version: int = 1  # raise it with any change of where things lie: compiled kernels are kept by these fields

    @property
    def code_bits(self) -> int:
        return self.low_bits + self.high_bits

    @property
    def num_groups(self) -> int:
        return BLOCK // self.group

    @property
    def has_d(self) -> bool:
        return self.scales <= Scales.NIBBLES

    @property
    def low_words(self) -> int:
        """Of one row of a record."""
        return 8 * self.low_bits

    @property
    def high_words(self) -> int:
        return 8 * self.high_bits

    @property
    def scale_words(self) -> int:
        if self.scales == Scales.NONE:
            return 0
        return self.num_groups // (2 if self.scales == Scales.HALF else 4)

    @property
    def min_words(self) -> int:
        if self.mins == Mins.NONE or self.scales == Scales.NIBBLES:
            return 0
        return self.num_groups // (2 if self.mins == Mins.HALF else 4)

    # Where the parts of a record begin, in words. Planes are row after row; what follows is word after word, each of
    # 16 rows, so that one load brings a row its word; d and dmin are 16 halves each.

    @property
    def high_at(self) -> int:
        return TILE_ROWS * self.low_words

    @property
    def scales_at(self) -> int:
        return self.high_at + TILE_ROWS * self.high_words

    @property
    def mins_at(self) -> int:
        return self.scales_at + TILE_ROWS * self.scale_words

    @property
    def d_at(self) -> int:
        return self.mins_at + TILE_ROWS * self.min_words

    @property
    def dmin_at(self) -> int:
        return self.d_at + (TILE_ROWS // 2 if self.has_d else 0)

    @property
    def record_words(self) -> int:
        return self.dmin_at + (TILE_ROWS // 2 if self.has_d and self.mins == Mins.INTEGERS else 0)


FORMATS: dict[QuantType, Format] = {
    QuantType.Q4_0: Format(4, 32, Scales.HALF, offset=8),
    QuantType.Q4_1: Format(4, 32, Scales.HALF, mins=Mins.HALF),
    QuantType.Q5_0: Format(4, 32, Scales.HALF, high_bits=1, offset=16),
    QuantType.Q5_1: Format(4, 32, Scales.HALF, high_bits=1, mins=Mins.HALF),
    QuantType.Q8_0: Format(8, 32, Scales.HALF, offset=128),
    QuantType.Q2_K: Format(2, 16, Scales.NIBBLES, mins=Mins.INTEGERS),
    QuantType.Q3_K: Format(2, 16, Scales.SIGNED, high_bits=1, offset=4),
    QuantType.Q4_K: Format(4, 32, Scales.UNSIGNED, mins=Mins.INTEGERS),
    QuantType.Q5_K: Format(4, 32, Scales.UNSIGNED, high_bits=1, mins=Mins.INTEGERS),
    QuantType.Q6_K: Format(4, 16, Scales.SIGNED, high_bits=2, offset=32),
    QuantType.IQ4_NL: Format(4, 32, Scales.HALF, levels=Levels.IQ4),
    QuantType.IQ4_XS: Format(4, 32, Scales.SIGNED, levels=Levels.IQ4),
    QuantType.MXFP4: Format(4, 32, Scales.EXPONENT, levels=Levels.E2M1),
}
PLAIN_TYPES = (QuantType.F32, QuantType.F16, QuantType.BF16)
"""Kept as they are, row after row."""
