"""The metadata of the GGUF file, all but the tokenizer's: what llama.cpp and this program read of the architecture."""

from pathlib import Path
from typing import Any

from stepahead.convert.hub_config import HubConfig
from stepahead.convert.plan import Plan
from stepahead.gguf import QuantType, TypedValue, ValueType

ARCH = "step35"
SIGMOID_GATING = 2
QUANTIZATION_VERSION = 2
# general.file_type: of most matrices
FILE_TYPES = {QuantType.F32: 0, QuantType.F16: 1, QuantType.Q8_0: 7, QuantType.BF16: 32}


def file_metadata(config: HubConfig, plan: Plan, type: QuantType) -> dict[str, Any]:
    """Neither dimension_count nor any scaling key: published files have none, and b11549 halves what it finds."""
    n = plan.num_blocks
    is_sliding = config.is_sliding(n)
    heads = [config.heads_sliding if slides else config.heads_full for slides in is_sliding]
    kv_heads = [config.kv_heads_sliding if slides else config.kv_heads_full for slides in is_sliding]
    step35: dict[str, Any] = {
        "block_count": n,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.width,
        "attention.head_count": TypedValue(ValueType.I32, heads),
        "attention.head_count_kv": TypedValue(ValueType.I32, kv_heads),
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.eps,
        "attention.sliding_window": config.window,
        "attention.sliding_window_pattern": list(is_sliding),
        "rope.freq_base": config.theta_full,
        "rope.freq_base_swa": config.theta_sliding,
        **_experts(config, plan),
        "swiglu_clamp_exp": list(config.clamps_of(n, is_routed=True)),
        "swiglu_clamp_shexp": list(config.clamps_of(n, is_routed=False)),
    }
    if plan.num_heads:
        step35["nextn_predict_layers"] = plan.num_heads
    return {
        "general.architecture": ARCH,
        "general.type": "model",
        "general.name": model_name(config.path.parent),
        "general.file_type": FILE_TYPES[type],
        "general.quantization_version": QUANTIZATION_VERSION,
        **{f"{ARCH}.{key}": value for key, value in step35.items()},
    }


def model_name(folder: Path) -> str:
    """The folder's name; in the hub's cache, whose folders are named after commits, the repository's."""
    folder = folder.resolve()
    for parent in folder.parents[:2]:
        if parent.name.startswith("models--"):
            return parent.name.rpartition("--")[2]
    return folder.name or "model"


def _experts(config: HubConfig, plan: Plan) -> dict[str, Any]:
    experts = config.experts
    if experts is None:
        return {}
    layers = plan.moe_layers or sorted(config.moe_layers or ())
    return {
        "expert_count": experts.num_experts,
        "expert_used_count": experts.top_k,
        "expert_feed_forward_length": experts.width,
        "expert_shared_feed_forward_length": experts.shared_width,
        "expert_weights_scale": experts.scale,
        "expert_weights_norm": experts.is_normalized,
        "expert_gating_func": SIGMOID_GATING,
        "leading_dense_block_count": min(layers, default=0),
        "moe_every_n_layers": 1,
    }
