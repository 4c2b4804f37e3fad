"""The tensor types of GGUF and their meaning in numpy.

Owns: QuantType (ids, block sizes) and dequantize(), which *is* the specification of every type: fast backends are
tested against it. Must not know: files, models, backends. The layouts live in `block_quants` (scalar, legacy, K,
ternary, FP4) and `iq_quants` (codebook types); making blocks is `quantize`'s business.
"""

import enum
import math
from collections.abc import Sequence

import numpy as np

from stepahead.errors import ConfigError
from stepahead.gguf import block_quants, iq_quants
from stepahead.gguf.block_quants import Bytes, Floats

# Elements dequantised at once: keeps temporaries near 10 MB however large the tensor is.
CHUNK_ELEMENTS = 1 << 18


class QuantType(enum.Enum):
    """A tensor type: its ggml id (also the enum's value), elements a block and bytes a block.

    Source of the numbers: the GGUF file format as read and written by ggml.
    """

    F32 = 0, 1, 4
    F16 = 1, 1, 2
    Q4_0 = 2, 32, 18
    Q4_1 = 3, 32, 20
    Q5_0 = 6, 32, 22
    Q5_1 = 7, 32, 24
    Q8_0 = 8, 32, 34
    Q2_K = 10, 256, 84
    Q3_K = 11, 256, 110
    Q4_K = 12, 256, 144
    Q5_K = 13, 256, 176
    Q6_K = 14, 256, 210
    IQ2_XXS = 16, 256, 66
    IQ2_XS = 17, 256, 74
    IQ3_XXS = 18, 256, 98
    IQ1_S = 19, 256, 50
    IQ4_NL = 20, 32, 18
    IQ3_S = 21, 256, 110
    IQ2_S = 22, 256, 82
    IQ4_XS = 23, 256, 136
    IQ1_M = 29, 256, 56
    BF16 = 30, 1, 2
    TQ1_0 = 34, 256, 54
    TQ2_0 = 35, 256, 66
    MXFP4 = 39, 32, 17
    NVFP4 = 40, 64, 36

    id: int
    block_size: int
    block_bytes: int

    def __new__(cls, ggml_id: int, block_size: int, block_bytes: int) -> "QuantType":
        member = object.__new__(cls)
        member._value_ = member.id = ggml_id
        member.block_size, member.block_bytes = block_size, block_bytes
        return member

    def row_bytes(self, row: int) -> int:
        """Bytes of a row of `row` elements; ConfigError if it is not a whole number of blocks."""
        blocks, rest = divmod(row, self.block_size)
        if rest or row <= 0:
            raise ConfigError(
                f"a row of {row} elements is not a multiple of the {self.block_size} of a {self.name} block"
            )
        return blocks * self.block_bytes

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of this shape, rows last; ConfigError as in row_bytes."""
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1])


def dequantize(data: Bytes, quant_type: QuantType) -> Floats:
    """Bytes of a tensor to its numbers.

    data: uint8 (…, row_bytes). Returns a new float32 array (…, row), row = row_bytes / block_bytes * block_size.
    Bit for bit what ggml's own reference computes (NaN payloads apart). ConfigError: not uint8, not whole blocks.
    """
    if data.dtype != np.uint8 or data.ndim == 0:
        raise ConfigError(f"dequantize takes uint8 rows, got {data.dtype} of shape {data.shape}")
    blocks_per_row, rest = divmod(data.shape[-1], quant_type.block_bytes)
    if rest:
        raise ConfigError(
            f"rows of {data.shape[-1]} bytes are not whole {quant_type.name} blocks of {quant_type.block_bytes} bytes"
        )
    decode = _DECODERS[quant_type]
    blocks = data.reshape(-1, quant_type.block_bytes)
    out = np.empty((len(blocks), quant_type.block_size), np.float32)
    step = max(1, CHUNK_ELEMENTS // quant_type.block_size)
    # A damaged scale may be Inf or NaN: that is a value like any other here, not a numpy warning.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(blocks), step):
            out[start : start + step] = decode(blocks[start : start + step])
    return out.reshape(*data.shape[:-1], blocks_per_row * quant_type.block_size)


# One decoder a type, of the type's name: (n, block_bytes) uint8 -> (n, block_size) float32.
_DECODERS = {t: getattr(iq_quants if t.name.startswith("IQ") else block_quants, t.name.lower()) for t in QuantType}
