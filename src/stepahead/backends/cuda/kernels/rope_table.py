"""cos and sin of a pass' positions, computed where the positions lie: on the device, and in float64.

Polynomials of our own instead of a library's: alike on every device, and without the memory that its path for huge
angles takes.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from stepahead.backends.base import Rope
from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

TURN = tl.constexpr(2.0 * np.pi)
TURNS = tl.constexpr(1.0 / (2.0 * np.pi))
QUADRANTS = tl.constexpr(2.0 / np.pi)
QUARTER_HIGH = tl.constexpr(np.pi / 2.0)
QUARTER_LOW = tl.constexpr(6.123233995736766e-17)


@dataclass(frozen=True, slots=True, eq=False)
class RopeTable:
    """cos and sin of one pass, (num_rows, num_rotated / 2) float32 each."""

    cos: torch.Tensor
    sin: torch.Tensor


def inverse_frequencies(rope: Rope, device: torch.device) -> torch.Tensor:
    """(num_rotated / 2,) float64: what a position is multiplied with. Once per Rope."""
    return torch.from_numpy(rope.inverse_frequencies).to(device)


def rope_table(launch: Launcher, frequencies: torch.Tensor, positions: torch.Tensor) -> RopeTable:
    """positions: (num_rows,) int32."""
    num_rows, half = positions.shape[0], frequencies.shape[0]
    table = RopeTable(*(torch.empty((num_rows, half), dtype=torch.float32, device=positions.device) for _ in range(2)))
    block = triton.next_power_of_2(half)
    launch(
        _rope_table,
        (num_rows,),
        frequencies,
        positions,
        table.cos,
        table.sin,
        num_warps=max(1, block // 32),
        HALF=half,
        BLOCK=block,
    )
    return table


@triton.jit
def _rope_table(frequencies, positions, cos, sin, HALF: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    pairs = tl.arange(0, BLOCK)
    exists = pairs < HALF
    angle = tl.load(positions + row).to(tl.float64) * tl.load(frequencies + pairs, mask=exists, other=0.0)
    # The remainder by one turn, exact: the product in fma is, and so is the difference.
    angle = tl.fma(tl.floor(angle * TURNS), tl.full((BLOCK,), -TURN, tl.float64), angle)
    # From -1 (a quotient rounded up) to 4, and what is left of it, at most an eighth of a turn.
    quadrant = tl.floor(angle * QUADRANTS + 0.5)
    angle = tl.fma(quadrant, tl.full((BLOCK,), -QUARTER_HIGH, tl.float64), angle)
    angle = tl.fma(quadrant, tl.full((BLOCK,), -QUARTER_LOW, tl.float64), angle)
    sine, cosine = _sine(angle), _cosine(angle)
    quadrant = quadrant.to(tl.int32) & 3
    is_odd = (quadrant & 1) == 1
    found_cos = tl.where(is_odd, sine, cosine)
    found_sin = tl.where(is_odd, cosine, sine)
    found_cos = tl.where((quadrant == 1) | (quadrant == 2), -found_cos, found_cos)
    found_sin = tl.where(quadrant >= 2, -found_sin, found_sin)
    tl.store(cos + row * HALF + pairs, found_cos.to(tl.float32), mask=exists)
    tl.store(sin + row * HALF + pairs, found_sin.to(tl.float32), mask=exists)


@triton.jit
def _sine(x):
    """Of at most pi / 4: the Taylor series to x^15, whose next term is below 2^-53 of the sum."""
    y = x * x
    p = y * (-1.0 / 1307674368000.0) + 1.0 / 6227020800.0
    p = p * y - 1.0 / 39916800.0
    p = p * y + 1.0 / 362880.0
    p = p * y - 1.0 / 5040.0
    p = p * y + 1.0 / 120.0
    p = p * y - 1.0 / 6.0
    return x + x * (y * p)


@triton.jit
def _cosine(x):
    """The same to x^16."""
    y = x * x
    p = y * (1.0 / 20922789888000.0) - 1.0 / 87178291200.0
    p = p * y + 1.0 / 479001600.0
    p = p * y - 1.0 / 3628800.0
    p = p * y + 1.0 / 40320.0
    p = p * y - 1.0 / 720.0
    p = p * y + 1.0 / 24.0
    return 1.0 + (y * y * p - 0.5 * y)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="rope_table 64",
            kernel=_rope_table,
            types={"frequencies": "*fp64", "positions": "*i32", "cos": "*fp32", "sin": "*fp32"},
            constexprs={"HALF": 32, "BLOCK": 32},
            num_warps=1,
            max_registers=64,
        ),
    )
