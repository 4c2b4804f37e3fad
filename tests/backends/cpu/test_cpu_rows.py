"""Ops of the CPU backend on rows: embed, norms, rotation, elementwise, moving rows, argmax."""

import math

import numpy as np
import pytest
from cpu_cases import BEST, NATIVE_TYPES, assert_same_bits, normal, on_all, random_bytes, rows_alone

from stepahead.backends.base import Rope
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.errors import BackendError
from stepahead.gguf import QuantType, dequantize

REFERENCE = ReferenceBackend(int8_activations=True)
WIDTHS = [1, 5, 8, 33, 128, 4099]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize("type", list(QuantType), ids=lambda t: t.name)
def test_embed_is_dequantize(type: QuantType) -> None:
    data = random_bytes(np.random.default_rng(0), type, (19, 512))
    ids = ints(18, 0, 7, 7)
    y = on_all(lambda b: b.embed(b.load_matrix(data, type, (19, 512)), ids).numpy())
    assert_same_bits(y, dequantize(data, type)[ids])
    table = BEST.load_matrix(data, type, (19, 512))
    assert BEST.embed(table, ints()).shape == (0, 512)
    for bad in (-1, 19, 2**31 - 1):
        with pytest.raises(BackendError, match=str(bad)):
            BEST.embed(table, ints(0, bad))


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
def test_embed_of_any_bytes_is_dequantize(type: QuantType) -> None:
    data = np.random.default_rng(1).integers(0, 256, (256, type.row_bytes(256)), np.uint8)
    if type is QuantType.MXFP4:  # every exponent, the denormal ones and the largest too
        data.reshape(-1, 17)[::8, 0] = range(256)
    y = on_all(lambda b: b.embed(b.load_matrix(data, type, (256, 256)), np.arange(256, dtype=np.int32)).numpy())
    assert_same_bits(y, dequantize(data, type))


@pytest.mark.parametrize("type", [QuantType.F16, QuantType.BF16], ids=lambda t: t.name)
def test_every_16_bit_number(type: QuantType) -> None:
    data = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(16, -1)
    y = on_all(lambda b: b.embed(b.load_matrix(data, type, (16, 4096)), np.arange(16, dtype=np.int32)).numpy())
    assert_same_bits(y, dequantize(data, type))


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int) -> None:
    rng = np.random.default_rng(width)
    x, weight = 10 * normal(rng, 7, width), normal(rng, 1, width)
    y = on_all(lambda b: b.rms_norm(b.upload(x), b.load_vector(weight[0]), 1e-5).numpy())
    np.testing.assert_allclose(y, REFERENCE.rms_norm(x, weight, 1e-5), rtol=2e-6, atol=1e-6)
    rows_alone(lambda b, rows: b.rms_norm(b.upload(x[rows]), b.load_vector(weight[0]), 1e-5).numpy(), 7)


@pytest.mark.parametrize("width", WIDTHS)
def test_add_swiglu_concat(width: int) -> None:
    rng = np.random.default_rng(width)
    x, y = 3 * normal(rng, 5, width), 3 * normal(rng, 5, width)
    assert_same_bits(on_all(lambda b: b.add(b.upload(x), b.upload(y)).numpy()), x + y)
    for limit in (0.0, 1e-6, 0.5, 7.0):
        result = on_all(lambda b, limit=limit: b.swiglu(b.upload(x), b.upload(y), limit).numpy())
        np.testing.assert_allclose(result, REFERENCE.swiglu(x, y, limit), rtol=2e-6, atol=1e-6)
        rows_alone(lambda b, rows, limit=limit: b.swiglu(b.upload(x[rows]), b.upload(y[rows]), limit).numpy(), 5)
    joined = on_all(lambda b: b.concat(b.upload(x), b.upload(y[:, : width // 2])).numpy())
    assert_same_bits(joined, np.concatenate([x, y[:, : width // 2]], axis=1))


def test_exp_is_within_one_ulp_of_exact() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-104, 89, 200_000), rng.uniform(-1, 1, 100_000), np.arange(-120.0, 120.0, 0.125)])
    x = np.concatenate([x, [0.0, -0.0, 88.72283, 88.72284, -87.33655, -103.97208, -103.972084]]).astype(np.float32)
    y = on_all(lambda b: b._context.exp(b.upload(x[None])).numpy())[0]
    exact = np.exp(x.astype(np.float64))
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float32)
    finite = np.isfinite(nearest)
    assert (y[~finite] == np.inf).all()
    ulps = np.abs(y[finite] - exact[finite]) / np.spacing(nearest[finite])
    assert ulps.max() <= 1.0
    assert y[x == 0].tolist() == [1.0] * int((x == 0).sum())


def test_exp_and_sigmoid_beyond_the_numbers() -> None:
    special = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0]
    for shift in range(8):  # in the vector's body and in its tail
        x = np.array([special[shift:] + special[:shift] * 2], np.float32)
        y = on_all(lambda b, x=x: b._context.exp(b.upload(x)).numpy())
        with np.errstate(over="ignore"):
            assert_same_bits(y, np.exp(x.astype(np.float64)).astype(np.float32))
    gate = on_all(lambda b: b.head_gate(b.upload(np.ones((1, 14), np.float32)), b.upload(x[:, :7])).numpy())
    expected = [1 / (1 + math.exp(min(-v, 700))) if not math.isnan(v) else np.nan for v in x[0, :7].tolist()]
    np.testing.assert_allclose(gate[0, ::2], expected, atol=1e-7)


def test_swiglu_of_nan_and_inf() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 100.0, -100.0, 1.0, 3e38, -3e38], np.float32)
    gate, up = (grid.reshape(1, -1) for grid in np.meshgrid(values, values))
    for limit in (0.0, 7.0):
        y = on_all(lambda b, limit=limit: b.swiglu(b.upload(gate), b.upload(up), limit).numpy())
        assert np.isnan(y[np.isnan(gate) | np.isnan(up)]).all()


def test_head_gate() -> None:
    rng = np.random.default_rng(0)
    x, gate = normal(rng, 6, 12 * 20), 4 * normal(rng, 6, 12)
    y = on_all(lambda b: b.head_gate(b.upload(x), b.upload(gate)).numpy())
    np.testing.assert_allclose(y, REFERENCE.head_gate(x, gate), rtol=1e-6)
    rows_alone(lambda b, rows: b.head_gate(b.upload(x[rows]), b.upload(gate[rows])).numpy(), 6)


@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize(("head_dim", "rotated"), [(128, 128), (128, 64), (20, 12), (7, 6), (8, 0)])
def test_qk_norm_rope(has_weight: bool, head_dim: int, rotated: int) -> None:
    rng = np.random.default_rng(head_dim)
    x, weight = normal(rng, 5, 3 * head_dim), normal(rng, 1, head_dim)
    factors = None if rotated != 64 else (1 + rng.random(32)).astype(np.float32)
    rope, positions = Rope(rotated, 5e6, factors), ints(0, 1, 63, 511, 262143)

    def compute(b, rows=slice(None)):
        table = b.rope_table(rope, positions[rows])
        w = b.load_vector(weight[0]) if has_weight else None
        y = b.qk_norm_rope(b.upload(x[rows]), w, 1e-5, table, head_dim)
        return y.numpy() if hasattr(y, "numpy") else y

    w = weight if has_weight else None
    expected = REFERENCE.qk_norm_rope(x, w, 1e-5, REFERENCE.rope_table(rope, positions), head_dim)
    np.testing.assert_allclose(on_all(compute), expected, rtol=2e-6, atol=2e-6)
    rows_alone(compute, 5)


def test_gather_and_copy() -> None:
    x = normal(np.random.default_rng(0), 9, 33)
    rows = ints(8, 0, 0, 3)
    assert_same_bits(on_all(lambda b: b.gather_rows(b.upload(x), rows).numpy()), x[rows])
    assert BEST.gather_rows(BEST.upload(x), ints()).shape == (0, 33)

    def copied(b):
        target = b.zeros(5, 33)
        b.copy_rows(target, 1, b.upload(x), 5, 3)
        b.copy_rows(target, 5, b.upload(x), 9, 0)
        return target.numpy()

    expected = np.zeros((5, 33), np.float32)
    expected[1:4] = x[5:8]
    assert_same_bits(on_all(copied), expected)


def test_argmax() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (40, 300)).astype(np.float32)
    x[1], x[2], x[3] = -np.inf, np.nan, -0.0
    x[3, 7] = 0.0
    x[4] = np.nan
    x[4, [5, 9]] = -3.0
    x[5, 0] = np.nan
    x[6, 10] = np.inf
    y = on_all(lambda b: b.argmax(b.upload(x)))
    assert y.dtype == np.int32
    assert y.tolist() == np.where(np.isnan(x), -np.inf, x).argmax(axis=1).tolist()
    assert (y[1:5].tolist(), y[6]) == ([0, 0, 0, 5], 10)


def test_wrong_shapes_and_types_are_refused() -> None:
    b, x = BEST, BEST.zeros(2, 8)
    table = b.rope_table(Rope(8, 1e4), ints(0, 1))
    calls = {
        "rms_norm": lambda: b.rms_norm(x, b.zeros(1, 7), 1e-5),
        "weight": lambda: b.rms_norm(x, b.zeros(2, 8), 1e-5),
        "add": lambda: b.add(x, b.zeros(2, 9)),
        "concat": lambda: b.concat(x, b.zeros(3, 8)),
        "gather_rows": lambda: b.gather_rows(x, ints(0, 2)),
        "as wide": lambda: b.copy_rows(x, 0, b.zeros(2, 9), 0, 1),
        "2 rows from 1 of target": lambda: b.copy_rows(x, 1, b.zeros(2, 8), 0, 2),
        "1 rows from 3 of source": lambda: b.copy_rows(x, 0, b.zeros(2, 8), 3, 1),
        "same tensor": lambda: b.copy_rows(x, 0, x, 1, 1),
        "swiglu": lambda: b.swiglu(x, b.zeros(1, 16), 0.0),
        "head_gate": lambda: b.head_gate(x, b.zeros(2, 3)),
        "whole heads": lambda: b.qk_norm_rope(x, None, 1e-5, table, 3),
        "rotated": lambda: b.qk_norm_rope(x, None, 1e-5, table, 4),
        "rows beside": lambda: b.qk_norm_rope(b.zeros(3, 8), None, 1e-5, table, 8),
        "argmax": lambda: b.argmax(b.zeros(2, 0)),
        "float32": lambda: b.upload(np.zeros((1, 8))),
        "2-dimensional": lambda: b.upload(np.zeros(8, np.float32)),
        "1-dimensional": lambda: b.load_vector(np.zeros((1, 8), np.float32)),
        "int32": lambda: b.gather_rows(x, np.zeros(1, np.int64)),
        "more than any": lambda: b.zeros(2**41, 1),
    }
    for message, call in calls.items():
        with pytest.raises(BackendError, match=message):
            call()
    with pytest.raises(MemoryError):
        b.zeros(2**30, 2**20)
