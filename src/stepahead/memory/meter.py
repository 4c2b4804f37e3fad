"""A backend that computes nothing: its tensors have a shape and a place in a counted pool.

The model's own code run on it takes what the same code takes on the CPU backend, as long as the ops here ask the pool
for what native/ops asks for; tests/memory compares the two. Values are never read: ids, positions and weights do not
matter.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, PLAIN, AttentionRows, Backend, Floats, Ints, Rope
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.quants import QuantType
from stepahead.memory.arena_count import ArenaCount

TASK_QUERIES = 64  # kTaskQueries, native/isa/kernel_table.h
TILE_KEYS, QUERY_FLOATS = 32, 16
CROWD = 4
"""How many times its fair share of rows the most popular expert of a pass is taken to have."""


class Pool(Protocol):
    peak: int
    nbytes_in_use: int

    def acquire(self, nbytes: int) -> Any: ...
    def release(self, block: Any) -> None: ...


class Rows:
    """Activations: a shape, and a block of the pool until Python drops them."""

    __slots__ = ("_arena", "_block", "shape")

    def __init__(self, arena: Pool, num_rows: int, width: int) -> None:
        self.shape = (num_rows, width)
        self._arena = arena
        self._block = arena.acquire(4 * num_rows * width)

    def __del__(self) -> None:
        self._arena.release(self._block)


class MeterMatrix:
    """Weights, of which nothing but their sizes is known."""

    __slots__ = ("nbytes", "shape", "type")

    def __init__(self, type: QuantType, shape: tuple[int, ...]) -> None:
        self.type = type
        self.shape = shape
        self.nbytes = type.nbytes(shape)


class MeterKV:
    """Keys and values of one layer, of no size: see stepahead.engine.kv_sizes."""

    __slots__ = ("head_dim", "num_kv_heads")

    def __init__(self, num_kv_heads: int, head_dim: int) -> None:
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim


class MeterRouting:
    __slots__ = ("num_experts", "shape")

    def __init__(self, shape: tuple[int, int], num_experts: int) -> None:
        self.shape = shape
        self.num_experts = num_experts


class MeterBase:
    """What meters of all backends have: weights, keys and values of which only sizes are known."""

    name = "meter"
    can_sample = False
    own_memory = None  # nothing is copied
    arena: Pool

    def __init__(self, backend: Backend) -> None:
        """backend: for which it stands."""
        self.threads = backend.threads
        self._backend = backend
        self.new_pool()

    def new_pool(self) -> None:
        """What is taken from now on is taken of it."""
        self.arena = ArenaCount()

    def describe(self) -> dict[str, Any]:
        return {"backend": self.name}

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str = PLAIN) -> MeterMatrix:
        return MeterMatrix(type, shape)

    def write_rows(self, matrix: MeterMatrix, rows: Ints, data: Bytes) -> None:
        pass

    def write_ids(self, ids: Ints) -> None:
        pass

    def preferred_layout(self, type: QuantType, shape: tuple[int, ...]) -> str:
        return self._backend.preferred_layout(type, shape)

    def finish_loading(self) -> None:
        pass

    def new_kv(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str) -> MeterKV:
        return MeterKV(num_kv_heads, head_dim)

    def begin_step(self) -> None:
        pass

    def copy_rows(self, target: object, target_row: int, source: object, source_row: int, num_rows: int) -> None:
        pass

    def routed_experts(self) -> tuple[int, ...]:
        return ()


class Meter(MeterBase):
    """Stands for the CPU backend, with a pool of its own. Implements the ops of `Backend` that loading and passes
    call."""

    can_write_turned = False
    can_share = False

    # --- memory ---
    def load_vector(self, values: Floats) -> Rows:
        return Rows(self.arena, 1, values.size)

    def upload(self, values: Floats) -> Rows:
        return Rows(self.arena, *values.shape)

    def download(self, x: Rows) -> Floats:
        return np.zeros(x.shape, np.float32)

    def zeros(self, num_rows: int, width: int) -> Rows:
        return Rows(self.arena, num_rows, width)

    # --- rows ---
    def embed(self, table: MeterMatrix, ids: Ints) -> Rows:
        return Rows(self.arena, len(ids), table.shape[1])

    def rms_norm(self, x: Rows, weight: Rows, eps: float) -> Rows:
        return self._like(x)

    def add(self, x: Rows, y: Rows) -> Rows:
        return self._like(x)

    def concat(self, x: Rows, y: Rows) -> Rows:
        return Rows(self.arena, x.shape[0], x.shape[1] + y.shape[1])

    def gather_rows(self, x: Rows, rows: Ints) -> Rows:
        return Rows(self.arena, len(rows), x.shape[1])

    def argmax(self, x: Rows) -> Ints:
        return np.zeros(x.shape[0], np.int32)

    # --- matrices ---
    def linear(self, x: Rows, matrix: MeterMatrix) -> Rows:
        return self.linear_many(x, (matrix,))[0]

    def linear_many(self, x: Rows, matrices: Sequence[MeterMatrix]) -> tuple[Rows, ...]:
        made = tuple(Rows(self.arena, x.shape[0], matrix.shape[0]) for matrix in matrices)
        self._input(*x.shape, matrices)
        return made

    # --- attention ---
    def rope_table(self, rope: Rope, positions: Ints) -> tuple[Rows, Rows]:
        half = rope.num_rotated // 2
        return Rows(self.arena, len(positions), half), Rows(self.arena, len(positions), half)

    def qk_norm_rope(self, x: Rows, weight: Rows | None, eps: float, table: object, head_dim: int) -> Rows:
        return self._like(x)

    def kv_write(self, kv: MeterKV, k: Rows, v: Rows, rows: AttentionRows) -> None:
        pass

    def attention(self, q: Rows, kv: MeterKV, rows: AttentionRows, scale: float, window: int | None = None) -> Rows:
        made = self._like(q)
        num_rows, width = q.shape
        group = width // kv.head_dim // kv.num_kv_heads
        queries = min(num_rows, max(TASK_QUERIES // group, 1)) * group
        each = (TILE_KEYS + 2 * queries) * _up(kv.head_dim, 16) + queries * (BLOCK_SIZE + QUERY_FLOATS)
        self._scratch(4 * each * self.threads)
        return made

    def head_gate(self, x: Rows, gate: Rows) -> Rows:
        return self._like(x)

    # --- feed-forward ---
    def swiglu(self, gate: Rows, up: Rows, limit: float) -> Rows:
        return self._like(gate)

    def moe_route(self, logits: Rows, bias: Rows | None, top_k: int, normalize: bool, scale: float) -> MeterRouting:
        num_rows, num_experts = logits.shape
        self._scratch(4 * num_rows * num_experts, 4 * num_rows * num_experts, num_rows * num_experts)
        return MeterRouting((num_rows, top_k), num_experts)

    def moe_ffn(
        self, x: Rows, routing: MeterRouting, gate: MeterMatrix, up: MeterMatrix, down: MeterMatrix, limit: float
    ) -> Rows:
        num_rows, top_k = routing.shape
        pairs, width = num_rows * top_k, gate.shape[1]
        made = Rows(self.arena, num_rows, down.shape[1])
        kept = [self.arena.acquire(nbytes) for nbytes in _activation_bytes(num_rows, x.shape[1], (gate, up))]
        kept += [self.arena.acquire(4 * pairs * width), self.arena.acquire(4 * pairs * width)]
        kept += [self.arena.acquire(nbytes) for nbytes in _activation_bytes(pairs, width, (down,))]
        most = min(num_rows, -(-CROWD * pairs // routing.num_experts))
        kept.append(self.arena.acquire(4 * most * down.shape[1]))
        for block in reversed(kept):
            self.arena.release(block)
        return made

    def _like(self, x: Rows) -> Rows:
        return Rows(self.arena, *x.shape)

    def _input(self, num_rows: int, width: int, matrices: Sequence[MeterMatrix]) -> None:
        """The quantised rows that the products of an op share."""
        self._scratch(*_activation_bytes(num_rows, width, matrices))

    def _scratch(self, *sizes: int) -> None:
        for block in reversed([self.arena.acquire(nbytes) for nbytes in sizes]):
            self.arena.release(block)


def _activation_bytes(num_rows: int, width: int, matrices: Sequence[MeterMatrix]) -> list[int]:
    """Values, scales and sums of rows quantised to int8, once for each size of block that the weights' types have."""
    blocks = dict.fromkeys(matrix.type.block_size for matrix in matrices if matrix.type.block_size > 1)
    return [num_rows * count for block in blocks for count in (width, 4 * (width // block), 2 * (width // 16))]


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
