"""Products with packed weights: close to the reference, and each row's bits its own."""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from stepahead.backends.cuda.formats.fields import LEVELS, fields_of
from stepahead.backends.cuda.formats.format import FORMATS, Scales
from stepahead.backends.cuda.formats.pack import pack
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.linear import linear
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.gguf.quants import QuantType, dequantize

FIRST = (QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0)
LAUNCH = Launcher()


def random_weights(type: QuantType, out: int, width: int, seed: int = 0) -> np.ndarray:
    """(out, row_bytes): random codes and scales, under d of a model's size."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (out, type.row_bytes(width)), np.uint8)
    blocks = data.reshape(-1, type.block_bytes)
    for at in HALVES_AT.get(type, ()):
        blocks[:, at : at + 2] = rng.uniform(0.001, 0.01, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return data


HALVES_AT = {
    QuantType.Q4_K: (0, 2), QuantType.Q5_K: (0, 2), QuantType.Q6_K: (208,), QuantType.Q8_0: (0,), QuantType.Q4_0: (0,),
    QuantType.Q4_1: (0, 2), QuantType.Q5_0: (0,), QuantType.Q5_1: (0, 2), QuantType.Q2_K: (80, 82),
    QuantType.Q3_K: (108,), QuantType.IQ4_NL: (0,), QuantType.IQ4_XS: (0,),
}  # fmt: skip


def packed(data: np.ndarray, type: QuantType, width: int) -> CudaMatrix:
    words = pack(fields_of(data, type), FORMATS[type])
    return CudaMatrix(torch.from_numpy(words.view(np.int32)), type, (len(data), width))


def multiplied(data: np.ndarray, type: QuantType) -> np.ndarray:
    """The weights as products see them, float64: of scale times code halves are made, which above 2048 round."""
    form, found = FORMATS[type], fields_of(data, type)
    if form.scales != Scales.SIGNED:
        return dequantize(data, type).astype(np.float64)
    levels = (LEVELS[form.levels][found.codes] - form.offset).reshape(len(data), -1, form.group)
    whole = (levels * found.scales.view(np.int8)[..., None]).astype(np.float16).astype(np.float64)
    return whole.reshape(len(data), -1) * np.repeat(found.d.view(np.float16).astype(np.float64), 256, axis=1)


@pytest.mark.parametrize("type", FIRST, ids=lambda type: type.name)
def test_product_is_the_references(type: QuantType) -> None:
    out, width = 72, 512
    data = random_weights(type, out, width)
    x = np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)
    half = half_rows(LAUNCH, torch.from_numpy(x))
    y = linear(LAUNCH, half, packed(data, type, width)).numpy()
    rounded = (half.values[:, :width].double() * half.exponents[:, None]).numpy()
    exact = rounded @ multiplied(data, type).T
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
