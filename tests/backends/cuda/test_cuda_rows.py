"""Kernels that take rows and give rows."""

import numpy as np
import pytest

pytest.importorskip("triton")

from backends.cuda.kernel_cases import (
    LAUNCH,
    assert_same_bits,
    check_half,
    normal,
    on_device,
    on_host,
    poisoned_memory,
)
from stepahead.backends.cuda.kernels.add import add
from stepahead.backends.cuda.kernels.argmax import argmax
from stepahead.backends.cuda.kernels.concat import concat
from stepahead.backends.cuda.kernels.copy_rows import copy_rows
from stepahead.backends.cuda.kernels.gather_rows import gather_rows
from stepahead.backends.cuda.kernels.head_gate import head_gate
from stepahead.backends.cuda.kernels.rms_norm import add_rms_norm, rms_norm
from stepahead.backends.cuda.kernels.swiglu import swiglu
from stepahead.backends.reference.ops import ReferenceBackend

REFERENCE = ReferenceBackend()
EPS = 1e-5
NORM_BUDGET = 1e-6  # relative: the order of one sum, and four roundings
GATE_BUDGET = 2e-6  # relative: exp, and three roundings


@pytest.fixture(autouse=True)
def _poisoned():
    with poisoned_memory():
        yield


@pytest.mark.parametrize(("num_rows", "width"), [(1, 4096), (3, 300), (16, 64)])
def test_rms_norm_near_the_reference(num_rows: int, width: int) -> None:
    rng = np.random.default_rng(0)
    x, y, weight = normal(rng, num_rows, width), normal(rng, num_rows, width), 1 + normal(rng, 1, width)
    normed = rms_norm(LAUNCH, on_device(x), on_device(weight), EPS)
    np.testing.assert_allclose(on_host(normed.values), REFERENCE.rms_norm(x, weight, EPS), rtol=NORM_BUDGET)

    total, normed = add_rms_norm(LAUNCH, on_device(x), on_device(y), on_device(weight), EPS)
    assert_same_bits(on_host(total), x + y)
    alone = rms_norm(LAUNCH, total, on_device(weight), EPS)
    assert_same_bits(on_host(normed.values), on_host(alone.values), "fused and one by one")
    check_half(normed.half, on_host(normed.values))


def test_rows_of_a_norm_do_not_see_each_other() -> None:
    rng = np.random.default_rng(1)
    x, weight = normal(rng, 5, 96), on_device(normal(rng, 1, 96))
    x[0], x[2], x[4] = np.nan, 1e30, 1e-30
    x[2, 7] = np.inf
    with np.errstate(all="ignore"):
        whole = rms_norm(LAUNCH, on_device(x), weight, EPS)
        for row in (1, 3, 4):
            alone = rms_norm(LAUNCH, on_device(x[row : row + 1]), weight, EPS)
            assert_same_bits(on_host(alone.values)[0], on_host(whole.values)[row], f"row {row}")
            assert np.array_equal(on_host(alone.half.values)[0], on_host(whole.half.values)[row])
    assert np.isnan(on_host(whole.values)[0]).all()
    assert np.isnan(on_host(whole.half.values)[0, :96]).all()
    assert not on_host(whole.half.values)[:, 96:256].any()


def test_half_rows_of_hostile_magnitudes() -> None:
    gate = np.full((4, 40), 60.0, np.float32)  # whose sigmoid is 1
    up = normal(np.random.default_rng(2), 4, 40)
    up[0] *= np.float32(1e36 / 60)
    up[1] *= np.float32(1e-30)
    up[2] = 0.0
    up[3] = 0.0
    up[3, 5] = np.float32(1e-43)
    result = swiglu(LAUNCH, on_device(gate), on_device(up), 0.0, with_half=True)
    check_half(result.half, on_host(result.values))


def test_add_and_concat_and_rows_by_number() -> None:
    rng = np.random.default_rng(3)
    x, y = normal(rng, 3, 1030), normal(rng, 3, 70)
    x[1, 3], y[2] = np.inf, np.nan
    assert_same_bits(on_host(add(LAUNCH, on_device(x), on_device(x[::-1]))), x + x[::-1])
    assert_same_bits(on_host(concat(LAUNCH, on_device(x), on_device(y))), np.concatenate([x, y], axis=1))
    rows = np.array([2, 0, 2, 1], np.int32)
    assert_same_bits(on_host(gather_rows(LAUNCH, on_device(y), on_device(rows))), y[rows])
    assert gather_rows(LAUNCH, on_device(y), on_device(rows[:0])).shape == (0, 70)

    target = on_device(normal(rng, 5, 70))
    expected = on_host(target)
    expected[3:5] = y[1:3]
    copy_rows(LAUNCH, target, 3, on_device(y), 1, 2)
    assert_same_bits(on_host(target), expected)


@pytest.mark.parametrize("limit", [0.0, 7.0])
def test_swiglu_near_the_reference(limit: float) -> None:
    rng = np.random.default_rng(4)
    gate, up = 10 * normal(rng, 3, 1100), 10 * normal(rng, 3, 1100)
    plain = on_host(swiglu(LAUNCH, on_device(gate), on_device(up), limit).values)
    np.testing.assert_allclose(plain, REFERENCE.swiglu(gate, up, limit), rtol=GATE_BUDGET, atol=1e-30)
    both = swiglu(LAUNCH, on_device(gate), on_device(up), limit, with_half=True)
    assert_same_bits(on_host(both.values), plain)
    check_half(both.half, plain)


def test_swiglu_of_hostile_numbers() -> None:
    hostile = np.array([np.nan, np.inf, -np.inf, 300.0, -300.0, 65504.0, -0.0, 1e-42], np.float32)
    gate, up = (part.reshape(1, -1) for part in np.meshgrid(hostile, hostile))
    for limit in (0.0, 7.0):
        with np.errstate(all="ignore"):
            expected = REFERENCE.swiglu(gate, up, limit)
            actual = on_host(swiglu(LAUNCH, on_device(gate), on_device(up), limit).values)
        np.testing.assert_allclose(actual, expected, rtol=GATE_BUDGET, atol=1e-30)


def test_head_gate_near_the_reference() -> None:
    rng = np.random.default_rng(5)
    x, gate = normal(rng, 3, 12 * 32), 4 * normal(rng, 3, 12)
    result = head_gate(LAUNCH, on_device(x), on_device(gate), with_half=True)
    np.testing.assert_allclose(on_host(result.values), REFERENCE.head_gate(x, gate), rtol=GATE_BUDGET)
    check_half(result.half, on_host(result.values))
    plain = head_gate(LAUNCH, on_device(x), on_device(gate))
    assert_same_bits(on_host(plain.values), on_host(result.values))


def test_argmax_takes_the_lowest_of_the_best() -> None:
    x = normal(np.random.default_rng(6), 5, 5000)
    x[0, [7, 2048, 4999]] = 9.0  # in three tiles
    x[1] = np.nan
    x[2, 2047], x[2, 2048] = np.inf, np.inf
    x[3] = -np.inf
    x[3, 4444] = np.nan
    x[4, 2100:] = np.nan
    assert on_host(argmax(LAUNCH, on_device(x))).tolist() == REFERENCE.argmax(x).tolist()
    assert REFERENCE.argmax(x).tolist()[:4] == [7, 0, 2047, 0]
