"""Q4_K and Q6_K with a search for the best scales; Q8_0 and floats go to the `gguf` package.

Layouts are ggml's (a super-block is 256 weights of a row). Everything is float32 numpy over [n, groups, size].
"""

from __future__ import annotations

import numpy as np

import gguf
from gguf import GGMLQuantizationType as Type

Array = np.ndarray
SUPER = 256
CHUNK = 4096  # super-blocks searched at a time


def divide(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def as_bytes(half: Array) -> Array:
    """[n] float16 -> [n, 2] uint8."""
    return np.ascontiguousarray(half).view(np.uint8).reshape(-1, 2)


def best_symmetric(x: Array, top: int) -> Array:
    """Scale [n, g, 1] of each group of x [n, g, s] for levels -top … top - 1, least squares weighted by x²."""
    w = x * x
    at = np.abs(x).argmax(-1)[..., None]
    extreme = np.take_along_axis(x, at, -1)
    best, best_score = np.zeros_like(extreme), np.full_like(extreme, -1.0)
    for shift in np.arange(-1.0, 1.01, 0.1, dtype=np.float32):
        q = np.clip(np.rint(x * divide(-(top + shift), extreme)), -top, top - 1)
        xq, qq = (w * x * q).sum(-1, keepdims=True), (w * q * q).sum(-1, keepdims=True)
        score, scale = divide(xq * xq, qq), divide(xq, qq)
        better = score > best_score
        best, best_score = np.where(better, scale, best), np.where(better, score, best_score)
    return best


def best_affine(x: Array, levels: int) -> tuple[Array, Array]:
    """Scale and minimum (both >= 0, [n, g, 1]) so that x is near scale * q - minimum with q in 0 … levels."""
    w = np.sqrt((x * x).mean(-1, keepdims=True)) + np.abs(x)
    low, high = np.minimum(x.min(-1, keepdims=True), 0), x.max(-1, keepdims=True)
    span = np.maximum(high - low, 0)
    sw, sx = w.sum(-1, keepdims=True), (w * x).sum(-1, keepdims=True)
    best_scale, best_low = divide(span, np.float32(levels)), low
    q = np.clip(np.rint(divide(x - low, best_scale)), 0, levels)
    best_error = (w * (best_scale * q + low - x) ** 2).sum(-1, keepdims=True)
    for step in range(-10, 12):
        q = np.clip(np.rint((x - low) * divide(np.float32(levels + 0.1 * step), span)), 0, levels)
        sq, sqq, sxq = ((w * a * q).sum(-1, keepdims=True) for a in (np.float32(1), q, x))
        determinant = sw * sqq - sq * sq
        scale, minimum = divide(sw * sxq - sx * sq, determinant), divide(sqq * sx - sq * sxq, determinant)
        scale = np.where(minimum > 0, divide(sxq, sqq), scale)
        minimum = np.minimum(minimum, 0)
        error = (w * (scale * q + minimum - x) ** 2).sum(-1, keepdims=True)
        better = (error < best_error) & (determinant > 0) & (scale > 0)
        best_scale, best_low = np.where(better, scale, best_scale), np.where(better, minimum, best_low)
        best_error = np.where(better, error, best_error)
    return best_scale, -best_low


def pack_six_bit(scales: Array, minima: Array) -> Array:
    """Two [n, 8] arrays of 6-bit numbers -> [n, 12] bytes."""
    return np.concatenate(
        [
            (scales[:, :4] & 63) | ((scales[:, 4:] >> 4) << 6),
            (minima[:, :4] & 63) | ((minima[:, 4:] >> 4) << 6),
            (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4),
        ],
        1,
    )


def q4_k(x: Array) -> Array:
    """[n, 256] -> [n, 144] bytes: d, dmin, 8 six-bit scales and minima, nibbles of groups 2i and 2i + 1."""
    groups = x.reshape(-1, 8, 32)
    scale, minimum = best_affine(groups, 15)
    d, dmin = (a.max((1, 2)).astype(np.float32) / 63 for a in (scale, minimum))
    d, dmin = d.astype(np.float16), dmin.astype(np.float16)
    df, mf = d.astype(np.float32)[:, None], dmin.astype(np.float32)[:, None]
    s = np.clip(np.rint(divide(scale[..., 0], df)), 0, 63).astype(np.uint8)
    m = np.clip(np.rint(divide(minimum[..., 0], mf)), 0, 63).astype(np.uint8)
    q = np.clip(np.rint(divide(groups + (mf * m)[..., None], (df * s)[..., None])), 0, 15).astype(np.uint8)
    nibbles = (q[:, 0::2] | (q[:, 1::2] << 4)).reshape(-1, 128)
    return np.concatenate([as_bytes(d), as_bytes(dmin), pack_six_bit(s, m), nibbles], 1)


def q6_k(x: Array) -> Array:
    """[n, 256] -> [n, 210] bytes: low nibbles, high pairs, 16 int8 scales, d."""
    groups = x.reshape(-1, 16, 16)
    scale = best_symmetric(groups, 32)[..., 0]
    largest = np.take_along_axis(scale, np.abs(scale).argmax(-1)[:, None], -1)[:, 0]
    d = (largest / -128).astype(np.float16)
    df = d.astype(np.float32)[:, None]
    s = np.clip(np.rint(divide(scale, df)), -128, 127).astype(np.int8)
    q = np.clip(np.rint(divide(groups, (df * s)[..., None])), -32, 31) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)  # half, quarter, place
    low = np.concatenate([(q[:, :, i] & 15) | ((q[:, :, i + 2] & 15) << 4) for i in (0, 1)], -1)
    high = sum((q[:, :, i] >> 4) << (2 * i) for i in range(4)).astype(np.uint8)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), s.view(np.uint8), as_bytes(d)], 1)


def quantise(x: Array, kind: Type) -> Array:
    """Rows of x [..., width] in the given type; K-quants come back as uint8 [..., bytes of a row]."""
    if kind not in (Type.Q4_K, Type.Q6_K):
        return gguf.quants.quantize(np.ascontiguousarray(x, np.float32), kind)
    one = q4_k if kind == Type.Q4_K else q6_k
    flat = np.ascontiguousarray(x, np.float32).reshape(-1, SUPER)
    blocks = np.concatenate([one(flat[i : i + CHUNK]) for i in range(0, len(flat), CHUNK)])
    return blocks.reshape(*x.shape[:-1], -1)
