"""One chunk of 64 keys against a tile of queries: scores, weights and weighted values.

Scores of keys that a row does not see become -Inf whatever the key is, so that a chunk of such keys changes no bit of
the row. Their values are multiplied by a weight of 0, which is safe: values are finite numbers always, see kv_write.
"""

import triton
import triton.language as tl

WEIGHT_SCALE = 32768.0
"""Of weights as halves, whose largest is 1 before: small ones keep their bits longer."""

CODE_SCALE = tl.constexpr(2.0**-7)
"""Of codes of q8_0 before they meet their scale: the largest product is a half then."""


@triton.jit
def load_chunk(plane, scales, place, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """(CHUNK, BLOCK) from slot `place` on, zeros behind a head's dimensions; halves, or float32 where stored so."""
    slots = tl.arange(0, CHUNK)  # 32-bit offsets from where the block is
    if plane.dtype.element_ty == tl.int8:
        groups = tl.arange(0, BLOCK // 32)[None, :, None]
        codes = plane + place * HEAD_DIM + slots[:, None, None] * HEAD_DIM + groups * 32
        codes += tl.arange(0, 32)[None, None, :]
        scales += place * (HEAD_DIM // 32) + slots[:, None, None] * (HEAD_DIM // 32) + groups
        exists = groups * 32 < HEAD_DIM
        words = tl.load(codes) if HEAD_DIM == BLOCK else tl.load(codes, mask=exists, other=0)
        scale = tl.load(scales) if HEAD_DIM == BLOCK else tl.load(scales, mask=exists, other=0.0)
        # The half 8 has a last bit of 2^-7: with the code and 128 in its last byte it is 9 + code * 2^-7.
        words = ((words.to(tl.int16) & 0xFF) ^ 0x80) | 0x4800
        numbers = (words.to(tl.float16, bitcast=True) - 9.0) * scale
        numbers = tl.reshape(numbers, (CHUNK, BLOCK))
    else:
        dims = tl.arange(0, BLOCK)[None, :]
        numbers = plane + place * HEAD_DIM + (slots[:, None] * HEAD_DIM + dims)
        numbers = tl.load(numbers) if HEAD_DIM == BLOCK else tl.load(numbers, mask=dims < HEAD_DIM, other=0.0)
    return numbers


@triton.jit
def attend(
    queries,
    scale,
    keys,
    values,
    chunk,
    first,
    last,
    best,
    total,
    acc,
    CHUNK: tl.constexpr,
    WEIGHT_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The state after the chunk's keys; queries (TILE, BLOCK), scale, first, last, best, total (TILE,)."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale[:, None]
    slots = tl.arange(0, CHUNK)[None, :]
    is_seen = (slots >= (first - chunk * CHUNK)[:, None]) & (slots <= (last - chunk * CHUNK)[:, None])
    scores = tl.where(is_seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, axis=1))
    safe = tl.where(new_best == float("-inf"), 0.0, new_best)
    weights = tl.exp2(scores - safe[:, None])
    fading = tl.exp2(best - safe)
    total = total * fading + tl.sum(weights, axis=1)
    weights = (weights * WEIGHT_SCALE).to(values.dtype)
    acc = tl.dot(weights, values, acc * fading[:, None], input_precision=PRECISION)
    return new_best, total, acc
