"""The encoders against the decoders, simple rounding, and ggml's own quantiser where it is there."""

import ctypes
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepahead import _native
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf import GGUFFile, QuantType, dequantize, quantize
from stepahead.gguf.block_quants import Bytes, Floats
from stepahead.quantize.encoder import ENCODED_TYPES, encode

FLOATS = {QuantType.F32, QuantType.F16, QuantType.BF16}
TYPES = sorted(ENCODED_TYPES, key=lambda t: t.id)
BLOCKS = [t for t in TYPES if t not in FLOATS]
# What the decoder multiplies a half with at most, the smaller side: larger numbers need an infinite scale.
MOST = {
    "Q8_0": 127, "Q4_0": 7, "Q4_1": 1, "Q5_0": 15, "Q5_1": 1, "Q2_K": 15, "Q3_K": 31 * 3, "Q4_K": 63, "Q5_K": 63,
    "Q6_K": 127 * 31, "IQ4_NL": 113, "IQ4_XS": 31 * 113,
}  # fmt: skip
each_type = pytest.mark.parametrize("quant_type", TYPES, ids=lambda t: t.name)
each_block_type = pytest.mark.parametrize("quant_type", BLOCKS, ids=lambda t: t.name)


def gaussian(rows: int = 16, row: int = 512) -> Floats:
    return (np.random.default_rng(1).standard_normal((rows, row)) * 0.02).astype(np.float32)


def heavy_tailed(rows: int = 16, row: int = 512) -> Floats:
    return (np.random.default_rng(2).standard_t(3, (rows, row)) * 0.02).astype(np.float32)


def of_the_demo_model() -> Floats:
    """The sum of two matrices, of Q6_K and Q8_0: what either type can say exactly would be an easy task for it."""
    file = GGUFFile.open(Path(__file__).parents[2] / "src" / "stepahead" / "demo" / "demo.gguf")
    both = file.array("token_embd.weight")[:64] + file.array("output.weight")[:64]
    return np.ascontiguousarray(both.reshape(-1, 512))


TENSORS: dict[str, Callable[[], Floats]] = {
    "gaussian": gaussian,
    "heavy_tailed": heavy_tailed,
    "demo": of_the_demo_model,
}
each_tensor = pytest.mark.parametrize("tensor", TENSORS)


def importance_of(row: int) -> Floats:
    return np.exp(1.2 * np.random.default_rng(3).standard_normal(row)).astype(np.float32)


def error(values: Floats, made: Bytes, quant_type: QuantType, weights: Floats | None = None) -> float:
    squares = (dequantize(made, quant_type).astype(np.float64) - values) ** 2
    return float((squares if weights is None else squares * weights).mean())


# --- how good ---


def rounded(values: Floats, quant_type: QuantType) -> Floats:
    """What rounding gives: to the steps between the extremes of 32 (16) numbers, with scales that cost nothing."""
    bits = int(quant_type.name.lstrip("IQMXFP")[0]) if quant_type is not QuantType.MXFP4 else 4
    x = values.reshape(-1, 16 if quant_type in (QuantType.Q2_K, QuantType.Q3_K, QuantType.Q6_K) else 32)
    if quant_type in (QuantType.Q4_1, QuantType.Q5_1, QuantType.Q2_K, QuantType.Q4_K, QuantType.Q5_K):
        low = x.min(1, keepdims=True)
        step = (x.max(1, keepdims=True) - low) / np.float32((1 << bits) - 1)
    else:
        low = np.float32(0)
        step = np.abs(x).max(1, keepdims=True) / np.float32((1 << bits - 1) - 1)
    if quant_type is QuantType.MXFP4:
        step = np.exp2(np.ceil(np.log2(step)))
    nearest: Floats = np.rint((x - low) / step) * step + low
    return nearest.reshape(values.shape)


@each_block_type
@each_tensor
def test_better_than_rounding(quant_type: QuantType, tensor: str) -> None:
    values = TENSORS[tensor]()
    baseline = float(((rounded(values, quant_type).astype(np.float64) - values) ** 2).mean())
    assert error(values, encode(values, quant_type), quant_type) < baseline


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"])
@each_tensor
def test_better_than_the_simple_quantiser(name: str, tensor: str) -> None:
    values, quant_type = TENSORS[tensor](), QuantType[name]
    assert error(values, encode(values, quant_type), quant_type) < 0.97 * error(
        values, quantize(values, quant_type), quant_type
    )


Ggml = Callable[[Floats, QuantType, Floats | None], Bytes]


@pytest.fixture(scope="session")
def ggml() -> Ggml:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        pytest.skip("xllamacpp, whose library has ggml's quantiser, is not installed")
    libraries = sorted(Path(spec.origin).parent.glob("xllamacpp*.so"))
    if not libraries:
        pytest.skip("this build of xllamacpp has no library of a known name")
    library = ctypes.CDLL(str(libraries[0]))
    if not hasattr(library, "ggml_quantize_chunk"):
        pytest.skip("this build of xllamacpp does not export ggml_quantize_chunk")
    call = library.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    floats, number = ctypes.c_void_p, ctypes.c_int64
    call.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, number, number, number, floats]

    def run(values: Floats, quant_type: QuantType, weights: Floats | None) -> Bytes:
        rows, row = values.shape
        out = np.empty((rows, quant_type.row_bytes(row)), np.uint8)
        library.ggml_quantize_init(quant_type.id)
        at = None if weights is None else weights.ctypes.data
        assert call(quant_type.id, values.ctypes.data, out.ctypes.data, 0, rows, row, at) == out.nbytes
        return out

    return run


@each_block_type
@each_tensor
@pytest.mark.parametrize("weighted", [False, True])
def test_no_worse_than_ggml(ggml: Ggml, quant_type: QuantType, tensor: str, weighted: bool) -> None:
    values = TENSORS[tensor]()
    weights = importance_of(values.shape[-1]) if weighted else None
    theirs = error(values, ggml(values, quant_type, weights), quant_type, weights)
    ours = error(values, encode(values, quant_type, weights), quant_type, weights)
    # A tensor that is of the type already may be free of error.
    assert ours <= 1.02 * theirs + 1e-6 * float((values.astype(np.float64) ** 2).mean())


@each_block_type
def test_blocks_of_ggml_come_back(ggml: Ggml, quant_type: QuantType) -> None:
    """What a type can say exactly is said nearly exactly: encoding a file twice does not wear it out."""
    original = heavy_tailed()
    made = ggml(original, quant_type, None)
    values = dequantize(made, quant_type)
    for weights in (None, importance_of(values.shape[-1])):
        again = error(values, encode(values, quant_type, weights), quant_type)
        assert again < 0.03 * error(original, made, quant_type)


@each_block_type
@each_tensor
def test_importance_weighs(quant_type: QuantType, tensor: str) -> None:
    values = TENSORS[tensor]()
    weights = importance_of(values.shape[-1])
    plain, weighted = encode(values, quant_type), encode(values, quant_type, weights)
    gain = error(values, plain, quant_type, weights) / error(values, weighted, quant_type, weights)
    assert gain > (1.005 if quant_type is QuantType.MXFP4 else 1.03)
    assert error(values, weighted, quant_type) > error(values, plain, quant_type)


@each_block_type
def test_only_the_ratios_of_importance_matter(quant_type: QuantType) -> None:
    values, weights = heavy_tailed(), importance_of(512)
    for factor in (2.0**-90, 2.0**60):
        same = encode(values, quant_type, weights * np.float32(factor))
        assert np.array_equal(same, encode(values, quant_type, weights))


@each_block_type
def test_importance_may_be_zero(quant_type: QuantType) -> None:
    values, weights = gaussian(), importance_of(512)
    weights[::3] = 0
    ours = error(values, encode(values, quant_type, weights), quant_type, weights)
    assert ours < error(values, encode(values, quant_type), quant_type, weights)
    # Blocks whose columns all count for nothing are made as if they counted equally.
    nothing = encode(values, quant_type, np.zeros(512, np.float32))
    assert error(values, nothing, quant_type) < 1.05 * error(values, encode(values, quant_type), quant_type)


# --- the same bytes ---


@each_type
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_threads_rows_and_machines_do_not_matter(quant_type: QuantType, rows: int) -> None:
    values = heavy_tailed(rows, 4608)  # more than a thread takes at once
    for weights in (None, importance_of(4608)):
        expected = np.concatenate([encode(row[None], quant_type, weights, threads=1) for row in values])
        for threads in (1, 2, 5):
            assert np.array_equal(encode(values, quant_type, weights, threads), expected)
        for isa in _native.available_encoders():
            made, beyond = _native.encode(quant_type.id, values, weights, 2, isa)
            assert beyond == -1
            assert np.array_equal(made, expected), isa


def test_other_machines_do_not_matter() -> None:
    """A change of the search changes these; another compiler or processor must not."""
    odd = np.arange(1, 8 * 2048 * 2, 2, dtype=np.uint32) * np.uint32(2654435761)
    uniform = odd.view(np.int32).astype(np.float32) * np.float32(2.0**-31)
    values = (uniform * uniform * uniform).reshape(8, 2048)
    digest = hashlib.sha256()
    for quant_type in TYPES:
        for weights in (None, np.abs(uniform[:2048])):
            digest.update(encode(values, quant_type, weights).tobytes())
    assert digest.hexdigest()[:16] == "dcb8e86c4ab85a06"


@each_type
def test_shapes_and_dtypes(quant_type: QuantType) -> None:
    values = gaussian(6, 512).astype(np.float16).astype(np.float64)
    expected = encode(values.astype(np.float32), quant_type)
    assert np.array_equal(encode(values.reshape(2, 3, 512), quant_type).reshape(6, -1), expected)
    assert np.array_equal(encode(values.astype(np.float16), quant_type), expected)
    assert np.array_equal(encode(np.asfortranarray(values), quant_type), expected)
    assert encode(values[:0], quant_type).shape == (0, expected.shape[1])


# --- strange numbers ---


@each_type
def test_zeros(quant_type: QuantType) -> None:
    for zero in (0.0, -0.0):
        values = np.full((2, 512), zero, np.float32)
        for weights in (None, importance_of(512)):
            assert (dequantize(encode(values, quant_type, weights), quant_type) == 0).all()


@each_type
@pytest.mark.parametrize("value", [1.0, -1.0, 0.3, -4e-3])
def test_constants(quant_type: QuantType, value: float) -> None:
    values = np.full((2, 512), value, np.float32)
    for weights in (None, importance_of(512)):
        result = dequantize(encode(values, quant_type, weights), quant_type)
        # Powers of two; six bits of a scale beside levels that are no multiples of each other; halves.
        tolerance = {QuantType.MXFP4: 0.34, QuantType.IQ4_XS: 0.02}.get(quant_type, 4e-3)
        np.testing.assert_allclose(result, values, rtol=tolerance)


@each_block_type
def test_one_outlier(quant_type: QuantType) -> None:
    values = gaussian(2, 512)
    values[0, 100] = 50.0
    values[1, 7] = -50.0
    result = dequantize(encode(values, quant_type), quant_type)
    assert result[0, 100] == pytest.approx(50, rel=0.1)
    assert result[1, 7] == pytest.approx(-50, rel=0.1)
    untouched = slice(256, 512)
    plain = dequantize(encode(gaussian(2, 512), quant_type), quant_type)
    assert np.array_equal(result[:, untouched], plain[:, untouched])


@each_type
@pytest.mark.parametrize("size", [1e-45, 1e-39, 1e-30, 1e-12, 1e-8, 1e-7, 1e-6])
def test_small_numbers(quant_type: QuantType, size: float) -> None:
    values = (gaussian(4, 512) / np.float32(0.02) * np.float32(size)).astype(np.float32)
    for weights in (None, importance_of(512)):
        result = dequantize(encode(values, quant_type, weights), quant_type)
        assert np.isfinite(result).all()
        # Never worse than nothing at all, the least that a half can say apart.
        assert np.abs(result).max() <= 2 * np.abs(values).max() + 2.0**-24
        assert error(values, encode(values, quant_type), quant_type) <= float((values.astype(np.float64) ** 2).mean())


@each_block_type
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.999])
def test_large_numbers(quant_type: QuantType, fraction: float) -> None:
    most = float(np.finfo(np.float32).max) if quant_type is QuantType.MXFP4 else 65504.0 * MOST[quant_type.name]
    values = gaussian(4, 512)
    values *= np.float32(1 / np.abs(values).max())
    values *= np.float32(most * fraction)
    for weights in (None, importance_of(512)):
        result = dequantize(encode(values, quant_type, weights), quant_type).astype(np.float64)
        assert np.isfinite(result).all()
        assert ((result - values) ** 2).mean() < 0.2 * (values.astype(np.float64) ** 2).mean()


@each_type
def test_too_large(quant_type: QuantType) -> None:
    values = gaussian(4, 512).astype(np.float64)
    values[2, 300] = 1e39
    with pytest.raises(ConfigError, match=r"1e\+39 at \(2, 300\) is too large"):
        encode(values, quant_type)
    if quant_type.name in MOST:
        values[2, 300] = -1.001 * 65504 * MOST[quant_type.name]
        with pytest.raises(ConfigError, match=r"at \(2, 300\) is too large"):
            encode(values, quant_type)
        values[2, 300] *= 0.998
        assert np.isfinite(dequantize(encode(values, quant_type), quant_type)).all()


@each_type
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_value_that_is_no_number_is_named(quant_type: QuantType, value: float, threads: int) -> None:
    values = gaussian(40, 4608)
    values[3, 4500] = values[20, 17] = values[39, 4607] = value
    with pytest.raises(ConfigError, match=rf"{quant_type.name}: the value {value} at \(3, 4500\) is no number"):
        encode(values, quant_type, threads=threads)


def test_halves_and_bfloats_are_the_nearest() -> None:
    bits = np.random.default_rng(4).integers(0, 1 << 32, (64, 512), dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.isfinite(values) & (np.abs(values) < 3e38), values, np.float32(-0.0))
    assert np.array_equal(encode(values, QuantType.F32), np.ascontiguousarray(values).view(np.uint8))
    assert np.array_equal(encode(values, QuantType.BF16), quantize(values, QuantType.BF16))
    values = np.where(np.abs(values) < 65519, values, values.view(np.uint32).astype(np.float32) / np.float32(2**17))
    assert np.array_equal(encode(values, QuantType.F16), values.astype("<f2").view(np.uint8))
    assert encode(np.array([-0.0, 1.0], np.float32), QuantType.F16).tolist() == [0, 0x80, 0, 0x3C]


# --- callers' mistakes ---


def test_types_without_an_encoder() -> None:
    with pytest.raises(ConfigError, match=r"cannot encode IQ1_S; possible: BF16, F16, .*Q8_0"):
        encode(gaussian(), QuantType.IQ1_S)
    with pytest.raises(BackendError, match="tensor type 19 has no encoder"):
        _native.encode(19, gaussian(), None, 1)
    with pytest.raises(BackendError, match="no encoders for the instruction set sse9"):
        _native.encode(8, gaussian(), None, 1, "sse9")


def test_rows_that_are_not_whole_blocks() -> None:
    with pytest.raises(ConfigError, match="a row of 288 elements is not a multiple of the 256 of a Q4_K block"):
        encode(gaussian(2, 288), QuantType.Q4_K)
    with pytest.raises(ConfigError, match="takes rows"):
        encode(np.float32(1) * np.ones((), np.float32), QuantType.Q8_0)
    with pytest.raises(BackendError, match="rows of 288 are not whole blocks of 256"):
        _native.encode(QuantType.Q4_K.id, gaussian(2, 288), None, 1)


def test_importance_that_is_none() -> None:
    values, weights = gaussian(), importance_of(512)
    with pytest.raises(ConfigError, match=r"importance of shape \(256,\) for rows of 512"):
        encode(values, QuantType.Q8_0, weights[:256])
    for wrong in (-1.0, np.nan, np.inf):
        bad = weights.copy()
        bad[77] = wrong
        with pytest.raises(ConfigError, match=rf"importance {wrong} of column 77"):
            encode(values, QuantType.Q8_0, bad)
        with pytest.raises(BackendError, match="at 77"):
            _native.encode(QuantType.Q8_0.id, values, bad, 1)


def test_threads_that_are_none() -> None:
    with pytest.raises(ConfigError, match="threads=0"):
        encode(gaussian(), QuantType.Q8_0, threads=0)


def test_importance_belongs_to_columns() -> None:
    """Moving a column with its importance, within a block, moves its code."""
    values, weights = heavy_tailed(8, 32), importance_of(32)
    order = np.random.default_rng(5).permutation(32)
    moved = dequantize(encode(values[:, order], QuantType.Q4_0, weights[order]), QuantType.Q4_0)
    straight = dequantize(encode(values, QuantType.Q4_0, weights), QuantType.Q4_0)
    np.testing.assert_allclose(moved, straight[:, order], rtol=1e-6)
