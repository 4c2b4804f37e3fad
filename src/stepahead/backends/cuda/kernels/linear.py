"""Rows times weights, packed ones: they are read once for all rows of a tile."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.configs import FEW_ROWS, LinearConfig, arch_of, linear_config
from stepahead.backends.cuda.formats.format import FORMATS, Format
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.linear_float import linear_float
from stepahead.backends.cuda.kernels.linear_halves import linear_halves
from stepahead.backends.cuda.kernels.sum_splits import sum_splits
from stepahead.backends.cuda.kernels.weight_tile import product
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import HalfRows, Rows
from stepahead.backends.cuda.split_sums import SplitSums
from stepahead.backends.cuda.splits import num_splits
from stepahead.gguf.quants import QuantType

MAX_TOGETHER = 4
"""Matrices of one launch."""

HALVES = (QuantType.F16, QuantType.BF16)
ALIGNMENT = 64  # floats, of what a launch makes of each matrix


def linear(launch: Launcher, x: Rows, matrix: CudaMatrix) -> torch.Tensor:
    """x W^T: (num_rows, in) times (out, in) -> (num_rows, out) float32."""
    y = linear_many(launch, x, (matrix,))[0]
    return sum_splits(launch, y) if isinstance(y, SplitSums) else y


def linear_many(launch: Launcher, x: Rows, matrices: Sequence[CudaMatrix]) -> tuple[torch.Tensor | SplitSums, ...]:
    """Several `linear`, with the same bits, in as few launches as their types allow; sums may be left to be made."""
    results: dict[int, torch.Tensor | SplitSums] = {}
    groups: dict[Format, list[int]] = {}
    for place, matrix in enumerate(matrices):
        assert len(matrix.shape) == 2 and matrix.shape[1] == x.shape[1], (matrix.shape, x.shape)
        if matrix.type in HALVES:
            results[place] = linear_halves(launch, x.values, _half(launch, x), matrix)
        elif matrix.format is None:
            results[place] = linear_float(launch, x.values, matrix.data)
        elif num_splits(matrix.num_out, matrix.num_blocks) > 1:
            results[place] = _linear_split(launch, x, matrix)
        else:
            groups.setdefault(matrix.format, []).append(place)
    for places in groups.values():
        for start in range(0, len(places), MAX_TOGETHER):
            together = places[start : start + MAX_TOGETHER]
            made = _linear_together(launch, x, [matrices[place] for place in together])
            results |= dict(zip(together, made, strict=True))
    return tuple(results[place] for place in range(len(matrices)))


def _linear_together(launch: Launcher, x: Rows, matrices: list[CudaMatrix]) -> list[torch.Tensor]:
    """Of one type."""
    num_rows, form = x.shape[0], matrices[0].format
    outs = [matrix.num_out for matrix in matrices]
    assert form is not None
    is_narrow = num_rows <= FEW_ROWS or not all(matrix.has_wide_tiles for matrix in matrices)
    config = linear_config(form, sum(outs), is_narrow, False, arch_of(x.values.device))
    sizes = [triton.cdiv(num_rows * out, ALIGNMENT) * ALIGNMENT for out in outs]
    y = torch.empty((sum(sizes),), dtype=torch.float32, device=x.values.device)
    grid = triton.cdiv(num_rows, config.rows), sum(triton.cdiv(out, config.outs) for out in outs), 1
    _launch(launch, x, matrices, y, config, 1, False, grid)
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [y[at : at + num_rows * out].view(num_rows, out) for at, out in zip(starts, outs, strict=True)]


def _linear_split(launch: Launcher, x: Rows, matrix: CudaMatrix) -> torch.Tensor | SplitSums:
    """Parts of K by programs of their own, where rows are few."""
    num_rows, num_out, form = x.shape[0], matrix.num_out, matrix.format
    assert form is not None
    splits, is_few = num_splits(num_out, matrix.num_blocks), num_rows <= FEW_ROWS
    config = linear_config(form, num_out, is_few or not matrix.has_wide_tiles, True, arch_of(x.values.device))
    shape = (splits, num_rows, num_out) if is_few else (num_rows, num_out)
    y = torch.empty(shape, dtype=torch.float32, device=x.values.device)
    grid = triton.cdiv(num_rows, config.rows), triton.cdiv(num_out, config.outs), splits if is_few else 1
    _launch(launch, x, [matrix], y, config, splits, is_few, grid)
    return SplitSums(y, _half(launch, x).exponents) if is_few else y


def _half(launch: Launcher, x: Rows) -> HalfRows:
    if x.half is None:
        x.half = half_rows(launch, x.values)
    return x.half


def _launch(
    launch: Launcher,
    x: Rows,
    matrices: list[CudaMatrix],
    y: torch.Tensor,
    config: LinearConfig,
    splits: int,
    is_parted: bool,
    grid: tuple[int, int, int],
) -> None:
    half = _half(launch, x)
    padded = [*matrices, *[matrices[0]] * (MAX_TOGETHER - len(matrices))]
    launch(
        _linear,
        grid,
        *(matrix.data for matrix in padded),
        half.values,
        half.exponents,
        y,
        x.shape[0],
        *(matrix.num_out for matrix in padded),
        matrices[0].num_blocks,
        FORMAT=matrices[0].format,
        COUNT=len(matrices),
        SPLITS=splits,
        IS_PARTED=is_parted,
        BN=config.outs,
        R=config.rows,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@triton.jit(do_not_specialize=["num_rows", "outs_0", "outs_1", "outs_2", "outs_3", "num_blocks"])
def _linear(
    words_0, words_1, words_2, words_3, x, exponents, y, num_rows, outs_0, outs_1, outs_2, outs_3, num_blocks,
    FORMAT: tl.constexpr, COUNT: tl.constexpr, SPLITS: tl.constexpr, IS_PARTED: tl.constexpr,
    BN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """A program makes BN outputs of R rows; neighbours read the same weights. The matrices' outputs follow one another.

    Where K is split, a program leaves the sums of its part, without the exponent, if parted; otherwise it adds up all.
    """
    first_row, program = tl.program_id(0) * R, tl.program_id(1)
    words, num_out = words_0, outs_0
    if COUNT > 1:
        away = tl.full((), 0, tl.int64)  # from the first matrix to the program's, in units of 16 bytes
        size = tl.full((), 0, tl.int64)  # of the results before, in units of 64
        first, ahead, before = program, program, size
        ahead, before = _next(ahead, before, outs_0, num_rows, BN)
        away, num_out, first, size = _if_later(ahead, words_0, words_1, outs_1, before, away, num_out, first, size)
        if COUNT > 2:
            ahead, before = _next(ahead, before, outs_1, num_rows, BN)
            away, num_out, first, size = _if_later(ahead, words_0, words_2, outs_2, before, away, num_out, first, size)
        if COUNT > 3:
            ahead, before = _next(ahead, before, outs_2, num_rows, BN)
            away, num_out, first, size = _if_later(ahead, words_0, words_3, outs_3, before, away, num_out, first, size)
        words += away * 4  # a factor that the compiler sees keeps loads of 16 bytes
        y += size * 64
        program = first
    first_tile = program * (BN // 16)
    stride = num_blocks * 288
    x += first_row.to(tl.int64) * stride
    row = tl.arange(0, R)
    mask = row < num_rows - first_row
    left = (num_out + 15) // 16 - first_tile
    offsets = row * stride
    if SPLITS == 1:
        acc = product(words, first_tile, left, num_blocks, 0, num_blocks, x, offsets, mask, FORMAT, BN, R)
    elif IS_PARTED:
        split = tl.program_id(2)
        begin, end = split * num_blocks // SPLITS, (split + 1) * num_blocks // SPLITS
        acc = product(words, first_tile, left, num_blocks, begin, end, x, offsets, mask, FORMAT, BN, R)
        y += split.to(tl.int64) * num_rows * num_out
    else:
        acc = product(words, first_tile, left, num_blocks, 0, num_blocks // SPLITS, x, offsets, mask, FORMAT, BN, R)
        for split in range(1, SPLITS):
            begin, end = split * num_blocks // SPLITS, (split + 1) * num_blocks // SPLITS
            acc += product(words, first_tile, left, num_blocks, begin, end, x, offsets, mask, FORMAT, BN, R)
    if not IS_PARTED:
        acc *= tl.load(exponents + first_row + row, mask=mask, other=0.0)[None, :]
    out = first_tile * 16 + tl.arange(0, BN)
    at = (first_row + row).to(tl.int64)[None, :] * num_out + out[:, None]
    tl.store(y + at, acc, mask=mask[None, :] & (out < num_out)[:, None])


@triton.jit
def _next(ahead, before, outs, num_rows, BN: tl.constexpr):
    """Past a matrix: how far the program's number is ahead of the next one's first, and the results before that."""
    size = (num_rows * outs.to(tl.int64) + 63) // 64
    return ahead - (outs + BN - 1) // BN, before + size


@triton.jit
def _if_later(ahead, words_0, words_n, outs_n, before, away, num_out, first, size):
    is_later = ahead >= 0
    between = (words_n.to(tl.int64) - words_0.to(tl.int64)) // 16
    return (
        tl.where(is_later, between, away),
        tl.where(is_later, outs_n, num_out),
        tl.where(is_later, ahead, first),
        tl.where(is_later, before, size),
    )


def compile_case(
    type: QuantType,
    config: LinearConfig,
    targets: tuple[str, ...],
    lanes: float | None = None,
    count: int = 1,
    splits: int = 1,
) -> CompileCase:
    types = dict.fromkeys((f"words_{n}" for n in range(MAX_TOGETHER)), "*i32")
    types |= {"x": "*fp16", "exponents": "*fp32", "y": "*fp32", "num_rows": "i32"}
    types |= dict.fromkeys((f"outs_{n}" for n in range(MAX_TOGETHER)), "i32")
    return CompileCase(
        name=f"linear {type.name} {config.outs}x{config.rows}, {config.num_stages} stages, {count} of {splits} parts",
        kernel=_linear,
        types=types | {"num_blocks": "i32"},
        constexprs={
            "FORMAT": FORMATS[type],
            "COUNT": count,
            "SPLITS": splits,
            "IS_PARTED": splits > 1 and config.rows == FEW_ROWS,
            "BN": config.outs,
            "R": config.rows,
        },
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
        (LinearConfig(64, 16, 4, 3), ("sm_90",), 4, 1),
        (LinearConfig(64, 16, 4, 3), ("sm_90",), 1, 4),
        (LinearConfig(32, 16, 2, 3), ("sm_80", "sm_120"), 4, 1),
        (LinearConfig(128, 64, 8, 1), ("sm_80", "sm_120", "gfx942"), 1, 1),
        (LinearConfig(128, 64, 8, 1), ("sm_90",), 1, 4),
    )
    more = [
        compile_case(QuantType.Q4_K, config, targets, None, count, splits) for config, targets, count, splits in others
    ]
    wide = [
        compile_case(type, linear_config(FORMATS[type], 4096, False, False, 90), ("sm_90",))
        for type in (QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0)
    ]
    return (*few, *more, *wide)
