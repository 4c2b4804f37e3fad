"""Kernels that measure the device itself. Of a kernel, types are Triton's."""
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_blocks"])
def read_blocks(x, out, num_blocks, BLOCK: tl.constexpr):
    """Each program reads every num_programs-th block of int32, and keeps no more than what it cannot be spared."""
    places = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    for block in range(tl.program_id(0), num_blocks, tl.num_programs(0)):  # of at most 2 GB: 32-bit offsets
        total ^= tl.load(x + block * BLOCK + places)
    tl.store(out + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def tiny(x):
    tl.store(x, tl.load(x) + 1.0)


@triton.jit
def tiny_dependent(x):
    """As `tiny`, launched while the one before still runs, and waiting for it where that counts."""
    tl.extra.cuda.gdc_wait()
    tl.store(x, tl.load(x) + 1.0)
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def dot(w, x, y, K: tl.constexpr, BN: tl.constexpr, R: tl.constexpr, STEP: tl.constexpr):
    """y (BN, R) = w (BN, K) x^T (K, R)."""
    out, row, k = tl.arange(0, BN), tl.arange(0, R), tl.arange(0, STEP)
    acc = tl.zeros((BN, R), tl.float32)
    for start in range(0, K, STEP):
        weights = tl.load(w + out[:, None] * K + start + k[None, :])
        inputs = tl.load(x + row[None, :] * K + start + k[:, None])
        acc = tl.dot(weights, inputs, acc)
    tl.store(y + out[:, None] * R + row[None, :], acc)
