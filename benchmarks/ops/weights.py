"""Random weights of any type, for benchmarks: bytes that decode to numbers of ordinary size."""

import numpy as np
import numpy.typing as npt

from stepahead.gguf.quants import QuantType

# Where a block keeps its binary16 scales, in bytes; everything else may be any byte.
_SCALES = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS", "IQ3_XXS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}


def random_weights(rng: np.random.Generator, type: QuantType, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(…, row_bytes) bytes of weights about 1 / sqrt(in) in size."""
    rows, width = int(np.prod(shape[:-1])), shape[-1]
    if type.block_size == 1:
        values = rng.standard_normal((rows, width), np.float32) / np.float32(np.sqrt(width))
        if type is QuantType.F16:
            return values.astype(np.float16).view(np.uint8)
        if type is QuantType.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.view(np.uint8)
    blocks = rng.integers(0, 256, (rows * width // type.block_size, type.block_bytes), np.uint8)
    if type is QuantType.MXFP4:
        blocks[:, 0] = 128 - 13  # 2^-13
        return blocks.reshape(rows, -1)
    for at in _SCALES[type.name]:
        scales = (1 + rng.random((len(blocks), 1), np.float32)) * np.float32(1e-4)
        blocks[:, at : at + 2] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)
