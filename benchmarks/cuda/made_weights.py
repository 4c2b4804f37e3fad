"""Random weights made where they are multiplied: records of any format, filled on the device.

Codes and scales are random bits, never zeros: memory and multipliers take the more power the more bits change. The
weights have mean 0 and about the deviation that is asked for, so that a model of them has finite logits and routes its
rows apart.
"""

import torch

from benchmarks.cuda.byte_bounds import FLOAT_BYTES
from stepahead.backends.cuda.formats.format import FORMATS, Format, Levels, Mins, Scales
from stepahead.backends.cuda.loading import DTYPES, stored_shape
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.gguf import QuantType

LEVEL_RMS = {Levels.LINEAR: 1.0, Levels.E2M1: 6.0, Levels.IQ4: 60.0}
"""Of uniform codes; LINEAR goes with the number of bits. Others need no more than to be finite."""
SCALE_RMS = {Scales.NONE: 1.0, Scales.UNSIGNED: (63 * 127 / 6) ** 0.5, Scales.SIGNED: 73.9, Scales.NIBBLES: 8.8}


def made_matrix(type: QuantType, shape: tuple[int, ...], device: torch.device, std: float | None = None) -> CudaMatrix:
    """(out, in) or (experts, out, in); std None: what keeps the size of rows."""
    std = shape[-1] ** -0.5 if std is None else std
    stored = stored_shape(type, shape)
    if type in FLOAT_BYTES:
        data = torch.empty(stored, dtype=DTYPES[type], device=device).normal_(0.0, std)
        return CudaMatrix(data, type, shape)
    words = torch.randint(-(1 << 31), 1 << 31, stored, dtype=torch.int32, device=device)
    _set_scales(words, FORMATS[type], std)
    return CudaMatrix(words, type, shape)


def _set_scales(words: torch.Tensor, form: Format, std: float) -> None:
    """Of records of random bits: scales that are numbers of the right size, minima at the middle of the codes."""
    if form.levels == Levels.LINEAR:
        rms = ((4**form.code_bits - 1) / 12) ** 0.5
        middle = ((1 << form.code_bits) - 1) / 2 - form.offset
    else:
        rms, middle = LEVEL_RMS.get(form.levels, 20.0), 0.0
    unit = std / (rms * form.unit)
    scales, mins = words[..., form.scales_at : form.mins_at], words[..., form.mins_at : form.d_at]
    if form.scales == Scales.HALF:
        # From one to two times a power of two, which is about the deviation over 1.5.
        exponent = int(_half_bits(unit / 1.5)) & 0x7C00
        scales.bitwise_and_(0x03FF03FF).bitwise_or_(exponent * 0x10001)
    elif form.scales == Scales.EXPONENT:
        scales.fill_(_repeated(128 + round(torch.tensor(unit).log2().item())))
    elif form.scales == Scales.UNSIGNED:
        scales.bitwise_and_(0x3F3F3F3F)
    elif form.scales == Scales.NIBBLES:
        scales.bitwise_and_(0x0F0F0F0F)
        scales.bitwise_or_(scales << 4)
    if form.mins == Mins.HALF:
        mins.copy_((scales.contiguous().view(torch.float16) * -middle).view(torch.int32))
    elif form.min_words:
        mins.copy_(scales)
    if form.has_d:
        d = unit / SCALE_RMS[form.scales]
        words[..., form.d_at : form.dmin_at] = _half_bits(d) * 0x10001
        words[..., form.dmin_at :] = _half_bits(d * middle) * 0x10001


def _half_bits(value: float) -> int:
    """Of a float16 that is positive: below 2^15, so that two of them fit into an int32."""
    return int(torch.tensor(value, dtype=torch.float16).view(torch.int16))


def _repeated(byte: int) -> int:
    """A byte four times, as an int32."""
    word = byte * 0x01010101
    return word - (1 << 32) if word >= 1 << 31 else word
