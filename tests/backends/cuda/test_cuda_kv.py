"""Keys and values in blocks: how they are written, and what the host does with blocks."""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from backends.cuda.kernel_cases import DEVICE, LAUNCH, assert_same_bits, normal, on_device, on_host, poisoned_memory
from stepahead.backends.base import AttentionRows
from stepahead.backends.cuda.kernels.kv_write import kv_write
from stepahead.backends.cuda.kernels.qk_norm_rope import qk_norm_rope
from stepahead.backends.cuda.kernels.rope_table import RopeTable
from stepahead.backends.cuda.kernels.rope_write import rope_write
from stepahead.backends.cuda.kv import KVBlocks
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.errors import BackendError

REFERENCE = ReferenceBackend()
KV_TYPES = ["f16", "f32", "q8_0"]


def poisoned_kv(num_blocks: int, heads: int, head_dim: int, kv_type: str) -> KVBlocks:
    with poisoned_memory():
        return KVBlocks(num_blocks, heads, head_dim, kv_type, DEVICE)


def stored(kv: KVBlocks) -> list[np.ndarray]:
    """Keys and values as float32, (num_blocks * 64, heads, head_dim)."""
    found = []
    for plane, scales in ((kv.keys, kv.key_scales), (kv.values, kv.value_scales)):
        numbers = on_host(plane).astype(np.float32)
        if kv.kv_type == "q8_0":
            numbers = numbers * np.repeat(on_host(scales).astype(np.float32), 32, axis=-1)
        found.append(numbers.transpose(0, 2, 1, 3).reshape(-1, kv.num_kv_heads, kv.head_dim))
    return found


def slots_only(slots: np.ndarray) -> AttentionRows:
    return AttentionRows(slots, slots, slots, slots.reshape(1, -1), slots)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 128), (1, 96), (3, 32)])
def test_what_is_written_has_the_bits_of_the_reference(kv_type: str, heads: int, head_dim: int) -> None:
    rng = np.random.default_rng(0)
    slots = np.array([64 + 5, 0, 191, 63], np.int32)
    k, v = normal(rng, 2, 4, heads * head_dim)
    k[1] *= 1e-6  # whose scale is no normal half
    k[2] = 0.0
    v[0] *= 300.0
    kv = poisoned_kv(3, heads, head_dim, kv_type)
    kv_write(LAUNCH, kv, on_device(k), on_device(v), on_device(slots))
    expected = REFERENCE.new_kv(3, heads, head_dim, kv_type)
    expected.k[:], expected.v[:] = np.nan, 0.0
    REFERENCE.kv_write(expected, k, v, slots_only(slots))
    for actual, wanted in zip(stored(kv), (expected.k, expected.v), strict=True):
        assert np.array_equal(actual, wanted.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_keys_that_do_not_fit(kv_type: str) -> None:
    k = np.ones((1, 128), np.float32)
    k[0, 3], k[0, 40], k[0, 70], k[0, 100] = np.nan, -np.inf, 65520.0 * 127, 65500.0 * 127
    kv = poisoned_kv(1, 1, 128, kv_type)
    with np.errstate(all="ignore"):
        kv_write(LAUNCH, kv, on_device(k), on_device(np.ones_like(k)), on_device(np.array([7], np.int32)))
        halves = k[0].astype(np.float16).astype(np.float32)
    key, value = (numbers[7, 0] for numbers in stored(kv))
    assert np.allclose(value, 1, rtol=0.01)
    if kv_type == "f32":
        assert np.array_equal(key, k[0], equal_nan=True)
    elif kv_type == "f16":
        assert np.array_equal(key, halves, equal_nan=True)
    else:
        assert np.isnan(key[:96]).all()
        assert key[100] == np.float16(65500.0) * np.float32(127)
        assert not key[101:].any()


@pytest.mark.parametrize(("kv_type", "largest"), [("f16", 65519.0), ("f32", 3.4e38), ("q8_0", 8321039.0)])
def test_values_that_do_not_fit_are_keys_of_nan(kv_type: str, largest: float) -> None:
    v = np.ones((4, 2 * 64))
    v[0, 3], v[1, 63], v[2, 0], v[3, 5] = np.nan, -np.inf, largest, min(1.2 * largest, np.inf)
    kv = poisoned_kv(1, 2, 64, kv_type)
    with np.errstate(all="ignore"):
        v = v.astype(np.float32)
        kv_write(LAUNCH, kv, on_device(np.ones_like(v)), on_device(v), on_device(np.arange(4, dtype=np.int32)))
    keys, values = (numbers[:4] for numbers in stored(kv))
    assert np.isnan(keys[[0, 1, 3], 0]).all()
    assert np.allclose(keys[:, 1], 1, rtol=0.01), "the other head"
    assert np.allclose(keys[2], 1, rtol=0.01)
    assert np.isfinite(values).all()
    assert not values[[0, 1, 3], 0].any()
    assert values[2, 0, 0] > 0.99 * largest


def test_memory_of_values_is_finite_from_the_start() -> None:
    kv = poisoned_kv(2, 1, 32, "q8_0")
    assert not on_host(kv.values).any()
    assert not on_host(kv.value_scales).any()


def test_a_row_without_a_slot_is_not_kept() -> None:
    kv = poisoned_kv(1, 1, 32, "f16")
    kv_write(LAUNCH, kv, *[on_device(np.ones((2, 32), np.float32))] * 2, on_device(np.array([-1, 3], np.int32)))
    keys = stored(kv)[0][:, 0]
    assert (keys[3] == 1).all()
    assert np.isnan(np.delete(keys, 3, axis=0)).all()
    assert not np.delete(stored(kv)[1][:, 0], 3, axis=0).any()


def test_a_slot_far_behind_is_found() -> None:
    """Beyond 2^31 elements, on memory that is reserved and, but for one page, never there."""
    kv = KVBlocks(1, 8, 128, "f16", DEVICE)
    kv.keys, kv.values = (torch.empty((40_000, 8, 64, 128), dtype=torch.float16, device=DEVICE) for _ in range(2))
    assert kv.keys.numel() > 2**31
    slot = 39_999 * 64 + 63
    k = normal(np.random.default_rng(1), 1, 8 * 128)
    kv_write(LAUNCH, kv, on_device(k), on_device(k), on_device(np.array([slot], np.int32)))
    assert np.array_equal(on_host(kv.values[39_999, :, 63]).reshape(1, -1), k.astype(np.float16))


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_blocks_are_copied_read_and_written(kv_type: str) -> None:
    kv = poisoned_kv(4, 2, 64, kv_type)
    k, v = normal(np.random.default_rng(2), 2, 4, 128)
    kv_write(LAUNCH, kv, on_device(k), on_device(v), on_device(np.array([64, 70, 104, 127], np.int32)))
    kv.copy(1, 3)
    for numbers in stored(kv):
        assert np.array_equal(numbers[64:128], numbers[192:], equal_nan=True)
        assert not np.nan_to_num(numbers[:64]).any()
    data = kv.read(3, 40)
    assert data.dtype == np.uint8
    assert data.shape == (kv.nbytes // 4,)
    kv.write(0, data)
    for numbers in stored(kv):
        assert np.array_equal(numbers[:40], numbers[64:104], equal_nan=True)
        assert not numbers[40:64].any()
    assert np.array_equal(kv.read(0, 64), data)
    with pytest.raises(BackendError, match="a block has"):
        kv.write(0, data[1:])
    with pytest.raises(BackendError, match="there are 4 blocks"):
        kv.copy(0, 4)


def test_types_that_are_none_are_refused() -> None:
    with pytest.raises(BackendError, match="'f17' is unknown"):
        KVBlocks(1, 1, 64, "f17", DEVICE)
    with pytest.raises(BackendError, match="use 'f16'"):
        KVBlocks(1, 1, 48, "q8_0", DEVICE)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "has_weights"), [(6, 2, 64, True), (5, 5, 96, False)])
def test_one_launch_has_the_bits_of_three(
    kv_type: str, heads: int, kv_heads: int, head_dim: int, has_weights: bool
) -> None:
    rng = np.random.default_rng(4)
    table = RopeTable(*(on_device(part) for part in normal(rng, 2, 3, 16)))
    q = on_device(normal(rng, 3, heads * head_dim))
    k, v = (on_device(numbers) for numbers in normal(rng, 2, 3, kv_heads * head_dim))
    q_weight, k_weight = (on_device(part) if has_weights else None for part in normal(rng, 2, 1, head_dim))
    slots = on_device(np.array([70, -1, 3], np.int32))
    one, three, keys_only = (poisoned_kv(2, kv_heads, head_dim, kv_type) for _ in range(3))
    with poisoned_memory():
        turned = rope_write(LAUNCH, one, k, v, k_weight, 1e-5, table, slots, q, q_weight)
        assert rope_write(LAUNCH, keys_only, k, v, k_weight, 1e-5, table, slots) is None
        kv_write(LAUNCH, three, qk_norm_rope(LAUNCH, k, k_weight, 1e-5, table, head_dim), v, slots)
        expected = qk_norm_rope(LAUNCH, q, q_weight, 1e-5, table, head_dim)
    assert_same_bits(on_host(turned), on_host(expected))
    for plane, wanted, other in zip(one.planes, three.planes, keys_only.planes, strict=True):
        for found in (plane, other):
            assert np.array_equal(on_host(found), on_host(wanted), equal_nan=True)
