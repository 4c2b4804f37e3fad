"""A sum is computed by whoever wants it first: a norm on its way, or anyone else in a launch of its own."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("triton")

from backends.cuda.kernel_cases import (
    DEVICE,
    RNG_SEED,
    assert_same_bits,
    check_half,
    normal,
    on_device,
    on_host,
    poisoned_memory,
)
from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.kernels import linear
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.split_sums import SplitSums
from stepahead.backends.cuda.sums import SumRows
from stepahead.gguf.quants import QuantType

BACKEND = CudaBackend()


def names(launches) -> list[str]:
    return [launch.kernel.fn.__name__ for launch in launches]


@pytest.fixture
def operands() -> tuple[np.ndarray, np.ndarray, Rows]:
    rng = np.random.default_rng(RNG_SEED)
    return normal(rng, 3, 96), normal(rng, 3, 96), BACKEND.load_vector(normal(rng, 96))


def test_a_norm_adds_up_on_its_way(operands) -> None:
    x, y, weight = operands
    with BACKEND.launch.record() as recording:
        total = BACKEND.add(BACKEND.upload(x), BACKEND.upload(y))
        normed = BACKEND.rms_norm(total, weight, 1e-5)
        again = BACKEND.rms_norm(total, weight, 1e-5)
        BACKEND.add(total, total)
    assert names(recording.launches) == ["_rms_norm", "_rms_norm"]
    assert_same_bits(BACKEND.download(total), x + y)
    expected = BACKEND.download(BACKEND.rms_norm(BACKEND.upload(x + y), weight, 1e-5))
    assert_same_bits(BACKEND.download(normed), expected)
    assert_same_bits(BACKEND.download(again), expected)
    assert normed.half is not None


def test_others_add_up_once(operands) -> None:
    x, y, _ = operands
    with BACKEND.launch.record() as recording:
        total = BACKEND.add(BACKEND.upload(x), BACKEND.upload(y))
        assert total.shape == (3, 96)
        picked = BACKEND.gather_rows(total, np.array([2], np.int32))
        both = BACKEND.concat(total, total)
    assert names(recording.launches) == ["_add", "_gather_rows", "_concat"]
    assert_same_bits(BACKEND.download(picked), (x + y)[2:])
    assert_same_bits(BACKEND.download(both), np.concatenate([x + y, x + y], axis=1))


def outputs_of_experts(num_rows: int, width: int, has_shared: bool) -> ExpertOutputs:
    """Three a row. Pairs without an expert, and weights of no row, are NaN."""
    rng, top_k = np.random.default_rng(num_rows), 3
    routing = Routing.empty(num_rows, top_k, DEVICE)
    routing.weights.fill_(np.nan)
    routing.weights[:num_rows, :top_k] = on_device(rng.random((num_rows, top_k), np.float32))
    parts = np.full((num_rows, routing.padded_top_k, width), np.nan, np.float32)
    parts[:, :top_k] = normal(rng, num_rows, top_k, width)
    shared = on_device(normal(rng, num_rows, width)) if has_shared else None
    return ExpertOutputs(on_device(parts.reshape(-1, width)), routing, shared)


def split_sums(num_rows: int, width: int) -> SplitSums:
    rng = np.random.default_rng(num_rows)
    exponents = np.float32(2) ** rng.integers(-9, 9, num_rows).astype(np.float32)
    return SplitSums(on_device(normal(rng, 4, num_rows, width)), on_device(exponents))


KINDS = {
    "experts": (partial(outputs_of_experts, has_shared=False), "_moe_combine"),
    "and shared": (partial(outputs_of_experts, has_shared=True), "_moe_combine"),
    "parts": (split_sums, "_sum_splits"),
}


@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_rows", "width"), [(1, 4096), (3, 300), (16, 64), (40, 96)])
def test_a_norm_adds_up_what_is_not_summed(num_rows: int, width: int, kind: str, has_residual: bool) -> None:
    """With the bits of the sum, the sum with the row and its norm, one by one."""
    rng, (make, kernel) = np.random.default_rng(RNG_SEED), KINDS[kind]
    unsummed, weight = make(num_rows, width), BACKEND.load_vector(normal(rng, width))
    x = BACKEND.upload(normal(rng, num_rows, width))
    with poisoned_memory(), BACKEND.launch.record() as recording:
        total = SumRows(BACKEND.launch, None, unsummed)
        if has_residual:
            total = BACKEND.add(x, total)
        normed = BACKEND.rms_norm(total, weight, 1e-5)
        assert total.shape == total.values.shape == (num_rows, width)
    assert names(recording.launches) == [f"{kernel}_norm"]

    alone = SumRows(BACKEND.launch, None, unsummed)
    with BACKEND.launch.record() as recording:
        expected = Rows(alone.values)
        if has_residual:
            expected = Rows(BACKEND.add(x, expected).values)
        expected_norm = BACKEND.rms_norm(expected, weight, 1e-5)
    assert names(recording.launches) == [kernel, *["_add"] * has_residual, "_rms_norm"]
    assert_same_bits(on_host(total.values), on_host(expected.values))
    assert_same_bits(on_host(normed.values), on_host(expected_norm.values))
    check_half(normed.half, on_host(normed.values))
    for name in ("values", "exponents"):
        mine, theirs = (on_host(getattr(rows.half, name)) for rows in (normed, expected_norm))
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_summed_is_added_up_once_by_others(kind: str) -> None:
    make, kernel = KINDS[kind]
    x = BACKEND.upload(normal(np.random.default_rng(RNG_SEED), 3, 96))
    with BACKEND.launch.record() as recording:
        alone = SumRows(BACKEND.launch, None, make(3, 96))
        assert alone.shape == (3, 96)
        total = BACKEND.add(x, alone)
        whole = BACKEND.download(total).copy()
        assert BACKEND.download(total).tobytes() == whole.tobytes()
    assert names(recording.launches) == [kernel]
    with BACKEND.launch.record() as recording:
        own = BACKEND.download(alone).copy()
        BACKEND.add(alone, alone)
        again = BACKEND.add(x, alone)
        twice = BACKEND.add(again, total)
    assert names(recording.launches) == [kernel, "_add"]
    assert_same_bits(whole, BACKEND.download(x) + own)
    assert_same_bits(BACKEND.download(again), whole)
    assert_same_bits(BACKEND.download(twice), whole + whole)


def test_a_product_of_few_rows_leaves_its_parts_to_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of few rows have the bits of those among many, whose parts one program adds up."""
    monkeypatch.setattr(linear, "num_splits", lambda num_out, num_blocks: 3)
    rng, type = np.random.default_rng(RNG_SEED), QuantType.Q8_0
    weights = rng.integers(0, 256, (96, type.row_bytes(256 * 3)), np.uint8)
    weights.reshape(-1, type.block_bytes)[:, :2] = np.array([0.25], np.float16).view(np.uint8)  # so that sums are exact
    matrix, weight = BACKEND.load_matrix(weights, type, (96, 256 * 3)), BACKEND.load_vector(normal(rng, 96))
    x, residual = rng.integers(-8, 9, (20, 256 * 3)).astype(np.float32), normal(rng, 20, 96)
    x[:, 0] = 8.0  # so that all have one exponent
    found = {}
    for count, expected in ((20, "_rms_norm"), (2, "_sum_splits_norm")):
        rows = BACKEND.upload(x[:count])
        with BACKEND.launch.record() as recording:
            total = BACKEND.add(BACKEND.upload(residual[:count]), BACKEND.linear(rows, matrix))
            normed = BACKEND.rms_norm(total, weight, 1e-5)
        assert names(recording.launches)[-2:] == ["_linear", expected]
        found[count] = [BACKEND.download(rows)[:2].tobytes() for rows in (total, normed)]
    assert found[2] == found[20]
