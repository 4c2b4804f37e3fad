"""Of each head of queries or keys: the RMS norm, where there is one, and the rotation of its first dimensions."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.rope_table import RopeTable
from stepahead.backends.cuda.launch import Launcher

HEADS = 4  # of a program, a warp each


def qk_norm_rope(
    launch: Launcher, x: torch.Tensor, weight: torch.Tensor | None, eps: float, table: RopeTable, head_dim: int
) -> torch.Tensor:
    """x (num_rows, heads * head_dim), weight (1, head_dim); pairs are (j, j + num_rotated / 2)."""
    num_rows, width = x.shape
    out = torch.empty_like(x)
    num_heads = width // head_dim
    launch(
        _qk_norm_rope,
        (triton.cdiv(num_heads, HEADS), num_rows),
        x,
        x if weight is None else weight,
        table.cos,
        table.sin,
        out,
        eps,
        NUM_HEADS=num_heads,
        HEADS=HEADS,
        HEAD_DIM=head_dim,
        BLOCK=triton.next_power_of_2(head_dim),
        HALF=table.cos.shape[1],
        HAS_WEIGHT=weight is not None,
    )
    return out


@triton.jit
def _qk_norm_rope(
    x,
    weight,
    cos,
    sin,
    out,
    eps,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    heads = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, BLOCK)
    y = rotated(x, weight, cos, sin, row, heads, eps, NUM_HEADS, HEADS, HEAD_DIM, BLOCK, HALF, HAS_WEIGHT)
    exists = (heads[:, None] < NUM_HEADS) & (dims[None, :] < HEAD_DIM)
    tl.store(out + (row * NUM_HEADS + heads[:, None]) * HEAD_DIM + dims[None, :], y, mask=exists)


@triton.jit
def rotated(
    x,
    weight,
    cos,
    sin,
    row,
    heads,
    eps,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    """(HEADS, BLOCK), zeros behind a head's dimensions."""
    dims = tl.arange(0, BLOCK)
    exists = (heads[:, None] < NUM_HEADS) & (dims[None, :] < HEAD_DIM)
    is_first = dims < HALF
    is_rotated = dims < 2 * HALF
    partners = tl.where(is_first, dims + HALF, tl.where(is_rotated, dims - HALF, dims))
    at = (row * NUM_HEADS + heads[:, None]) * HEAD_DIM
    values = tl.load(x + at + dims[None, :], mask=exists, other=0.0)
    others = tl.load(x + at + partners[None, :], mask=exists, other=0.0)  # from the cache: they were read just now
    if HAS_WEIGHT:
        mean_square = tl.div_rn(tl.sum(values * values, axis=1), HEAD_DIM * 1.0)
        inverse = tl.div_rn(1.0, tl.sqrt_rn(mean_square + eps))[:, None]
        of_values = tl.load(weight + dims, mask=dims < HEAD_DIM, other=0.0)
        of_others = tl.load(weight + partners, mask=dims < HEAD_DIM, other=0.0)
        values = values * inverse * of_values[None, :]
        others = others * inverse * of_others[None, :]
    pairs = row * HALF + tl.where(is_first, dims, dims - HALF)
    c = tl.load(cos + pairs, mask=is_rotated, other=1.0)
    s = tl.load(sin + pairs, mask=is_rotated, other=0.0)
    turned = others * s[None, :]
    turned = tl.where(is_first[None, :], -turned, turned)
    y = tl.fma(values, tl.broadcast_to(c[None, :], (HEADS, BLOCK)), turned)
    return tl.where(is_rotated[None, :], y, values)


def compile_cases() -> tuple[CompileCase, ...]:
    types = dict.fromkeys(("x", "weight", "cos", "sin", "out"), "*fp32") | {"eps": "fp32"}
    return tuple(
        CompileCase(
            name=f"qk_norm_rope {heads} heads of 128, {2 * half} rotated",
            kernel=_qk_norm_rope,
            types=types,
            constexprs={
                "NUM_HEADS": heads,
                "HEADS": HEADS,
                "HEAD_DIM": 128,
                "BLOCK": 128,
                "HALF": half,
                "HAS_WEIGHT": True,
            },
            max_registers=96,
            has_wide_loads=True,
            required=("FFMA",),
        )
        for heads, half in ((64, 32), (8, 64))
    )
