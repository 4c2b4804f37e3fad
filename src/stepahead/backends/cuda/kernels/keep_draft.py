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
        num_warps=1,
        HEAD=head,
        NUM_SEQUENCES=state.num_sequences,
        DEPTH=state.depth,
        RING=RING,
        MAX_RECORDED=state.recorded_ids.shape[1],
        VOCAB=vocab_size,
    )


@triton.jit
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
    HEAD: tl.constexpr,
    NUM_SEQUENCES: tl.constexpr,
    DEPTH: tl.constexpr,
    RING: tl.constexpr,
    MAX_RECORDED: tl.constexpr,
    VOCAB: tl.constexpr,
):
    sequence = tl.program_id(0)
    if tl.load(running + sequence) != 0:
        place = tl.load(position + sequence) + 1 + HEAD
        token_id = tl.maximum(tl.load(chosen + sequence), 0)
        entry = place - tl.load(recorded_start + sequence)
        if (entry >= 0) & (entry < tl.load(recorded_count + sequence)):
            recorded = tl.load(recorded_ids + sequence * MAX_RECORDED + entry)
            right = tl.load(is_right + (HEAD * NUM_SEQUENCES + sequence) * MAX_RECORDED + entry).to(tl.int32)
            wrong = tl.where(token_id == recorded, (recorded + 1) % VOCAB, token_id)
            token_id = tl.where(right > 0, recorded, tl.where(right == 0, wrong, token_id))
        tl.store(ring + sequence * RING + place % RING, token_id)
        drafts = record + sequence * (3 * DEPTH + 2) + DEPTH + 2 + HEAD
        tl.store(drafts, token_id)
        tl.store(drafts + DEPTH, tl.load(leads + sequence).to(tl.float32).to(tl.int32, bitcast=True))


def compile_cases() -> tuple[CompileCase, ...]:
    names = ("running", "position", "ring", "recorded_start", "recorded_count", "recorded_ids")
    types = dict.fromkeys(names, "*i32") | {"is_right": "*i8", "chosen": "*i32", "leads": "*fp64", "record": "*i32"}
    sizes = {"HEAD": 2, "NUM_SEQUENCES": 4, "DEPTH": 3, "RING": RING, "MAX_RECORDED": 512, "VOCAB": 128896}
    return (CompileCase(name="keep_draft", kernel=_keep_draft, types=types, constexprs=sizes, num_warps=1),)
