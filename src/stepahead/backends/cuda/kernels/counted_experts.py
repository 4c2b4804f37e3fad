"""How many experts each row of a pass makes it read that no earlier row did, over all of its layers at once."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COMPARED = 8192  # pairs of ids that a program compares in one turn


def counted_experts(
    launch: Launcher,
    ids: torch.Tensor,  # (layers, rows, padded top_k) int32, -1: none
    num_layers: int,  # of them
    num_rows: int,  # a power of two; later ones are left out
    added: torch.Tensor,  # (rows,) int32
    accumulate: bool,  # add to what `added` holds
) -> None:
    _, rows, padded_k = ids.shape
    launch(
        _counted_experts,
        (num_rows,),
        ids,
        added,
        NUM_LAYERS=num_layers,
        ROWS=rows,
        PADDED_K=padded_k,
        EARLIER=num_rows,
        LAYERS=max(1, COMPARED // (num_rows * padded_k * padded_k)),
        ACCUMULATE=accumulate,
    )


@triton.jit
def _counted_experts(
    ids,
    added,
    NUM_LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    PADDED_K: tl.constexpr,
    EARLIER: tl.constexpr,
    LAYERS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    row = tl.program_id(0)
    slots = tl.arange(0, PADDED_K)
    others = tl.arange(0, EARLIER * PADDED_K)
    total = tl.zeros((LAYERS,), tl.int32)
    for start in range(0, NUM_LAYERS, LAYERS):
        layers = start + tl.arange(0, LAYERS)[:, None]
        base = ids + layers * (ROWS * PADDED_K)
        exists = layers < NUM_LAYERS
        mine = tl.load(base + row * PADDED_K + slots[None, :], mask=exists, other=-1)
        earlier = tl.load(base + others[None, :], mask=exists & (others < row * PADDED_K)[None, :], other=-1)
        seen = tl.max((mine[:, :, None] == earlier[:, None, :]).to(tl.int32), axis=2)
        total += tl.sum(((mine >= 0) & (seen == 0)).to(tl.int32), axis=1)
    count = tl.sum(total, axis=0)
    if ACCUMULATE:
        count += tl.load(added + row)
    tl.store(added + row, count)


def compile_cases() -> tuple[CompileCase, ...]:
    return tuple(
        CompileCase(
            name=f"counted_experts {rows} rows",
            kernel=_counted_experts,
            types={"ids": "*i32", "added": "*i32"},
            constexprs={
                "NUM_LAYERS": 42,
                "ROWS": 32,
                "PADDED_K": 8,
                "EARLIER": rows,
                "LAYERS": max(1, COMPARED // (rows * 64)),
                "ACCUMULATE": False,
            },
            max_registers=128,
        )
        for rows in (4, 32)
    )
