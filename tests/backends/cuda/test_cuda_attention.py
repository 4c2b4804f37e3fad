"""Attention over blocks: against the reference, and the same bits whatever lies beside a row.

Where bits are compared, products in the interpreter are exact: those of BLAS depend on where a row lies.
"""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from backends.cuda.exact_dots import exact_dots
from backends.cuda.kernel_cases import DEVICE, LAUNCH, assert_same_bits, normal, on_device, on_host, poisoned_memory
from stepahead.backends.base import AttentionRows
from stepahead.backends.cuda.kernels import attention as module
from stepahead.backends.cuda.kernels.attention import attention
from stepahead.backends.cuda.kernels.kv_write import kv_write
from stepahead.backends.cuda.kv import KVBlocks
from stepahead.backends.reference.ops import ReferenceBackend

REFERENCE = ReferenceBackend()
BUDGETS = {"f32": 1e-5, "f16": 2e-3, "q8_0": 3e-3}
"""Absolute, for values of a standard deviation of 1 and scores of 3: queries and weights have eleven bits, and so have
the keys and values of q8_0; of f32 all have theirs."""

# Two sequences over shuffled blocks. 1,100 positions are three splits.
TABLES = np.full((2, 18), -1, np.int32)
TABLES[0] = np.random.default_rng(3).permutation(18)
TABLES[1, :3] = [20, 18, 19]
LENGTHS = (1100, 150)
NUM_BLOCKS = 21


def rows_of(positions, first_keys, sequences) -> AttentionRows:
    positions, first_keys, sequences = (np.array(a, np.int32) for a in (positions, first_keys, sequences))
    slots = TABLES[sequences, positions // 64] * 64 + positions % 64
    return AttentionRows(positions, first_keys, sequences, TABLES, slots.astype(np.int32))


def some(rows: AttentionRows, numbers) -> AttentionRows:
    return AttentionRows(
        rows.positions[numbers], rows.first_keys[numbers], rows.sequences[numbers], TABLES, rows.slots[numbers]
    )


class Cache:
    """The same keys and values in the reference's memory and on the device; of the latter the rest is NaN, 9 or 1e4."""

    def __init__(self, heads: int, head_dim: int, kv_type: str) -> None:
        rng = np.random.default_rng(1)
        shape = (NUM_BLOCKS * 64, heads * head_dim)
        k, v = normal(rng, 2, *shape)
        self.expected = REFERENCE.new_kv(NUM_BLOCKS, heads, head_dim, kv_type)
        slots = np.arange(shape[0], dtype=np.int32)
        REFERENCE.kv_write(self.expected, k, v, AttentionRows(slots, slots, slots, TABLES, slots))
        with poisoned_memory():
            self.kv = KVBlocks(NUM_BLOCKS, heads, head_dim, kv_type, DEVICE)
        self.kv.values.fill_(9)
        self.kv.value_scales.fill_(1e4)
        known = [TABLES[s, p // 64] * 64 + p % 64 for s, length in enumerate(LENGTHS) for p in range(length)]
        self._put(k, v, np.array(known))

    def _put(self, k: np.ndarray, v: np.ndarray, slots: np.ndarray) -> None:
        """As kv_write does, which takes a program a row: too slow here, for a whole cache."""
        kv = self.kv
        for rows, plane, scales in ((k, kv.keys, kv.key_scales), (v, kv.values, kv.value_scales)):
            numbers = rows[slots].reshape(len(slots), kv.num_kv_heads, kv.head_dim)
            if kv.kv_type == "q8_0":
                groups = numbers.reshape(*numbers.shape[:2], -1, 32)
                scale = (np.abs(groups).max(axis=-1) / np.float32(127)).astype(np.float16)
                inverse = np.divide(1, scale.astype(np.float32), out=np.zeros_like(scale, np.float32), where=scale > 0)
                groups = np.clip(np.rint(groups * inverse[..., None]), -127, 127)
                scales[slots // 64, :, slots % 64] = on_device(scale)
                plane[slots // 64, :, slots % 64] = on_device(groups.reshape(numbers.shape)).to(plane.dtype)
            else:
                plane[slots // 64, :, slots % 64] = on_device(numbers).to(plane.dtype)

    def attend(self, q: np.ndarray, rows: AttentionRows, scale: float, **options) -> np.ndarray:
        with poisoned_memory():
            arrays = (rows.positions, rows.first_keys, rows.sequences, rows.block_tables)
            return on_host(attention(LAUNCH, on_device(q), self.kv, *map(on_device, arrays), scale, **options))


MIXED = rows_of(
    [0, 1, 130, 131, 62, 63, 64, 149, 149, 699, 700, 701, 1087],
    [0, 0, 0, 0, 0, 63, 64, 0, 140, 188, 189, 190, 512],
    [0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0],
)


@pytest.mark.parametrize(
    ("kv_type", "heads", "group", "head_dim"),
    [("f16", 1, 12, 128), ("f16", 2, 3, 16), ("q8_0", 1, 2, 96), ("q8_0", 1, 1, 32), ("f32", 2, 3, 64)],
)
def test_attention_near_the_reference(kv_type: str, heads: int, group: int, head_dim: int) -> None:
    cache = Cache(heads, head_dim, kv_type)
    q = 3 * normal(np.random.default_rng(0), len(MIXED.positions), heads * group * head_dim)
    y = cache.attend(q, MIXED, head_dim**-0.5)
    expected = REFERENCE.attention(q, cache.expected, MIXED, head_dim**-0.5)
    np.testing.assert_allclose(y, expected, rtol=0, atol=BUDGETS[kv_type])


@pytest.mark.parametrize(("kv_type", "group"), [("f16", 12), ("q8_0", 3), ("f32", 3)])
def test_a_row_has_its_bits_wherever_it_lies(kv_type: str, group: int) -> None:
    cache = Cache(1, 32, kv_type)
    q = 2 * normal(np.random.default_rng(0), len(MIXED.positions), group * 32)
    with exact_dots():
        whole = cache.attend(q, MIXED, 0.2)
        for numbers in ([12], [8, 3, 0, 11], [9, 10]):
            assert_same_bits(cache.attend(q[numbers], some(MIXED, numbers), 0.2), whole[numbers], f"{numbers}")


def test_where_splits_are_put_together_changes_no_bit(monkeypatch) -> None:
    cache = Cache(1, 32, "f16")
    rows = some(MIXED, [12, 7])
    q = normal(np.random.default_rng(0), 2, 4 * 32)
    parted = cache.attend(q, rows, 0.125)
    assert_same_bits(cache.attend(q, rows, 0.125, window=1024), parted, "in one program")
    monkeypatch.setattr(module, "PROGRAMS", 1)
    assert_same_bits(cache.attend(q, rows, 0.125), parted, "one program for all splits")


def test_a_prompt_in_chunks() -> None:
    """More rows than splits are parted for, against the same rows a few at a time."""
    cache = Cache(1, 32, "f16")
    positions = np.arange(500, 540)
    rows = rows_of(positions, np.maximum(positions - 100, 0), np.zeros(40))
    q = 2 * normal(np.random.default_rng(0), 40, 2 * 32)
    with exact_dots():
        whole = cache.attend(q, rows, 0.2)
        for numbers in (np.arange(0, 13), np.arange(13, 14), np.arange(14, 40)):
            assert_same_bits(cache.attend(q[numbers], some(rows, numbers), 0.2), whole[numbers], f"{numbers[0]}")


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("kv_type", BUDGETS)
def test_what_is_no_number_reaches_those_who_see_it(kv_type: str) -> None:
    cache = Cache(1, 32, kv_type)
    k, v = normal(np.random.default_rng(2), 2, 3, 32)
    v[0, 7], v[1, 8], k[2, 9] = np.nan, np.inf, np.nan
    at = rows_of([10, 20, 30], [0, 0, 0], [0, 0, 0])
    with np.errstate(all="ignore"):
        kv_write(LAUNCH, cache.kv, on_device(k), on_device(v), on_device(at.slots))
        rows = rows_of([9, 10, 19, 25, 30, 40, 9], [0, 5, 11, 20, 21, 31, 0], [0] * 7)
        q = normal(np.random.default_rng(0), 7, 2 * 32)
        q[6] = np.nan
        y = cache.attend(q, rows, 0.2)
    assert np.isfinite(y[[0, 2, 5]]).all()
    assert np.isnan(y[[1, 3, 4, 6]]).all()


def test_rows_that_are_not_there_get_zeros() -> None:
    cache = Cache(1, 32, "f16")
    rows = some(MIXED, [0, 2, 3, 5])
    rows.sequences[[0, 2]] = -1
    q = normal(np.random.default_rng(0), 4, 2 * 32)
    for options in ({}, {"window": 600}):
        y = cache.attend(q, rows, 0.2, **options)
        assert not y[[0, 2]].any()
        assert np.isfinite(y).all()
        assert y[[1, 3]].all()


def test_queries_of_hostile_magnitudes() -> None:
    cache = Cache(1, 32, "f16")
    q = normal(np.random.default_rng(0), 3, 32)
    rows = some(MIXED, [2, 3, 9])
    scaled = q * np.array([[1e30], [1e-30], [3e5]], np.float32)
    y = np.concatenate(
        [cache.attend(scaled[i : i + 1], some(rows, [i]), s) for i, s in enumerate((0.2e-30, 0.2e30, 0.2 / 3e5))]
    )
    np.testing.assert_allclose(y, REFERENCE.attention(q, cache.expected, rows, 0.2), rtol=0, atol=1e-3)


def test_a_replay_sees_what_changed_since() -> None:
    """Lengths and tables are read where they lie: nothing of them is in the recording."""
    cache = Cache(1, 32, "f16")
    q = normal(np.random.default_rng(0), 2, 2 * 32)
    arrays = [on_device(np.array(a, np.int32)) for a in ([3, 4], [0, 0], [1, 1], TABLES)]
    with LAUNCH.record() as recording:
        out = attention(LAUNCH, on_device(q), cache.kv, *arrays, 0.2)
    arrays[0].copy_(torch.tensor([1087, 149], dtype=torch.int32))
    arrays[2].copy_(torch.tensor([0, 1], dtype=torch.int32))
    recording.replay()
    assert_same_bits(on_host(out), cache.attend(q, rows_of([1087, 149], [0, 0], [0, 1]), 0.2))
