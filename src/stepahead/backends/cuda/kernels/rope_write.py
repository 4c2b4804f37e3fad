"""Norm and rotation of queries and keys, and keys and values into the cache, all in one launch.

The same as qk_norm_rope of both and kv_write, with their bits: what is small is a launch, and these are three.
"""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.kv_write import HEADS, keep, kept_shape, plane_types, planes
from stepahead.backends.cuda.kernels.qk_norm_rope import rotated
from stepahead.backends.cuda.kernels.rope_table import RopeTable
from stepahead.backends.cuda.kv import KVBlocks
from stepahead.backends.cuda.launch import Launcher


def rope_write(
    launch: Launcher,
    kv: KVBlocks,
    k: torch.Tensor,  # (num_rows, kv_heads * head_dim), before norm and rotation
    v: torch.Tensor,
    k_weight: torch.Tensor | None,  # (1, head_dim)
    eps: float,
    table: RopeTable,
    slots: torch.Tensor,  # (num_rows,)
    q: torch.Tensor | None = None,  # (num_rows, heads * head_dim), before norm and rotation, too
    q_weight: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The rotated queries, where some are given."""
    num_rows = k.shape[0]
    num_heads = 0 if q is None else q.shape[1] // kv.head_dim
    out = None if q is None else torch.empty_like(q)
    launch(
        _rope_write,
        (triton.cdiv(num_heads, HEADS) + triton.cdiv(kv.num_kv_heads, HEADS), num_rows),
        k if q is None else q,
        k,
        v,
        k if q_weight is None else q_weight,
        k if k_weight is None else k_weight,
        table.cos,
        table.sin,
        slots,
        k if out is None else out,
        *planes(kv),
        eps,
        num_warps=HEADS,
        NUM_HEADS=num_heads,
        HALF=table.cos.shape[1],
        HAS_Q_WEIGHT=q_weight is not None,
        HAS_K_WEIGHT=k_weight is not None,
        **kept_shape(kv.num_kv_heads, kv.head_dim, kv.kv_type),
    )
    return out


@triton.jit
def _rope_write(
    q,
    k,
    v,
    q_weight,
    k_weight,
    cos,
    sin,
    slots,
    out,
    keys,
    values,
    key_scales,
    value_scales,
    eps,
    NUM_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HAS_Q_WEIGHT: tl.constexpr,
    HAS_K_WEIGHT: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    SCALED: tl.constexpr,
    LIMIT: tl.constexpr,
):
    QUERY_PROGRAMS: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    program = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    dims = tl.arange(0, BLOCK)
    if program < QUERY_PROGRAMS:
        heads = program * HEADS + tl.arange(0, HEADS)
        y = rotated(q, q_weight, cos, sin, row, heads, eps, NUM_HEADS, HEADS, HEAD_DIM, BLOCK, HALF, HAS_Q_WEIGHT)
        at = (row * NUM_HEADS + heads[:, None]) * HEAD_DIM + dims[None, :]
        tl.store(out + at, y, mask=(heads[:, None] < NUM_HEADS) & (dims[None, :] < HEAD_DIM))
    else:
        slot = tl.load(slots + row)
        if slot >= 0:
            heads = (program - QUERY_PROGRAMS) * HEADS + tl.arange(0, HEADS)
            key = rotated(k, k_weight, cos, sin, row, heads, eps, KV_HEADS, HEADS, HEAD_DIM, BLOCK, HALF, HAS_K_WEIGHT)
            at = (row * KV_HEADS + heads[:, None]) * HEAD_DIM + dims[None, :]
            value = tl.load(v + at, mask=(heads[:, None] < KV_HEADS) & (dims[None, :] < HEAD_DIM), other=0.0)
            keep(
                key, value, keys, values, key_scales, value_scales, slot, heads,
                KV_HEADS, HEADS, HEAD_DIM, BLOCK, CHUNK, SCALED, LIMIT,
            )  # fmt: skip


def compile_cases() -> tuple[CompileCase, ...]:
    rows = dict.fromkeys(("q", "k", "v", "q_weight", "k_weight", "cos", "sin"), "*fp32")
    return tuple(
        CompileCase(
            name=f"rope_write {num_heads} heads, {kv_type}",
            kernel=_rope_write,
            types=rows | {"slots": "*i32", "out": "*fp32"} | plane_types(kv_type) | {"eps": "fp32"},
            constexprs={"NUM_HEADS": num_heads, "HALF": 32, "HAS_Q_WEIGHT": True, "HAS_K_WEIGHT": True}
            | kept_shape(8, 128, kv_type),
            num_warps=HEADS,
            max_registers=128,
            has_wide_loads=True,
        )
        for kv_type, num_heads in (("f16", 64), ("f16", 0), ("q8_0", 96))
    )
