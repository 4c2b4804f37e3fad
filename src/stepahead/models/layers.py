"""Parts that model families share: gated attention and feed-forward, written against the backend's ops.

Attribute names are the GGUF tensor names, so that a loader needs no mapping table. Nothing here knows a family,
a request or a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stepahead.backends.base import (
    AttentionRows,
    Backend,
    Ints,
    KVBlocks,
    QuantMatrix,
    Rope,
    RopeTable,
    SharedExpert,
    Tensor,
)
from stepahead.models.model import LayerSpec
from stepahead.models.weights import Weights


@dataclass(frozen=True, slots=True, eq=False)
class OutputRows:
    """The rows of a pass whose block output is wanted; the others leave keys and values, and nothing else."""

    numbers: Ints  # ascending
    rope: RopeTable  # of these rows
    attention: AttentionRows  # of these rows

    @classmethod
    def of(cls, backend: Backend, numbers: Ints, rope: Rope, rows: AttentionRows) -> "OutputRows":
        chosen = AttentionRows(
            rows.positions[numbers],
            rows.first_keys[numbers],
            rows.sequences[numbers],
            rows.block_tables,
            rows.slots[numbers],
        )
        return cls(numbers, backend.rope_table(rope, chosen.positions), chosen)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Grouped-query attention with per-head norms of q and k and a sigmoid gate per head, each where present."""

    attn_q: QuantMatrix  # (num_heads * head_dim, hidden)
    attn_k: QuantMatrix  # (num_kv_heads * head_dim, hidden)
    attn_v: QuantMatrix
    attn_output: QuantMatrix  # (hidden, num_heads * head_dim)
    attn_q_norm: Tensor | None  # (1, head_dim)
    attn_k_norm: Tensor | None
    attn_gate: QuantMatrix | None  # (num_heads, hidden)

    @classmethod
    def load(cls, weights: Weights, prefix: str, spec: LayerSpec, hidden: int) -> "Attention":
        q_width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        if weights.has(f"{prefix}attn_qkv.weight"):
            q, k, v = weights.row_slices(f"{prefix}attn_qkv.weight", (q_width, kv_width, kv_width), hidden)
        else:
            q = weights.matrix(f"{prefix}attn_q.weight", q_width, hidden)
            k = weights.matrix(f"{prefix}attn_k.weight", kv_width, hidden)
            v = weights.matrix(f"{prefix}attn_v.weight", kv_width, hidden)
        return cls(
            attn_q=q,
            attn_k=k,
            attn_v=v,
            attn_output=weights.matrix(f"{prefix}attn_output.weight", hidden, q_width),
            attn_q_norm=weights.optional_vector(f"{prefix}attn_q_norm.weight", spec.head_dim),
            attn_k_norm=weights.optional_vector(f"{prefix}attn_k_norm.weight", spec.head_dim),
            attn_gate=weights.optional_matrix(f"{prefix}attn_gate.weight", spec.num_heads, hidden),
        )

    def __call__(
        self,
        backend: Backend,
        x: Tensor,  # (num_rows, hidden), normed
        spec: LayerSpec,
        eps: float,
        rope: RopeTable,
        rows: AttentionRows,
        kv: KVBlocks,
    ) -> Tensor:
        k, v, q, *gate = backend.linear_many(x, [self.attn_k, self.attn_v, *self._queries])
        turned = self._write(backend, k, v, spec, eps, rope, rows, kv, q)
        assert turned is not None
        return self._mix(backend, turned, gate, spec, rows, kv)

    def write(
        self,
        backend: Backend,
        x: Tensor,
        spec: LayerSpec,
        eps: float,
        rope: RopeTable,
        rows: AttentionRows,
        kv: KVBlocks,
    ) -> None:
        """The rows' keys and values alone."""
        k, v = backend.linear_many(x, (self.attn_k, self.attn_v))
        self._write(backend, k, v, spec, eps, rope, rows, kv)

    def read(
        self,
        backend: Backend,
        x: Tensor,
        spec: LayerSpec,
        eps: float,
        rope: RopeTable,
        rows: AttentionRows,
        kv: KVBlocks,
    ) -> Tensor:
        """The output of rows whose keys and values are written."""
        q, *gate = backend.linear_many(x, self._queries)
        turned = backend.qk_norm_rope(q, self.attn_q_norm, eps, rope, spec.head_dim)
        return self._mix(backend, turned, gate, spec, rows, kv)

    @property
    def _queries(self) -> tuple[QuantMatrix, ...]:
        return (self.attn_q,) if self.attn_gate is None else (self.attn_q, self.attn_gate)

    def _write(
        self,
        backend: Backend,
        k: Tensor,
        v: Tensor,
        spec: LayerSpec,
        eps: float,
        rope: RopeTable,
        rows: AttentionRows,
        kv: KVBlocks,
        q: Tensor | None = None,
    ) -> Tensor | None:
        """Keys and values; the queries as they meet them, where there are some."""
        if backend.can_write_turned:
            return backend.write_turned(kv, k, v, self.attn_k_norm, eps, rope, rows, q, self.attn_q_norm)
        backend.kv_write(kv, backend.qk_norm_rope(k, self.attn_k_norm, eps, rope, spec.head_dim), v, rows)
        return None if q is None else backend.qk_norm_rope(q, self.attn_q_norm, eps, rope, spec.head_dim)

    def _mix(
        self,
        backend: Backend,
        q: Tensor,  # normed and turned
        gate: Sequence[Tensor],  # one or none
        spec: LayerSpec,
        rows: AttentionRows,
        kv: KVBlocks,
    ) -> Tensor:
        mixed = backend.attention(q, kv, rows, spec.head_dim**-0.5, spec.window)
        if gate:
            mixed = backend.head_gate(mixed, gate[0])
        return backend.linear(mixed, self.attn_output)


@dataclass(frozen=True, slots=True, eq=False)
class GatedMLP:
    """SwiGLU with an optional clamp."""

    gate: QuantMatrix  # (width, hidden)
    up: QuantMatrix
    down: QuantMatrix  # (hidden, width)

    @classmethod
    def load(cls, weights: Weights, prefix: str, suffix: str, hidden: int) -> "GatedMLP":
        """Tensors `{prefix}ffn_gate{suffix}.weight`, up and down alike; their width is the gate's."""
        width = weights.shape(f"{prefix}ffn_gate{suffix}.weight")[0]
        return cls(
            gate=weights.matrix(f"{prefix}ffn_gate{suffix}.weight", width, hidden),
            up=weights.matrix(f"{prefix}ffn_up{suffix}.weight", width, hidden),
            down=weights.matrix(f"{prefix}ffn_down{suffix}.weight", hidden, width),
        )

    def __call__(self, backend: Backend, x: Tensor, limit: float) -> Tensor:
        gate, up = backend.linear_many(x, (self.gate, self.up))
        return backend.linear(backend.swiglu(gate, up, limit), self.down)


def expert_tensors(layer: int) -> tuple[str, ...]:
    """Names of a layer's routed experts."""
    return tuple(f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up", "down"))


@dataclass(frozen=True, slots=True)
class Router:
    """How a mixture of experts chooses: sigmoid scores, selection bias, weights normalised and scaled."""

    num_experts: int
    top_k: int
    normalize: bool
    scale: float  # 0: unscaled


@dataclass(frozen=True, slots=True, eq=False)
class MoE:
    """Routed experts, and a shared expert that is always on where the file has one."""

    router: Router
    ffn_gate_inp: QuantMatrix  # (num_experts, hidden)
    exp_probs_b: Tensor | None  # (1, num_experts)
    ffn_gate_exps: QuantMatrix  # (num_experts, width, hidden)
    ffn_up_exps: QuantMatrix
    ffn_down_exps: QuantMatrix  # (num_experts, hidden, width)
    shared: GatedMLP | None

    @classmethod
    def load(cls, weights: Weights, prefix: str, router: Router, hidden: int) -> "MoE":
        experts = router.num_experts
        width = weights.shape(f"{prefix}ffn_gate_exps.weight")[-2]
        has_shared = weights.has(f"{prefix}ffn_gate_shexp.weight")
        return cls(
            router=router,
            ffn_gate_inp=weights.matrix(f"{prefix}ffn_gate_inp.weight", experts, hidden),
            exp_probs_b=weights.optional_vector(f"{prefix}exp_probs_b.bias", experts),
            ffn_gate_exps=weights.matrix(f"{prefix}ffn_gate_exps.weight", experts, width, hidden),
            ffn_up_exps=weights.matrix(f"{prefix}ffn_up_exps.weight", experts, width, hidden),
            ffn_down_exps=weights.matrix(f"{prefix}ffn_down_exps.weight", experts, hidden, width),
            shared=GatedMLP.load(weights, prefix, "_shexp", hidden) if has_shared else None,
        )

    @property
    def idle_nbytes(self) -> int:
        """Of the experts that a token does not choose."""
        experts = self.ffn_gate_exps.nbytes + self.ffn_up_exps.nbytes + self.ffn_down_exps.nbytes
        return experts * (self.router.num_experts - self.router.top_k) // self.router.num_experts

    def __call__(self, backend: Backend, x: Tensor, limit: float, shared_limit: float) -> Tensor:
        logits = backend.linear(x, self.ffn_gate_inp)
        routing = backend.moe_route(
            logits, self.exp_probs_b, self.router.top_k, self.router.normalize, self.router.scale
        )
        experts = self.ffn_gate_exps, self.ffn_up_exps, self.ffn_down_exps
        if self.shared is not None and backend.can_share:
            shared = SharedExpert(self.shared.gate, self.shared.up, self.shared.down, shared_limit)
            return backend.moe_ffn(x, routing, *experts, limit, shared)
        routed = backend.moe_ffn(x, routing, *experts, limit)
        if self.shared is None:
            return routed
        return backend.add(routed, self.shared(backend, x, shared_limit))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One decoder block: attention and feed-forward, each behind a norm, each added to the residual stream."""

    spec: LayerSpec
    attn_norm: Tensor  # (1, hidden)
    attention: Attention
    ffn_norm: Tensor
    ffn: GatedMLP | MoE

    @classmethod
    def load(cls, weights: Weights, prefix: str, spec: LayerSpec, hidden: int, router: Router | None) -> "Block":
        """`prefix` is "blk.N."; a router makes the feed-forward a mixture of experts."""
        return cls(
            spec=spec,
            attn_norm=weights.vector(f"{prefix}attn_norm.weight", hidden),
            attention=Attention.load(weights, prefix, spec, hidden),
            ffn_norm=weights.vector(f"{prefix}ffn_norm.weight", hidden),
            ffn=MoE.load(weights, prefix, router, hidden)
            if router is not None
            else GatedMLP.load(weights, prefix, "", hidden),
        )

    def __call__(
        self,
        backend: Backend,
        x: Tensor,
        eps: float,
        rope: RopeTable,
        rows: AttentionRows,
        kv: KVBlocks,
        wanted: OutputRows | None = None,
    ) -> Tensor:
        """The block's output, of the wanted rows (None: all)."""
        normed = backend.rms_norm(x, self.attn_norm, eps)
        if wanted is None:
            mixed = self.attention(backend, normed, self.spec, eps, rope, rows, kv)
        else:
            self.attention.write(backend, normed, self.spec, eps, rope, rows, kv)
            x = backend.gather_rows(x, wanted.numbers)
            if len(wanted.numbers) == 0:
                return x
            normed = backend.gather_rows(normed, wanted.numbers)
            mixed = self.attention.read(backend, normed, self.spec, eps, wanted.rope, wanted.attention, kv)
        x = backend.add(x, mixed)
        normed = backend.rms_norm(x, self.ffn_norm, eps)
        if isinstance(self.ffn, MoE):
            return backend.add(x, self.ffn(backend, normed, self.spec.expert_clamp, self.spec.clamp))
        return backend.add(x, self.ffn(backend, normed, self.spec.clamp))
