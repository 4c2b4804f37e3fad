"""A tensor of the file as a stream of pieces: read in order, turned side by side on all cores, given out in order.

Memory is what the pieces take that are on their way, however large the tensor is.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

import numpy as np

from stepahead.convert.numbers import converted, row_factors, to_float32
from stepahead.convert.plan import PlannedTensor, Source
from stepahead.errors import ModelFormatError
from stepahead.gguf.block_quants import Bytes, Floats
from stepahead.gguf.progress import OnBytes

PIECE_ELEMENTS = 1 << 20  # 4 MB of float32, and a few times that on the way


def pieces(tensor: PlannedTensor, pool: Executor, depth: int, on_bytes: OnBytes) -> Iterator[Bytes]:
    """All bytes of the tensor; `depth` pieces are on their way at once. on_bytes is told of each that is given out."""
    waiting: deque[Future[Bytes]] = deque()
    for piece in _tasks(tensor):
        waiting.append(pool.submit(piece))
        if len(waiting) > depth:
            yield _given(waiting.popleft(), on_bytes)
    while waiting:
        yield _given(waiting.popleft(), on_bytes)


def _given(future: Future[Bytes], on_bytes: OnBytes) -> Bytes:
    piece = future.result()
    on_bytes(piece.size)
    return piece


def _tasks(tensor: PlannedTensor) -> Iterator[Callable[[], Bytes]]:
    """One for each piece, its bytes read: reading stays with the thread that asks for the next."""
    for source in tensor.sources:
        row = source.shape[-1]
        num_rows = math.prod(source.shape[:-1])
        row_bytes = source.values.nbytes // num_rows
        scale = _scale(source)
        step = max(1, PIECE_ELEMENTS // row)
        for start in range(0, num_rows, step):
            stop = min(num_rows, start + step)
            raw = source.values.read(start * row_bytes, stop * row_bytes)
            yield _Piece(tensor, source, scale, raw, start, stop)


class _Piece:
    """Rows [start, stop) of a source."""

    def __init__(
        self, tensor: PlannedTensor, source: Source, scale: Floats | None, raw: Bytes, start: int, stop: int
    ) -> None:
        self._tensor, self._source, self._scale = tensor, source, scale
        self._raw, self._start, self._stop = raw, start, stop

    def __call__(self) -> Bytes:
        source, factors = self._source, None
        if self._scale is not None:
            rows = np.arange(self._start, self._stop)
            factors = row_factors(self._scale, source.shape, source.scale_block, rows)
        try:
            tensor = self._tensor
            return converted(self._raw, source.values.dtype, source.shape[-1], factors, tensor.adds_one, tensor.type)
        except ModelFormatError as error:
            values = source.values
            raise ModelFormatError(
                f"{values.file.path}: tensor {values.name}, rows {self._start} to {self._stop - 1}: {error}"
            ) from None


def _scale(source: Source) -> Floats | None:
    if source.scale is None:
        return None
    raw = source.scale.read(0, source.scale.nbytes)
    return to_float32(raw, source.scale.dtype).reshape(source.scale.shape)
