"""Which draft tokens the target would have chosen itself, and where the next cycle begins: speculative/verify.py."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.cycle_tensors import MAX_DEPTH, RING, CycleTensors
from stepahead.backends.cuda.launch import Launcher


def judge(launch: Launcher, state: CycleTensors, chosen: torch.Tensor) -> None:
    """chosen: (n * (depth + 1),) int32 of each sequence the target's choice after its last committed token and after
    each draft token, -1 where it is left to the host: a sequence that gets there stands still from then on."""
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
        state.num_sequences,
        state.depth,
        num_warps=1,
        PADDED=MAX_DEPTH + 1,
        RING=RING,
        MAX_RECORDED=state.recorded_ids.shape[1],
    )


@triton.jit(do_not_specialize=["num_sequences", "depth"])
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
    num_sequences,
    depth,
    PADDED: tl.constexpr,
    RING: tl.constexpr,
    MAX_RECORDED: tl.constexpr,
):
    num_rows = depth + 1
    sequence = tl.program_id(0)
    at = tl.load(position + sequence)
    number = tl.arange(0, PADDED)
    choice = tl.load(chosen + sequence * num_rows + number, mask=number < num_rows, other=-1)
    entry = at + 1 + number - tl.load(recorded_start + sequence)
    is_recorded = (number < num_rows) & (entry >= 0) & (entry < tl.load(recorded_count + sequence))
    recorded = tl.load(recorded_ids + sequence * MAX_RECORDED + entry, mask=is_recorded, other=0)
    choice = tl.where(is_recorded, recorded, choice)
    own = record + sequence * (3 * depth + 2)
    draft = tl.load(own + num_rows + 1 + number, mask=number < depth, other=-2)
    accepted = tl.min(tl.where(choice == draft, num_rows, number), 0)
    last = tl.sum(tl.where(number == accepted, choice, 0), 0)
    runs = (tl.load(running + sequence) != 0) & (last >= 0)
    tl.store(own, tl.where(runs, accepted, -1))
    tl.store(own + 1 + number, choice, mask=number < num_rows)
    tl.store(running + sequence, runs.to(tl.int32))
    if runs:
        place = at + 1 + number
        tl.store(ring + sequence * RING + place % RING, choice, mask=number <= accepted)
        rows = next_row + number * num_sequences + sequence
        tl.store(rows, tl.minimum(place, at + 1 + accepted), mask=number < depth)
        tl.store(position + sequence, at + 1 + accepted)


def compile_cases() -> tuple[CompileCase, ...]:
    names = ("running", "position", "next_row", "ring", "recorded_start", "recorded_count", "recorded_ids", "chosen")
    types = dict.fromkeys((*names, "record"), "*i32") | {"num_sequences": "i32", "depth": "i32"}
    sizes = {"PADDED": MAX_DEPTH + 1, "RING": RING, "MAX_RECORDED": 512}
    return (CompileCase(name="judge", kernel=_judge, types=types, constexprs=sizes, num_warps=1, max_registers=64),)
