"""What a repair changes in a file: metadata, and the bytes of tensors, whose shapes and types stay as they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from stepahead.errors import ConfigError
from stepahead.gguf import TensorInfo, TypedValue, dequantize, quantize
from stepahead.gguf.block_quants import Bytes, Floats

Edit = Callable[[Bytes, TensorInfo], Bytes]
"""The new bytes of a tensor, from the old ones (rows…, row_bytes)."""


@dataclass(frozen=True, slots=True, eq=False)
class Repair:
    """text says what it does, or what its reader can do where nothing here can."""

    text: str
    metadata: Mapping[str, TypedValue | None] = field(default_factory=dict)  # None: the key is taken out
    tensors: Mapping[str, Edit] = field(default_factory=dict)

    @property
    def is_possible(self) -> bool:
        return bool(self.metadata or self.tensors)


def add(offset: float) -> Edit:
    """Add to every number."""

    def edit(data: Bytes, info: TensorInfo) -> Bytes:
        return _encoded(dequantize(data, info.type) + np.float32(offset), info)

    return edit


def replace_by(values: Floats) -> Edit:
    """Other numbers altogether."""

    def edit(_: Bytes, info: TensorInfo) -> Bytes:
        return _encoded(values.reshape(info.shape), info)

    return edit


def swap_halves(data: Bytes, info: TensorInfo) -> Bytes:
    """The columns' second half first: whole blocks where a half is whole blocks, else encoded anew."""
    width = info.shape[-1] // 2
    if width % info.type.block_size == 0:
        half = info.type.row_bytes(width)
        return np.concatenate([data[..., half:], data[..., :half]], axis=-1)
    values = dequantize(data, info.type)
    return _encoded(np.concatenate([values[..., width:], values[..., :width]], axis=-1), info)


def pair_by_halves(head_dim: int, num_rows: int | None = None) -> Edit:
    """Rows of heads whose rotated pairs are neighbours (0, 1), (2, 3) … to pairs of a head's halves. A vector of one
    head's size is taken as its rows; num_rows: only the first ones, of a fused matrix."""

    def edit(data: Bytes, info: TensorInfo) -> Bytes:
        if len(info.shape) == 1:
            values = dequantize(data, info.type)
            return _encoded(np.concatenate([values[0::2], values[1::2]]), info)
        end = len(data) if num_rows is None else num_rows
        heads = data[:end].reshape(-1, head_dim // 2, 2, data.shape[-1])
        return np.concatenate([heads.swapaxes(1, 2).reshape(end, -1), data[end:]])

    return edit


def _encoded(values: Floats, info: TensorInfo) -> Bytes:
    """In the tensor's own type. ConfigError where there is no encoder for it."""
    try:
        return quantize(values, info.type)
    except ConfigError as error:
        raise ConfigError(f"tensor {info.name!r} cannot be rewritten: {error}") from None
