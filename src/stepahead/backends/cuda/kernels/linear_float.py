"""Rows times weights of float32, in full: scores of a router decide, so they are not rounded twice."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.configs import FEW_ROWS
from stepahead.backends.cuda.device import INTERPRETED
from stepahead.backends.cuda.launch import Launcher

LANES = 128
"""Of a sum along a row: element k belongs to lane k mod 128."""

FEW, MANY = (1, 4, 16), (8, 8, 4)
"""Rows and outputs of a program, and steps of all lanes whose loads are on the way together: what waits for memory, so
little is computed with it. None of the three changes a bit."""


def linear_float(launch: Launcher, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """x (num_rows, in) float32, weights (out, in) float32 -> (num_rows, out)."""
    (num_rows, width), num_out = x.shape, weights.shape[0]
    y = torch.empty((num_rows, num_out), dtype=torch.float32, device=x.device)
    if x.device.type == INTERPRETED:
        rows, outs, steps = 16, 64, 4  # the interpreter takes its time by the program
    else:
        rows, outs, steps = FEW if num_rows <= FEW_ROWS else MANY
    launch(
        _linear_float,
        (triton.cdiv(num_rows, rows), triton.cdiv(num_out, outs)),
        x,
        weights,
        y,
        num_rows,
        num_out,
        WIDTH=width,
        BN=outs,
        R=rows,
        LANES=LANES,
        STEPS=steps,
    )
    return y


@triton.jit(do_not_specialize=["num_rows", "num_out"])
def _linear_float(
    x,
    weights,
    y,
    num_rows,
    num_out,
    WIDTH: tl.constexpr,
    BN: tl.constexpr,
    R: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """BN outputs of R rows. Products are added lane by lane in ascending k, and then the lanes as a tree."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    out = tl.program_id(1) * BN + tl.arange(0, BN)
    lane = tl.arange(0, LANES)
    x += (tl.minimum(row, num_rows - 1).to(tl.int64) * WIDTH)[:, None, None] + lane[None, None, :]
    weights += (tl.minimum(out, num_out - 1).to(tl.int64) * WIDTH)[None, :, None] + lane[None, None, :]
    acc = tl.zeros((R, BN, LANES), tl.float32)
    WHOLE: tl.constexpr = WIDTH // (LANES * STEPS) * (LANES * STEPS)
    for start in range(0, WHOLE, LANES * STEPS):
        for step in tl.static_range(STEPS):
            w = tl.load(weights + (start + LANES * step))
            acc = _add(acc, tl.load(x + (start + LANES * step)), w, R, BN, LANES)
    for start in tl.static_range(WHOLE, WIDTH, LANES):
        mask = (start + lane < WIDTH)[None, None, :]
        w = tl.load(weights + start, mask=mask, other=0.0)
        acc = _add(acc, tl.load(x + start, mask=mask, other=0.0), w, R, BN, LANES)
    mask = (row < num_rows)[:, None] & (out < num_out)[None, :]
    tl.store(y + row.to(tl.int64)[:, None] * num_out + out[None, :], _tree(acc, R, BN), mask=mask)


@triton.jit
def _add(acc, x, w, R: tl.constexpr, BN: tl.constexpr, LANES: tl.constexpr):
    return tl.fma(tl.broadcast_to(x, (R, BN, LANES)), tl.broadcast_to(w, (R, BN, LANES)), acc)


@triton.jit
def _tree(acc, R: tl.constexpr, BN: tl.constexpr):
    """(R, BN) of (R, BN, 128): lane l and lane l + half of them, until there is one; no layout changes the order."""
    acc = _fold(acc, R, BN, 64)
    acc = _fold(acc, R, BN, 32)
    acc = _fold(acc, R, BN, 16)
    acc = _fold(acc, R, BN, 8)
    acc = _fold(acc, R, BN, 4)
    acc = _fold(acc, R, BN, 2)
    return tl.reshape(_fold(acc, R, BN, 1), (R, BN))


@triton.jit
def _fold(acc, R: tl.constexpr, BN: tl.constexpr, HALF: tl.constexpr):
    low, high = tl.split(tl.permute(tl.reshape(acc, (R, BN, 2, HALF)), (0, 1, 3, 2)))
    return low + high


def compile_cases() -> tuple[CompileCase, ...]:
    types = {"x": "*fp32", "weights": "*fp32", "y": "*fp32", "num_rows": "i32", "num_out": "i32"}
    return tuple(
        CompileCase(
            name=f"linear_float {outs}x{rows} of 4096",
            kernel=_linear_float,
            types=types,
            constexprs={"WIDTH": 4096, "BN": outs, "R": rows, "LANES": LANES, "STEPS": steps},
            has_wide_loads=True,
            max_registers=255,
        )
        for rows, outs, steps in (FEW, MANY)
    )
