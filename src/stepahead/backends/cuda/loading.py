"""Weights from the file's bytes to packed ones on the device, a piece after the other."""

import math

import numpy as np
import torch

from stepahead.backends.base import Bytes, Ints
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.formats.fields import fields_of
from stepahead.backends.cuda.formats.format import BLOCK, FORMATS, PLAIN_TYPES, TILE_ROWS
from stepahead.backends.cuda.formats.pack import pack
from stepahead.backends.cuda.formats.source import SOURCES
from stepahead.backends.cuda.kernels.repack import repack
from stepahead.backends.cuda.kernels.write_rows import write_rows
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.staging import Staging
from stepahead.backends.cuda.tile_check import TileCheck
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf.quants import QuantType

DTYPES = {QuantType.F32: torch.float32, QuantType.F16: torch.float16, QuantType.BF16: torch.bfloat16}
assert DTYPES.keys() == set(PLAIN_TYPES)

HOST_ELEMENTS = 1 << 21
"""Weights that are packed at once on the host, where they are: some tens of MB."""


class Loader:
    """Loads one matrix at a time; between them its buffers stay, until `close`. Then each load has its own."""

    def __init__(self, device: Device, launch: Launcher, threads: int) -> None:
        self._device = device
        self._launch = launch
        self._staging = Staging(device, threads)
        self.tiles = TileCheck(device)
        self._is_closed = False

    def load(self, data: Bytes, type: QuantType, shape: tuple[int, ...]) -> CudaMatrix:
        """What is launched from now on finds the weights there. Raises BackendError for what is no matrix, or of a type
        without kernels."""
        rows = _checked(data, type, shape)
        packed = torch.empty(stored_shape(type, shape), dtype=DTYPES.get(type, torch.int32), device=self._device.torch)
        if type in DTYPES:
            for first, piece in self._staging.pieces(rows, 1):
                packed[first : first + len(piece)] = piece.view(packed.dtype)
        else:
            self._pack(rows, type, shape, packed)
        if self._is_closed:
            self._staging.close()
        return self.tiles.checked(CudaMatrix(packed, type, shape))

    def write_rows(self, matrix: CudaMatrix, rows: Ints, data: Bytes) -> None:
        """Few: they are packed beside the matrix, and then put in. What is launched from now on finds them there."""
        type, shape = matrix.type, (len(rows), matrix.shape[1])
        data, places = _checked(data, type, shape), self._device.sent(rows)
        if type in DTYPES:
            matrix.data.index_copy_(0, places.long(), self._device.sent(data).view(DTYPES[type]))
            return
        if self._packs_on_host(type):
            packed = self._device.sent(_records(data, type))
        else:
            packed = torch.empty(stored_shape(type, shape), dtype=torch.int32, device=self._device.torch)
            repack(self._launch, self._device.sent(data), type, shape[1], packed)
        write_rows(self._launch, packed, places, FORMATS[type], matrix.data)

    def _pack(self, rows: Bytes, type: QuantType, shape: tuple[int, ...], packed: torch.Tensor) -> None:
        # An expert begins with a tile of its own: where that is so anyway, experts are one matrix.
        height = shape[-2] if shape[-2] % TILE_ROWS else len(rows)
        tiles = len(packed) * height // len(rows)
        for part in range(len(rows) // height):
            self._pack_matrix(rows[part * height : (part + 1) * height], type, shape[-1], packed[part * tiles :])

    def _pack_matrix(self, rows: Bytes, type: QuantType, width: int, packed: torch.Tensor) -> None:
        if self._packs_on_host(type):
            step = max(HOST_ELEMENTS // width // TILE_ROWS, 1) * TILE_ROWS
            for first in range(0, len(rows), step):
                records = _records(rows[first : first + step], type)
                tile = first // TILE_ROWS
                packed[tile : tile + len(records)] = torch.from_numpy(records)
            return
        for first, piece in self._staging.pieces(rows, TILE_ROWS):
            tile = first // TILE_ROWS
            repack(self._launch, piece, type, width, packed[tile : tile + -(-len(piece) // TILE_ROWS)])

    def _packs_on_host(self, type: QuantType) -> bool:
        """The interpreter would take seconds for what numpy does in milliseconds; some types have no kernel for it."""
        return self._device.is_interpreted or type not in SOURCES

    def close(self) -> None:
        self._is_closed = True
        self._staging.close()


def stored_shape(type: QuantType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what a matrix is kept in, see CudaMatrix. Raises BackendError for a type without kernels."""
    count, (height, width) = math.prod(shape[:-2]), shape[-2:]
    if type in DTYPES:
        return count * height, width
    if type not in FORMATS:
        raise BackendError(
            f"{type.name} weights have no kernels for a GPU; it multiplies {', '.join(t.name for t in FORMATS)}, "
            f"{', '.join(t.name for t in DTYPES)}: convert them with `stepahead quantize`, or give device='cpu'"
        )
    return count * -(-height // TILE_ROWS), -(-width // BLOCK), FORMATS[type].record_words


def stored_nbytes(type: QuantType, shape: tuple[int, ...]) -> int:
    return math.prod(stored_shape(type, shape)) * DTYPES.get(type, torch.int32).itemsize


def _records(rows: Bytes, type: QuantType) -> Ints:
    return pack(fields_of(rows, type), FORMATS[type]).view(np.int32)


def _checked(data: Bytes, type: QuantType, shape: tuple[int, ...]) -> Bytes:
    """By rows."""
    if data.dtype.name != "uint8" or not data.flags.c_contiguous:
        raise BackendError(f"weights are C-contiguous uint8 arrays, not {data.dtype} with strides {data.strides}")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise BackendError(f"a matrix is (out, in) or (experts, out, in), not {shape}")
    try:
        nbytes = type.nbytes(shape)
    except ConfigError as error:
        raise BackendError(f"{type.name} weights of shape {shape}: {error}") from None
    if data.nbytes != nbytes:
        raise BackendError(f"{type.name} weights of shape {shape} are {nbytes} bytes, got {data.nbytes}")
    return data.reshape(-1, type.row_bytes(shape[-1]))
