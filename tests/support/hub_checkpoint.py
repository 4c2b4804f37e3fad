"""Random Step checkpoints in the hub's format, written with numpy alone: those of random_step35, as if uploaded.

Names, norms less one, config.json, tokenizer.json and safetensors files are made by other means than the converter's.
"""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stepahead.gguf import QuantType, TypedValue, dequantize, quantize
from support.random_step35 import SPECIAL, Shape, metadata, model_tensors

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F8_E4M3": np.uint8, "I64": np.int64}
# As tokenizer.json of DeepSeek-V3 has them: line ends are themselves in the third, not escapes.
SPLITS = json.loads(
    r"""["\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+","""
    r""""[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"""
    r"""| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]"""
)
GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_gate": "self_attn.g_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "moe.gate",
    "ffn_gate_exps": "moe.gate_proj",
    "ffn_up_exps": "moe.up_proj",
    "ffn_down_exps": "moe.down_proj",
    "ffn_gate_shexp": "share_expert.gate_proj",
    "ffn_up_shexp": "share_expert.up_proj",
    "ffn_down_shexp": "share_expert.down_proj",
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.shared_head_norm": "transformer.shared_head.norm",
    "nextn.shared_head_head": "transformer.shared_head.output",
}
Tensors = dict[str, tuple[str, np.ndarray]]  # name -> dtype, array of that dtype's words


def hub_name(name: str) -> str:
    """Of a GGUF tensor."""
    if name.endswith("exp_probs_b.bias"):
        return f"model.layers.{name.split('.')[1]}.moe.router_bias"
    stem = name.removesuffix(".weight")
    if stem in GLOBAL:
        return f"{GLOBAL[stem]}.weight"
    _, index, rest = stem.split(".", 2)
    return f"model.layers.{index}.{BLOCK[rest]}.weight"


def hub_tensors(shape: Shape, dtype: str = "F32") -> Tensors:
    """Of a Shape in F32 without rope_freqs; in BF16 all but the router's bias, as the published ones are."""
    tensors: Tensors = {}
    for name, data in model_tensors(shape):
        values = data.data.view(np.float32).reshape(data.shape)
        if name.endswith("norm.weight"):
            values = values - np.float32(1)
        kind = "F32" if name.endswith(".bias") else dtype
        tensors[hub_name(name)] = (kind, words(values, kind))
    return tensors


def words(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return quantize(values, QuantType.BF16).view(np.uint16)
    return values.astype(DTYPES[dtype])


def numbers(dtype: str, array: np.ndarray) -> np.ndarray:
    """float32 of what words() made."""
    if dtype == "BF16":
        return dequantize(array.view(np.uint8), QuantType.BF16)
    return array.astype(np.float32)


def hub_config(shape: Shape, nested: bool = True, has_head_entries: bool = True) -> dict:
    """The keys and forms of the published config.json; has_head_entries: per-layer lists of 48, else of 45."""
    num = shape.num_blocks if has_head_entries else shape.num_trunk
    sliding = [shape.is_sliding(index) for index in range(num)]
    last = shape.num_trunk - 1
    other = {
        "attention_type": "sliding_attention",
        "num_attention_heads": shape.heads_sliding,
        "num_attention_groups": shape.num_kv_heads,
        "head_dim": shape.head_dim,
    }
    config = {
        "architectures": ["Step3p5ForCausalLM"],
        "model_type": "step3p5",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.width,
        "num_hidden_layers": shape.num_trunk,
        "num_nextn_predict_layers": shape.num_heads_mtp,
        "num_attention_heads": shape.heads_full,
        "num_attention_groups": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "attention_other_setting": other,
        "moe_layers_enum": ",".join(map(str, range(shape.dense_lead, shape.num_trunk))),
        "moe_num_experts": shape.num_experts,
        "moe_top_k": shape.top_k,
        "moe_intermediate_size": shape.expert_width,
        "share_expert_dim": shape.shared_width,
        "moe_router_activation": "sigmoid",
        "use_moe_router_bias": True,
        "need_fp32_gate": True,
        "moe_router_scaling_factor": 3.0,
        "norm_expert_weight": True,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "sliding_window": shape.window,
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding],
        "rope_theta": [1e4 if slides else 5e6 for slides in sliding],
        "partial_rotary_factors": [1.0 if slides else 0.5 for slides in sliding],
        "yarn_only_types": ["full_attention"],
        "swiglu_limits": [shape.clamp if index == last else None for index in range(num)],
        "swiglu_limits_shared": [2 * shape.clamp if index == last else None for index in range(num)],
        "use_head_wise_attn_gate": True,
        "zero_centered": True,
        "tie_word_embeddings": False,
        "bos_token_id": shape.vocab - len(SPECIAL),
        "eos_token_id": [shape.vocab - len(SPECIAL) + 1, shape.vocab - len(SPECIAL) + 3],
        "torch_dtype": "bfloat16",
    }
    if not nested:
        return config
    outer = {"architectures": ["Step3p7ForConditionalGeneration"], "model_type": "step3p7", "image_token_id": 9}
    return {**outer, "text_config": config, "vision_config": {"hidden_size": 8, "num_hidden_layers": 1}}


def tokenizer_json(shape: Shape) -> dict:
    """The vocabulary of random_step35, without its fillers."""
    found = {key: value.value if isinstance(value, TypedValue) else value for key, value in metadata(shape).items()}
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    vocab = {text: index for index, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind == 1}
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    added = [
        {"id": index, "content": text, "special": kind == 3, **dict.fromkeys(flags, False)}
        for index, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (3, 4)
    ]
    splits = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} for regex in SPLITS
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": list(found["tokenizer.ggml.merges"]),
        },
    }


def write_weights(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> Path:
    """A safetensors file."""
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        entry = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        header[name], offset = entry, offset + array.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(array.tobytes() for _, array in tensors.values()))
    return path


def write_hub(folder: Path, shape: Shape, tensors: Tensors, config: dict | None = None, num_files: int = 1) -> Path:
    """A repository: several files have an index; heads and what they share then lie in the last two files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hub_config(shape) if config is None else config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(shape)))
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false, "chat_template": "{{ messages }}"}')
    if num_files == 1:
        write_weights(folder / "model.safetensors", tensors)
        return folder
    places = {name: _file_of(name, shape, num_files) for name in tensors}
    names = {index: f"model-{index + 1:05d}-of-{num_files:05d}.safetensors" for index in range(num_files)}
    for index, file in names.items():
        write_weights(folder / file, {name: tensors[name] for name, place in places.items() if place == index})
    weight_map = {name: names[place] for name, place in places.items()}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _file_of(name: str, shape: Shape, num_files: int) -> int:
    found = re.search(r"layers\.(\d+)\.", name)
    if found is None:
        return num_files - 2
    layer = int(found[1])
    return num_files - 1 if layer >= shape.num_trunk else layer * (num_files - 2) // shape.num_trunk
