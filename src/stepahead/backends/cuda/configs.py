"""How kernels that multiply with packed weights are cut into programs: one table, written from counts, never tuned.

What decides here is the type, the matrix and the device, never the rows of a pass, but for one step: up to FEW_ROWS
rows ride in a tile of 16, more in wide tiles. A row's bits are the same in both as long as both use the same matrix
instruction on a device: so on sm_90 a tile of weights has 64 rows or more (wgmma), never fewer (mma.sync); and on
sm_100, where 64 rows go through tensor memory and codes would have to, too, always fewer.

Counted in machine code for sm_90 (64 outputs, 16 rows, 4 warps, lane-operations a weight, Triton 3.6 / 3.9): one stage
Q4_K 3.4 / 3.9, Q8_0 3.7 / 4.2, Q6_K 4.6, Q5_K 4.7 / 4.8, IQ4_XS 5.8; three stages of copies cost Q4_K 0.5 / 0.7 more,
and keep three times the bytes under way. What a multiprocessor must have under way, about 25 KB, many programs on it
have anyway. So stages are what few programs get. Wide tiles: 128 rows take 254 registers and no memory where d comes
once a block, and spill where scales come once a group: these have 64. NOT MEASURED: where the limits between few and
many programs lie, and everything about sm_80, sm_100, sm_120 and AMD but that registers suffice.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from stepahead.backends.cuda.formats.format import Format, Levels

FEW_ROWS = 16
MANY_ROWS = 64
"""Of a tile of an expert's rows, where there are many."""

TENSOR_MEMORY = (100, 101, 103)
MANY_PROGRAMS = 512
"""So many programs have enough bytes under way without copies ahead."""


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """A program makes `outs` outputs of `rows` rows."""

    outs: int
    rows: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        assert self.num_warps * 16 <= self.outs, "warps would repeat each other's work"


def linear_config(form: Format, num_out: int, is_few: bool, is_split: bool, arch: int) -> LinearConfig:
    """num_out: of all matrices of a launch. is_few: FEW_ROWS rows at most. is_split: K is, see splits.py. arch: 90 for
    sm_90; 0: not NVIDIA's, or interpreted."""
    is_wgmma = arch == 90
    if arch in TENSOR_MEMORY:
        return LinearConfig(32, FEW_ROWS if is_few else 32, 2, 3 if is_few else 1)
    if is_few:
        outs = 64 if is_wgmma or not arch or num_out >= 16384 else 32
        num_stages = 1 if num_out >= MANY_PROGRAMS * outs or not arch else 3
        return LinearConfig(outs, FEW_ROWS, outs // 16, num_stages)
    # A sum of splits takes registers of its own, and so do the levels of small codebooks.
    is_light = form.has_d and form.levels <= Levels.IQ4 and not is_split
    return LinearConfig(128, 128 if is_wgmma and is_light else 64, 8, 1)


def halves_config(num_out: int, is_few: bool, arch: int) -> LinearConfig:
    """Of weights of 16 bits: with the instructions of `linear_config`, and as many outputs. num_out: of all programs of
    a row, those for parts of K among them."""
    if arch in TENSOR_MEMORY:
        return LinearConfig(32, FEW_ROWS if is_few else 32, 2, 3)
    is_wgmma = arch == 90
    if is_few:
        outs = 64 if is_wgmma or not arch or num_out >= 16384 else 32
        return LinearConfig(outs, FEW_ROWS, outs // 16, 3 if arch else 1)
    # Elsewhere rows are cut in registers, and 64 of them spill.
    return LinearConfig(128, MANY_ROWS if is_wgmma or not arch else 32, 8, 2 if arch else 1)


@dataclass(frozen=True, slots=True)
class ExpertConfig:
    """A program multiplies `outs` rows of an expert's weights, of one matrix or of two, with a tile of its rows."""

    outs: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        assert self.num_warps * 16 <= self.outs, "warps would repeat each other's work"


def expert_config(rows: int, num_out: int, num_tiles: int) -> ExpertConfig:
    """rows: of a tile, FEW_ROWS or MANY_ROWS; num_out: rows of the weights in all; num_tiles: of rows, at most.

    Counted as above for Q4_K: one stage 3.6 lane-operations a weight, three 4.2, tiles of MANY_ROWS 4.1. Wider tiles
    spill: the columns of a tile are an expert's rows, and there are two accumulators of them.
    """
    if rows == FEW_ROWS:
        return ExpertConfig(64, 4, 1 if num_out * num_tiles >= 64 * MANY_PROGRAMS else 3)
    return ExpertConfig(128, 8, 1)


@lru_cache
def arch_of(device: torch.device) -> int:
    """As `linear_config` takes it."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
