"""What a quantised type is once packed for the GPU: one table, of which all that packs, decodes or multiplies is made.

A matrix (out, in) becomes records of 16 output rows x 256 inputs, for each 16 rows one record after the other along
the inputs. A record is int32 words: the planes of the codes, low bits first, then what scales them. Both sides are
padded with scales of zero. A weight is

    scale * (level(code) - offset) - minimum

where a scale is d times a whole number of each group (INTEGERS), or a float of each group.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from stepahead.gguf.block_quants import E2M1_DOUBLED
from stepahead.gguf.iq_quants import IQ4_LEVELS
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
    IQ3 = 3  # odd numbers, the outermost half a step further out
    IQ2 = 4  # three magnitudes and a sign
    IQ1 = 5  # -1, 0 and 1 in eighths, and an eighth up or down


LEVELS = {
    Levels.LINEAR: np.arange(256, dtype=np.float32),
    Levels.E2M1: E2M1_DOUBLED,
    Levels.IQ4: IQ4_LEVELS,
    Levels.IQ3: np.array([-15.5, *range(-13, 14, 2), 15.5], np.float32),
    Levels.IQ2: np.array([-43, -25, -8, 8, 25, 43], np.float32),
    Levels.IQ1: np.array([-9, -7, -1, 1, 7, 9], np.float32),
}


@dataclass(frozen=True, slots=True)
class Format:
    """high_bits: of the second plane, above the first; 0: there is none. unit: what every weight is multiplied with."""

    low_bits: int
    group: int
    scales: Scales
    high_bits: int = 0
    offset: float = 0
    mins: Mins = Mins.NONE
    levels: Levels = Levels.LINEAR
    unit: float = 1.0
    version: int = 1  # raise it with any change of where things lie: compiled kernels are kept by these fields

    @property
    def code_bits(self) -> int:
        return self.low_bits + self.high_bits

    @property
    def span(self) -> int:
        """Inputs that kernels take out of the words at a time: as many as have one scale, and in a plane of one bit no
        more than are in its words at one turn."""
        return 16 if self.high_bits == 1 else self.group

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
    QuantType.NVFP4: Format(4, 16, Scales.HALF, levels=Levels.E2M1),
    QuantType.IQ3_S: Format(4, 32, Scales.UNSIGNED, offset=7.5, unit=2.0),
    QuantType.IQ3_XXS: Format(4, 32, Scales.UNSIGNED, levels=Levels.IQ3),
    QuantType.IQ2_S: Format(2, 16, Scales.UNSIGNED, high_bits=1, levels=Levels.IQ2, unit=0.125),
    QuantType.IQ2_XS: Format(2, 16, Scales.UNSIGNED, high_bits=1, levels=Levels.IQ2, unit=0.125),
    QuantType.IQ2_XXS: Format(2, 32, Scales.UNSIGNED, high_bits=1, levels=Levels.IQ2, unit=0.125),
    QuantType.IQ1_S: Format(2, 32, Scales.UNSIGNED, high_bits=1, levels=Levels.IQ1, unit=0.125),
    QuantType.IQ1_M: Format(2, 16, Scales.UNSIGNED, high_bits=1, levels=Levels.IQ1, unit=0.125),
    QuantType.TQ1_0: Format(2, 32, Scales.NONE, offset=1),
    QuantType.TQ2_0: Format(2, 32, Scales.NONE, offset=1),
}
PLAIN_TYPES = (QuantType.F32, QuantType.F16, QuantType.BF16)
"""Kept as they are, row after row."""
