"""A test helper: a small Step-3.7 checkpoint in the hub's format, as transformers saves it, to our GGUF.

Not the product's converter: it takes one file, F32, and a trunk without heads.
"""

import json
from pathlib import Path

import numpy as np

from stepahead.gguf import TypedValue, ValueType, write_gguf

NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"self_attn.{x}_proj.weight": f"attn_{x}.weight" for x in "qkv"},
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.g_proj.weight": "attn_gate.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "moe.gate.weight": "ffn_gate_inp.weight",
    "moe.router_bias": "exp_probs_b.bias",
    **{f"mlp.{x}_proj.weight": f"ffn_{x}.weight" for x in ("gate", "up", "down")},
    **{f"moe.{x}_proj.weight": f"ffn_{x}_exps.weight" for x in ("gate", "up", "down")},
    **{f"share_expert.{x}_proj.weight": f"ffn_{x}_shexp.weight" for x in ("gate", "up", "down")},
}
GLOBAL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def convert(folder: Path, target: Path, tokenizer: dict[str, object]) -> Path:
    """Write `folder`'s model.safetensors and config.json as GGUF, with the given tokenizer keys."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())["text_config"]
    tensors: dict[str, np.ndarray] = {"rope_freqs.weight": rope_factors(config)}
    for name, values in load_file(folder / "model.safetensors").items():
        if not name.startswith(("vision_model", "vit_large_projector")):
            # The hub's norms are zero-centred, GGUF's are not.
            tensors[gguf_name(name)] = values + np.float32(1) if name.endswith("norm.weight") else values
    write_gguf(target, {**metadata(config), **tokenizer}, tensors)
    return target


def gguf_name(name: str) -> str:
    if name in GLOBAL:
        return GLOBAL[name]
    index, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{index}.{NAMES[rest]}"


def rope_factors(config: dict) -> np.ndarray:
    """llama3 scaling, full layers (spec of the rope_type: low frequencies divided, a ramp between)."""
    scaling = config["rope_parameters"]["full_attention"]
    rotated = int(config["head_dim"] * scaling["partial_rotary_factor"])
    old, low, high = (
        scaling[f"{key}"] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    wavelengths = 2 * np.pi * scaling["rope_theta"] ** (np.arange(0, rotated, 2) / rotated)
    smooth = (old / wavelengths - low) / (high - low)
    ramp = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    factors = np.where(wavelengths < old / high, 1.0, np.where(wavelengths > old / low, scaling["factor"], ramp))
    return np.concatenate([factors, np.ones(config["head_dim"] // 2 - rotated // 2)]).astype(np.float32)


def metadata(config: dict) -> dict[str, object]:
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    heads = [config["num_sliding_attention_heads"] if s else config["num_attention_heads"] for s in sliding]
    ropes = config["rope_parameters"]
    f32 = lambda values: TypedValue(ValueType.F32, values)  # noqa: E731
    step35 = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": [config["num_key_value_heads"]] * len(heads),
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": f32(config["rms_norm_eps"]),
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": sliding,
        "rope.freq_base": f32(ropes["full_attention"]["rope_theta"]),
        "rope.freq_base_swa": f32(ropes["sliding_attention"]["rope_theta"]),
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_weights_scale": f32(config["moe_router_scaling_factor"]),
        "expert_weights_norm": config["norm_expert_weight"],
        "swiglu_clamp_exp": f32([float(x or 0) for x in config["swiglu_limits"]]),
        "swiglu_clamp_shexp": f32([float(x or 0) for x in config["swiglu_limits_shared"]]),
    }
    return {"general.architecture": "step35", **{f"step35.{key}": value for key, value in step35.items()}}
