"""The token that a head has chosen for each sequence of a cycle: to where the passes behind it find it."""

import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.cycle_tensors import RING, CycleTensors
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.sampling import SampledRows


def keep_draft(launch: Launcher, state: CycleTensors, head: int, sampled: SampledRows, vocab_size: int) -> None:
    """sampled: a row each sequence. Where its choice is left to the host, any token does: the target's pass decides.

    Of a recorded text the draft is as right as the recording wants it to be.
    """
    launch(
        _keep_draft,
        (state.num_sequences,),
        state.running,
        state.position,
        state.token_ids,
        state.recorded_start,
        state.recorded_count,
        state.recorded_ids,
        state.is_right,
        sampled.token_ids,
        sampled.leads,
        state.record,
        head,
        state.num_sequences,
        state.depth,
        vocab_size,
        num_warps=1,
        RING=RING,
        MAX_RECORDED=state.recorded_ids.shape[1],
    )


@triton.jit(do_not_specialize=["head", "num_sequences", "depth", "vocab_size"])
def _keep_draft(
    running,
    position,
    ring,
    recorded_start,
    recorded_count,
    recorded_ids,
    is_right,
    chosen,
    leads,
    record,
    head,
    num_sequences,
    depth,
    vocab_size,
    RING: tl.constexpr,
    MAX_RECORDED: tl.constexpr,
):
    sequence = tl.program_id(0)
    if tl.load(running + sequence) != 0:
        place = tl.load(position + sequence) + 1 + head
        token_id = tl.maximum(tl.load(chosen + sequence), 0)
        entry = place - tl.load(recorded_start + sequence)
        if (entry >= 0) & (entry < tl.load(recorded_count + sequence)):
            recorded = tl.load(recorded_ids + sequence * MAX_RECORDED + entry)
            right = tl.load(is_right + (head * num_sequences + sequence) * MAX_RECORDED + entry).to(tl.int32)
            wrong = tl.where(token_id == recorded, (recorded + 1) % vocab_size, token_id)
            token_id = tl.where(right > 0, recorded, tl.where(right == 0, wrong, token_id))
        tl.store(ring + sequence * RING + place % RING, token_id)
        drafts = record + sequence * (3 * depth + 2) + depth + 2 + head
        tl.store(drafts, token_id)
        tl.store(drafts + depth, tl.load(leads + sequence).to(tl.float32).to(tl.int32, bitcast=True))


def compile_cases() -> tuple[CompileCase, ...]:
    names = ("running", "position", "ring", "recorded_start", "recorded_count", "recorded_ids")
    types = dict.fromkeys(names, "*i32") | {"is_right": "*i8", "chosen": "*i32", "leads": "*fp64", "record": "*i32"}
    types |= dict.fromkeys(("head", "num_sequences", "depth", "vocab_size"), "i32")
    sizes = {"RING": RING, "MAX_RECORDED": 512}
    return (CompileCase(name="keep_draft", kernel=_keep_draft, types=types, constexprs=sizes, num_warps=1),)
