"""The seam between models and hardware: the ops that a model is written against, and their handles.

Every backend implements `Backend`; `backends/reference/ops.py` (numpy) is the specification of each op.
Activations are always (num_rows, width) float32: there is no batch axis anywhere. Row r of every result depends
on row r of the operands alone, in one fixed order of operations, so that a result has the same bits whatever
rows lie beside it (contracts I1 and I2). What depends on positions is described by `AttentionRows` and `Rope`.

This file knows nothing about models, requests or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stepahead.gguf.quants import QuantType

BLOCK_SIZE = 64
"""Positions in a KV block, and in a chunk of attention: chunks are aligned to absolute position."""

KV_TYPES = ("f16", "f32", "q8_0")

PLAIN = "plain"
"""The layout of weights as a GGUF file has them: row after row."""

ON_HOST = "host:"
"""Before the name of a layout, asked of a backend with a memory of its own: weights of experts that stay where they are
mapped, and are multiplied there."""

PANEL_ROWS = 16
"""Rows that another layout may mix: repacked weights are cut at multiples of it, and have as many bytes as before."""

MAX_COUNTED_ROWS = 32
"""Rows of a pass whose experts are counted."""

MAX_REMEMBERED = 256
"""Chosen tokens that later passes may take from where the backend has them."""

NUMERICS_VERSION = 2
"""Raise it with every change after which an op of any backend may give other bits than before: what was computed by
another version and kept is not used then. Instruction sets, threads and layouts do not count: their bits are equal."""

Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Tensor(Protocol):
    """Opaque activations, (num_rows, width) float32, in the backend's memory."""

    @property
    def shape(self) -> tuple[int, int]: ...


class QuantMatrix(Protocol):
    """Opaque weights in their file's type: (out, in), or (num_experts, out, in)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def type(self) -> QuantType: ...

    @property
    def nbytes(self) -> int: ...


class KVBlocks(Protocol):
    """Keys and values of one layer: num_blocks blocks of BLOCK_SIZE positions."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Rotary embedding, half-split pairing over the first `num_rotated` dims of a head (spec §2, step 4).

    The pair (j, j + num_rotated/2) turns by position * theta^(-2j/num_rotated) / factors[j].
    """

    num_rotated: int
    theta: float
    factors: Floats | None = None  # (num_rotated / 2,), None: ones

    def angles(self, positions: Ints) -> npt.NDArray[np.float64]:
        """(num_rows, num_rotated / 2) float64, reduced to [0, 2 pi): every backend takes cos and sin of these."""
        return np.remainder(positions.astype(np.float64)[:, None] * self.inverse_frequencies, 2.0 * np.pi)

    @property
    def inverse_frequencies(self) -> npt.NDArray[np.float64]:
        """(num_rotated / 2,) what a position is multiplied with."""
        return _inverse_frequencies(self)


@lru_cache(maxsize=16)  # a model has two or three, and asks for them every pass
def _inverse_frequencies(rope: Rope) -> npt.NDArray[np.float64]:
    pairs = np.arange(rope.num_rotated // 2, dtype=np.float64)
    frequencies: npt.NDArray[np.float64] = rope.theta ** (-2.0 * pairs / rope.num_rotated)
    return frequencies if rope.factors is None else frequencies / rope.factors.astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRows:
    """Where the rows of one pass stand in one KV group. All arrays are int32, C-contiguous."""

    positions: Ints  # (num_rows,) a row sees the keys first_keys[r] .. positions[r], both included
    first_keys: Ints  # (num_rows,)
    sequences: Ints  # (num_rows,) row of block_tables
    block_tables: Ints  # (num_sequences, max_blocks) block that holds positions [64 j, 64 j + 64); -1: none
    slots: Ints  # (num_rows,) block * BLOCK_SIZE + offset, where kv_write puts a row


@dataclass(frozen=True, slots=True, eq=False)
class SampleRows:
    """How a token is to be chosen from each row of logits; what the numbers mean, engine/sampler.py says."""

    seeds: npt.NDArray[np.uint64]  # (num_logits,)
    positions: npt.NDArray[np.int64]  # absolute index of the token to be chosen
    temperatures: npt.NDArray[np.float64]
    top_k: npt.NDArray[np.int32]  # 0: all
    top_p: npt.NDArray[np.float64]
    min_p: npt.NDArray[np.float64]
    is_plain: npt.NDArray[np.bool_]  # False: more than these decide, and the host chooses

    @classmethod
    def greedy(cls, count: int) -> "SampleRows":
        """The likeliest token of each of so many rows."""
        ints, floats = np.zeros(count, np.int64), np.zeros(count, np.float64)
        return cls(ints.astype(np.uint64), ints, floats, ints.astype(np.int32), np.ones(count), floats, ints == 0)


class SampledRows(Protocol):
    """Opaque: the tokens chosen of a pass, on the device until someone asks."""

    def fetch(self) -> None:
        """Have them come to the host: then ids and margins wait for this pass, and for none begun after it."""
        ...

    def ids(self) -> Ints:
        """(num_logits,) token ids; -1: not decided here, the host chooses from the logits."""
        ...

    def margins(self) -> Floats:
        """(num_logits,) see engine.sampler.Sampled."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SharedExpert:
    """One that every row goes to. The matrices are what `load_matrix` gave."""

    gate: Any  # (width, in)
    up: Any
    down: Any  # (in, width)
    limit: float


class Routing(Protocol):
    """Opaque: for each row top_k expert ids, ascending, and their weights."""

    @property
    def shape(self) -> tuple[int, int]: ...


class RopeTable(Protocol):
    """Opaque: cos and sin of one pass' positions for one `Rope`."""


@dataclass(frozen=True, slots=True)
class OwnMemory:
    """Memory that a backend computes in and that is not the process's."""

    name: str
    free_nbytes: int | None  # None: it is the process's after all


class Backend(Protocol):
    """About two dozen ops sized for language models. Shapes are checked once, here; kernels trust them."""

    name: str

    def describe(self) -> dict[str, Any]:
        """What it computes with: name, and where there are such, isa and threads."""
        ...

    @property
    def threads(self) -> int:
        """How many threads compute. Set it to use fewer than there are, from the next op on; the bits stay the same."""
        ...

    @threads.setter
    def threads(self, threads: int) -> None: ...

    # --- memory ---
    @property
    def own_memory(self) -> OwnMemory | None:
        """Where all that is loaded is copied to; None: weights are used where the file is mapped."""
        ...

    def matrix_nbytes(self, type: QuantType, shape: tuple[int, ...]) -> int:
        """What such weights take once they are loaded."""
        ...

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str = PLAIN) -> QuantMatrix:
        """Weights over `data`, the bytes of the file: (out, in) or (experts, out, in). They stay mapped, and are not
        copied unless own_memory says so.

        layout: PLAIN, or what preferred_layout said and repack made; or ON_HOST and one of the CPU's.
        """
        ...

    def write_rows(self, matrix: QuantMatrix, rows: Ints, data: Bytes) -> None:
        """Plain weights (len(rows), row_bytes) become these rows of (out, in), which was loaded plain, over memory that
        may be written. It stays where it is: recorded passes find them."""
        ...

    def write_ids(self, ids: Ints) -> None:
        """From now on ops that are given this very array read what it holds now, those of recorded passes included,
        until this is called again."""
        ...

    def preferred_layout(self, type: QuantType, shape: tuple[int, ...]) -> str:
        """The layout in which such weights are multiplied fastest here; results have the same bits in all of them."""
        ...

    def repack(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str, out: Bytes) -> None:
        """Plain weights into `layout`; in pieces, too, of PANEL_ROWS * n rows each."""
        ...

    def finish_loading(self) -> None:
        """A model is loaded: let go of what only loading needs. More may be loaded all the same."""
        ...

    def load_vector(self, values: Floats) -> Tensor:
        """(n,) float32 -> (1, n)."""
        ...

    def upload(self, values: Floats) -> Tensor: ...

    def download(self, x: Tensor) -> Floats:
        """(num_rows, width) float32; may share memory with x."""
        ...

    def zeros(self, num_rows: int, width: int) -> Tensor: ...

    def new_kv(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str) -> KVBlocks:
        """Memory may hold anything, NaN included, until kv_write fills it; untouched pages cost nothing."""
        ...

    def copy_block(self, kv: KVBlocks, old: int, new: int) -> None:
        """Copy all keys and values of block `old` to block `new`."""
        ...

    def read_block(self, kv: KVBlocks, block: int, num_positions: int) -> Bytes:
        """A copy of a block, one-dimensional, kv.nbytes / kv.num_blocks bytes; positions from num_positions on are
        zeros. The layout is the backend's own."""
        ...

    def write_block(self, kv: KVBlocks, block: int, data: Bytes) -> None:
        """What read_block gave, of KV of the same shape and type, into any block. Raises BackendError for another
        size."""
        ...

    def begin_step(self) -> None:
        """Called before each pass; a backend may recycle what ops returned before, or replay a recorded plan.

        What load_vector, upload and zeros gave outlives it.
        """
        ...

    # --- rows ---
    def embed(self, table: QuantMatrix, ids: Ints) -> Tensor:
        """Dequantised rows of (vocab, width): (num_rows, width). An id of -1 - n: the token that is remembered as n."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    def concat(self, x: Tensor, y: Tensor) -> Tensor:
        """(num_rows, a), (num_rows, b) -> (num_rows, a + b)."""
        ...

    def gather_rows(self, x: Tensor, rows: Ints) -> Tensor: ...

    def copy_rows(self, target: Tensor, target_row: int, source: Tensor, source_row: int, num_rows: int) -> None:
        """Rows source_row .. of `source` become rows target_row .. of `target`, in place; they are two tensors."""
        ...

    def argmax(self, x: Tensor) -> Ints:
        """(num_rows,) int32; the lowest index wins ties."""
        ...

    # --- matrices ---
    def linear(self, x: Tensor, matrix: QuantMatrix) -> Tensor:
        """x @ matrix.T: (num_rows, in) -> (num_rows, out). Quantised types quantise x to int8 per row and block."""
        ...

    def linear_many(self, x: Tensor, matrices: Sequence[QuantMatrix]) -> tuple[Tensor, ...]:
        """Several `linear` that share one quantisation of x; the bits of each are those of `linear`."""
        ...

    # --- attention ---
    def rope_table(self, rope: Rope, positions: Ints) -> RopeTable: ...

    def qk_norm_rope(self, x: Tensor, weight: Tensor | None, eps: float, table: RopeTable, head_dim: int) -> Tensor:
        """Per head of (num_rows, num_heads * head_dim): RMSNorm with weight (1, head_dim) if given, then rotation."""
        ...

    def kv_write(self, kv: KVBlocks, k: Tensor, v: Tensor, rows: AttentionRows) -> None:
        """Store (num_rows, num_kv_heads * head_dim) keys and values at rows.slots."""
        ...

    can_write_turned: bool  # False: write_turned is left to the ops that it is made of

    def write_turned(
        self, kv: KVBlocks, k: Tensor, v: Tensor, k_weight: Tensor | None, eps: float, table: RopeTable,
        rows: AttentionRows, q: Tensor | None, q_weight: Tensor | None,
    ) -> Tensor | None:  # fmt: skip
        """kv_write of v and of k after qk_norm_rope; and qk_norm_rope of q, where there is one."""
        ...

    def attention(
        self, q: Tensor, kv: KVBlocks, rows: AttentionRows, scale: float, window: int | None = None
    ) -> Tensor:
        """softmax(q k * scale) v over the keys each row sees; query head h reads KV head h // (heads / kv_heads).

        window: no row sees more keys, in this pass or a later one of the same layer. It may save time, and no bit.
        """
        ...

    def head_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        """(num_rows, heads * head_dim) times sigmoid of (num_rows, heads), per head."""
        ...

    # --- feed-forward ---
    def swiglu(self, gate: Tensor, up: Tensor, limit: float) -> Tensor:
        """silu(gate) * up; limit > 1e-6: silu(gate) capped at limit, up clipped to [-limit, limit] first."""
        ...

    def moe_route(self, logits: Tensor, bias: Tensor | None, top_k: int, normalize: bool, scale: float) -> Routing:
        """p = sigmoid(logits); the top_k of p + bias (ties: lowest id); weights p, divided by
        max(sum, 6.103515625e-5) if normalize, times scale (0: unscaled). Spec §2, MoE layer."""
        ...

    can_share: bool
    """False: a shared expert is left to the ops that it is made of."""

    def moe_ffn(
        self,
        x: Tensor,
        routing: Routing,
        gate: QuantMatrix,
        up: QuantMatrix,
        down: QuantMatrix,
        limit: float,
        shared: SharedExpert | None = None,
    ) -> Tensor:
        """Sum over a row's experts, in ascending id, of weight * down(swiglu(gate(x), up(x))); plus, if given, that of
        the shared expert. One is only given to a backend that can."""
        ...

    # --- choice ---
    def token_words(
        self, seed: int, position: int, token_ids: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """A random 32-bit word for each of `token_ids`, on the host; see backends/reference/philox.py."""
        ...

    can_sample: bool
    """False: choosing tokens is left to the host."""

    def sample(self, logits: Tensor, rows: SampleRows, ids: Ints | None) -> SampledRows:
        """The token of each row of (num_logits, num_ids) logits, as engine.sampler.Sampler chooses it; ids: the token
        id of each column, -1: it has none, and holds anything; None: its number. Only asked of a backend that can."""
        ...

    def remember(self, sampled: SampledRows, first: int) -> None:
        """Its tokens are first, first + 1, ... below MAX_REMEMBERED, until others are: passes may take them before the
        host has heard of them. One that is not decided stands for any. Only asked of a backend that can sample."""
        ...

    def routed_experts(self) -> Sequence[int]:
        """How many experts' weights the rows since begin_step make it read: entry j counts the distinct (layer, expert)
        pairs of rows 0 to j, a layer being a call of moe_route. For the first MAX_COUNTED_ROWS; () without a routing.
        """
        ...


Handle = Any
"""What a backend really passes where the protocols above say Tensor, QuantMatrix, KVBlocks, Routing."""
