"""Where GGUF's blocks keep the codes and scales of a type: for the kernel that packs them on the GPU.

What `fields.py` says in numpy, as numbers that a kernel can be made of; a test holds one to the other.
"""

from dataclasses import dataclass

from stepahead.gguf.quants import QuantType


@dataclass(frozen=True, slots=True)
class Codes:
    """Some bits of each code. Weight k of a block: byte start + inner * (k // span) + k % inner, at the field
    (k % span) // inner of it; inner 0: bit after bit from byte `start` on."""

    start: int
    span: int
    inner: int


@dataclass(frozen=True, slots=True)
class Source:
    """d_at, dmin_at: of halves in a block; of types with scales of their own these are scale and minimum of the block.

    scales_at: of the bytes from which `kernels/repack.py` takes whole scales, each type in its own way.
    """

    type_name: str
    block_size: int
    block_bytes: int
    low: Codes
    high: Codes | None = None
    d_at: int = 0
    dmin_at: int = 0
    scales_at: int = 0
    flip: int = 0  # of a code's bits, to make it unsigned


def _source(type: QuantType, low: Codes, high: Codes | None = None, **places: int) -> Source:
    return Source(type.name, type.block_size, type.block_bytes, low, high, **places)


SOURCES: dict[QuantType, Source] = {
    QuantType.Q4_0: _source(QuantType.Q4_0, Codes(2, 32, 16)),
    QuantType.Q4_1: _source(QuantType.Q4_1, Codes(4, 32, 16), dmin_at=2),
    QuantType.Q5_0: _source(QuantType.Q5_0, Codes(6, 32, 16), Codes(2, 32, 0)),
    QuantType.Q5_1: _source(QuantType.Q5_1, Codes(8, 32, 16), Codes(4, 32, 0), dmin_at=2),
    QuantType.Q8_0: _source(QuantType.Q8_0, Codes(2, 32, 32), flip=128),
    QuantType.Q2_K: _source(QuantType.Q2_K, Codes(16, 128, 32), d_at=80, dmin_at=82),
    QuantType.Q3_K: _source(QuantType.Q3_K, Codes(32, 128, 32), Codes(0, 256, 32), d_at=108, scales_at=96),
    QuantType.Q4_K: _source(QuantType.Q4_K, Codes(16, 64, 32), dmin_at=2, scales_at=4),
    QuantType.Q5_K: _source(QuantType.Q5_K, Codes(48, 64, 32), Codes(16, 256, 32), dmin_at=2, scales_at=4),
    QuantType.Q6_K: _source(QuantType.Q6_K, Codes(0, 128, 64), Codes(128, 128, 32), d_at=208, scales_at=192),
    QuantType.IQ4_NL: _source(QuantType.IQ4_NL, Codes(2, 32, 16)),
    QuantType.IQ4_XS: _source(QuantType.IQ4_XS, Codes(8, 32, 16), scales_at=2),
    QuantType.MXFP4: _source(QuantType.MXFP4, Codes(1, 32, 16)),
}
