"""Choice of experts: sigmoid, bias, the best of it, weights. One program a row, one warp: no barriers."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import Routing, power_of_two

MAX_EXPERTS = 1024


def moe_route(
    launch: Launcher,
    logits: torch.Tensor,  # (num_rows, num_experts) float32
    bias: torch.Tensor | None,  # (1, num_experts)
    top_k: int,
    normalize: bool,
    scale: float,  # 0: unscaled
    counted: torch.Tensor | None = None,  # (rows, padded top_k) int32, filled with the ids of the first rows
) -> Routing:
    num_rows, num_experts = logits.shape
    assert 0 < top_k <= num_experts <= MAX_EXPERTS
    routing = Routing.empty(num_rows, top_k, logits.device)
    assert counted is None or counted.shape[1] == routing.padded_top_k
    launch(
        _moe_route,
        (routing.ids.shape[0],),
        logits,
        logits if bias is None else bias,
        routing.ids,
        routing.weights,
        routing.ids if counted is None else counted,
        num_rows,
        scale,
        num_warps=1,
        NUM_EXPERTS=num_experts,
        BLOCK=power_of_two(num_experts),
        TOP_K=top_k,
        PADDED_K=routing.padded_top_k,
        HAS_BIAS=bias is not None,
        NORMALIZE=normalize,
        IS_SCALED=scale != 0,
        COUNTED_ROWS=0 if counted is None else counted.shape[0],
    )
    return routing


@triton.jit
def _sigmoid(z):
    return tl.div_rn(1.0, 1.0 + tl.exp(-z))


@triton.jit(do_not_specialize=["num_rows"])
def _moe_route(
    logits,
    bias,
    ids,
    weights,
    counted,
    num_rows,
    scale,
    NUM_EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    IS_SCALED: tl.constexpr,
    COUNTED_ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, PADDED_K)
    chosen = tl.full((PADDED_K,), -1, tl.int32)
    weight = tl.zeros((PADDED_K,), tl.float32)
    place = slots
    if row < num_rows:
        chosen = _best(logits + row * NUM_EXPERTS, bias, slots, NUM_EXPERTS, BLOCK, TOP_K, HAS_BIAS)
        valid = slots < TOP_K
        # Places in ascending order of ids, by counting those that are smaller.
        smaller = (chosen[None, :] < chosen[:, None]) & valid[None, :]
        place = tl.where(valid, tl.sum(smaller.to(tl.int32), axis=1), slots)
        weight = _sigmoid(tl.load(logits + row * NUM_EXPERTS + chosen, mask=valid, other=0.0))
        if NORMALIZE:
            total = 0.0
            for j in tl.static_range(TOP_K):
                total += tl.sum(tl.where((place == j) & valid, weight, 0.0), axis=0)
            weight = tl.div_rn(weight, tl.where(total < 6.103515625e-5, 6.103515625e-5, total))  # a NaN stays
        if IS_SCALED:
            weight = weight * scale
        weight = tl.where(valid, weight, 0.0)
    tl.store(ids + row * PADDED_K + place, chosen)
    tl.store(weights + row * PADDED_K + place, weight)
    if row < COUNTED_ROWS:
        tl.store(counted + row * PADDED_K + place, chosen)


@triton.jit
def _best(
    logits,
    bias,
    slots,
    NUM_EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """TOP_K experts, the best first, then -1."""
    NAN: tl.constexpr = -2147483647  # below every number
    OUT: tl.constexpr = -2147483648  # chosen before, or no expert
    experts = tl.arange(0, BLOCK)
    exists = experts < NUM_EXPERTS
    preference = _sigmoid(tl.load(logits + experts, mask=exists, other=0.0))
    if HAS_BIAS:
        preference += tl.load(bias + experts, mask=exists, other=0.0)
    # The bits of a float, negative ones mirrored, have the order of the floats. Integers reduce in one instruction.
    bits = preference.to(tl.int32, bitcast=True)
    order = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    order = tl.where((bits & 0x7FFFFFFF) <= 0x7F800000, order, NAN)
    order = tl.where(exists, order, OUT)
    chosen = tl.full(slots.shape, -1, tl.int32)
    for j in tl.static_range(TOP_K):
        best = tl.max(order, axis=0)
        winner = tl.min(tl.where(order == best, experts, BLOCK), axis=0)
        chosen = tl.where(slots == j, winner, chosen)
        order = tl.where(experts == winner, OUT, order)
    return chosen


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="moe_route 288 top 8",
            kernel=_moe_route,
            types={
                "logits": "*fp32",
                "bias": "*fp32",
                "ids": "*i32",
                "weights": "*fp32",
                "counted": "*i32",
                "num_rows": "i32",
                "scale": "fp32",
            },
            constexprs={
                "NUM_EXPERTS": 288,
                "BLOCK": 512,
                "TOP_K": 8,
                "PADDED_K": 8,
                "HAS_BIAS": True,
                "NORMALIZE": True,
                "IS_SCALED": True,
                "COUNTED_ROWS": 32,
            },
            num_warps=1,
            max_registers=128,
            forbidden=("BAR",),
            required=("REDUX",),
        ),
    )
