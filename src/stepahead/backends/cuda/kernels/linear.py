"""Rows times weights, packed ones: they are read once for all rows of a tile."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.configs import FEW_ROWS, LinearConfig, arch_of, linear_config
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.linear_float import linear_float
from stepahead.backends.cuda.kernels.weight_tile import product
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType


def linear(launch: Launcher, x: Rows, matrix: CudaMatrix) -> torch.Tensor:
    """x W^T: (num_rows, in) times (out, in) -> (num_rows, out) float32."""
    assert len(matrix.shape) == 2 and matrix.shape[1] == x.shape[1], (matrix.shape, x.shape)
    form = matrix.format
    if form is None:
        return linear_float(launch, x.values, matrix.data)
    num_rows, num_out = x.shape[0], matrix.num_out
    if x.half is None:
        x.half = half_rows(launch, x.values)
    config = linear_config(form, num_out, num_rows <= FEW_ROWS, arch_of(x.values.device))
    y = torch.empty((num_rows, num_out), dtype=torch.float32, device=x.values.device)
    launch(
        _linear,
        (triton.cdiv(num_rows, config.rows), triton.cdiv(num_out, config.outs)),
        matrix.data,
        x.half.values,
        x.half.exponents,
        y,
        num_rows,
        num_out,
        matrix.num_blocks,
        FORMAT=form,
        BN=config.outs,
        R=config.rows,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return y


def linear_many(launch: Launcher, x: Rows, matrices: Sequence[CudaMatrix]) -> tuple[torch.Tensor, ...]:
    """Several `linear`, which share the halves of x."""
    return tuple(linear(launch, x, matrix) for matrix in matrices)


@triton.jit(do_not_specialize=["num_rows", "num_out", "num_blocks"])
def _linear(
    words, x, exponents, y, num_rows, num_out, num_blocks, FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr
):
    """A program makes BN outputs of R rows; neighbours read the same weights."""
    first_row, first_tile = tl.program_id(0) * R, tl.program_id(1) * (BN // 16)
    stride = num_blocks * 288
    x += first_row.to(tl.int64) * stride
    row = tl.arange(0, R)
    mask = row < num_rows - first_row
    tiles = (num_out + 15) // 16
    acc = product(words, first_tile, tiles - first_tile, num_blocks, x, row * stride, mask, FORMAT, BN, R)
    acc *= tl.load(exponents + first_row + row, mask=mask, other=0.0)[None, :]
    out = first_tile * 16 + tl.arange(0, BN)
    at = (first_row + row).to(tl.int64)[None, :] * num_out + out[:, None]
    tl.store(y + at, acc, mask=mask[None, :] & (out < num_out)[:, None])


def compile_case(type: QuantType, config: LinearConfig, targets: tuple[str, ...], lanes: float | None) -> CompileCase:
    types = {"words": "*i32", "x": "*fp16", "exponents": "*fp32", "y": "*fp32"}
    return CompileCase(
        name=f"linear {type.name} {config.outs}x{config.rows}, {config.num_stages} stages",
        kernel=_linear,
        types=types | dict.fromkeys(("num_rows", "num_out", "num_blocks"), "i32"),
        constexprs={"FORMAT": FORMATS[type], "BN": config.outs, "R": config.rows},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        targets=targets,
        uses_tensor_cores=True,
        has_wide_loads=True,
        forbidden=("I2F", "I2FP"),
        max_lane_operations=None if lanes is None else (lanes, config.outs * 256),
    )


FEW = {
    QuantType.Q4_K: 4.2, QuantType.Q5_K: 5.1, QuantType.Q6_K: 4.8, QuantType.Q8_0: 4.5, QuantType.Q4_0: 3.7,
    QuantType.IQ4_XS: 6.2, QuantType.MXFP4: 4.9,
}  # fmt: skip
"""Lane-operations a weight on sm_90 that a tile of 64 x 16 may take: what was counted with Triton 3.9, and 5 % more."""


def compile_cases() -> tuple[CompileCase, ...]:
    everywhere = ("sm_80", "sm_90", "sm_120", "gfx942")
    few = [
        compile_case(type, LinearConfig(64, 16, 4, 1), everywhere if type == QuantType.Q4_K else ("sm_90",), lanes)
        for type, lanes in FEW.items()
    ]
    others = (
        (LinearConfig(64, 16, 4, 3), ("sm_90",)),
        (LinearConfig(32, 16, 2, 3), ("sm_80", "sm_120")),
        (LinearConfig(128, 64, 8, 1), ("sm_80", "sm_120", "gfx942")),
    )
    more = [compile_case(QuantType.Q4_K, config, targets, None) for config, targets in others]
    wide = [
        compile_case(type, linear_config(FORMATS[type], 4096, False, 90), ("sm_90",), None)
        for type in (QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0)
    ]
    return (*few, *more, *wide)
