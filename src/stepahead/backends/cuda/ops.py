"""The GPU backend: what the ops of `backends/base.py` are made of. The numbers are those of docs/numerics-cuda.md.

Owns the order of launches, the check of shapes, and what goes between host and device. Nothing here waits for the
device but what has to give the host an answer. Must not know: models, engine, files.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import triton

from stepahead.backends.base import (
    MAX_REMEMBERED,
    ON_HOST,
    PLAIN,
    AttentionRows,
    Bytes,
    Floats,
    Handle,
    Ints,
    OwnMemory,
    QuantMatrix,
    Rope,
    SampledRows,
    SampleRows,
    SharedExpert,
)
from stepahead.backends.cpu.threads import resolve_threads
from stepahead.backends.cuda.checks import demand, demand_array, demand_same, demand_span, demand_within
from stepahead.backends.cuda.device import Device, explains_memory
from stepahead.backends.cuda.expert_counter import ExpertCounter
from stepahead.backends.cuda.host_arrays import HostArrays
from stepahead.backends.cuda.host_experts import HostExperts
from stepahead.backends.cuda.kernels.argmax import argmax
from stepahead.backends.cuda.kernels.attention import attention
from stepahead.backends.cuda.kernels.concat import concat
from stepahead.backends.cuda.kernels.copy_rows import copy_rows
from stepahead.backends.cuda.kernels.embed import embed
from stepahead.backends.cuda.kernels.expert_tile import rides_along
from stepahead.backends.cuda.kernels.gather_rows import gather_rows
from stepahead.backends.cuda.kernels.head_gate import head_gate
from stepahead.backends.cuda.kernels.kv_write import kv_write
from stepahead.backends.cuda.kernels.linear import linear_many
from stepahead.backends.cuda.kernels.moe_ffn import moe_ffn
from stepahead.backends.cuda.kernels.moe_route import MAX_EXPERTS, moe_route
from stepahead.backends.cuda.kernels.qk_norm_rope import qk_norm_rope
from stepahead.backends.cuda.kernels.remember import remember
from stepahead.backends.cuda.kernels.rms_norm import rms_norm
from stepahead.backends.cuda.kernels.rope_table import RopeTable, inverse_frequencies, rope_table
from stepahead.backends.cuda.kernels.rope_write import rope_write
from stepahead.backends.cuda.kernels.sample import sample
from stepahead.backends.cuda.kernels.swiglu import swiglu
from stepahead.backends.cuda.kv import KVBlocks
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.loading import Loader, stored_nbytes
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.running_sums import RunningSums
from stepahead.backends.cuda.sampling import SampledRows as ChosenRows
from stepahead.backends.cuda.sampling import SampleInputs
from stepahead.backends.cuda.split_sums import SplitSums
from stepahead.backends.cuda.static_arrays import StaticArrays
from stepahead.backends.cuda.sums import SumRows
from stepahead.backends.reference.philox import token_words
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf.quants import QuantType


@explains_memory
class CudaBackend:
    """Implements `Backend`; one GPU, and one order of launches on its current stream, an instance."""

    name = "cuda"
    can_sample = True
    can_write_turned = True
    can_share = True

    def __init__(self, index: int = 0, threads: int | None = None) -> None:
        """threads: of the CPU, that read weights and compute experts that stay in its memory. Raises BackendError where
        there is no such GPU."""
        self.device = Device.open(index)
        self.launch = Launcher(self.device)
        self.arrays = HostArrays(self.device.torch)
        self.experts = ExpertCounter(self.device.torch)
        self._loader = Loader(self.device, self.launch, resolve_threads(threads))
        self.host_experts = HostExperts(self.device, self.launch, resolve_threads(threads))
        self._remembered = torch.zeros(MAX_REMEMBERED, dtype=torch.int32, device=self.device.torch)
        self._num_remembered = 0
        self._ids: dict[int, StaticArrays] = {}  # by id of the array, which `arrays` keeps
        self._frequencies: dict[int, tuple[Rope, torch.Tensor]] = {}  # by id; a Rope that is kept keeps its own

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "device": self.device.name,
            "isa": self.device.isa,
            "threads": self.threads,
            "num_sms": self.device.num_sms,
            # What decides bits, beside NUMERICS_VERSION: the instruction of a product, and how it was compiled.
            "numerics": ", ".join(filter(None, (self.device.isa, f"triton {triton.__version__}", self.tiles))),
            "tiles": self.tiles,
            "memory_bytes": self.device.nbytes,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    @property
    def tiles(self) -> str:
        """What is slower or worse here than it should be, of what was loaded so far; empty: nothing."""
        return self._loader.tiles.describe()

    @property
    def threads(self) -> int:
        return 1

    @threads.setter
    def threads(self, threads: int) -> None:
        if threads != 1:
            raise ConfigError(
                f"threads={threads!r}: there are none to give to others, {self.device.name} computes; "
                "give 1, or load the model with device='cpu'"
            )

    # --- memory ---

    @property
    def own_memory(self) -> OwnMemory:
        return self.device.own_memory

    def matrix_nbytes(self, type: QuantType, shape: tuple[int, ...]) -> int:
        return stored_nbytes(type, shape)

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str = PLAIN) -> QuantMatrix:
        if layout.startswith(ON_HOST):
            return self.host_experts.load_matrix(data, type, shape, layout.removeprefix(ON_HOST))
        demand(layout == PLAIN, f"layout {layout!r} is unknown; a GPU is given {PLAIN} weights, and packs them itself")
        return self._loader.load(data, type, shape)

    def write_rows(self, matrix: CudaMatrix, rows: Ints, data: Bytes) -> None:
        demand_array("write_rows", rows, np.int32, 1)
        demand(len(matrix.shape) == 2, f"write_rows: rows of a matrix (out, in), not of {matrix.shape}")
        demand_within("write_rows", rows, matrix.shape[0])
        self._loader.write_rows(matrix, rows, data)

    def write_ids(self, ids: Ints) -> None:
        demand_array("write_ids", ids, np.int32, 1)
        if id(ids) not in self._ids:
            self._ids[id(ids)] = StaticArrays(self.device, {"ids": ("int32", ids.shape)})
            self.arrays.keep(ids, self._ids[id(ids)].tensors["ids"])
        self._ids[id(ids)].begin()["ids"][...] = ids
        self._ids[id(ids)].send()

    def preferred_layout(self, type: QuantType, shape: tuple[int, ...]) -> str:
        return PLAIN

    def repack(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str, out: Bytes) -> None:
        raise BackendError(f"layout {layout!r} is unknown; a GPU packs weights when it loads them")

    def finish_loading(self) -> None:
        self._loader.close()

    def load_vector(self, values: Floats) -> Rows:
        demand_array("load_vector", values, np.float32, 1)
        return self.upload(values[None, :])

    def upload(self, values: Floats) -> Rows:
        demand_array("upload", values, np.float32, 2)
        return Rows(self.device.sent(values))

    def download(self, x: Rows) -> Floats:
        return self.device.fetched(x.values)

    def zeros(self, num_rows: int, width: int) -> Rows:
        return Rows(torch.zeros((num_rows, width), dtype=torch.float32, device=self.device.torch))

    def new_kv(self, num_blocks: int, num_kv_heads: int, head_dim: int, kv_type: str) -> KVBlocks:
        return KVBlocks(num_blocks, num_kv_heads, head_dim, kv_type, self.device.torch)

    def copy_block(self, kv: KVBlocks, old: int, new: int) -> None:
        kv.copy(old, new)

    def read_block(self, kv: KVBlocks, block: int, num_positions: int) -> Bytes:
        return kv.read(block, num_positions)

    def write_block(self, kv: KVBlocks, block: int, data: Bytes) -> None:
        kv.write(block, data)

    def begin_step(self) -> None:
        self.device.make_current()
        self.arrays.begin_step()
        self.experts.begin_step()

    # --- rows ---

    def embed(self, table: CudaMatrix, ids: Ints) -> Rows:
        demand_array("embed", ids, np.int32, 1)
        known = ids if self._num_remembered == 0 else ids[(ids < -self._num_remembered) | (ids >= 0)]
        demand_within("embed: ids", known, table.shape[0])
        return Rows(embed(self.launch, table, self.arrays(ids), self._remembered))

    def rms_norm(self, x: Rows, weight: Rows, eps: float) -> Rows:
        demand(weight.shape == (1, x.shape[1]), f"rms_norm: x {x.shape} and a weight of {weight.shape}")
        if isinstance(x, SumRows) and x.is_pending:
            return x.normed(weight.values, eps)
        return rms_norm(self.launch, x.values, weight.values, eps)

    def add(self, x: Rows, y: Rows) -> Rows:
        demand_same("add", x, y)
        return SumRows.of(self.launch, x, y)

    def concat(self, x: Rows, y: Rows) -> Rows:
        demand(x.shape[0] == y.shape[0], f"concat: {x.shape} and {y.shape}; both need as many rows")
        return Rows(concat(self.launch, x.values, y.values))

    def gather_rows(self, x: Rows, rows: Ints) -> Rows:
        demand_array("gather_rows", rows, np.int32, 1)
        demand_within("gather_rows", rows, x.shape[0])
        return Rows(gather_rows(self.launch, x.values, self.arrays(rows)))

    def copy_rows(self, target: Rows, target_row: int, source: Rows, source_row: int, num_rows: int) -> None:
        demand(target.shape[1] == source.shape[1], f"copy_rows: {source.shape} into {target.shape}")
        demand_span("copy_rows: target", target_row, num_rows, target.shape[0])
        demand_span("copy_rows: source", source_row, num_rows, source.shape[0])
        target.half = None  # it was that of the rows before
        copy_rows(self.launch, target.values, target_row, source.values, source_row, num_rows)

    def argmax(self, x: Rows) -> Ints:
        return self.device.fetched(argmax(self.launch, x.values))

    # --- matrices ---

    def linear(self, x: Rows, matrix: CudaMatrix) -> Rows:
        return self.linear_many(x, (matrix,))[0]

    def linear_many(self, x: Rows, matrices: Sequence[CudaMatrix]) -> tuple[Rows, ...]:
        for matrix in matrices:
            demand(
                len(matrix.shape) == 2 and x.shape[1] == matrix.shape[1],
                f"linear: x {x.shape} against a matrix of shape {matrix.shape}",
            )
        made = linear_many(self.launch, x, matrices)
        return tuple(SumRows(self.launch, None, y) if isinstance(y, SplitSums) else Rows(y) for y in made)

    # --- attention ---

    def rope_table(self, rope: Rope, positions: Ints) -> RopeTable:
        demand_array("rope_table", positions, np.int32, 1)
        if id(rope) not in self._frequencies:
            self._frequencies[id(rope)] = rope, inverse_frequencies(rope, self.device.torch)
        return rope_table(self.launch, self._frequencies[id(rope)][1], self.arrays(positions))

    def qk_norm_rope(self, x: Rows, weight: Rows | None, eps: float, table: RopeTable, head_dim: int) -> Rows:
        demand(x.shape[1] % head_dim == 0, f"qk_norm_rope: x {x.shape} is not in heads of {head_dim}")
        demand(len(table.cos) == x.shape[0], f"qk_norm_rope: x {x.shape}, a table of {len(table.cos)} rows")
        gain = None if weight is None else weight.values
        return Rows(qk_norm_rope(self.launch, x.values, gain, eps, table, head_dim))

    def kv_write(self, kv: KVBlocks, k: Rows, v: Rows, rows: AttentionRows) -> None:
        demand_array("kv_write: slots", rows.slots, np.int32, 1)
        demand_same("kv_write", k, v)
        wanted = len(rows.slots), kv.num_kv_heads * kv.head_dim
        demand(k.shape == wanted, f"kv_write: keys of {k.shape}, the rows and heads are {wanted}")
        kv_write(self.launch, kv, k.values, v.values, self.arrays(rows.slots))

    def write_turned(
        self, kv: KVBlocks, k: Rows, v: Rows, k_weight: Rows | None, eps: float, table: RopeTable,
        rows: AttentionRows, q: Rows | None, q_weight: Rows | None,
    ) -> Rows | None:  # fmt: skip
        demand_array("write_turned: slots", rows.slots, np.int32, 1)
        demand_same("write_turned", k, v)
        wanted = len(rows.slots), kv.num_kv_heads * kv.head_dim
        demand(k.shape == wanted, f"write_turned: keys of {k.shape}, the rows and heads are {wanted}")
        demand(len(table.cos) == k.shape[0], f"write_turned: keys {k.shape}, a table of {len(table.cos)} rows")
        if q is not None:
            fits = q.shape[0] == k.shape[0] and q.shape[1] % kv.head_dim == 0
            demand(fits, f"write_turned: keys {k.shape}, queries {q.shape} in heads of {kv.head_dim}")
        of_k, of_q, queries = (None if each is None else each.values for each in (k_weight, q_weight, q))
        slots = self.arrays(rows.slots)
        turned = rope_write(self.launch, kv, k.values, v.values, of_k, eps, table, slots, queries, of_q)
        return None if turned is None else Rows(turned)

    def attention(self, q: Rows, kv: KVBlocks, rows: AttentionRows, scale: float, window: int | None = None) -> Rows:
        for name, ndim in (("positions", 1), ("first_keys", 1), ("sequences", 1), ("block_tables", 2)):
            demand_array(f"attention: {name}", getattr(rows, name), np.int32, ndim)
        demand(len(rows.positions) == q.shape[0], f"attention: q {q.shape}, {len(rows.positions)} positions")
        demand(
            q.shape[1] % (kv.num_kv_heads * kv.head_dim) == 0, f"attention: q {q.shape} over {kv.num_kv_heads} heads"
        )
        arrays = self.arrays
        return Rows(
            attention(
                self.launch,
                q.values,
                kv,
                arrays(rows.positions),
                arrays(rows.first_keys),
                arrays(rows.sequences),
                arrays(rows.block_tables),
                scale,
                window=window,
            )
        )

    def head_gate(self, x: Rows, gate: Rows) -> Rows:
        demand(x.shape[0] == gate.shape[0] and x.shape[1] % gate.shape[1] == 0, f"head_gate: {x.shape}, {gate.shape}")
        return head_gate(self.launch, x.values, gate.values, with_half=True)

    # --- feed-forward ---

    def swiglu(self, gate: Rows, up: Rows, limit: float) -> Rows:
        demand_same("swiglu", gate, up)
        return swiglu(self.launch, gate.values, up.values, limit, with_half=True)

    def moe_route(self, logits: Rows, bias: Rows | None, top_k: int, normalize: bool, scale: float) -> Routing:
        num_rows, num_experts = logits.shape
        demand(
            0 < top_k <= num_experts <= MAX_EXPERTS,
            f"moe_route: {top_k} of {num_experts} experts; there may be {MAX_EXPERTS} to choose from",
        )
        page = self.experts.page(num_rows, top_k)
        added = None if bias is None else bias.values
        return moe_route(self.launch, logits.values, added, top_k, normalize, scale, page)

    def moe_ffn(
        self,
        x: Rows,
        routing: Routing,
        gate: Handle,  # CudaMatrix, as up and down, or all of them what `host_experts` has loaded
        up: Handle,
        down: Handle,
        limit: float,
        shared: SharedExpert | None = None,
    ) -> Rows:
        demand(
            x.shape[0] == routing.num_rows and {len(m.shape) for m in (gate, up, down)} == {3},
            f"moe_ffn: x {x.shape}, routing {routing.shape}, gate {gate.shape}, down {down.shape}",
        )
        on_host = not isinstance(gate, CudaMatrix)
        if not on_host and (shared is None or rides_along(shared, gate, up, down)):
            return SumRows(self.launch, None, moe_ffn(self.launch, x, routing, gate, up, down, limit, shared))
        if on_host:
            routed: Rows = self.host_experts.moe_ffn(x, routing, gate, up, down, limit)
            return routed if shared is None else self.add(routed, self._shared(x, shared))
        assert shared is not None
        experts = moe_ffn(self.launch, x, routing, gate, up, down, limit)
        return SumRows(self.launch, None, replace(experts, shared=self._shared(x, shared).values))

    def _shared(self, x: Rows, shared: SharedExpert) -> Rows:
        """Of an expert apart."""
        gate, up = self.linear_many(x, (shared.gate, shared.up))
        return self.linear(self.swiglu(gate, up, shared.limit), shared.down)

    # --- choice ---

    def token_words(
        self, seed: int, position: int, token_ids: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        return token_words(seed, position, token_ids)

    def sample(self, logits: Rows, rows: SampleRows, ids: Ints | None) -> SampledRows:
        demand(len(rows.seeds) == logits.shape[0], f"sample: logits {logits.shape}, {len(rows.seeds)} rows of settings")
        columns = None if ids is None else self.arrays(ids)
        return sample(self.launch, logits.values, SampleInputs(rows, self.arrays), columns)

    def remember(self, sampled: SampledRows, first: int) -> None:
        tokens = cast(ChosenRows, sampled).token_ids
        demand_span("remember", first, len(tokens), MAX_REMEMBERED)
        self._num_remembered = max(self._num_remembered, first + len(tokens))
        remember(self.launch, tokens, self._remembered, first)

    def routed_experts(self) -> Sequence[int]:
        num_rows = self.experts.num_rows
        if num_rows == 0:
            return ()
        return RunningSums(self.device.fetched_later(self.experts.count(self.launch)[:num_rows]), num_rows)
