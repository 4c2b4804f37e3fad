"""Kernels that break each promise once; run as a program, it prints what is found of them. See test_compiled.py."""

import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase, examine


@triton.jit
def converts_bytes(x, y, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + places, tl.load(x + places).to(tl.float16))


@triton.jit
def needs_registers(x, y, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    values = tl.load(x + places)
    tl.store(y + places, values - tl.sum(values, 0))  # all of them are kept until all are summed


@triton.jit
def loops(x, y, n, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        total += tl.load(x + start + places)
    tl.store(y + places, total)


@triton.jit
def shares(x, y, n, BLOCK: tl.constexpr):
    rows, places = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n, BLOCK):
        total += tl.dot(tl.load(x + start + rows * BLOCK + places), tl.load(x + start + places * BLOCK + rows))
    tl.store(y + rows * BLOCK + places, total)


CASES = (
    CompileCase(
        name="converts",
        kernel=converts_bytes,
        types={"x": "*u8", "y": "*fp16"},
        constexprs={"BLOCK": 128},
        num_warps=1,
        uses_tensor_cores=True,
        has_wide_loads=True,
        max_registers=8,
        forbidden=("I2F",),
        required=("LDGSTS",),
        targets=("sm_80",),
    ),
    *(
        CompileCase(
            name="spills",
            kernel=needs_registers,
            types={"x": "*fp32", "y": "*fp32"},
            constexprs={"BLOCK": size},
            num_warps=1,
            targets=(target,),
        )
        for target, size in (("sm_80", 8192), ("gfx942", 32768))
    ),
    CompileCase(
        name="loops",
        kernel=loops,
        types={"x": "*fp32", "y": "*fp32", "n": "i32"},
        constexprs={"BLOCK": 512},
        has_wide_loads=True,
        max_lane_operations=(0.1, 512),
        targets=("sm_90",),
    ),
    CompileCase(
        name="shares",
        kernel=shares,
        types={"x": "*fp16", "y": "*fp32", "n": "i32"},
        constexprs={"BLOCK": 128},
        num_warps=8,
        num_stages=4,
        targets=("sm_80",),
    ),
)

if __name__ == "__main__":
    for case in CASES:
        for target in case.targets:
            print(examine(case, target))
