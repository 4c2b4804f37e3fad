"""Chosen tokens to where later passes find them."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

BLOCK = 32


def remember(launch: Launcher, token_ids: torch.Tensor, remembered: torch.Tensor, first: int) -> None:
    """remembered[first :] = token_ids, both int32."""
    count = token_ids.shape[0]
    launch(_remember, (triton.cdiv(count, BLOCK),), token_ids, remembered, first, count, num_warps=1, BLOCK=BLOCK)


@triton.jit(do_not_specialize=["first", "count"])
def _remember(token_ids, remembered, first, count, BLOCK: tl.constexpr):
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = number < count
    tl.store(remembered + first + number, tl.load(token_ids + number, mask=exists), mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    types = {"token_ids": "*i32", "remembered": "*i32", "first": "i32", "count": "i32"}
    return (CompileCase(name="remember", kernel=_remember, types=types, constexprs={"BLOCK": BLOCK}, num_warps=1),)
