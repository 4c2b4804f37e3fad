"""Attention over blocks of keys and values, for few rows and for many by one kernel.

A program takes a tile: consecutive rows of the pass times the query heads of one KV head, as far as they belong to one
sequence, so that keys are read once for all of them. There is a program for each row, and the first row of a sequence
in a tile leads: the others' programs end at once. Nothing is known of lengths on the host. Splits are dealt to as many
programs as the block table could need, up to a limit; a program without a split ends at once.

Keys are taken in chunks of 64 and splits of 8 chunks, both by absolute position, whatever the tile, the pass and the
way the splits are put together: in the program itself where it has them all, by `attention_merge` otherwise.
"""

import math

import torch
import triton
import triton.language as tl

from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.compile_case import TARGETS, CompileCase
from stepahead.backends.cuda.kernels.attention_chunk import CODE_SCALE, WEIGHT_SCALE, attend, load_chunk
from stepahead.backends.cuda.kernels.attention_merge import attention_merge, merged, mixed
from stepahead.backends.cuda.kernels.functions import magnitude_bits, powers_of_two
from stepahead.backends.cuda.kv import KVBlocks
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.splits import SPLIT_KEYS, attention_splits, is_parted

CONFIGS = {"f16": (32, 4, 2), "q8_0": (32, 4, 2), "f32": (16, 4, 1)}
"""By the type of keys and values: rows times query heads of a program, warps, stages. For any number of rows: the
instruction that multiplies must not depend on it, and on sm_90 a tile of 64 would take another one."""

F32_PRECISION = "ieee" if getattr(torch.version, "hip", None) else "tf32x3"
"""How float32 is multiplied: on NVIDIA's tensor cores as three products of its parts, which keep 21 bits or more."""

MAX_GROUP = 64
"""Query heads that share a KV head."""

PROGRAMS = 1024

FAR = tl.constexpr(0x7FFFFFFF)


def attention(
    launch: Launcher,
    q: torch.Tensor,  # (num_rows, heads * head_dim) float32
    kv: KVBlocks,
    positions: torch.Tensor,  # (num_rows,) int32, as those that follow
    first_keys: torch.Tensor,
    sequences: torch.Tensor,  # -1: no row; it gets zeros
    block_tables: torch.Tensor,  # (num_sequences, max_blocks)
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """(num_rows, heads * head_dim): see `Backend.attention`.

    window: no row sees more keys; it saves a launch and changes no bit.
    """
    num_rows, width = q.shape
    num_heads = width // kv.head_dim
    padded = triton.next_power_of_2(num_heads // kv.num_kv_heads)
    assert padded <= MAX_GROUP, f"{num_heads} query heads share {kv.num_kv_heads} KV heads, at most {MAX_GROUP} a head"
    tile, num_warps, num_stages = CONFIGS[kv.kv_type]
    max_splits = attention_splits(block_tables.shape[1])
    parted = is_parted(num_rows, width, max_splits, window)
    out = parts = stats = torch.empty_like(q)
    if parted:
        shape = (num_rows, num_heads, max_splits)
        parts, stats = (torch.empty((*shape, n), dtype=q.dtype, device=q.device) for n in (kv.head_dim, 2))
    programs = triton.cdiv(PROGRAMS, triton.cdiv(num_rows, max(tile, padded) // padded) * kv.num_kv_heads)
    is_q8_0 = kv.kv_type == "q8_0"
    weight_scale = 1.0 if kv.kv_type == "f32" else WEIGHT_SCALE
    number_scale = CODE_SCALE.value if is_q8_0 else 1.0
    launch(
        _attention,
        (num_rows, kv.num_kv_heads, min(max_splits, programs) if parted else 1),
        q,
        kv.keys,
        kv.values,
        kv.key_scales if is_q8_0 else kv.keys,
        kv.value_scales if is_q8_0 else kv.values,
        positions,
        first_keys,
        sequences,
        block_tables,
        out,
        parts,
        stats,
        scale * math.log2(math.e) / number_scale,
        num_rows,
        block_tables.shape[1],
        max_splits,
        num_warps=num_warps,
        num_stages=num_stages,
        KV_HEADS=kv.num_kv_heads,
        HEADS=num_heads // kv.num_kv_heads,
        PADDED=padded,
        HEAD_DIM=kv.head_dim,
        BLOCK=max(32, triton.next_power_of_2(kv.head_dim)),
        CHUNK=BLOCK_SIZE,
        TILE=max(tile, padded),
        SPLIT_KEYS=SPLIT_KEYS,
        WEIGHT_SCALE=weight_scale,
        PRECISION=F32_PRECISION if kv.kv_type == "f32" else "ieee",
        SUM_SCALE=weight_scale * number_scale,
        IS_PARTED=parted,
    )
    if not parted:
        return out
    return attention_merge(
        launch, parts, stats, positions, first_keys, sequences, SPLIT_KEYS, weight_scale * number_scale
    )


@triton.jit(do_not_specialize=["num_rows", "max_blocks", "max_splits"])
def _attention(
    q,
    keys,
    values,
    key_scales,
    value_scales,
    positions,
    first_keys,
    sequences,
    block_tables,
    out,
    parts,
    stats,
    score_scale,
    num_rows,
    max_blocks,
    max_splits,
    KV_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    WEIGHT_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_SCALE: tl.constexpr,
    IS_PARTED: tl.constexpr,
):
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.load(sequences + row)
    places = tl.arange(0, TILE)
    tile_row = row // (TILE // PADDED) * (TILE // PADDED)
    rows = tile_row + places // PADDED
    is_mine = tl.load(sequences + rows, mask=rows < num_rows, other=-2) == sequence
    if tl.min(tl.where(is_mine, rows, num_rows), axis=0) != row:
        return
    # Of rows that are not there last is before first: they see nothing.
    last = tl.load(positions + rows, mask=is_mine, other=-1)
    last = tl.where(sequence >= 0, last, -1)
    first = tl.load(first_keys + rows, mask=is_mine, other=FAR)
    start, end = tl.min(first, axis=0), tl.max(last, axis=0) + 1
    table = block_tables + sequence.to(tl.int64) * max_blocks
    is_query = is_mine & (places % PADDED < HEADS)
    # Heads are counted from the tile's first, so that what lies behind them has 32-bit offsets.
    tile_head = (tile_row * KV_HEADS + kv_head).to(tl.int64) * HEADS
    heads = places // PADDED * (KV_HEADS * HEADS) + places % PADDED
    dims = tl.arange(0, BLOCK)
    at = heads[:, None] * HEAD_DIM + dims[None, :]
    q += tile_head * HEAD_DIM
    out += tile_head * HEAD_DIM
    exists = is_query[:, None] & (dims < HEAD_DIM)[None, :]
    queries, scale = _queries(tl.load(q + at, mask=exists, other=0.0), score_scale, keys.dtype.element_ty)
    best, total, acc = _nothing(TILE, BLOCK)
    first_split = start // SPLIT_KEYS + tl.program_id(2)
    for split in range(first_split, (end + SPLIT_KEYS - 1) // SPLIT_KEYS, tl.num_programs(2)):
        part_start = tl.maximum(split * SPLIT_KEYS, start)
        part_end = tl.minimum(split * SPLIT_KEYS + SPLIT_KEYS, end)
        part_best, part_total, part_acc = _split(
            queries, scale, keys, values, key_scales, value_scales, table, kv_head, part_start, part_end, first, last,
            KV_HEADS, HEAD_DIM, BLOCK, CHUNK, TILE, WEIGHT_SCALE, PRECISION,
        )  # fmt: skip
        if IS_PARTED:
            sees = is_query & (first // SPLIT_KEYS <= split) & (last // SPLIT_KEYS >= split)
            part = (tile_head + heads) * max_splits + split
            tl.store(stats + 2 * part, part_best, mask=sees)
            tl.store(stats + 2 * part + 1, part_total, mask=sees)
            tl.store(parts + part[:, None] * HEAD_DIM + dims[None, :], part_acc, mask=exists & sees[:, None])
        else:
            best, total, acc = merged(best, total, acc, part_best, part_total, part_acc)
    if not IS_PARTED:
        y = mixed(total, acc, is_query & (last >= first), SUM_SCALE)
        tl.store(out + at, y, mask=exists)


@triton.jit
def _nothing(TILE: tl.constexpr, BLOCK: tl.constexpr):
    """The softmax of no keys: largest score, sum of weights, sum of weighted values."""
    best = tl.full((TILE,), float("-inf"), tl.float32)
    return best, tl.zeros((TILE,), tl.float32), tl.zeros((TILE, BLOCK), tl.float32)


@triton.jit
def _queries(x, score_scale, KV_TYPE: tl.constexpr):
    """Queries as they meet keys, and what their scores are multiplied with."""
    if tl.float32 == KV_TYPE:
        queries = x
        scale = tl.zeros((x.shape[0],), tl.float32) + score_scale
    else:
        up, down = powers_of_two(tl.max(magnitude_bits(x), axis=1))
        queries = (x * up[:, None]).to(tl.float16)
        scale = down * score_scale
    return queries, scale


@triton.jit
def _split(
    queries,
    scale,
    keys,
    values,
    key_scales,
    value_scales,
    table,
    kv_head,
    start,
    end,
    first,
    last,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    WEIGHT_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What the keys from start to before end are to the rows."""
    best, total, acc = _nothing(TILE, BLOCK)
    for chunk in tl.range(start // CHUNK, (end + CHUNK - 1) // CHUNK):
        # A chunk between those that rows see may have no block, and any serves.
        block = tl.maximum(tl.load(table + chunk), 0).to(tl.int64)
        place = (block * KV_HEADS + kv_head) * CHUNK
        k = load_chunk(keys, key_scales, place, HEAD_DIM, BLOCK, CHUNK)
        v = load_chunk(values, value_scales, place, HEAD_DIM, BLOCK, CHUNK)
        best, total, acc = attend(
            queries, scale, k, v, chunk, first, last, best, total, acc, CHUNK, WEIGHT_SCALE, PRECISION
        )
    return best, total, acc


def compile_cases() -> tuple[CompileCase, ...]:
    nvidia = tuple(target for target in TARGETS if target.startswith("sm_"))
    amd = tuple(target for target in TARGETS if target not in nvidia)
    return (
        _compile_case("f16", 8, True, "ieee", nvidia),
        _compile_case("f16", 12, False, "ieee", nvidia),
        _compile_case("q8_0", 8, True, "ieee", nvidia),
        _compile_case("q8_0", 12, False, "ieee", nvidia),
        _compile_case("f32", 12, False, "tf32x3", nvidia),
        _compile_case("f16", 12, False, "ieee", amd, max_stack_nbytes=128),
        _compile_case("q8_0", 12, False, "ieee", amd, max_stack_nbytes=128),
        _compile_case("f32", 12, False, "ieee", amd, max_stack_nbytes=128),
    )


def _compile_case(
    kv_type: str, heads: int, is_parted: bool, precision: str, targets: tuple[str, ...], max_stack_nbytes: int = 0
) -> CompileCase:
    plane = {"f16": "*fp16", "f32": "*fp32", "q8_0": "*i8"}[kv_type]
    scales = dict.fromkeys(("key_scales", "value_scales"), "*fp16" if kv_type == "q8_0" else plane)
    ints = dict.fromkeys(("positions", "first_keys", "sequences", "block_tables"), "*i32")
    floats = dict.fromkeys(("out", "parts", "stats"), "*fp32")
    scalars = {"score_scale": "fp32", "num_rows": "i32", "max_blocks": "i32", "max_splits": "i32"}
    tile, num_warps, num_stages = CONFIGS[kv_type]
    where = "a split" if is_parted else "all splits"
    return CompileCase(
        name=f"attention {kv_type}, {heads} heads, {where} a program, {'NVIDIA' if 'sm_90' in targets else targets[0]}",
        kernel=_attention,
        types={"q": "*fp32", "keys": plane, "values": plane} | scales | ints | floats | scalars,
        constexprs={
            "KV_HEADS": 8,
            "HEADS": heads,
            "PADDED": triton.next_power_of_2(heads),
            "HEAD_DIM": 128,
            "BLOCK": 128,
            "CHUNK": BLOCK_SIZE,
            "TILE": tile,
            "SPLIT_KEYS": SPLIT_KEYS,
            "WEIGHT_SCALE": WEIGHT_SCALE,
            "PRECISION": precision,
            "SUM_SCALE": WEIGHT_SCALE,
            "IS_PARTED": is_parted,
        },
        num_warps=num_warps,
        num_stages=num_stages,
        targets=targets,
        uses_tensor_cores=True,
        has_wide_loads=True,
        forbidden=("I2F.*",) if kv_type == "q8_0" else (),
        max_registers={"f16": 168, "q8_0": 255, "f32": 248}[kv_type],  # 168: three programs at once
        max_stack_nbytes=max_stack_nbytes,
    )
