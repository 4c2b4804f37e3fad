"""Makes the models that are measured: Step-3.5 GGUF files of any size, random weights, the same bytes every time.

Speed does not depend on what weights say, so blocks are random bytes with ordinary scales, made a tensor at a time: a
file larger than memory can be written. The heads of such a model are never right; whoever measures a cycle says how
many draft tokens are kept. Owns shapes, presets and the free-space check. Must not know: what is measured.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, TensorData, TypedValue, ValueType, write_gguf

GENERATOR_VERSION = 1  # part of a file's name: bump it when the bytes of a shape change
SPARE_BYTES = 1 << 30  # left free on the disk
CHUNK_BLOCKS = 1 << 16  # blocks made at once
SPECIAL = ("<bos>", "<pad>", "<|im_start|>", "<|im_end|>")

# Root mean square of the codes of a block, over uniform random bytes: what its scale is divided by.
_Q4_K_RMS = (63 * 127 / 6) ** 0.5 * ((16**2 - 1) / 12) ** 0.5  # six-bit scale, code minus 7.5
_Q6_K_RMS = ((256**2 - 1) / 12 + 0.25) ** 0.5 * ((64**2 - 1) / 12 + 0.25) ** 0.5  # int8 scale, code minus 32


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes and types of a model. Layer i is full attention iff i % full_period == 0; heads are sliding and dense."""

    name: str
    hidden: int
    head_dim: int
    num_trunk: int
    heads_full: int
    heads_sliding: int
    num_kv_heads: int
    window: int
    context: int
    width: int  # of dense feed-forward
    num_experts: int
    top_k: int
    expert_width: int  # of the shared expert, too
    vocab: int
    num_mtp: int = 3
    dense_lead: int = 1
    full_period: int = 4
    type: QuantType = QuantType.Q4_K
    output_type: QuantType = QuantType.Q6_K  # of all output matrices
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f"experts={self.num_experts} is fewer than the top {self.top_k} of {self.name}: give more"
            )

    @property
    def num_blocks(self) -> int:
        return self.num_trunk + self.num_mtp

    @property
    def file_name(self) -> str:
        """Names the bytes: another shape, or another generator, is another file."""
        key = hashlib.sha256(repr((GENERATOR_VERSION, dataclasses.astuple(self))).encode()).hexdigest()[:8]
        return f"{self.name}-{self.num_experts}x-{key}.gguf"

    def is_sliding(self, index: int) -> bool:
        return index >= self.num_trunk or index % self.full_period != 0

    def is_moe(self, index: int) -> bool:
        return self.dense_lead <= index < self.num_trunk


_STEP = Shape(
    name="mid", hidden=4096, head_dim=128, num_trunk=16, heads_full=64, heads_sliding=96, num_kv_heads=8, window=512,
    context=32768, width=11264, num_experts=24, top_k=8, expert_width=1280, vocab=128896,
)  # fmt: skip
PRESETS = {
    "small": Shape(
        name="small", hidden=512, head_dim=64, num_trunk=8, heads_full=8, heads_sliding=12, num_kv_heads=2, window=128,
        context=8192, width=1536, num_experts=16, top_k=4, expert_width=256, vocab=8192, dense_lead=2,
    ),
    "mid": _STEP,
    "mid288": dataclasses.replace(_STEP, name="mid288", num_trunk=4, num_experts=288),
}  # fmt: skip


def make_model(shape: Shape, folder: Path) -> Path:
    """The shape's file in `folder`, written if it is not there. Raises ConfigError where it would not fit."""
    path = folder / shape.file_name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = nbytes(shape) + SPARE_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{shape.name} needs {needed / 1e9:.1f} GB in {folder}, a spare gigabyte included, but {free / 1e9:.1f} GB "
            "are free: give another --folder, fewer --experts, or a smaller model"
        )
    write_gguf(path, metadata(shape), dict(tensors(shape)))
    return path


def nbytes(shape: Shape) -> int:
    """Bytes of all tensors."""
    return sum(data.type.nbytes(data.shape) for _, data in tensors(shape))


def metadata(shape: Shape) -> dict[str, Any]:
    n = shape.num_blocks
    sliding = [shape.is_sliding(i) for i in range(n)]
    step35: dict[str, Any] = {
        "block_count": n,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.width,
        "attention.head_count": _i32([shape.heads_sliding if s else shape.heads_full for s in sliding]),
        "attention.head_count_kv": _i32([shape.num_kv_heads] * n),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": _f32(1e-5),
        "attention.sliding_window": shape.window,
        "attention.sliding_window_pattern": sliding,
        "rope.freq_base": _f32(5e6),
        "rope.freq_base_swa": _f32(1e4),
        "expert_count": shape.num_experts,
        "expert_used_count": shape.top_k,
        "expert_feed_forward_length": shape.expert_width,
        "expert_shared_feed_forward_length": shape.expert_width,
        "expert_weights_scale": _f32(3.0),
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "leading_dense_block_count": shape.dense_lead,
        "nextn_predict_layers": shape.num_mtp,
    }
    return {
        "general.architecture": "step35",
        "general.name": shape.name,
        **{f"step35.{key}": value for key, value in step35.items()},
        **_vocabulary(shape.vocab),
    }


def _vocabulary(size: int) -> dict[str, Any]:
    """Bytes, fillers, special tokens: measurements give ids, but both engines want a tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    alphabet = [chr(b) if b in printable else chr(next(others)) for b in range(256)]
    fillers = size - len(alphabet) - 1 - len(SPECIAL)
    tokens = [*alphabet, "in", *(f"[PAD{i}]" for i in range(fillers)), *SPECIAL]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": _i32([1] * 257 + [5] * fillers + [3] * len(SPECIAL)),
        "tokenizer.ggml.merges": ["i n"],
        "tokenizer.ggml.bos_token_id": size - 4,
        "tokenizer.ggml.eos_token_id": size - 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def tensors(shape: Shape) -> Iterator[tuple[str, TensorData]]:
    """Every tensor in the order of a forward pass; the bytes are made when they are written."""
    s, e = shape, shape.hidden
    yield _matrix(s, "token_embd.weight", s.vocab, e, std=1.0)
    for index in range(s.num_blocks):
        yield from _block(s, index)
    yield _vector(s, "output_norm.weight", e)
    yield _matrix(s, "output.weight", s.vocab, e, std=4 / e**0.5, type=s.output_type)


def _block(s: Shape, index: int) -> Iterator[tuple[str, TensorData]]:
    e, p = s.hidden, f"blk.{index}."
    q = s.head_dim * (s.heads_sliding if s.is_sliding(index) else s.heads_full)
    kv, unit, added = s.num_kv_heads * s.head_dim, e**-0.5, 0.2
    yield _vector(s, f"{p}attn_norm.weight", e)
    yield _matrix(s, f"{p}attn_q.weight", q, e, std=unit)
    yield _matrix(s, f"{p}attn_k.weight", kv, e, std=unit)
    yield _matrix(s, f"{p}attn_v.weight", kv, e, std=unit)
    yield _vector(s, f"{p}attn_q_norm.weight", s.head_dim)
    yield _vector(s, f"{p}attn_k_norm.weight", s.head_dim)
    yield _matrix(s, f"{p}attn_gate.weight", q // s.head_dim, e, std=unit)
    yield _matrix(s, f"{p}attn_output.weight", e, q, std=added / q**0.5)
    yield _vector(s, f"{p}ffn_norm.weight", e)
    if s.is_moe(index):
        n, w = s.num_experts, s.expert_width
        yield _matrix(s, f"{p}ffn_gate_inp.weight", n, e, std=2 * unit, type=QuantType.F32)
        yield _vector(s, f"{p}exp_probs_b.bias", n, mean=0.0)
        yield from _gated(s, p, "_exps", (n,), w, added)
        yield from _gated(s, p, "_shexp", (), w, added)
    else:
        yield from _gated(s, p, "", (), s.width, added)
    if index >= s.num_trunk:
        yield _matrix(s, f"{p}nextn.eh_proj.weight", e, 2 * e, std=(2 * e) ** -0.5)
        for norm in ("enorm", "hnorm", "shared_head_norm"):
            yield _vector(s, f"{p}nextn.{norm}.weight", e)
        head = f"{p}nextn.shared_head_head.weight"
        yield _matrix(s, head, s.vocab, e, std=4 / e**0.5, type=s.output_type)


def _gated(
    s: Shape, p: str, suffix: str, stack: tuple[int, ...], width: int, added: float
) -> Iterator[tuple[str, TensorData]]:
    for part in ("gate", "up"):
        yield _matrix(s, f"{p}ffn_{part}{suffix}.weight", *stack, width, s.hidden, std=s.hidden**-0.5)
    yield _matrix(s, f"{p}ffn_down{suffix}.weight", *stack, s.hidden, width, std=added / width**0.5)


def _matrix(s: Shape, name: str, *shape: int, std: float, type: QuantType | None = None) -> tuple[str, TensorData]:
    chosen = type or s.type
    return name, TensorData(chosen, shape, partial(_random_bytes, s.seed, name, chosen, shape, std))


def _vector(s: Shape, name: str, size: int, mean: float = 1.0) -> tuple[str, TensorData]:
    values = mean + 0.1 * _generator(s.seed, name).standard_normal(size, np.float32)
    return name, TensorData.from_array(values.astype(np.float32))


def _random_bytes(seed: int, name: str, type: QuantType, shape: tuple[int, ...], std: float) -> npt.NDArray[np.uint8]:
    """A tensor's bytes: numbers around 0 with about this standard deviation."""
    generator = _generator(seed, name)
    if type is QuantType.F32:
        return (generator.standard_normal(shape, np.float32) * np.float32(std)).view(np.uint8).reshape(-1)
    out = np.empty((type.nbytes(shape) // type.block_bytes, type.block_bytes), np.uint8)
    for start in range(0, len(out), CHUNK_BLOCKS):
        blocks = out[start : start + CHUNK_BLOCKS]
        words = generator.integers(0, 1 << 64, -(-blocks.size // 8), np.uint64)
        blocks[:] = words.view(np.uint8)[: blocks.size].reshape(blocks.shape)
        _set_scales(blocks, type, std)
    return out.reshape(-1)


def _set_scales(blocks: npt.NDArray[np.uint8], type: QuantType, std: float) -> None:
    """Make blocks of random bytes decode to numbers of mean 0 and this deviation; layouts as in gguf.block_quants."""
    if type is QuantType.Q4_K:
        blocks[:, 8:12] = blocks[:, 4:8]  # each sub-block's min is its scale, and dmin 7.5 d: codes around their middle
        low = blocks[:, 12:16] & 15
        blocks[:, 12:16] = low | low << 4
        blocks[:, 0:2] = _half(std / _Q4_K_RMS)
        blocks[:, 2:4] = _half(7.5 * std / _Q4_K_RMS)
    elif type is QuantType.Q6_K:
        blocks[:, 208:210] = _half(std / _Q6_K_RMS)
    else:
        raise ConfigError(f"random blocks of {type.name} are not made here: use Q4_K, Q6_K or F32")


def _half(value: float) -> npt.NDArray[np.uint8]:
    return np.array([value], "<f2").view(np.uint8)


def _generator(seed: int, name: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(key))


def _f32(values: Any) -> TypedValue:
    return TypedValue(ValueType.F32, values)


def _i32(values: Any) -> TypedValue:
    return TypedValue(ValueType.I32, values)
