"""The simple quantisers: how close they come, and what they refuse."""

import numpy as np
import pytest

import gguf as oracle
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, dequantize, quantize

# Root mean square error on standard normal numbers, rounded up; our own round trip, nobody else's bound.
RMS_BUDGET = {
    QuantType.F32: 0,
    QuantType.F16: 0.0003,
    QuantType.BF16: 0.002,
    QuantType.Q8_0: 0.006,
    QuantType.Q6_K: 0.020,
    QuantType.Q5_K: 0.040,
    QuantType.Q4_K: 0.080,
    QuantType.Q4_0: 0.090,
}
TYPES = pytest.mark.parametrize("quant_type", RMS_BUDGET, ids=lambda t: t.name)


@TYPES
def test_round_trip_stays_within_the_budget(quant_type):
    values = np.random.default_rng(0).standard_normal((16, 2, 512)).astype(np.float32)
    data = quantize(values, quant_type)
    assert data.dtype == np.uint8
    assert data.shape == (16, 2, quant_type.row_bytes(512))
    error = np.sqrt(((dequantize(data, quant_type) - values) ** 2).mean())
    assert error <= RMS_BUDGET[quant_type]


@TYPES
def test_zeros_stay_zeros_and_rows_are_independent(quant_type):
    values = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    values[2] = 0
    data = quantize(values, quant_type)
    assert not dequantize(data[2], quant_type).any()
    assert np.array_equal(data[3], quantize(values[3], quant_type))


@TYPES
def test_signs_offsets_and_tiny_values_keep_their_side(quant_type):
    # All positive, all negative, and so small that the binary16 scale is subnormal or zero: never NaN, never a flip.
    base = np.random.default_rng(2).uniform(1, 2, (1, 512)).astype(np.float32)
    for factor in (1, -1, 1e-7, -1e-7, 1e-30):
        found = dequantize(quantize(base * np.float32(factor), quant_type), quant_type)
        assert np.isfinite(found).all()
        assert (found * factor >= 0).all()


def test_bf16_rounds_as_the_oracle():
    bits = np.random.default_rng(3).integers(0, 1 << 32, 4096, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.abs(values) < 3e38]
    assert np.array_equal(
        quantize(values, QuantType.BF16), oracle.quants.quantize(values, oracle.GGMLQuantizationType.BF16)
    )


@TYPES
def test_values_that_are_not_finite_are_refused(quant_type):
    for bad in (np.inf, -np.inf, np.nan):
        values = np.ones((1, 256), np.float32)
        values[0, 7] = bad
        with pytest.raises(ConfigError, match=f"cannot quantize to {quant_type.name}: a value is Inf or NaN"):
            quantize(values, quant_type)


@pytest.mark.parametrize("quant_type", [t for t in RMS_BUDGET if t is not QuantType.F32], ids=lambda t: t.name)
def test_values_too_large_are_refused(quant_type):
    with pytest.raises(ConfigError, match=f"cannot quantize to {quant_type.name}: a value is too large"):
        quantize(np.full((1, 256), np.finfo(np.float32).max), quant_type)


def test_other_types_and_odd_rows_are_refused():
    with pytest.raises(ConfigError, match=r"cannot quantize to IQ2_S; possible: F32, F16, BF16, Q8_0"):
        quantize(np.zeros((1, 256), np.float32), QuantType.IQ2_S)
    with pytest.raises(ConfigError, match=r"a row of 100 elements is not a multiple of the 256"):
        quantize(np.zeros((1, 100), np.float32), QuantType.Q6_K)
    with pytest.raises(ConfigError, match="takes rows, got a scalar"):
        quantize(np.array(1.0), QuantType.F32)
