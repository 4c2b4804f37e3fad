"""Rows times weights of 16 bits, F16 and BF16, on the matrix units, with nothing lost of either.

A float32 row, brought to a power of two of its own, is cut into numbers of the weights' type: two of F16, which keep 22
bits, or three of BF16, which keep all 24. Their products are exact, and are added in float32.
"""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.configs import FEW_ROWS, LinearConfig, arch_of, halves_config
from stepahead.backends.cuda.device import INTERPRETED
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import HalfRows
from stepahead.backends.cuda.split_sums import SplitSums
from stepahead.backends.cuda.splits import num_float_splits

CHUNK = 64
"""Inputs whose products are added apart: a matrix unit rounds worse than a sum of two numbers."""


def linear_halves(launch: Launcher, x: torch.Tensor, half: HalfRows, matrix: CudaMatrix) -> torch.Tensor | SplitSums:
    """x (num_rows, in) float32, half: of the same rows; matrix (out, in) of F16 or BF16 -> (num_rows, out)."""
    (num_rows, width), num_out = x.shape, matrix.num_out
    splits, is_few = num_float_splits(num_out, width), num_rows <= FEW_ROWS
    config = halves_config(num_out * splits, is_few or not matrix.has_wide_tiles, arch_of(x.device))
    is_parted = is_few and splits > 1
    shape = (splits, num_rows, num_out) if is_parted else (num_rows, num_out)
    y = torch.empty(shape, dtype=torch.float32, device=x.device)
    launch(
        _linear_halves,
        (triton.cdiv(num_rows, config.rows), triton.cdiv(num_out, config.outs), splits if is_parted else 1),
        x,
        half.exponents,
        matrix.data,
        y,
        num_rows,
        num_out,
        WIDTH=width,
        BN=config.outs,
        R=config.rows,
        CHUNK=CHUNK,
        SPLITS=splits,
        IS_PARTED=is_parted,
        IS_INTERPRETED=x.device.type == INTERPRETED,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return SplitSums(y, half.exponents) if is_parted else y


@triton.jit(do_not_specialize=["num_rows", "num_out"])
def _linear_halves(
    x, exponents, weights, y, num_rows, num_out,
    WIDTH: tl.constexpr, BN: tl.constexpr, R: tl.constexpr, CHUNK: tl.constexpr, SPLITS: tl.constexpr,
    IS_PARTED: tl.constexpr, IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """BN outputs of R rows. Parted: the sum of one part of the inputs, without the rows' powers of two."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    out = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, CHUNK)
    x += (tl.minimum(row, num_rows - 1).to(tl.int64) * WIDTH)[None, :] + k[:, None]
    weights += (tl.minimum(out, num_out - 1).to(tl.int64) * WIDTH)[:, None] + k[None, :]
    down = tl.load(exponents + tl.minimum(row, num_rows - 1))
    up = (0x7F000000 - down.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)[None, :]
    if IS_PARTED:
        split = tl.program_id(2)
        acc = _part(x, weights, up, split, WIDTH, BN, R, CHUNK, SPLITS, IS_INTERPRETED)
        y += split.to(tl.int64) * num_rows * num_out
    else:
        acc = _part(x, weights, up, 0, WIDTH, BN, R, CHUNK, SPLITS, IS_INTERPRETED)
        for split in range(1, SPLITS):
            acc += _part(x, weights, up, split, WIDTH, BN, R, CHUNK, SPLITS, IS_INTERPRETED)
        acc *= down[None, :]
    at = row.to(tl.int64)[None, :] * num_out + out[:, None]
    tl.store(y + at, acc, mask=(row < num_rows)[None, :] & (out < num_out)[:, None])


@triton.jit
def _part(
    x, weights, up, split,
    WIDTH: tl.constexpr, BN: tl.constexpr, R: tl.constexpr, CHUNK: tl.constexpr, SPLITS: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """(BN, R): part number `split` of the inputs. The last one has what is less than a chunk."""
    WHOLE: tl.constexpr = WIDTH // CHUNK
    REST: tl.constexpr = WIDTH % CHUNK
    acc = tl.zeros((BN, R), tl.float32)
    first, end = split * WHOLE // SPLITS, (split + 1) * WHOLE // SPLITS
    for chunk in range(first, end):
        acc += _product(tl.load(weights + chunk * CHUNK), tl.load(x + chunk * CHUNK) * up, IS_INTERPRETED)
    if REST != 0:  # noqa: SIM102 - the compiler decides this one
        if split == SPLITS - 1:
            mask = tl.arange(0, CHUNK) < REST
            w = tl.load(weights + WHOLE * CHUNK, mask=mask[None, :], other=0.0)
            rest = tl.load(x + WHOLE * CHUNK, mask=mask[:, None], other=0.0) * up
            acc += _product(w, rest, IS_INTERPRETED)
    return acc


@triton.jit
def _product(w, x, IS_INTERPRETED: tl.constexpr):
    """w times all parts of x, the largest part first."""
    if w.dtype == tl.float16:
        high = x.to(tl.float16)
        part = tl.dot(w, high)
        part = tl.dot(w, (x - high.to(tl.float32)).to(tl.float16), part)
    else:
        high, x = _cut(x)
        middle, x = _cut(x)
        low, x = _cut(x)
        if IS_INTERPRETED:  # which has no numbers of that type
            w, high, middle, low = w.to(tl.float32), high.to(tl.float32), middle.to(tl.float32), low.to(tl.float32)
        part = tl.dot(w, high)
        part = tl.dot(w, middle, part)
        part = tl.dot(w, low, part)
    return part


@triton.jit
def _cut(x):
    """The first 8 bits, and what they lack: without rounding nothing overflows, and three cuts leave zero."""
    bits = x.to(tl.int32, bitcast=True)
    high = (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return high, x - (bits & -65536).to(tl.float32, bitcast=True)


def compile_case(
    type: str, config: LinearConfig, targets: tuple[str, ...], splits: int, lanes: float | None = None
) -> CompileCase:
    pointers = {"x": "*fp32", "exponents": "*fp32", "weights": f"*{type}", "y": "*fp32"}
    return CompileCase(
        name=f"linear_halves {type} {config.outs}x{config.rows}, {config.num_stages} stages, {splits} parts",
        kernel=_linear_halves,
        types=pointers | {"num_rows": "i32", "num_out": "i32"},
        constexprs={
            "WIDTH": 4096,
            "BN": config.outs,
            "R": config.rows,
            "CHUNK": CHUNK,
            "SPLITS": splits,
            "IS_PARTED": splits > 1 and config.rows == FEW_ROWS,
            "IS_INTERPRETED": False,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        targets=targets,
        uses_tensor_cores=True,
        has_wide_loads=True,
        max_lane_operations=None if lanes is None else (lanes, config.outs * CHUNK),
        max_registers=255,
    )


LANES = {"fp16": 4.7, "bf16": 6.3}
"""Lane-operations a weight on sm_90 that few rows may take: what was counted with Triton 3.9, and 5 % more."""


def compile_cases() -> tuple[CompileCase, ...]:
    (few, many), (few_80, many_80), (few_amd, many_amd) = (
        [halves_config(4096, is_few, arch) for is_few in (True, False)] for arch in (90, 80, 0)
    )
    others = (
        (many, ("sm_90",), 4),
        (few_80, ("sm_80", "sm_120"), 4),
        (many_80, ("sm_80", "sm_120"), 4),
        (few_amd, ("gfx942",), 1),
        (many_amd, ("gfx942",), 1),
    )
    return tuple(
        case
        for type, lanes in LANES.items()
        for case in (
            compile_case(type, few, ("sm_90",), 4, lanes),
            *(compile_case(type, config, targets, splits) for config, targets, splits in others),
        )
    )
