"""Puts keys and values of a pass into the cache, in its type.

Where a head's value holds a number that is none, or none in the type, zeros are kept of it, and a key of NaN: so those
who see the position get NaN, and attention may multiply values that others do not see by 0.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import magnitude_bits
from stepahead.backends.cuda.kv import SCALED, KVBlocks
from stepahead.backends.cuda.launch import Launcher

INFINITY = tl.constexpr(0x7F800000)  # its bits
LIMITS = {"f16": 65520.0, "f32": float("inf"), "q8_0": 65520.0 * 127}
"""From there on a number is infinite in the type."""

HEADS = 4  # of a program, a warp each
TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2^23: added and taken away, it rounds to the nearest even integer


def kv_write(launch: Launcher, kv: KVBlocks, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
    """k, v (num_rows, kv_heads * head_dim); slots (num_rows,) int32: block * 64 + place in it, -1: not kept."""
    launch(
        _kv_write,
        (triton.cdiv(kv.num_kv_heads, HEADS), k.shape[0]),
        k,
        v,
        slots,
        *planes(kv),
        num_warps=HEADS,
        **kept_shape(kv.num_kv_heads, kv.head_dim, kv.kv_type),
    )


def planes(kv: KVBlocks) -> tuple[torch.Tensor, ...]:
    """As kernels take them: keys, values, and their scales or any tensors."""
    if kv.kv_type == "q8_0":
        return kv.keys, kv.values, kv.key_scales, kv.value_scales
    return kv.keys, kv.values, kv.keys, kv.values


def kept_shape(num_kv_heads: int, head_dim: int, kv_type: str) -> dict[str, int]:
    """The constants of `keep`."""
    return {
        "KV_HEADS": num_kv_heads,
        "HEADS": HEADS,
        "HEAD_DIM": head_dim,
        "BLOCK": triton.next_power_of_2(head_dim),
        "CHUNK": BLOCK_SIZE,
        "SCALED": SCALED,
        "LIMIT": int(np.float32(LIMITS[kv_type]).view(np.int32)),
    }


@triton.jit
def _kv_write(
    k,
    v,
    slots,
    keys,
    values,
    key_scales,
    value_scales,
    KV_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    SCALED: tl.constexpr,
    LIMIT: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    heads = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, BLOCK)
    at = (row * KV_HEADS + heads[:, None]) * HEAD_DIM + dims[None, :]
    exists = (heads[:, None] < KV_HEADS) & (dims[None, :] < HEAD_DIM)
    key = tl.load(k + at, mask=exists, other=0.0)
    value = tl.load(v + at, mask=exists, other=0.0)
    keep(
        key, value, keys, values, key_scales, value_scales, slot, heads,
        KV_HEADS, HEADS, HEAD_DIM, BLOCK, CHUNK, SCALED, LIMIT,
    )  # fmt: skip


@triton.jit
def keep(
    key,
    value,
    keys,
    values,
    key_scales,
    value_scales,
    slot,
    heads,
    KV_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    SCALED: tl.constexpr,
    LIMIT: tl.constexpr,
):
    """Store what is (HEADS, BLOCK), zeros behind a head's dimensions, at a slot."""
    is_broken = (tl.max(magnitude_bits(value), axis=1) >= LIMIT)[:, None]
    key = tl.where(is_broken, float("nan"), key)
    value = tl.where(is_broken, 0.0, value)
    dims = tl.arange(0, BLOCK)
    place = ((slot // CHUNK).to(tl.int64) * KV_HEADS + heads) * CHUNK + slot % CHUNK
    at = place[:, None] * HEAD_DIM + dims[None, :]
    exists = (heads[:, None] < KV_HEADS) & (dims[None, :] < HEAD_DIM)
    if keys.dtype.element_ty == tl.int8:
        groups = tl.arange(0, BLOCK // SCALED)
        of = place[:, None] * (HEAD_DIM // SCALED) + groups[None, :]
        has_scale = (heads[:, None] < KV_HEADS) & (groups[None, :] * SCALED < HEAD_DIM)
        key, scale = _quantised(key, HEADS, BLOCK, SCALED)
        tl.store(key_scales + of, scale, mask=has_scale)
        value, scale = _quantised(value, HEADS, BLOCK, SCALED)
        tl.store(value_scales + of, scale, mask=has_scale)
    tl.store(keys + at, key.to(keys.dtype.element_ty), mask=exists)
    tl.store(values + at, value.to(values.dtype.element_ty), mask=exists)


@triton.jit
def _quantised(x, HEADS: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr):
    """Codes, float32, and the scales of groups; NaN for a group with a number that is none or too large."""
    x = tl.reshape(x, (HEADS, BLOCK // SCALED, SCALED))
    peak_bits = tl.max(magnitude_bits(x), axis=2)
    most = tl.full((HEADS, BLOCK // SCALED), 127.0, tl.float32)
    scale = tl.div_rn(peak_bits.to(tl.float32, bitcast=True), most)
    is_broken = (peak_bits >= INFINITY) | (scale >= 65520.0)
    half = tl.where(is_broken, float("nan"), scale).to(tl.float16)
    is_some = (half > 0.0) & ~is_broken
    inverse = tl.where(is_some, tl.div_rn(1.0, tl.where(is_some, half.to(tl.float32), 1.0)), 0.0)
    codes = tl.where(is_broken[:, :, None], 0.0, x) * inverse[:, :, None]
    codes = (codes + TO_INTEGER) - TO_INTEGER
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0)
    return tl.reshape(codes, (HEADS, BLOCK)), half


def plane_types(kv_type: str) -> dict[str, str]:
    """Of the planes, in compile cases."""
    plane = {"f16": "*fp16", "f32": "*fp32", "q8_0": "*i8"}[kv_type]
    scale = "*fp16" if kv_type == "q8_0" else plane
    return {"keys": plane, "values": plane, "key_scales": scale, "value_scales": scale}


def compile_cases() -> tuple[CompileCase, ...]:
    return tuple(
        CompileCase(
            name=f"kv_write {kv_type}",
            kernel=_kv_write,
            types={"k": "*fp32", "v": "*fp32", "slots": "*i32"} | plane_types(kv_type),
            constexprs=kept_shape(8, 128, kv_type),
            num_warps=HEADS,
            max_registers=64,
            has_wide_loads=True,
        )
        for kv_type in LIMITS
    )
