"""Random Step-3.5 GGUF files of any shape, for tests: deterministic, small, with heads that are often right.

The trunk adds little to the residual stream and eh_proj nearly copies the embedding, so that drafts agree with the
trunk about half of the time: enough accepted and enough rejected tokens for every path to run.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stepahead.gguf import QuantType, TensorData, TypedValue, ValueType, write_gguf

SPECIAL = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
MERGES = ("Ġ t", "Ġt h", "Ġth e", "i n", "Ġ d", "Ġd e", "Ġde f", "r e", "re t", "Ġ ret", "Ġret u", "o n")


@dataclass(frozen=True)
class Shape:
    """Sizes, types and shares of randomness. `router_tensor` and friends default to what the published files have."""

    seed: int = 1
    hidden: int = 128
    head_dim: int = 32
    num_trunk: int = 4
    num_heads_mtp: int = 3
    full_period: int = 4  # layer i is full attention iff i % full_period == 0
    mtp_sliding: bool = True
    heads_full: int = 4
    heads_sliding: int = 6
    num_kv_heads: int = 2
    window: int = 16
    context: int = 4096
    width: int = 256  # of dense feed-forward
    dense_lead: int = 1
    num_experts: int = 8
    top_k: int = 2
    expert_width: int = 64
    shared_width: int = 64
    vocab: int = 384
    type: QuantType = QuantType.F32
    output_type: QuantType | None = None
    own_head: bool = True
    own_norm: bool = True
    own_embed: bool = False
    fused_qkv: bool = False
    head_gate: bool = True
    qk_norm: bool = True
    rope_freqs: bool = True
    expert_bias: bool = True
    clamp: float = 0.9  # of the last trunk layer
    residual: float = 0.1  # how much a block adds
    noise: float = 0.1  # in eh_proj

    @property
    def num_blocks(self) -> int:
        return self.num_trunk + self.num_heads_mtp

    def is_sliding(self, index: int) -> bool:
        return self.mtp_sliding if index >= self.num_trunk else index % self.full_period != 0


def quantised(shape: Shape, type: QuantType) -> Shape:
    """A shape whose rows are whole blocks of 256, in one type."""
    return replace(
        shape, type=type, hidden=256, head_dim=64, heads_full=4, heads_sliding=8, width=256, expert_width=256,
        shared_width=256, num_experts=4,
    )  # fmt: skip


def write_model(path: Path, shape: Shape, part: str = "full") -> Path:
    """Write `full`, `trunk` (45-like, no key), `declared` (trunk only, heads declared) or `heads` (companion)."""
    tensors = {name: data for name, data in model_tensors(shape) if _belongs(name, shape, part)}
    write_gguf(path, metadata(shape, has_heads=part != "trunk"), tensors)
    return path


def _belongs(name: str, shape: Shape, part: str) -> bool:
    if not name.startswith("blk."):
        return True
    is_head = int(name.split(".")[1]) >= shape.num_trunk
    return part == "full" or is_head == (part == "heads")


def metadata(shape: Shape, has_heads: bool = True) -> dict[str, object]:
    n = shape.num_blocks if has_heads else shape.num_trunk
    f32 = lambda values: TypedValue(ValueType.F32, values)  # noqa: E731
    i32 = lambda values: TypedValue(ValueType.I32, values)  # noqa: E731
    clamps = [shape.clamp if i == shape.num_trunk - 1 else 0.0 for i in range(n)]
    step35: dict[str, object] = {
        "block_count": n,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.width,
        "attention.head_count": i32(
            [shape.heads_sliding if shape.is_sliding(i) else shape.heads_full for i in range(n)]
        ),
        "attention.head_count_kv": i32([shape.num_kv_heads] * n),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": f32(1e-5),
        "attention.sliding_window": shape.window,
        "attention.sliding_window_pattern": [shape.is_sliding(i) for i in range(n)],
        "rope.freq_base": f32(5e6),
        "rope.freq_base_swa": f32(1e4),
        "expert_count": shape.num_experts,
        "expert_used_count": shape.top_k,
        "expert_feed_forward_length": shape.expert_width,
        "expert_shared_feed_forward_length": shape.shared_width,
        "expert_weights_scale": f32(3.0),
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "leading_dense_block_count": shape.dense_lead,
        "swiglu_clamp_exp": f32(clamps),
        "swiglu_clamp_shexp": f32([2 * c for c in clamps]),
    }
    if has_heads and shape.num_heads_mtp:
        step35["nextn_predict_layers"] = shape.num_heads_mtp
    return {
        "general.architecture": "step35",
        "general.name": "random",
        **{f"step35.{key}": value for key, value in step35.items()},
        **_tokenizer(shape),
    }


def _tokenizer(shape: Shape) -> dict[str, object]:
    """Byte-level vocabulary: 256 bytes, a few merges, fillers, then the special tokens at the end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) if b in printable else "" for b in range(256)]
    others = iter(range(256, 512))
    alphabet = [c or chr(next(others)) for c in alphabet]
    tokens = alphabet + [merge.replace(" ", "") for merge in MERGES]
    fillers = shape.vocab - len(tokens) - len(SPECIAL)
    types = [1] * len(tokens) + [5] * fillers + [3] * len(SPECIAL)
    tokens += [f"[PAD{i}]" for i in range(fillers)] + list(SPECIAL)
    first = shape.vocab - len(SPECIAL)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": TypedValue(ValueType.I32, types),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.eos_token_id": first + 3,
        "tokenizer.ggml.add_bos_token": False,
    }


def model_tensors(s: Shape) -> Iterator[tuple[str, TensorData]]:
    def matrix(name: str, *shape: int, std: float, type: QuantType | None = None) -> tuple[str, TensorData]:
        return name, TensorData.from_array(_normal(s, name, shape) * np.float32(std), type or s.type)

    def vector(name: str, size: int, spread: float = 0.1, mean: float = 1.0) -> tuple[str, TensorData]:
        return name, TensorData.from_array(_normal(s, name, (size,)) * np.float32(spread) + np.float32(mean))

    yield matrix("token_embd.weight", s.vocab, s.hidden, std=1.0)
    yield vector("output_norm.weight", s.hidden)
    yield matrix("output.weight", s.vocab, s.hidden, std=4.0 / s.hidden**0.5, type=s.output_type)
    if s.rope_freqs:
        factors = np.ones(s.head_dim // 2, np.float32)
        factors[s.head_dim // 8 :] = 2.0
        yield "rope_freqs.weight", TensorData.from_array(factors)
    for index in range(s.num_blocks):
        yield from _block(s, index, f"blk.{index}.", matrix, vector)


def _block(s: Shape, index: int, p: str, matrix, vector) -> Iterator[tuple[str, TensorData]]:
    e, kv = s.hidden, s.num_kv_heads * s.head_dim
    heads = s.heads_sliding if s.is_sliding(index) else s.heads_full
    unit, residual = e**-0.5, 2 * s.residual
    yield vector(f"{p}attn_norm.weight", e)
    yield vector(f"{p}ffn_norm.weight", e)
    if s.fused_qkv:
        yield matrix(f"{p}attn_qkv.weight", heads * s.head_dim + 2 * kv, e, std=unit)
    else:
        yield matrix(f"{p}attn_q.weight", heads * s.head_dim, e, std=unit)
        yield matrix(f"{p}attn_k.weight", kv, e, std=unit)
        yield matrix(f"{p}attn_v.weight", kv, e, std=unit)
    yield matrix(f"{p}attn_output.weight", e, heads * s.head_dim, std=residual / (heads * s.head_dim) ** 0.5)
    if s.qk_norm:
        yield vector(f"{p}attn_q_norm.weight", s.head_dim, 0.2, 1.3)
        yield vector(f"{p}attn_k_norm.weight", s.head_dim, 0.2, 1.3)
    if s.head_gate:
        yield matrix(f"{p}attn_gate.weight", heads, e, std=unit)
    if s.dense_lead <= index < s.num_trunk:
        yield from _experts(s, p, matrix, vector)
    else:
        yield matrix(f"{p}ffn_gate.weight", s.width, e, std=unit)
        yield matrix(f"{p}ffn_up.weight", s.width, e, std=unit)
        yield matrix(f"{p}ffn_down.weight", e, s.width, std=residual / s.width**0.5)
    if index >= s.num_trunk:
        yield from _head(s, f"{p}nextn.", matrix, vector)


def _experts(s: Shape, p: str, matrix, vector) -> Iterator[tuple[str, TensorData]]:
    e, n, w, unit = s.hidden, s.num_experts, s.expert_width, s.hidden**-0.5
    yield matrix(f"{p}ffn_gate_inp.weight", n, e, std=2 * unit, type=QuantType.F32)
    if s.expert_bias:
        yield vector(f"{p}exp_probs_b.bias", n, 0.05, 0.0)
    yield matrix(f"{p}ffn_gate_exps.weight", n, w, e, std=unit)
    yield matrix(f"{p}ffn_up_exps.weight", n, w, e, std=unit)
    yield matrix(f"{p}ffn_down_exps.weight", n, e, w, std=s.residual / w**0.5)
    yield matrix(f"{p}ffn_gate_shexp.weight", s.shared_width, e, std=unit)
    yield matrix(f"{p}ffn_up_shexp.weight", s.shared_width, e, std=unit)
    yield matrix(f"{p}ffn_down_shexp.weight", e, s.shared_width, std=s.residual / s.shared_width**0.5)


def _head(s: Shape, p: str, matrix, vector) -> Iterator[tuple[str, TensorData]]:
    e = s.hidden
    name = f"{p}eh_proj.weight"
    eh_proj = _normal(s, name, (e, 2 * e)) * np.float32(s.noise / (2 * e) ** 0.5)
    eh_proj[:, :e] += np.eye(e, dtype=np.float32)
    yield name, TensorData.from_array(eh_proj, s.type)
    yield vector(f"{p}enorm.weight", e, 0.05)
    yield vector(f"{p}hnorm.weight", e, 0.05)
    if s.own_norm:
        yield vector(f"{p}shared_head_norm.weight", e, 0.05)
    for own, tensor, source, std in (
        (s.own_head, "shared_head_head", "output", 4.0 / e**0.5),
        (s.own_embed, "embed_tokens", "token_embd", 1.0),
    ):
        if own:
            name = f"{p}{tensor}.weight"
            values = _normal(s, f"{source}.weight", (s.vocab, e)) + np.float32(0.15) * _normal(s, name, (s.vocab, e))
            yield name, TensorData.from_array(values * np.float32(std), s.output_type or s.type)


def _normal(s: Shape, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """About normal, float32: sums of four 16-bit uniforms. Exact arithmetic on a bit stream that numpy promises to
    keep, so that recorded logits stay true with every numpy."""
    key = int.from_bytes(hashlib.sha256(f"{s.seed} {name}".encode()).digest()[:8], "little")
    words = np.random.PCG64(key).random_raw(int(np.prod(shape)))
    sums = words.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
    unit = (4 * (2.0**32 - 1) / 12) ** 0.5
    return ((sums - 2.0 * 65535) / unit).astype(np.float32).reshape(shape)
