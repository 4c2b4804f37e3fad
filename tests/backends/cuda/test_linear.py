"""Products with packed weights: close to the reference, and each row's bits its own."""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from backends.cuda.exact_dots import exact_dots
from backends.cuda.kernel_cases import (
    DEVICE,
    LAUNCH,
    assert_same_bits,
    check_half,
    normal,
    on_device,
    on_host,
    poisoned_memory,
)
from stepahead.backends.cuda.configs import linear_config
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.formats.fields import LEVELS, fields_of
from stepahead.backends.cuda.formats.format import FORMATS, Scales
from stepahead.backends.cuda.formats.pack import pack
from stepahead.backends.cuda.kernels import linear as linear_module
from stepahead.backends.cuda.kernels import linear_halves
from stepahead.backends.cuda.kernels.embed import embed
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.linear import linear, linear_many
from stepahead.backends.cuda.loading import DTYPES, Loader, stored_nbytes
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType, dequantize

HALVES_AT = {
    QuantType.Q4_0: (0,), QuantType.Q4_1: (0, 2), QuantType.Q5_0: (0,), QuantType.Q5_1: (0, 2), QuantType.Q8_0: (0,),
    QuantType.Q2_K: (80, 82), QuantType.Q3_K: (108,), QuantType.Q4_K: (0, 2), QuantType.Q5_K: (0, 2),
    QuantType.Q6_K: (208,), QuantType.TQ1_0: (52,), QuantType.TQ2_0: (64,), QuantType.MXFP4: (), QuantType.NVFP4: (),
    QuantType.IQ1_M: (),
}  # fmt: skip
"""Where a block keeps its halves; not listed: at its beginning."""


def random_weights(type: QuantType, out: int, width: int, seed: int = 0) -> np.ndarray:
    """(out, row_bytes): random codes and scales, under a d of a model's size."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (out, type.row_bytes(width)), np.uint8)
    blocks = data.reshape(-1, type.block_bytes)
    for at in HALVES_AT.get(type, (0,)):
        blocks[:, at : at + 2] = rng.uniform(0.001, 0.01, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    if type == QuantType.MXFP4:
        blocks[:, 0] = rng.integers(110, 130, len(blocks))
    elif type == QuantType.IQ1_M:  # d in the top nibbles of four words
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | np.array([0, 0, 0xC0, 0x20], np.uint8)
    return data


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


@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_product_is_the_references(type: QuantType) -> None:
    out, width = 56, 256 if type.block_size >= 64 else 32 * 9
    data = random_weights(type, out, width)
    x = np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)
    rows = Rows(on_device(x))
    y = on_host(linear(LAUNCH, rows, packed(data, type, width)))
    half = rows.half
    assert half is not None
    rounded = (half.values[:, :width].double() * half.exponents[:, None]).numpy()
    exact = rounded @ multiplied(data, type).T
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def exact_weights(type: QuantType, out: int, width: int) -> np.ndarray:
    """Under scales of powers of two, so that products with small whole numbers are exact, and no order shows."""
    data = random_weights(type, out, width)
    blocks = data.reshape(-1, type.block_bytes)
    for at in HALVES_AT.get(type, (0,)):
        blocks[:, at : at + 2] = np.array([0.25], np.float16).view(np.uint8)
    return data


@pytest.mark.parametrize("type", [QuantType.Q4_K, QuantType.Q8_0], ids=lambda type: type.name)
def test_rows_do_not_see_each_other(type: QuantType) -> None:
    """Alone, among few, among many and beside NaN and Inf; the last row of weights is beyond whole tiles."""
    out, width = 40, 256 if type == QuantType.Q4_K else 32 * 9
    data = exact_weights(type, out, width)
    matrix = packed(data, type, width)
    x = np.random.default_rng(2).integers(-8, 9, (20, width)).astype(np.float32)
    x[:, 0] = 8.0  # so that all have one exponent
    expected = x @ dequantize(data, type).T
    x[1, 3], x[4, -1] = np.nan, np.inf
    good = np.isfinite(x).all(axis=1)
    with poisoned_memory(), np.errstate(invalid="ignore"):
        for rows in ([0], [0, 1, 2], [3, 4, 5, 6], range(16), range(20)):
            y = on_host(linear(LAUNCH, Rows(on_device(x[list(rows)])), matrix))
            chosen = good[list(rows)]
            assert_same_bits(y[chosen], expected[list(rows)][chosen])
            assert not np.isfinite(y[~chosen]).any()


@pytest.mark.parametrize("num_rows", [2, 17])
def test_matrices_of_one_launch_have_the_bits_of_their_own(num_rows: int) -> None:
    types = (QuantType.Q8_0, QuantType.Q4_0, QuantType.Q8_0, QuantType.Q8_0, QuantType.F32, QuantType.Q8_0)
    matrices, expected = [], []
    x = np.random.default_rng(5).integers(-8, 9, (num_rows, 32)).astype(np.float32)
    for seed, type in enumerate(types):
        out = 70 - 17 * seed % 50
        if type == QuantType.F32:
            weights = np.random.default_rng(seed).integers(-8, 9, (out, 32)).astype(np.float32)
            matrices.append(CudaMatrix(on_device(weights), type, weights.shape))
        else:
            data = exact_weights(type, out, 32)
            weights = dequantize(data, type)
            matrices.append(packed(data, type, 32))
        expected.append(x @ weights.T)
    with poisoned_memory():
        made = linear_many(LAUNCH, Rows(on_device(x)), matrices)
    for y, wanted in zip(made, expected, strict=True):
        assert y.is_contiguous()
        assert_same_bits(on_host(y), wanted)


def test_parts_of_k_are_added_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """By programs of their own and another kernel, or by one program: the same sums."""
    monkeypatch.setattr(linear_module, "num_splits", lambda num_out, num_blocks: 3)
    width = 256 * 4
    data = random_weights(QuantType.Q8_0, 20, width)
    x = np.random.default_rng(6).standard_normal((17, width)).astype(np.float32)
    with poisoned_memory():
        many = linear(LAUNCH, Rows(on_device(x)), packed(data, QuantType.Q8_0, width))
        few = linear(LAUNCH, Rows(on_device(x[:2])), packed(data, QuantType.Q8_0, width))
    exact = x.astype(np.float64) @ dequantize(data, QuantType.Q8_0).astype(np.float64).T
    np.testing.assert_allclose(on_host(many), exact, rtol=0, atol=1e-3 * np.abs(exact).max())
    np.testing.assert_allclose(on_host(few), on_host(many)[:2], rtol=0, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("arch", [0, 80, 86, 89, 90, 100, 120])
def test_few_and_many_rows_use_one_instruction(arch: int) -> None:
    """64 rows of weights and more are another instruction than fewer on sm_90 and sm_100."""
    for form in FORMATS.values():
        for num_out in (96, 4096, 40960):
            sizes = {linear_config(form, num_out, few, split, arch).outs >= 64 for few in (0, 1) for split in (0, 1)}
            assert len(sizes) == 1 or arch not in (90, 100), (arch, form)


def test_halves_of_hostile_rows() -> None:
    x = np.zeros((5, 32), np.float32)
    x[1, 5], x[2, :], x[3, :], x[4, 7] = 1e-44, 3.4e38, 65504.0, -1.0
    x[3, 1] = 1e-3
    check_half(half_rows(LAUNCH, on_device(x)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_float_weights(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(3)
    type = next(type for type, known in DTYPES.items() if known == dtype)
    x, w = normal(rng, 18, 700), torch.from_numpy(normal(rng, 13, 700)).to(dtype)
    matrix = CudaMatrix(w.to(DEVICE), type, (13, 700))
    exact = x.astype(np.float64) @ w.double().numpy().T
    many = on_host(linear(LAUNCH, Rows(on_device(x)), matrix))
    # How a matrix unit adds is its own affair.
    near = 3e-7 if DEVICE.type == "cpu" or dtype == torch.float32 else 2e-6
    np.testing.assert_allclose(many, exact, rtol=0, atol=near * np.abs(exact).max())
    with exact_dots():
        many = on_host(linear(LAUNCH, Rows(on_device(x)), matrix))
        x[2, 5] = np.nan
        for rows in ([0], [3, 2]):
            few = on_host(linear(LAUNCH, Rows(on_device(x[rows])), matrix))
            assert_same_bits(few[0], many[rows[0]])
            assert np.isnan(few[1:]).all()


@pytest.mark.parametrize("type", [QuantType.F16, QuantType.BF16], ids=lambda type: type.name)
def test_parts_of_k_of_float_weights(type: QuantType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By programs of their own and another kernel, or by one program: the same bits, and nothing is left out."""
    monkeypatch.setattr(linear_halves, "num_float_splits", lambda num_out, num_in: 3)
    rng = np.random.default_rng(7)
    x, w = normal(rng, 17, 5 * 64 + 40), torch.from_numpy(normal(rng, 20, 5 * 64 + 40)).to(DTYPES[type])
    matrix = CudaMatrix(w.to(DEVICE), type, (20, 360))
    with poisoned_memory(), exact_dots():
        many = on_host(linear(LAUNCH, Rows(on_device(x)), matrix))
        few = on_host(linear(LAUNCH, Rows(on_device(x[:2])), matrix))
    exact = x.astype(np.float64) @ w.double().numpy().T
    np.testing.assert_allclose(many, exact, rtol=0, atol=(3e-7 if DEVICE.type == "cpu" else 2e-6) * np.abs(exact).max())
    assert_same_bits(few, many[:2])


@pytest.mark.parametrize("type", [QuantType.F16, QuantType.BF16], ids=lambda type: type.name)
def test_float_weights_keep_large_and_small_inputs_of_a_row(type: QuantType) -> None:
    """Next to the largest number, what is 2^20 times smaller still has bits; and rows of any size are alike."""
    rng = np.random.default_rng(8)
    x = normal(rng, 2, 64) * np.float32(2.0) ** rng.integers(-20, 1, (2, 64)).astype(np.float32)
    w = torch.from_numpy(rng.integers(-8, 9, (16, 64)).astype(np.float32)).to(DTYPES[type])
    matrix = CudaMatrix(w.to(DEVICE), type, (16, 64))
    for scale in (1.0, 2.0**100, 2.0**-90):
        y = on_host(linear(LAUNCH, Rows(on_device(x * np.float32(scale))), matrix)).astype(np.float64) / scale
        exact = x.astype(np.float64) @ w.double().numpy().T
        assert np.abs(y - exact).max() < 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_embedded_rows_are_those_of_the_file(type: QuantType) -> None:
    width = {256: 256, 64: 64, 32: 32 * 3}[type.block_size]
    data = random_weights(type, 20, width)
    ids = np.array([17, 0], np.int32)
    y = embed(LAUNCH, packed(data, type, width), on_device(ids))
    assert_same_bits(on_host(y), dequantize(data, type)[ids])


@pytest.mark.parametrize(
    ("type", "shape"),
    [(QuantType.Q8_0, (2, 20, 32)), (QuantType.IQ2_XS, (2, 3, 256)), (QuantType.F16, (2, 3, 40))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_experts_are_loaded_into_tiles_of_their_own(type: QuantType, shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(4).integers(0, 256, type.nbytes(shape), np.uint8)
    with poisoned_memory():
        matrix = Loader(Device.open(), LAUNCH, 1).load(data, type, shape)
    assert matrix.shape == shape and matrix.nbytes == stored_nbytes(type, shape)
    rows = data.reshape(-1, type.row_bytes(shape[-1]))
    if matrix.format is None:
        np.testing.assert_array_equal(on_host(matrix.data.view(torch.uint8)), rows)
        return
    for expert in range(2):
        expected = pack(fields_of(rows[expert * shape[1] : (expert + 1) * shape[1]], type), matrix.format)
        tiles = matrix.data[expert * matrix.expert_tiles : (expert + 1) * matrix.expert_tiles]
        np.testing.assert_array_equal(on_host(tiles).view(np.uint32), expected)
