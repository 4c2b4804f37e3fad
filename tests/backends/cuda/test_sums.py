"""A sum is computed by whoever wants it first: a norm on its way, or anyone else in a launch of its own."""

import numpy as np
import pytest

pytest.importorskip("triton")

from backends.cuda.kernel_cases import RNG_SEED, assert_same_bits, normal
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.rows import Rows

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
