"""Weights on the GPU: packed records of a quantised type, or the numbers of a float type; and how they get there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.cuda.formats.fields import fields_of
from stepahead.backends.cuda.formats.format import FORMATS, TILE_ROWS, Format
from stepahead.backends.cuda.formats.pack import pack, record_grid
from stepahead.backends.cuda.formats.source import SOURCES
from stepahead.backends.cuda.kernels.repack import repack
from stepahead.backends.cuda.launch import Launcher
from stepahead.gguf.quants import QuantType

Bytes = npt.NDArray[np.uint8]
Pieces = Callable[[Bytes, int], Iterator[tuple[int, torch.Tensor]]]
"""Of rows of bytes, and a number of rows that pieces are multiples of: where a piece begins, and its bytes on the
device."""

PLAIN_DTYPES = {QuantType.F32: torch.float32, QuantType.F16: torch.float16, QuantType.BF16: torch.bfloat16}
HOST_TILE_ELEMENTS = 1 << 22
"""Weights of a type without a kernel for it that are packed at once on the host: some tens of MB."""


@dataclass(frozen=True, slots=True, eq=False)
class CudaMatrix:
    """(out, in) or (experts, out, in).

    data: int32 records (experts * row tiles, K blocks, record words) where `format` is given; otherwise the numbers
    themselves, (experts * out, in). An expert begins with a tile of its own.
    """

    data: torch.Tensor
    type: QuantType
    shape: tuple[int, ...]

    @classmethod
    def empty(cls, type: QuantType, shape: tuple[int, ...], device: torch.device) -> "CudaMatrix":
        """Memory for it, to be written."""
        experts = shape[0] if len(shape) == 3 else 1
        if type in PLAIN_DTYPES:
            data = torch.empty((experts * shape[-2], shape[-1]), dtype=PLAIN_DTYPES[type], device=device)
        else:
            tiles, blocks = record_grid(shape)
            words = FORMATS[type].record_words
            data = torch.empty((experts * tiles, blocks, words), dtype=torch.int32, device=device)
        return cls(data, type, shape)

    @property
    def format(self) -> Format | None:
        return FORMATS.get(self.type)

    @property
    def nbytes(self) -> int:
        return self.data.numel() * self.data.element_size()

    @property
    def num_out(self) -> int:
        return self.shape[-2]

    @property
    def num_blocks(self) -> int:
        """Records along the inputs."""
        return self.data.shape[1]

    @property
    def expert_tiles(self) -> int:
        """Records along the outputs, of one expert."""
        return record_grid(self.shape)[0]


def packed_nbytes(type: QuantType, shape: tuple[int, ...]) -> int:
    """Of such a matrix on the device."""
    if type in PLAIN_DTYPES:
        return type.nbytes(shape)
    tiles, blocks = record_grid(shape)
    return (shape[0] if len(shape) == 3 else 1) * tiles * blocks * FORMATS[type].record_words * 4


def load_matrix(
    launch: Launcher, device: torch.device, pieces: Pieces, data: Bytes, type: QuantType, shape: tuple[int, ...]
) -> CudaMatrix:
    """data: the bytes of the file."""
    matrix = CudaMatrix.empty(type, shape, device)
    rows = data.reshape(-1, type.row_bytes(shape[-1]))
    if type in PLAIN_DTYPES:
        target = matrix.data.view(torch.uint8)
        for first, piece in pieces(rows, 1):
            target[first : first + len(piece)] = piece
        return matrix
    # Experts whose rows do not fill their last tile are packed one by one.
    at_once = len(rows) if shape[-2] % TILE_ROWS == 0 else shape[-2]
    for start in range(0, len(rows), at_once):
        first_tile = start // shape[-2] * matrix.expert_tiles
        _pack_rows(launch, pieces, rows[start : start + at_once], matrix, first_tile)
    return matrix


def _pack_rows(launch: Launcher, pieces: Pieces, rows: Bytes, matrix: CudaMatrix, first_tile: int) -> None:
    if matrix.type in SOURCES:
        for first, piece in pieces(rows, TILE_ROWS):
            tile = first_tile + first // TILE_ROWS
            records = matrix.data[tile : tile + -(-len(piece) // TILE_ROWS)]
            repack(launch, piece, matrix.type, matrix.shape[-1], records)
        return
    form = FORMATS[matrix.type]
    target = matrix.data.view(torch.uint8).view(len(matrix.data), -1)
    step = max(HOST_TILE_ELEMENTS // matrix.shape[-1] // TILE_ROWS, 1) * TILE_ROWS
    for start in range(0, len(rows), step):
        words = pack(fields_of(rows[start : start + step], matrix.type), form)
        tile = first_tile + start // TILE_ROWS
        for first, piece in pieces(words.view(np.uint8).reshape(len(words), -1), 1):
            target[tile + first : tile + first + len(piece)] = piece
