"""M7: a prompt of 2,048 tokens through Step's layers, beside what the device multiplies in bf16 at best."""

import time

import numpy as np
import torch

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.byte_bounds import prompt_flops
from benchmarks.cuda.decoding import request, running
from benchmarks.cuda.made_model import MadeModel, made_model
from stepahead.engine.engine import Engine

TOKENS = 2048
ROUNDS = 3
SIDE = 8192
"""Of the square matrices whose product is the peak."""


def measure(bench: Bench) -> None:
    peak = _peak(bench)
    bench.report("M7", "bf16 peak", tflops=peak / 1e12)
    made = made_model(bench)
    made.share_experts(False)
    made.slim_heads(False)
    num_tokens = 4 if bench.is_toy else TOKENS
    engine = made.engine(num_tokens + 64, num_tokens, is_replayed=False)
    times = [_prompt_seconds(engine, made, num_tokens, seed) for seed in range(1 if bench.is_toy else ROUNDS + 1)]
    seconds = float(np.median(times[1:] or times))
    flops = prompt_flops(made.shape, num_tokens)
    share = flops / seconds / peak
    bench.report(
        "M7", f"{num_tokens} tokens, {made.shape.num_trunk} layers", ms=1e3 * seconds, first_ms=1e3 * times[0],
        tokens_s=num_tokens / seconds, tflops=flops / seconds / 1e12, target="prompt", value=share,
    )  # fmt: skip


def _prompt_seconds(engine: Engine, made: MadeModel, num_tokens: int, seed: int) -> float:
    ids = [int(number) for number in np.random.default_rng(seed).integers(0, made.shape.vocab, num_tokens)]
    started = time.perf_counter()
    with running(engine, request(ids, 1, 0, None, made.shape.vocab)):
        return time.perf_counter() - started


def _peak(bench: Bench) -> float:
    """Operations a second of a product of two large bf16 matrices."""
    side = 64 if bench.is_toy else SIDE
    a, b = (torch.randn((side, side), device=bench.device).to(torch.bfloat16) for _ in range(2))
    return 2 * side**3 / bench.timer.seconds({"bf16": [lambda: torch.mm(a, b)]})["bf16"]
