"""What a tensor of a Step checkpoint is called in GGUF: one table, and the spellings that are in use.

Prefixes `model.` and `language_model.` come in any order; heads are layers after the trunk's, their output parts under
`transformer.`; experts are stacked, or one by one. Must not know: shapes, which tensors a model needs.
"""

import re
from dataclasses import dataclass
from typing import Literal

from stepahead.convert.weight_file import clip
from stepahead.errors import UnsupportedModelError

Kind = Literal["values", "block_scale", "scale", "vision", "unused", "unknown"]

GLOBAL = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_ROUTER_BIAS = "moe.router_bias"
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
    "self_attn.o_proj": "attn_output",
    "self_attn.g_proj": "attn_gate",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    "moe.gate": "ffn_gate_inp",
    **{f"moe.{x}_proj": f"ffn_{x}_exps" for x in ("gate", "up", "down")},
    **{f"share_expert.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "eh_proj": "nextn.eh_proj",
    "shared_head.norm": "nextn.shared_head_norm",
    "shared_head.output": "nextn.shared_head_head",
    "shared_head.head": "nextn.shared_head_head",
    "embed_tokens": "nextn.embed_tokens",
}
VISION = ("vision_model", "vision_tower", "visual", "vit_large_projector", "multi_modal_projector")
_KINDS: dict[str, Kind] = {"weight": "values", "weight_scale_inv": "block_scale", "weight_scale": "scale"}
# Of the activations or the KV cache of an FP8 run: nothing of the weights.
_UNUSED = ("input_scale", "activation_scale", "k_scale", "v_scale", "inv_freq")
_NVFP4 = ("weight_scale_2", "weight_packed", "weight_global_scale")
_STEP5 = ("sparse_indexer", "ssmax")
_EXPERT = re.compile(r"moe\.(?:experts\.)?(0|[1-9][0-9]{0,5})\.(gate|up|down)_proj")
_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.(?:transformer\.)?(.+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor belongs. layer: -1 for those outside the blocks; expert: None unless it is one of a stack."""

    kind: Kind
    name: str = ""  # of the GGUF tensor
    layer: int = -1
    expert: int | None = None


def place_of(hub_name: str) -> Place:
    """Where a hub's tensor belongs; kind "unknown" for a name that is none of Step's.

    UnsupportedModelError for names that only checkpoints of another kind have.
    """
    _refuse_others(hub_name)
    rest = hub_name
    while rest.startswith(("model.", "language_model.")):
        rest = rest.partition(".")[2]
    if rest.startswith(tuple(f"{mark}." for mark in VISION)):
        return Place("vision")
    module, _, suffix = rest.rpartition(".")
    if suffix in _UNUSED:
        return Place("unused")
    kind = _KINDS.get(suffix, "unknown")
    if module in GLOBAL and kind != "unknown":
        return Place(kind, f"{GLOBAL[module]}.weight")
    match = _LAYER.fullmatch(rest)
    return Place("unknown") if match is None else _in_layer(int(match[1]), match[2])


def _in_layer(layer: int, rest: str) -> Place:
    if rest == _ROUTER_BIAS:
        return Place("values", f"blk.{layer}.exp_probs_b.bias", layer)
    module, _, suffix = rest.rpartition(".")
    kind = _KINDS.get(suffix, "unknown")
    match = _EXPERT.fullmatch(module)
    expert = None if match is None else int(match[1])
    stem = LAYER.get(module) if match is None else f"ffn_{match[2]}_exps"
    if stem is None or kind == "unknown":
        return Place("unknown")
    return Place(kind, f"blk.{layer}.{stem}.weight", layer, expert)


def _refuse_others(hub_name: str) -> None:
    if hub_name.endswith(_NVFP4):
        raise UnsupportedModelError(
            f"tensor {clip(hub_name)} is of an NVFP4 or packed release; convert the BF16 or FP8 release instead"
        )
    if any(mark in hub_name for mark in _STEP5):
        raise UnsupportedModelError(
            f"tensor {clip(hub_name)} belongs to Step-5, which has sparse attention; "
            "Step-3.5 and Step-3.7 are converted"
        )
