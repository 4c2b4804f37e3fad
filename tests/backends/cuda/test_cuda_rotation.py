"""cos and sin of positions, and the rotation of heads."""

import numpy as np
import pytest

pytest.importorskip("triton")

from backends.cuda.kernel_cases import LAUNCH, assert_same_bits, normal, on_device, on_host, poisoned_memory
from stepahead.backends.base import Rope
from stepahead.backends.cuda.kernels.qk_norm_rope import qk_norm_rope
from stepahead.backends.cuda.kernels.rope_table import inverse_frequencies, rope_table
from stepahead.backends.reference.ops import ReferenceBackend

REFERENCE = ReferenceBackend()
TABLE_BUDGET = 6e-8  # absolute: one step of float32 below 1
ROTATION_BUDGET = 3e-6  # absolute, of normed heads whose elements are below 16
POSITIONS = np.array([0, 1, 63, 4096, 262143], np.int32)


@pytest.mark.parametrize(
    "rope", [Rope(64, 5e6), Rope(128, 1e4, np.linspace(1, 8, 64, dtype=np.float32)), Rope(12, 1e4)]
)
def test_rope_table_near_the_reference(rope: Rope) -> None:
    frequencies = inverse_frequencies(rope, on_device(POSITIONS).device)
    with poisoned_memory():
        table = rope_table(LAUNCH, frequencies, on_device(POSITIONS))
    expected = REFERENCE.rope_table(rope, POSITIONS)
    for actual, wanted in ((table.cos, expected.cos), (table.sin, expected.sin)):
        np.testing.assert_allclose(on_host(actual), wanted, rtol=0, atol=TABLE_BUDGET)
        assert (on_host(actual) == wanted).mean() > 0.98


@pytest.mark.parametrize(("heads", "head_dim", "num_rotated"), [(3, 128, 64), (8, 64, 64), (5, 96, 96), (2, 16, 8)])
@pytest.mark.parametrize("has_weight", [True, False])
def test_qk_norm_rope_near_the_reference(heads: int, head_dim: int, num_rotated: int, has_weight: bool) -> None:
    rng = np.random.default_rng(0)
    rope = Rope(num_rotated, 1e4)
    x, weight = normal(rng, 5, heads * head_dim), 1 + 0.1 * normal(rng, 1, head_dim)
    x[3] = np.nan
    table = rope_table(LAUNCH, inverse_frequencies(rope, on_device(x).device), on_device(POSITIONS))
    with poisoned_memory():
        y = on_host(
            qk_norm_rope(LAUNCH, on_device(x), on_device(weight) if has_weight else None, 1e-5, table, head_dim)
        )
    expected = REFERENCE.qk_norm_rope(
        x, weight if has_weight else None, 1e-5, REFERENCE.rope_table(rope, POSITIONS), head_dim
    )
    np.testing.assert_allclose(y, expected, rtol=0, atol=ROTATION_BUDGET)
    last = rope_table(LAUNCH, inverse_frequencies(rope, on_device(x).device), on_device(POSITIONS[4:]))
    alone = qk_norm_rope(LAUNCH, on_device(x[4:]), on_device(weight) if has_weight else None, 1e-5, last, head_dim)
    assert_same_bits(on_host(alone), y[4:], "a row alone")
