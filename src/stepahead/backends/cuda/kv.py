"""Keys and values of one layer on the device: planes of blocks, and what the host does with a whole block.

Values are finite numbers from the start, and stay so: attention multiplies those that a row does not see by 0. A value
that is none is kept as a key of NaN: see kernels/kv_write.py.
"""

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.base import BLOCK_SIZE, KV_TYPES, Bytes
from stepahead.errors import BackendError

SCALED = 32
"""Dimensions of a head that share a scale in q8_0."""

TYPES = {"f16": torch.float16, "f32": torch.float32, "q8_0": torch.int8}


class KVBlocks:
    """keys, values: (num_blocks, num_kv_heads, BLOCK_SIZE, head_dim); of q8_0 the codes, and beside them
    key_scales, value_scales: (num_blocks, num_kv_heads, BLOCK_SIZE, head_dim / SCALED) float16, else empty."""

    def __init__(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str, device: torch.device) -> None:
        """Keys hold anything until kv_write. Raises BackendError for a type that is none or that needs other heads."""
        if kv_type not in KV_TYPES:
            raise BackendError(f"kv_type={kv_type!r} is unknown; give one of {', '.join(KV_TYPES)}")
        if kv_type == "q8_0" and head_dim % SCALED:
            raise BackendError(
                f"kv_type='q8_0' needs heads of a multiple of {SCALED}, this model has {head_dim}: use 'f16'"
            )
        self.kv_type = kv_type
        self.num_blocks = num_blocks
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        shape = (num_blocks, num_kv_heads, BLOCK_SIZE)
        num_scales = head_dim // SCALED if kv_type == "q8_0" else 0
        planes = [torch.empty((*shape, head_dim), dtype=TYPES[kv_type], device=device) for _ in range(2)]
        scales = [torch.empty((*shape, num_scales), dtype=torch.float16, device=device) for _ in range(2)]
        self.keys, self.values = planes
        self.key_scales, self.value_scales = scales
        self.values.zero_()
        self.value_scales.zero_()

    @property
    def planes(self) -> tuple[torch.Tensor, ...]:
        """Whatever a block consists of, in the order of its bytes."""
        all_planes = (self.keys, self.key_scales, self.values, self.value_scales)
        return tuple(plane for plane in all_planes if plane.shape[-1])

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self.planes)

    def copy(self, old: int, new: int) -> None:
        self._check("copy_block", old)
        self._check("copy_block", new)
        for plane in self.planes:
            plane[new].copy_(plane[old])

    def read(self, block: int, num_positions: int) -> Bytes:
        """A copy on the host; positions from num_positions on are zeros."""
        self._check("read_block", block)
        parts: list[npt.NDArray[np.uint8]] = []
        for plane in self.planes:
            part = plane[block].contiguous().view(torch.uint8).cpu().numpy().copy()
            part[:, num_positions:] = 0
            parts.append(part.reshape(-1))
        return np.concatenate(parts)

    def write(self, block: int, data: Bytes) -> None:
        """What `read` gave. Raises BackendError for another size."""
        self._check("write_block", block)
        if data.nbytes != self.nbytes // self.num_blocks:
            raise BackendError(f"write_block: {data.nbytes} bytes, a block has {self.nbytes // self.num_blocks}")
        start = 0
        for plane in self.planes:
            target = plane[block]
            part = torch.from_numpy(data[start : start + target.nbytes].copy())
            target.copy_(part.view(plane.dtype).reshape(target.shape))
            start += target.nbytes

    def _check(self, what: str, block: int) -> None:
        if not 0 <= block < self.num_blocks:
            raise BackendError(f"{what}: {block}, there are {self.num_blocks} blocks")
