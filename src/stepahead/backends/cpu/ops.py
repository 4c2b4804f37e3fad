"""The CPU backend: `stepahead._native` behind the seam of `backends/base.py`.

Owns the order of arguments, the choice of instruction set, and the slower path of types without kernels. The numbers
are those of docs/numerics.md. Must not know: models, engine, files.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead import _native
from stepahead.backends.base import (
    BLOCK_SIZE,
    KV_TYPES,
    PLAIN,
    AttentionRows,
    Floats,
    Handle,
    Ints,
    Rope,
    SampledRows,
    SampleRows,
)
from stepahead.backends.cpu.layouts import PANELS, preferred_layout
from stepahead.backends.cpu.matrix import Matrix
from stepahead.backends.cpu.threads import resolve_threads
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.quants import QuantType

ISAS = ("scalar", "avx2", "avx512", "neon", "neon_dotprod")
"""Every name that STEPAHEAD_ISA may have; a machine runs some of them."""


@dataclass(frozen=True, slots=True)
class RopeTable:
    """cos and sin of one pass, (num_rows, num_rotated / 2) each."""

    cos: _native.Buffer
    sin: _native.Buffer


class KVBlocks(_native.KVBlocks):
    """Keys and values of one layer, and what the bytes of a block are."""

    def __init__(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str) -> None:
        super().__init__(num_blocks, num_kv_heads, head_dim, kv_type)
        self.num_kv_heads = num_kv_heads

    def blocks(self) -> Bytes:
        """(2, num_blocks, bytes): keys, then values, each (num_kv_heads, BLOCK_SIZE, row); the memory itself."""
        return self.numpy().reshape(2, self.num_blocks, -1)


def resolve_isa(isa: str | None) -> str:
    """The argument, else STEPAHEAD_ISA, else the best one that this machine and build can run."""
    source = "isa" if isa is not None else "STEPAHEAD_ISA"
    name = isa if isa is not None else os.environ.get("STEPAHEAD_ISA")
    available = _native.available_isas()
    if name is None:
        return available[0]
    if name not in ISAS:
        raise ConfigError(f"{source}={name!r} is no instruction set; give one of {', '.join(available)}")
    if name not in available:
        raise BackendError(f"{source}={name!r} cannot run here; give one of {', '.join(available)}")
    return name


class CpuBackend:
    """Implements `Backend`; one thread pool, one kernel table and one memory pool an instance."""

    name = "cpu"
    can_sample = False
    can_write_turned = False
    can_share = False

    def __init__(self, threads: int | None = None, isa: str | None = None) -> None:
        self._context = _native.Context(resolve_threads(threads), resolve_isa(isa))

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "isa": self._context.isa,
            "threads": self._context.threads,
            "available_isas": _native.available_isas(),
        }

    @property
    def threads(self) -> int:
        return self._context.active_threads

    @threads.setter
    def threads(self, threads: int) -> None:
        limit = self._context.threads
        if not isinstance(threads, int) or not 1 <= threads <= limit:
            raise ConfigError(f"threads={threads!r} is out of range; give 1 to {limit}, or load the model with more")
        self._context.active_threads = threads

    # --- memory ---

    @property
    def own_memory(self) -> None:
        return None

    def matrix_nbytes(self, type: QuantType, shape: tuple[int, ...]) -> int:
        return type.nbytes(shape)

    def finish_loading(self) -> None:
        pass

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str = PLAIN) -> Matrix:
        return Matrix(data, type, shape, layout)

    def write_rows(self, matrix: Matrix, rows: Ints, data: Bytes) -> None:
        matrix.write(rows, data)

    def write_ids(self, ids: Ints) -> None:
        pass  # the array itself is read

    def preferred_layout(self, type: QuantType, shape: tuple[int, ...]) -> str:
        return preferred_layout(self._context.isa, type, shape)

    def repack(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str, out: Bytes) -> None:
        if layout != PANELS:
            raise BackendError(f"layout {layout!r} is unknown; weights can be repacked to {PANELS}")
        self._context.interleave(_native.Matrix(data.reshape(-1), type.id, shape), out)

    def load_vector(self, values: Floats) -> _native.Buffer:
        _check_array("load_vector", values, np.float32, 1)
        return self._context.upload(np.ascontiguousarray(values)[None, :])

    def upload(self, values: Floats) -> _native.Buffer:
        _check_array("upload", values, np.float32, 2)
        return self._context.upload(np.ascontiguousarray(values))

    def download(self, x: Handle) -> Floats:
        values: Floats = x.numpy()
        return values

    def zeros(self, num_rows: int, width: int) -> _native.Buffer:
        return self._context.zeros(num_rows, width)

    def new_kv(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str) -> KVBlocks:
        if kv_type not in KV_TYPES:
            raise BackendError(f"kv_type={kv_type!r} is unknown; give one of {', '.join(KV_TYPES)}")
        return KVBlocks(num_blocks, num_kv_heads, head_dim, kv_type)

    def copy_block(self, kv: KVBlocks, old: int, new: int) -> None:
        if not (0 <= old < kv.num_blocks and 0 <= new < kv.num_blocks):
            raise BackendError(f"copy_block: {old} to {new}, there are {kv.num_blocks} blocks")
        blocks = kv.blocks()
        blocks[:, new] = blocks[:, old]

    def read_block(self, kv: KVBlocks, block: int, num_positions: int) -> Bytes:
        if not 0 <= block < kv.num_blocks:
            raise BackendError(f"read_block: {block}, there are {kv.num_blocks} blocks")
        data = kv.blocks()[:, block].copy()
        data.reshape(2, kv.num_kv_heads, BLOCK_SIZE, -1)[:, :, num_positions:] = 0
        return data.reshape(-1)

    def write_block(self, kv: KVBlocks, block: int, data: Bytes) -> None:
        if not 0 <= block < kv.num_blocks or data.nbytes != kv.nbytes // kv.num_blocks:
            raise BackendError(
                f"write_block: {data.nbytes} bytes to block {block}, there are {kv.num_blocks} blocks of "
                f"{kv.nbytes // kv.num_blocks} bytes"
            )
        kv.blocks()[:, block] = data.reshape(2, -1)

    def begin_step(self) -> None:
        self._context.begin_step()  # buffers return to the pool when Python drops them

    # --- rows ---

    def embed(self, table: Handle, ids: Ints) -> _native.Buffer:
        _check_array("embed", ids, np.int32, 1)
        if table.native is not None:
            return self._context.embed(table.native, np.ascontiguousarray(ids))
        num_rows, width = table.shape
        if ids.size == 0:
            return self._context.zeros(0, width)
        if ids.min() < 0 or ids.max() >= num_rows:
            raise BackendError(f"embed: ids from {ids.min()} to {ids.max()}, the table has {num_rows} rows")
        return self._context.upload(table.rows(ids))

    def rms_norm(self, x: Handle, weight: Handle, eps: float) -> _native.Buffer:
        return self._context.rms_norm(x, weight, eps)

    def add(self, x: Handle, y: Handle) -> _native.Buffer:
        return self._context.add(x, y)

    def concat(self, x: Handle, y: Handle) -> _native.Buffer:
        return self._context.concat(x, y)

    def gather_rows(self, x: Handle, rows: Ints) -> _native.Buffer:
        _check_array("gather_rows", rows, np.int32, 1)
        return self._context.gather_rows(x, np.ascontiguousarray(rows))

    def copy_rows(self, target: Handle, target_row: int, source: Handle, source_row: int, num_rows: int) -> None:
        self._context.copy_rows(target, target_row, source, source_row, num_rows)

    def argmax(self, x: Handle) -> Ints:
        return self._context.argmax(x)

    # --- matrices ---

    def linear(self, x: Handle, matrix: Handle) -> _native.Buffer:
        if matrix.native is not None:
            return self._context.linear(x, matrix.native)
        return self._linear_decoded(x, matrix)

    def linear_many(self, x: Handle, matrices: Sequence[Handle]) -> tuple[_native.Buffer, ...]:
        kernels = iter(self._context.linear_many(x, [m.native for m in matrices if m.native is not None]))
        return tuple(self._linear_decoded(x, m) if m.native is None else next(kernels) for m in matrices)

    def _linear_decoded(self, x: Handle, matrix: Handle) -> _native.Buffer:
        if len(matrix.shape) != 2 or x.shape[1] != matrix.shape[1]:
            raise BackendError(f"linear: x {x.shape} against a matrix of shape {matrix.shape}")
        y = self._context.zeros(x.shape[0], matrix.shape[0])
        for start, tile in matrix.decoded_tiles():
            self._context.linear_into(x, tile, y, start)
        return y

    # --- attention ---

    def rope_table(self, rope: Rope, positions: Ints) -> RopeTable:
        _check_array("rope_table", positions, np.int32, 1)
        angles = rope.angles(positions)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        return RopeTable(self._context.upload(cos), self._context.upload(sin))

    def qk_norm_rope(self, x: Handle, weight: Handle, eps: float, table: Handle, head_dim: int) -> _native.Buffer:
        return self._context.qk_norm_rope(x, weight, eps, table.cos, table.sin, head_dim)

    def kv_write(self, kv: Handle, k: Handle, v: Handle, rows: AttentionRows) -> None:
        _check_array("kv_write: slots", rows.slots, np.int32, 1)
        self._context.kv_write(kv, k, v, rows.slots)

    def write_turned(self, *_: Any) -> None:
        raise BackendError("write_turned is qk_norm_rope and kv_write here")

    def attention(
        self, q: Handle, kv: Handle, rows: AttentionRows, scale: float, window: int | None = None
    ) -> _native.Buffer:
        _check_array("attention: positions", rows.positions, np.int32, 1)
        _check_array("attention: first_keys", rows.first_keys, np.int32, 1)
        _check_array("attention: sequences", rows.sequences, np.int32, 1)
        _check_array("attention: block_tables", rows.block_tables, np.int32, 2)
        return self._context.attention(q, kv, rows.positions, rows.first_keys, rows.sequences, rows.block_tables, scale)

    def head_gate(self, x: Handle, gate: Handle) -> _native.Buffer:
        return self._context.head_gate(x, gate)

    # --- feed-forward ---

    def swiglu(self, gate: Handle, up: Handle, limit: float) -> _native.Buffer:
        return self._context.swiglu(gate, up, limit)

    def moe_route(self, logits: Handle, bias: Handle, top_k: int, normalize: bool, scale: float) -> _native.Routing:
        return self._context.moe_route(logits, bias, top_k, normalize, scale)

    def moe_ffn(
        self, x: Handle, routing: Handle, gate: Handle, up: Handle, down: Handle, limit: float, shared: None = None
    ) -> _native.Buffer:
        if gate.native is not None and up.native is not None and down.native is not None:
            return self._context.moe_ffn(x, routing, gate.native, up.native, down.native, limit)
        return self._moe_ffn_by_expert(x, routing, gate, up, down, limit)

    def token_words(self, seed: int, position: int, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        return self._context.token_words(seed, position, token_ids)

    def sample(self, logits: Handle, rows: SampleRows, ids: Ints | None) -> SampledRows:
        raise BackendError("the CPU backend leaves choosing tokens to engine/sampler.py")

    def remember(self, sampled: SampledRows, first: int) -> None:
        raise BackendError("the CPU backend leaves choosing tokens to engine/sampler.py")

    def routed_experts(self) -> tuple[int, ...]:
        return self._context.routed_experts()

    def _moe_ffn_by_expert(
        self, x: Handle, routing: Handle, gate: Handle, up: Handle, down: Handle, limit: float
    ) -> _native.Buffer:
        """The native op's arithmetic, one expert after the other, each decoded once for all of its rows."""
        ids, weights = routing.ids(), routing.weights()
        if x.shape[0] != ids.shape[0] or {len(m.shape) for m in (gate, up, down)} != {3}:
            raise BackendError(f"moe_ffn: x {x.shape}, routing {ids.shape}, gate {gate.shape}, down {down.shape}")
        if ids.size and ids.max() >= min(m.shape[0] for m in (gate, up, down)):
            raise BackendError(f"moe_ffn: routing chose expert {ids.max()}, there are {gate.shape[0]}")
        y = self._context.zeros(x.shape[0], down.shape[1])
        for expert in np.unique(ids).tolist():
            at_rows, at_slots = np.nonzero(ids == expert)
            rows = at_rows.astype(np.int32)
            part = self._context.gather_rows(x, rows)
            g, u = self.linear_many(part, (gate.expert(expert), up.expert(expert)))
            part = self.linear(self._context.swiglu(g, u, limit), down.expert(expert))
            self._context.add_scaled_rows(y, rows, weights[at_rows, at_slots], part)
        return y


def _check_array(what: str, array: np.ndarray[Any, Any], dtype: type[np.generic], ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim:
        wanted = f"{ndim}-dimensional {np.dtype(dtype)}"
        raise BackendError(f"{what}: a {wanted} array, please, not {array.dtype} of shape {array.shape}")
