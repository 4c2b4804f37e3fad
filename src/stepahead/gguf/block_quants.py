"""Dequantisers of the scalar, legacy, K, ternary and FP4 block types, each a few lines of tensor algebra.

Every function takes blocks (n, block_bytes) uint8 and returns (n, block_size) float32; the comment above its body is
the layout of one block in bytes. Integers are little-endian, `half` is an IEEE binary16 scale. The order of the float
operations is part of the specification. Must not know: QuantType, files, rows.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# The sixteen values of an E2M1 float (OCP Microscaling formats v1.0, section 5.3.3), doubled to be integers.
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def half(blocks: Bytes, at: int) -> Floats:
    """The binary16 at byte `at` of every block, (n, 1)."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def fields(packed: npt.NDArray[np.unsignedinteger], width: int, count: int | None = None) -> npt.NDArray[np.uint8]:
    """Unpack bit fields of `width` ≤ 8 bits, lowest first: (…, m) -> (…, count, m), field j of every word in row j."""
    shifts = np.arange(0, 8 * packed.dtype.itemsize, width, dtype=packed.dtype)[:count]
    words = packed[..., None, :] >> shifts[:, None]
    return (words & packed.dtype.type((1 << width) - 1)).astype(np.uint8)


def f32(b: Bytes) -> Floats:
    return b.view("<f4").astype(np.float32)


def f16(b: Bytes) -> Floats:
    return half(b, 0)


def bf16(b: Bytes) -> Floats:
    # The upper half of a binary32.
    return (b.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def q4_0(b: Bytes) -> Floats:
    # d half | 16 x (element i low, element i + 16 high nibble);  y = d (q - 8)
    q = fields(b[:, 2:], 4).reshape(-1, 32)
    return half(b, 0) * (q.view(np.int8) - np.int8(8))


def q4_1(b: Bytes) -> Floats:
    # d half | m half | nibbles as in Q4_0;  y = d q + m
    return half(b, 0) * fields(b[:, 4:], 4).reshape(-1, 32) + half(b, 2)


def _five_bits(high: Bytes, low: Bytes) -> npt.NDArray[np.uint8]:
    # high: bit i is bit 4 of element i; low: nibbles as in Q4_0
    return fields(low, 4).reshape(-1, 32) | fields(high[:, :, None], 1).reshape(-1, 32) << np.uint8(4)


def q5_0(b: Bytes) -> Floats:
    # d half | 32 fifth bits | nibbles;  y = d (q - 16)
    return half(b, 0) * (_five_bits(b[:, 2:6], b[:, 6:]).view(np.int8) - np.int8(16))


def q5_1(b: Bytes) -> Floats:
    # d half | m half | 32 fifth bits | nibbles;  y = d q + m
    return half(b, 0) * _five_bits(b[:, 4:8], b[:, 8:]) + half(b, 2)


def q8_0(b: Bytes) -> Floats:
    # d half | 32 x int8;  y = d q
    return half(b, 0) * b[:, 2:].view(np.int8)


def q2_k(b: Bytes) -> Floats:
    # 16 x (scale low, min high nibble) | 64 x four 2-bit q | d half | dmin half
    # Byte i of either 32-byte half holds elements i, i + 32, i + 64, i + 96 of its 128.  y = d scale q - dmin min
    pairs = fields(b[:, :16], 4).astype(np.float32)  # (n, 2, 16): scales, mins
    q = fields(b[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    return ((half(b, 80) * pairs[:, 0])[..., None] * q - (half(b, 82) * pairs[:, 1])[..., None]).reshape(-1, 256)


def q3_k(b: Bytes) -> Floats:
    # 32 x eight third bits | 64 x four 2-bit q (order as in Q2_K) | 12 bytes of 16 six-bit scales | d half
    # Scale j: low nibbles first (bytes 0-7, low then high nibble), then two high bits (bytes 8-11, field j // 4).
    # Byte i of the third bits belongs to elements i, i + 32, …;  y = d (scale - 32) (q - 4)
    low, high = fields(b[:, 96:104], 4).reshape(-1, 16), fields(b[:, 104:108], 2).reshape(-1, 16)
    scale = (low | high << np.uint8(4)).view(np.int8) - np.int8(32)
    d: Floats = half(b, 108) * scale
    third = fields(b[:, :32], 1).reshape(-1, 256) << np.uint8(2)
    q = (fields(b[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 256) | third).view(np.int8) - np.int8(4)
    return (d[..., None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


def _scales_and_mins(packed: Bytes) -> tuple[Floats, Floats]:
    # 12 bytes hold 8 six-bit scales s and mins m: bytes 0-3 s0-s3, bytes 4-7 m0-m3, both in the low six bits; bytes
    # 8-11 the low nibbles of s4-s7 (low) and m4-m7 (high), whose upper two bits top the bytes 0-3 and 4-7.
    s, m, tail = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([s & 63, (tail & 15) | (s >> 2 & 48)], axis=1)
    mins = np.concatenate([m & 63, (tail >> 4) | (m >> 2 & 48)], axis=1)
    return scales.astype(np.float32), mins.astype(np.float32)


def q4_k(b: Bytes) -> Floats:
    # d half | dmin half | 12 bytes of scales and mins | 4 x 32 bytes
    # Sub-block 2g in the low nibbles of group g, 2g + 1 in the high;  y = d scale q - dmin min, eight sub-blocks of 32
    scales, mins = _scales_and_mins(b[:, 4:16])
    q = fields(b[:, 16:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return ((half(b, 0) * scales)[..., None] * q - (half(b, 2) * mins)[..., None]).reshape(-1, 256)


def q5_k(b: Bytes) -> Floats:
    # As Q4_K with 32 bytes of fifth bits before the nibbles: bit s of byte i belongs to element i of sub-block s.
    scales, mins = _scales_and_mins(b[:, 4:16])
    q = fields(b[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32) | fields(b[:, 16:48], 1) << np.uint8(4)
    return ((half(b, 0) * scales)[..., None] * q - (half(b, 2) * mins)[..., None]).reshape(-1, 256)


def q6_k(b: Bytes) -> Floats:
    # 128 bytes of nibbles (two halves of 64) | 64 x four upper bit pairs (order as in Q2_K) | 16 x int8 scale | d half
    # y = d scale (q - 32), sixteen sub-blocks of 16
    low = fields(b[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 256)
    high = fields(b[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 256)
    q = (low | high << np.uint8(4)).view(np.int8) - np.int8(32)
    return ((half(b, 208) * b[:, 192:208].view(np.int8))[..., None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


def _trits(packed: Bytes, count: int) -> npt.NDArray[np.uint8]:
    # A byte is a fraction of 256 written in base 3: trit j is the integer part of 3 * frac(byte * 3^j).
    powers = np.uint8(3) ** np.arange(count, dtype=np.uint8)
    fraction = packed[:, None, :] * powers[:, None]  # wraps: frac() on purpose
    return (fraction.astype(np.uint16) * np.uint16(3) >> np.uint16(8)).astype(np.uint8).reshape(len(packed), -1)


def tq1_0(b: Bytes) -> Floats:
    # 32 bytes of 5 trits | 16 bytes of 5 | 4 bytes of 4 | d half;  y = d (trit - 1)
    trits = np.concatenate([_trits(b[:, :32], 5), _trits(b[:, 32:48], 5), _trits(b[:, 48:52], 4)], axis=1)
    return half(b, 52) * (trits.view(np.int8) - np.int8(1))


def tq2_0(b: Bytes) -> Floats:
    # 64 x four 2-bit q (order as in Q2_K) | d half;  y = d (q - 1)
    q = fields(b[:, :64].reshape(-1, 2, 32), 2).reshape(-1, 256)
    return half(b, 64) * (q.view(np.int8) - np.int8(1))


def mxfp4(b: Bytes) -> Floats:
    # e (E8M0) | nibbles as in Q4_0;  y = 2^(e - 127) E2M1[q], here with half the scale and twice the value
    scale = np.ldexp(np.float32(1), b[:, :1].astype(np.int32) - 128)
    return scale * E2M1_DOUBLED[fields(b[:, 1:], 4).reshape(-1, 32)]


def nvfp4(b: Bytes) -> Floats:
    # 4 scales (E4M3, its sign bit ignored) | 4 x 8 bytes of nibbles (order as in Q4_0);  y = scale E2M1[q]
    # Code 0x7F (a NaN) means a scale of zero.
    exponent, mantissa = (b[:, :4] >> 3 & 15).astype(np.int32), (b[:, :4] & 7).astype(np.float32)
    scale = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(1 + mantissa / 8, exponent - 7))
    scale = np.where(b[:, :4] == 0x7F, np.float32(0), scale * np.float32(0.5))
    q = fields(b[:, 4:].reshape(-1, 4, 8), 4).reshape(-1, 4, 16)
    return (scale[..., None] * E2M1_DOUBLED[q]).reshape(-1, 64)
