"""The specification of every op, in numpy: slow, obvious, and the oracle of the fast backends.

Contractions are einsum over one row at a time, never `@`: BLAS gives other bits for other row counts, and here a
row's bits must not depend on its neighbours. With `int8_activations` a quantised matrix sees the activations that
the CPU backend's integer kernels see; without, it sees them as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import (
    BLOCK_SIZE,
    KV_TYPES,
    MAX_COUNTED_ROWS,
    PLAIN,
    AttentionRows,
    Bytes,
    Floats,
    Ints,
    Rope,
    SampledRows,
    SampleRows,
    SharedExpert,
)
from stepahead.backends.reference.activations import round_trip
from stepahead.backends.reference.philox import Words, token_words
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf.quants import QuantType, dequantize

MIN_WEIGHT_SUM = np.float32(6.103515625e-5)


class ReferenceMatrix:
    """Weights over the file's bytes; dequantised on first use and kept."""

    def __init__(self, data: npt.NDArray[np.uint8], type: QuantType, shape: tuple[int, ...]) -> None:
        self.data = data
        self.type = type
        self.shape = shape
        self.nbytes: int = data.nbytes
        self._values: Floats | None = None

    def values(self) -> Floats:
        """The whole matrix, float32, `shape`."""
        if self._values is None:
            self._values = dequantize(self.data, self.type).reshape(self.shape)
        return self._values

    def write(self, rows: Ints, data: Bytes) -> None:
        self.data.reshape(self.shape[0], -1)[rows] = data
        self._values = None


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceKV:
    k: npt.NDArray[np.generic]  # (num_blocks * BLOCK_SIZE, num_kv_heads, head_dim)
    v: npt.NDArray[np.generic]
    kv_type: str

    @property
    def num_blocks(self) -> int:
        return int(self.k.shape[0]) // BLOCK_SIZE

    @property
    def nbytes(self) -> int:
        return int(self.k.nbytes + self.v.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRouting:
    expert_ids: Ints  # (num_rows, top_k) ascending
    weights: Floats  # (num_rows, top_k)

    @property
    def shape(self) -> tuple[int, int]:
        return self.expert_ids.shape[0], self.expert_ids.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRopeTable:
    cos: Floats  # (num_rows, num_rotated / 2)
    sin: Floats


class ReferenceBackend:
    """See `Backend` for what each op means; here is how."""

    name = "reference"
    can_sample = False
    can_write_turned = False
    can_share = True

    def __init__(self, int8_activations: bool = False) -> None:
        self.int8_activations = int8_activations
        self._routed: list[Ints] = []  # expert ids of each layer of the pass

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "int8_activations": self.int8_activations}

    @property
    def threads(self) -> int:
        return 1

    @threads.setter
    def threads(self, threads: int) -> None:
        if threads != 1:
            raise ConfigError(f"threads={threads!r} is out of range; the reference computes with 1")

    # --- memory ---
    @property
    def own_memory(self) -> None:
        return None

    def matrix_nbytes(self, type: QuantType, shape: tuple[int, ...]) -> int:
        return type.nbytes(shape)

    def finish_loading(self) -> None:
        pass

    def load_matrix(
        self, data: npt.NDArray[np.uint8], type: QuantType, shape: tuple[int, ...], layout: str = PLAIN
    ) -> ReferenceMatrix:
        if layout != PLAIN:
            raise BackendError(f"layout {layout!r} is unknown; the reference reads {PLAIN} weights")
        return ReferenceMatrix(data, type, shape)

    def write_rows(self, matrix: ReferenceMatrix, rows: Ints, data: Bytes) -> None:
        matrix.write(rows, data)

    def write_ids(self, ids: Ints) -> None:
        pass  # the array itself is read

    def preferred_layout(self, type: QuantType, shape: tuple[int, ...]) -> str:
        return PLAIN

    def repack(
        self,
        data: npt.NDArray[np.uint8],
        type: QuantType,
        shape: tuple[int, ...],
        layout: str,
        out: npt.NDArray[np.uint8],
    ) -> None:
        raise BackendError(f"layout {layout!r} is unknown; the reference reads {PLAIN} weights")

    def load_vector(self, values: Floats) -> Floats:
        return np.array(values, dtype=np.float32).reshape(1, -1)

    def upload(self, values: Floats) -> Floats:
        return np.array(values, dtype=np.float32, ndmin=2)

    def download(self, x: Floats) -> Floats:
        return x

    def zeros(self, num_rows: int, width: int) -> Floats:
        return np.zeros((num_rows, width), dtype=np.float32)

    def new_kv(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str) -> ReferenceKV:
        if kv_type not in KV_TYPES:
            raise BackendError(f"kv_type={kv_type!r} is unknown: give one of {', '.join(KV_TYPES)}")
        if kv_type == "q8_0" and head_dim % 32:
            raise BackendError(f"kv_type='q8_0' needs heads of a multiple of 32, this model has {head_dim}: use 'f16'")
        # Values of q8_0 are kept as float32 that have been through the round trip.
        dtype = np.float16 if kv_type == "f16" else np.float32
        shape = (num_blocks * BLOCK_SIZE, num_kv_heads, head_dim)
        return ReferenceKV(np.empty(shape, dtype), np.empty(shape, dtype), kv_type)

    def copy_block(self, kv: ReferenceKV, old: int, new: int) -> None:
        for rows in (kv.k, kv.v):
            rows[new * BLOCK_SIZE : (new + 1) * BLOCK_SIZE] = rows[old * BLOCK_SIZE : (old + 1) * BLOCK_SIZE]

    def read_block(self, kv: ReferenceKV, block: int, num_positions: int) -> Bytes:
        parts = [rows[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE].copy() for rows in (kv.k, kv.v)]
        for part in parts:
            part[num_positions:] = 0
        return np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])

    def write_block(self, kv: ReferenceKV, block: int, data: Bytes) -> None:
        parts = [rows[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] for rows in (kv.k, kv.v)]
        if data.nbytes != sum(part.nbytes for part in parts):
            raise BackendError(f"write_block: {data.nbytes} bytes, a block has {sum(part.nbytes for part in parts)}")
        for part, half in zip(parts, data.reshape(2, -1), strict=True):
            part[:] = half.view(part.dtype).reshape(part.shape)

    def begin_step(self) -> None:
        self._routed = []

    # --- rows ---
    def embed(self, table: ReferenceMatrix, ids: Ints) -> Floats:
        return dequantize(np.ascontiguousarray(table.data.reshape(table.shape[0], -1)[ids]), table.type)

    def rms_norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        mean_square = np.stack([np.mean(np.square(row, dtype=np.float64), keepdims=True) for row in x])
        return (x / np.sqrt(mean_square + eps) * weight).astype(np.float32)

    def add(self, x: Floats, y: Floats) -> Floats:
        return x + y

    def concat(self, x: Floats, y: Floats) -> Floats:
        return np.concatenate([x, y], axis=1)

    def gather_rows(self, x: Floats, rows: Ints) -> Floats:
        return x[rows]

    def copy_rows(self, target: Floats, target_row: int, source: Floats, source_row: int, num_rows: int) -> None:
        target[target_row : target_row + num_rows] = source[source_row : source_row + num_rows]

    def argmax(self, x: Floats) -> Ints:
        best: Ints = np.where(np.isnan(x), -np.inf, x).argmax(axis=1).astype(np.int32)
        return best

    # --- matrices ---
    def linear(self, x: Floats, matrix: ReferenceMatrix) -> Floats:
        return self._contract(x, matrix.values(), matrix.type)

    def linear_many(self, x: Floats, matrices: Sequence[ReferenceMatrix]) -> tuple[Floats, ...]:
        return tuple(self.linear(x, matrix) for matrix in matrices)

    def _contract(self, x: Floats, weights: Floats, type: QuantType) -> Floats:
        """(num_rows, in) with (out, in) -> (num_rows, out), each row by itself."""
        if self.int8_activations:
            x = round_trip(x, type)
        return np.stack([np.einsum("nk,k->n", weights, row) for row in x])

    # --- attention ---
    def rope_table(self, rope: Rope, positions: Ints) -> ReferenceRopeTable:
        angles = rope.angles(positions)
        return ReferenceRopeTable(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))

    def qk_norm_rope(
        self, x: Floats, weight: Floats | None, eps: float, table: ReferenceRopeTable, head_dim: int
    ) -> Floats:
        heads = x.reshape(-1, head_dim)
        if weight is not None:
            heads = self.rms_norm(heads, weight, eps)
        split = heads.reshape(x.shape[0], -1, head_dim)
        half = table.cos.shape[1]
        cos, sin = table.cos[:, None, :], table.sin[:, None, :]
        a, b, rest = split[..., :half], split[..., half : 2 * half], split[..., 2 * half :]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1).reshape(x.shape)

    def kv_write(self, kv: ReferenceKV, k: Floats, v: Floats, rows: AttentionRows) -> None:
        if kv.kv_type == "q8_0":
            k, v = _q8_0_round_trip(k), _q8_0_round_trip(v)
        shape = (len(rows.slots), *kv.k.shape[1:])
        kv.k[rows.slots] = k.reshape(shape)
        kv.v[rows.slots] = v.reshape(shape)

    def write_turned(self, *_: Any) -> None:
        raise BackendError("write_turned is qk_norm_rope and kv_write here")

    def attention(
        self, q: Floats, kv: ReferenceKV, rows: AttentionRows, scale: float, window: int | None = None
    ) -> Floats:
        num_kv_heads, head_dim = kv.k.shape[1:]
        queries = q.reshape(len(q), num_kv_heads, -1, head_dim)
        out = np.empty_like(queries)
        for row, (position, first, sequence) in enumerate(
            zip(rows.positions, rows.first_keys, rows.sequences, strict=True)
        ):
            keys = np.arange(first, position + 1)
            slots = rows.block_tables[sequence, keys // BLOCK_SIZE] * BLOCK_SIZE + keys % BLOCK_SIZE
            k, v = kv.k[slots].astype(np.float32), kv.v[slots].astype(np.float32)
            scores = np.einsum("hgd,khd->hgk", queries[row], k) * np.float32(scale)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[row] = np.einsum("hgk,khd->hgd", weights, v)
        return out.reshape(q.shape)

    def head_gate(self, x: Floats, gate: Floats) -> Floats:
        heads = x.reshape(*gate.shape, -1)
        return (heads * _sigmoid(gate)[..., None]).reshape(x.shape)

    # --- feed-forward ---
    def swiglu(self, gate: Floats, up: Floats, limit: float) -> Floats:
        activated = gate * _sigmoid(gate)
        if limit > 1e-6:
            activated = np.minimum(activated, np.float32(limit))
            up = np.clip(up, np.float32(-limit), np.float32(limit)).astype(np.float32)
        return activated * up

    def moe_route(
        self, logits: Floats, bias: Floats | None, top_k: int, normalize: bool, scale: float
    ) -> ReferenceRouting:
        probabilities = _sigmoid(logits)
        preference = probabilities if bias is None else probabilities + bias
        # A stable sort of the negated values gives ties to the lowest id.
        ids = np.sort(np.argsort(-preference, axis=1, kind="stable")[:, :top_k], axis=1)
        weights = np.take_along_axis(probabilities, ids, axis=1)
        if normalize:
            sums = np.array([[row.sum()] for row in weights], dtype=np.float32)
            weights = (weights / np.maximum(sums, MIN_WEIGHT_SUM)).astype(np.float32)
        if scale:
            weights = weights * np.float32(scale)
        self._routed.append(ids[:MAX_COUNTED_ROWS].astype(np.int32))
        return ReferenceRouting(ids.astype(np.int32), weights)

    def moe_ffn(
        self,
        x: Floats,
        routing: ReferenceRouting,
        gate: ReferenceMatrix,
        up: ReferenceMatrix,
        down: ReferenceMatrix,
        limit: float,
        shared: SharedExpert | None = None,
    ) -> Floats:
        out = np.zeros((len(x), down.shape[1]), dtype=np.float32)
        for row, (ids, weights) in enumerate(zip(routing.expert_ids, routing.weights, strict=True)):
            for expert, weight in zip(ids, weights, strict=True):
                g = self._contract(x[row : row + 1], gate.values()[expert], gate.type)
                u = self._contract(x[row : row + 1], up.values()[expert], up.type)
                out[row] += weight * self._contract(self.swiglu(g, u, limit), down.values()[expert], down.type)[0]
        if shared is not None:
            g, u = self.linear_many(x, (shared.gate, shared.up))
            hidden = self.swiglu(g, u, shared.limit)
            out += self.linear(hidden, shared.down)
        return out

    def token_words(self, seed: int, position: int, token_ids: npt.NDArray[np.int64]) -> Words:
        return token_words(seed, position, token_ids)

    def sample(self, logits: Floats, rows: SampleRows, ids: Ints | None) -> SampledRows:
        raise BackendError("the reference leaves choosing tokens to engine/sampler.py")

    def remember(self, sampled: SampledRows, first: int) -> None:
        raise BackendError("the reference leaves choosing tokens to engine/sampler.py")

    def routed_experts(self) -> tuple[int, ...]:
        num_rows = max(map(len, self._routed), default=0)
        return tuple(sum(len(np.unique(ids[: row + 1])) for ids in self._routed) for row in range(num_rows))


def _sigmoid(z: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return (np.float32(1.0) / (np.float32(1.0) + np.exp(-z))).astype(np.float32)


def _q8_0_round_trip(x: Floats) -> Floats:
    """Blocks of 32 along the width: float16 scale amax / 127, int8 values; back to float32."""
    blocks = x.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127.0)).astype(np.float16).astype(np.float32)
    inverse = np.divide(np.float32(1.0), scale, out=np.zeros_like(scale), where=scale > 0)
    values = np.clip(np.rint(blocks * inverse), -127, 127)
    restored: Floats = (values * scale).astype(np.float32)
    return restored.reshape(x.shape)
