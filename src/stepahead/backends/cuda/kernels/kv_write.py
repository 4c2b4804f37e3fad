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

TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2^23: added and taken away, it rounds to the nearest even integer


def kv_write(launch: Launcher, kv: KVBlocks, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
    """k, v (num_rows, kv_heads * head_dim); slots (num_rows,) int32: block * 64 + place in it, -1: not kept."""
    is_q8_0 = kv.kv_type == "q8_0"
    launch(
        _kv_write,
        (kv.num_kv_heads, k.shape[0]),
        k,
        v,
        slots,
        kv.keys,
        kv.values,
        kv.key_scales if is_q8_0 else kv.keys,
        kv.value_scales if is_q8_0 else kv.values,
        num_warps=1,
        KV_HEADS=kv.num_kv_heads,
        HEAD_DIM=kv.head_dim,
        GROUPS=triton.next_power_of_2(triton.cdiv(kv.head_dim, SCALED)),
        BLOCK_SIZE=BLOCK_SIZE,
        SCALED=SCALED,
        IS_Q8_0=is_q8_0,
        LIMIT=_bits(LIMITS[kv.kv_type]),
    )


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.int32))


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
    HEAD_DIM: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SCALED: tl.constexpr,
    IS_Q8_0: tl.constexpr,
    LIMIT: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    block = (slot // BLOCK_SIZE).to(tl.int64)
    place = (block * KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE
    source = (row * KV_HEADS + head) * HEAD_DIM
    groups = tl.arange(0, GROUPS)
    dims = groups[:, None] * SCALED + tl.arange(0, SCALED)[None, :]
    exists = dims < HEAD_DIM
    key = tl.load(k + source + dims, mask=exists, other=0.0)
    value = tl.load(v + source + dims, mask=exists, other=0.0)
    is_broken = magnitude_bits(value) >= LIMIT
    is_broken = tl.max(tl.max(is_broken.to(tl.int32), axis=1), axis=0) > 0
    key = tl.where(is_broken, float("nan"), key)
    value = tl.where(is_broken, 0.0, value)
    if IS_Q8_0:
        of = place * (HEAD_DIM // SCALED) + groups
        has_scale = groups * SCALED < HEAD_DIM
        key, scale = _quantised(key, GROUPS)
        tl.store(key_scales + of, scale, mask=has_scale)
        value, scale = _quantised(value, GROUPS)
        tl.store(value_scales + of, scale, mask=has_scale)
    at = place * HEAD_DIM + dims
    tl.store(keys + at, key.to(keys.dtype.element_ty), mask=exists)
    tl.store(values + at, value.to(values.dtype.element_ty), mask=exists)


@triton.jit
def _quantised(x, GROUPS: tl.constexpr):
    """Codes of a group, float32, and its scale; NaN for a group with a number that is none or too large."""
    peak_bits = tl.max(magnitude_bits(x), axis=1)
    scale = tl.div_rn(peak_bits.to(tl.float32, bitcast=True), tl.full((GROUPS,), 127.0, tl.float32))
    is_broken = (peak_bits >= INFINITY) | (scale >= 65520.0)
    half = tl.where(is_broken, float("nan"), scale).to(tl.float16)
    is_some = (half > 0.0) & ~is_broken
    inverse = tl.where(is_some, tl.div_rn(1.0, tl.where(is_some, half.to(tl.float32), 1.0)), 0.0)
    codes = tl.where(is_broken[:, None], 0.0, x) * inverse[:, None]
    codes = (codes + TO_INTEGER) - TO_INTEGER
    return tl.minimum(tl.maximum(codes, -127.0), 127.0), half


def compile_cases() -> tuple[CompileCase, ...]:
    types = {"k": "*fp32", "v": "*fp32", "slots": "*i32"}
    planes = {"f16": "*fp16", "f32": "*fp32", "q8_0": "*i8"}
    return tuple(
        CompileCase(
            name=f"kv_write {kv_type}",
            kernel=_kv_write,
            types=types
            | {"keys": plane, "values": plane}
            | dict.fromkeys(("key_scales", "value_scales"), "*fp16" if kv_type == "q8_0" else plane),
            constexprs={
                "KV_HEADS": 8,
                "HEAD_DIM": 128,
                "GROUPS": 4,
                "BLOCK_SIZE": BLOCK_SIZE,
                "SCALED": SCALED,
                "IS_Q8_0": kv_type == "q8_0",
                "LIMIT": _bits(LIMITS[kv_type]),
            },
            num_warps=1,
            max_registers=64,
            has_wide_loads=True,
        )
        for kv_type, plane in planes.items()
    )
