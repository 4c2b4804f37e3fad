"""A sum is computed by whoever wants it first: a norm on its way, or anyone else in a launch of its own."""

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
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.sums import ExpertSums

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


def outputs_of_experts(num_rows: int, width: int, has_shared: bool, top_k: int = 3) -> ExpertOutputs:
    """Pairs without an expert, and weights of no row, are NaN."""
    rng = np.random.default_rng(num_rows)
    routing = Routing.empty(num_rows, top_k, DEVICE)
    routing.weights.fill_(np.nan)
    routing.weights[:num_rows, :top_k] = on_device(rng.random((num_rows, top_k), np.float32))
    parts = np.full((num_rows, routing.padded_top_k, width), np.nan, np.float32)
    parts[:, :top_k] = normal(rng, num_rows, top_k, width)
    shared = on_device(normal(rng, num_rows, width)) if has_shared else None
    return ExpertOutputs(on_device(parts.reshape(-1, width)), routing, shared)


@pytest.mark.parametrize("has_shared", [False, True])
@pytest.mark.parametrize(("num_rows", "width"), [(1, 4096), (3, 300), (16, 64), (40, 96)])
def test_a_norm_adds_up_experts_on_its_way(num_rows: int, width: int, has_shared: bool) -> None:
    """With the bits of their sum, the sum with the row and its norm, one by one."""
    rng = np.random.default_rng(RNG_SEED)
    experts = outputs_of_experts(num_rows, width, has_shared)
    x, weight = BACKEND.upload(normal(rng, num_rows, width)), BACKEND.load_vector(normal(rng, width))
    with poisoned_memory(), BACKEND.launch.record() as recording:
        total = BACKEND.add(x, ExpertSums(BACKEND.launch, experts))
        normed = BACKEND.rms_norm(total, weight, 1e-5)
        assert total.shape == total.values.shape == (num_rows, width)
    assert names(recording.launches) == ["_moe_combine_norm"]

    alone = ExpertSums(BACKEND.launch, experts)
    with BACKEND.launch.record() as recording:
        expected = BACKEND.add(x, Rows(alone.values))
        expected_norm = BACKEND.rms_norm(Rows(expected.values), weight, 1e-5)
    assert names(recording.launches) == ["_moe_combine", "_add", "_rms_norm"]
    assert_same_bits(on_host(total.values), on_host(expected.values))
    assert_same_bits(on_host(normed.values), on_host(expected_norm.values))
    check_half(normed.half, on_host(normed.values))
    for name in ("values", "exponents"):
        mine, theirs = (on_host(getattr(rows.half, name)) for rows in (normed, expected_norm))
        assert mine.tobytes() == theirs.tobytes()


def test_experts_are_added_up_once_by_others() -> None:
    experts = outputs_of_experts(3, 96, True)
    x = BACKEND.upload(normal(np.random.default_rng(RNG_SEED), 3, 96))
    with BACKEND.launch.record() as recording:
        sums = ExpertSums(BACKEND.launch, experts)
        assert sums.shape == (3, 96)
        total = BACKEND.add(x, sums)
        whole = BACKEND.download(total).copy()
        assert BACKEND.download(total).tobytes() == whole.tobytes()
    assert names(recording.launches) == ["_moe_combine"]
    with BACKEND.launch.record() as recording:
        alone = BACKEND.download(sums).copy()
        BACKEND.add(sums, sums)
        again = BACKEND.add(x, sums)
    assert names(recording.launches) == ["_moe_combine"]
    assert sums.shape == (3, 96)
    assert_same_bits(whole, BACKEND.download(x) + alone)
    assert_same_bits(BACKEND.download(again), whole)
