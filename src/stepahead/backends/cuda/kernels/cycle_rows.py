"""The inputs of one pass of a cycle, from where its sequences stand: a pass of the trunk or of a head."""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.cycle_tensors import MAX_DEPTH, RING, CycleTensors
from stepahead.backends.cuda.launch import Launcher

TRUNK = -1
"""Instead of a head's number."""

NO_WINDOW = 1 << 30


def cycle_rows(
    launch: Launcher,
    state: CycleTensors,
    head: int,
    tables: torch.Tensor,  # (at least n, width) of one KV group
    window: int | None,  # of that group
    inputs: Mapping[str, torch.Tensor],
    sources: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    """Fill `inputs` with depth + 1 rows of each sequence, as ForwardBatch and AttentionRows have them.

    Of the trunk: the last committed token and all of the draft. Of a head: from its next row to that of the newest
    token, of which alone it chooses the next one; then padding, which repeats it and keeps nothing. Rows are numbered
    in rings of n * RING: sources, those that a head reads; targets, where its outputs go, -1: nowhere. A sequence that
    stands still keeps nothing, and one that has no block for a row is stopped.
    """
    launch(
        _cycle_rows,
        (state.num_sequences,),
        state.running,
        state.position,
        state.next_row,
        state.first_key,
        state.token_ids,
        tables,
        *(inputs[name] for name in ("token_ids", "positions", "sequences", "first_keys", "slots", "logit_rows")),
        inputs["sample_positions"],
        sources,
        targets,
        head,
        state.num_sequences,
        state.depth + 1,
        tables.shape[1],
        window or NO_WINDOW,
        num_warps=1,
        IS_TRUNK=head == TRUNK,
        PADDED=MAX_DEPTH + 1,
        RING=RING,
        BLOCK=BLOCK_SIZE,
    )


@triton.jit(do_not_specialize=["head", "num_sequences", "num_rows", "width", "window"])
def _cycle_rows(
    running,
    position,
    next_row,
    first_key,
    ring,
    tables,
    token_ids,
    positions,
    sequences,
    first_keys,
    slots,
    logit_rows,
    sample_positions,
    sources,
    targets,
    head,
    num_sequences,
    num_rows,
    width,
    window,
    IS_TRUNK: tl.constexpr,
    PADDED: tl.constexpr,
    RING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sequence = tl.program_id(0)
    at = tl.load(position + sequence)
    if IS_TRUNK:
        first, last, lowest = at, at + num_rows - 1, 0
    else:
        first, last = tl.load(next_row + head * num_sequences + sequence), at + head
        lowest = tl.load(first_key + head * num_sequences + sequence)
    number = tl.arange(0, PADDED)
    exists = number < num_rows
    place = tl.minimum(first + number, last)
    has_entry = exists & (place // BLOCK < width)
    block = tl.load(tables + sequence * width + place // BLOCK, mask=has_entry, other=-1)
    runs = (tl.load(running + sequence) != 0) & (tl.min(tl.where(exists, block, 0), 0) >= 0)
    tl.store(running + sequence, runs.to(tl.int32))
    is_kept = runs & (first + number <= last)
    in_ring = sequence * RING
    row = sequence * num_rows + number
    tl.store(token_ids + row, tl.load(ring + in_ring + place % RING, mask=exists, other=0), mask=exists)
    tl.store(positions + row, place, mask=exists)
    tl.store(sequences + row, tl.where(runs, sequence, -1), mask=exists)
    tl.store(first_keys + row, tl.maximum(lowest, place - window + 1), mask=exists)
    tl.store(slots + row, tl.where(is_kept, block * BLOCK + place % BLOCK, -1), mask=exists)
    tl.store(targets + row, tl.where(is_kept, in_ring + place % RING, -1), mask=exists)
    if IS_TRUNK:
        tl.store(logit_rows + row, row, mask=exists)
        tl.store(sample_positions + row, (place + 1).to(tl.int64), mask=exists)
    else:
        tl.store(sources + row, in_ring + (place + RING - 1) % RING, mask=exists)
        tl.store(logit_rows + sequence, sequence * num_rows + last - first)
        tl.store(sample_positions + sequence, (last + 1).to(tl.int64))


def compile_cases() -> tuple[CompileCase, ...]:
    names = ("running", "position", "next_row", "first_key", "ring", "tables", "token_ids", "positions", "sequences")
    types = dict.fromkeys((*names, "first_keys", "slots", "logit_rows"), "*i32")
    types |= {"sample_positions": "*i64", "sources": "*i32", "targets": "*i32"}
    types |= dict.fromkeys(("head", "num_sequences", "num_rows", "width", "window"), "i32")
    return tuple(
        CompileCase(
            name=f"cycle_rows of {name}",
            kernel=_cycle_rows,
            types=types,
            constexprs={"IS_TRUNK": is_trunk, "PADDED": MAX_DEPTH + 1, "RING": RING, "BLOCK": BLOCK_SIZE},
            num_warps=1,
            max_registers=64,
        )
        for name, is_trunk in (("the trunk", True), ("a head", False))
    )
