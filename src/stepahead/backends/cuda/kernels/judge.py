"""Which draft tokens the target would have chosen itself, and where the next cycle begins: speculative/verify.py."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.cycle_tensors import RING, CycleTensors
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import power_of_two


def judge(launch: Launcher, state: CycleTensors, chosen: torch.Tensor) -> None:
    """chosen: (n * (depth + 1),) int32 of each sequence the target's choice after its last committed token and after
    each draft token, -1 where it is left to the host: a sequence that gets there stands still from then on."""
    num_rows = state.depth + 1
    launch(
        _judge,
        (state.num_sequences,),
        state.running,
        state.position,
        state.next_row,
        state.token_ids,
        state.recorded_start,
        state.recorded_count,
        state.recorded_ids,
        chosen,
        state.record,
        num_warps=1,
        NUM_SEQUENCES=state.num_sequences,
        NUM_ROWS=num_rows,
        PADDED=power_of_two(num_rows),
        RING=RING,
        MAX_RECORDED=state.recorded_ids.shape[1],
    )


@triton.jit
def _judge(
    running,
    position,
    next_row,
    ring,
    recorded_start,
    recorded_count,
    recorded_ids,
    chosen,
    record,
    NUM_SEQUENCES: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    PADDED: tl.constexpr,
    RING: tl.constexpr,
    MAX_RECORDED: tl.constexpr,
):
    DEPTH: tl.constexpr = NUM_ROWS - 1
    sequence = tl.program_id(0)
    at = tl.load(position + sequence)
    number = tl.arange(0, PADDED)
    choice = tl.load(chosen + sequence * NUM_ROWS + number, mask=number < NUM_ROWS, other=-1)
    entry = at + 1 + number - tl.load(recorded_start + sequence)
    is_recorded = (number < NUM_ROWS) & (entry >= 0) & (entry < tl.load(recorded_count + sequence))
    recorded = tl.load(recorded_ids + sequence * MAX_RECORDED + entry, mask=is_recorded, other=0)
    choice = tl.where(is_recorded, recorded, choice)
    own = record + sequence * (3 * DEPTH + 2)
    draft = tl.load(own + NUM_ROWS + 1 + number, mask=number < DEPTH, other=-2)
    accepted = tl.min(tl.where(choice == draft, NUM_ROWS, number), 0)
    last = tl.sum(tl.where(number == accepted, choice, 0), 0)
    runs = (tl.load(running + sequence) != 0) & (last >= 0)
    tl.store(own, tl.where(runs, accepted, -1))
    tl.store(own + 1 + number, choice, mask=number < NUM_ROWS)
    tl.store(running + sequence, runs.to(tl.int32))
    if runs:
        place = at + 1 + number
        tl.store(ring + sequence * RING + place % RING, choice, mask=number <= accepted)
        rows = next_row + number * NUM_SEQUENCES + sequence
        tl.store(rows, tl.minimum(place, at + 1 + accepted), mask=number < DEPTH)
        tl.store(position + sequence, at + 1 + accepted)


def compile_cases() -> tuple[CompileCase, ...]:
    names = ("running", "position", "next_row", "ring", "recorded_start", "recorded_count", "recorded_ids", "chosen")
    types = dict.fromkeys((*names, "record"), "*i32")
    return tuple(
        CompileCase(
            name=f"judge of {num_rows} rows",
            kernel=_judge,
            types=types,
            constexprs={
                "NUM_SEQUENCES": 4,
                "NUM_ROWS": num_rows,
                "PADDED": num_rows,
                "RING": RING,
                "MAX_RECORDED": 512,
            },
            num_warps=1,
            max_registers=64,
        )
        for num_rows in (1, 4)
    )
