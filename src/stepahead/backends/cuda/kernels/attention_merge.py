"""Puts together what attention found in the splits of a row's keys, in ascending order."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

HEADS = 4  # of a program, a warp each
AT_ONCE = 4  # splits whose loads are under way together


def attention_merge(
    launch: Launcher,
    parts: torch.Tensor,  # (num_rows, heads, max_splits, head_dim) float32: sums of weighted values
    stats: torch.Tensor,  # (num_rows, heads, max_splits, 2): largest score in powers of two, sum of weights
    positions: torch.Tensor,
    first_keys: torch.Tensor,
    sequences: torch.Tensor,
    split_keys: int,
    sum_scale: float,  # of what is in `parts`
) -> torch.Tensor:
    """(num_rows, heads * head_dim); of the splits that a row does not see, nothing is read."""
    num_rows, num_heads, max_splits, head_dim = parts.shape
    out = torch.empty((num_rows, num_heads * head_dim), dtype=torch.float32, device=parts.device)
    launch(
        _attention_merge,
        (triton.cdiv(num_heads, HEADS), num_rows),
        parts,
        stats,
        positions,
        first_keys,
        sequences,
        out,
        max_splits,
        NUM_HEADS=num_heads,
        HEADS=HEADS,
        HEAD_DIM=head_dim,
        BLOCK=triton.next_power_of_2(head_dim),
        SPLIT_KEYS=split_keys,
        AT_ONCE=AT_ONCE,
        SUM_SCALE=sum_scale,
    )
    return out


@triton.jit
def merged(best, total, acc, part_best, part_total, part_acc):
    """Two parts of a softmax as one; a part that saw no key (-Inf, 0, 0) changes no bit."""
    new_best = tl.maximum(best, part_best)
    safe = tl.where(new_best == float("-inf"), 0.0, new_best)
    old = tl.exp2(best - safe)
    new = tl.exp2(part_best - safe)
    return new_best, total * old + part_total * new, acc * old[:, None] + part_acc * new[:, None]


@triton.jit
def mixed(total, acc, sees_keys, SUM_SCALE: tl.constexpr):
    """The mean of the values; zeros for a row without keys. Adding 0 leaves one kind of zero."""
    inverse = tl.div_rn(1.0 / SUM_SCALE, tl.where(sees_keys, total, 1.0))
    y = acc * inverse[:, None] + 0.0
    return tl.where(sees_keys[:, None], y, 0.0)


@triton.jit(do_not_specialize=["max_splits"])
def _attention_merge(
    parts,
    stats,
    positions,
    first_keys,
    sequences,
    out,
    max_splits,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    SUM_SCALE: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    heads = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, BLOCK)
    at = row * NUM_HEADS + heads
    first = tl.load(first_keys + row)
    last = tl.load(positions + row)
    start = first // SPLIT_KEYS
    end = tl.where((tl.load(sequences + row) >= 0) & (last >= first), last // SPLIT_KEYS + 1, start)
    best = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    acc = tl.zeros((HEADS, BLOCK), tl.float32)
    for base in range(start, end, AT_ONCE):
        for step in tl.static_range(AT_ONCE):
            split = base + step
            exists = heads < tl.where(split < end, NUM_HEADS, 0)
            place = at * max_splits + split
            part_best = tl.load(stats + 2 * place, mask=exists, other=float("-inf"))
            part_total = tl.load(stats + 2 * place + 1, mask=exists, other=0.0)
            wanted = exists[:, None] & (dims < HEAD_DIM)[None, :]
            part = tl.load(parts + place[:, None] * HEAD_DIM + dims[None, :], mask=wanted, other=0.0)
            best, total, acc = merged(best, total, acc, part_best, part_total, part)
    sees_keys = heads < tl.where(start < end, NUM_HEADS, 0)
    y = mixed(total, acc, sees_keys, SUM_SCALE)
    exists = (heads < NUM_HEADS)[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(out + at[:, None] * HEAD_DIM + dims[None, :], y, mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    floats = dict.fromkeys(("parts", "stats"), "*fp32")
    ints = dict.fromkeys(("positions", "first_keys", "sequences"), "*i32")
    return (
        CompileCase(
            name="attention_merge 64 heads of 128",
            kernel=_attention_merge,
            types=floats | ints | {"out": "*fp32", "max_splits": "i32"},
            constexprs={
                "NUM_HEADS": 64,
                "HEADS": HEADS,
                "HEAD_DIM": 128,
                "BLOCK": 128,
                "SPLIT_KEYS": 512,
                "AT_ONCE": AT_ONCE,
                "SUM_SCALE": 32768.0,
            },
            max_registers=128,
            has_wide_loads=True,
        ),
    )
