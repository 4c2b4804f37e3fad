"""What config.json of a Step-3.5 or Step-3.7 checkpoint says, in either of its dialects: the hub's, and the one that
transformers writes. Checked and made explicit: every per-layer list has an entry for every block.

Must not know: tensors, GGUF keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepahead.convert.config_section import MAX_NUMBER, Section
from stepahead.convert.json_file import read_object
from stepahead.convert.weight_file import clip
from stepahead.errors import ModelFormatError, UnsupportedModelError

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 16 << 20
MODEL_TYPES = ("step3p5", "step3p7")
ARCHITECTURES = ("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration", "Step3p7ForCausalLM")
MAX_BLOCKS = 4096
FULL, SLIDING = "full_attention", "sliding_attention"
# What a GGUF file of this architecture can say: half of each head is rotated in full layers, all of it in sliding ones.
ROTATED = {FULL: 0.5, SLIDING: 1.0}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's: wavelengths beyond original / low are divided by factor, below original / high they stay."""

    factor: float
    original_context: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture-of-experts layers."""

    num_experts: int
    top_k: int
    width: int
    shared_width: int
    scale: float
    is_normalized: bool


@dataclass(frozen=True, slots=True)
class HubConfig:
    """`num_heads` counts those that the config promises, None where it is silent."""

    path: Path
    num_trunk: int
    num_heads: int | None
    hidden_size: int
    width: int
    head_dim: int
    heads_full: int
    heads_sliding: int
    kv_heads_full: int
    kv_heads_sliding: int
    context_length: int
    window: int
    eps: float
    theta_full: float
    theta_sliding: float
    scaling: RopeScaling | None  # of full layers
    experts: Experts | None
    moe_layers: frozenset[int] | None  # None: the config does not say
    layer_types: tuple[str, ...]  # of the trunk
    head_types: tuple[str, ...]  # of the heads, as far as the config says
    clamps: tuple[float, ...]  # as many as the config has
    expert_clamps: tuple[float, ...]
    has_gate: bool
    has_router_bias: bool
    is_tied: bool
    eos_ids: tuple[int, ...]
    bos_id: int | None
    pad_id: int | None
    block_shape: tuple[int, int]  # of FP8 scales

    @classmethod
    def from_folder(cls, folder: Path) -> "HubConfig":
        """ModelFormatError for missing and impossible values, UnsupportedModelError for what GGUF cannot say."""
        path = folder / CONFIG_NAME
        root = read_object(path, MAX_CONFIG_BYTES)
        _refuse_other_models(path, root)
        nested = root.get("text_config")
        own = {key: value for key, value in nested.items() if value is not None} if isinstance(nested, dict) else {}
        return _read(Section(path, root | own))

    def is_sliding(self, num_blocks: int) -> tuple[bool, ...]:
        """Of each block. Where the config says nothing of the heads, they slide: as published ones do."""
        kinds = (*self.layer_types, *self.head_types)[:num_blocks]
        kinds += (SLIDING,) * (num_blocks - len(kinds))
        return tuple(kind == SLIDING for kind in kinds)

    def clamps_of(self, num_blocks: int, is_routed: bool) -> tuple[float, ...]:
        """Of each block, 0 for none."""
        clamps = (self.expert_clamps if is_routed else self.clamps)[:num_blocks]
        return clamps + (0.0,) * (num_blocks - len(clamps))


def _refuse_other_models(path: Path, root: Mapping[str, Any]) -> None:
    nested = root.get("text_config")
    for config in (root, nested if isinstance(nested, dict) else {}):
        architectures = config.get("architectures")
        named = architectures if isinstance(architectures, list) else []
        if config.get("model_type") in MODEL_TYPES or any(name in ARCHITECTURES for name in named):
            return
    raise UnsupportedModelError(
        f"{path}: model_type {clip(root.get('model_type'))}; "
        f"Step-3.5 and Step-3.7 ({', '.join(MODEL_TYPES)}) are converted"
    )


def _read(c: Section) -> HubConfig:
    num_trunk = c.positive("num_hidden_layers", limit=MAX_BLOCKS)
    num_heads = c.optional_count("num_nextn_predict_layers", "num_mtp_layers", limit=MAX_BLOCKS)
    layer_types, head_types = _layer_types(c, num_trunk)
    other = c.section("attention_other_setting")
    heads_full = c.positive("num_attention_heads")
    kv_heads = c.positive("num_attention_groups", "num_key_value_heads")
    head_dim = c.positive("head_dim")
    other.demand("head_dim", head_dim)
    c.demand("query_pre_attn_scalar", head_dim)
    if not all(c.entries("use_rope_layers", default=[])):  # an empty list: all of them
        raise UnsupportedModelError(f"{c.path}: use_rope_layers has layers without RoPE; this architecture has none")
    if c.get("hidden_act", default="silu") != "silu":
        raise UnsupportedModelError(f"{c.path}: hidden_act {clip(c.get('hidden_act'))}; this architecture has silu")
    theta_full, theta_sliding, scaling = _ropes(c, layer_types + head_types)
    return HubConfig(
        path=c.path,
        num_trunk=num_trunk,
        num_heads=num_heads,
        hidden_size=c.positive("hidden_size"),
        width=c.positive("intermediate_size"),
        head_dim=head_dim,
        heads_full=heads_full,
        heads_sliding=other.positive(
            "num_attention_heads", default=c.positive("num_sliding_attention_heads", default=heads_full)
        ),
        kv_heads_full=kv_heads,
        kv_heads_sliding=other.positive("num_attention_groups", default=kv_heads),
        context_length=c.positive("max_position_embeddings", "max_seq_len"),
        window=c.positive("sliding_window"),
        eps=c.positive_float("rms_norm_eps"),
        theta_full=theta_full,
        theta_sliding=theta_sliding,
        scaling=scaling,
        experts=_experts(c),
        moe_layers=_moe_layers(c),
        layer_types=layer_types,
        head_types=head_types,
        clamps=_clamps(c, "swiglu_limits_shared", num_trunk),
        expert_clamps=_clamps(c, "swiglu_limits", num_trunk),
        has_gate=c.flag("use_head_wise_attn_gate", default=True),
        has_router_bias=c.flag("use_moe_router_bias", default=True),
        is_tied=c.flag("tie_word_embeddings", default=False),
        eos_ids=_token_ids(c, "eos_token_id"),
        bos_id=next(iter(_token_ids(c, "bos_token_id")), None),
        pad_id=next(iter(_token_ids(c, "pad_token_id")), None),
        block_shape=_block_shape(c),
    )


def _layer_types(c: Section, num_trunk: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the trunk, and of the heads as far as they are listed: some releases list the trunk's alone."""
    kinds = c.entries("layer_types")
    kinds = [*kinds, *c.entries("mtp_layer_types", default=[])] if len(kinds) == num_trunk else kinds
    for kind in kinds:
        if kind not in (FULL, SLIDING):
            raise UnsupportedModelError(f"{c.path}: layer_types has {clip(kind)}; known are {FULL} and {SLIDING}")
    if len(kinds) < num_trunk:
        raise ModelFormatError(f"{c.path}: layer_types has {len(kinds)} entries for {num_trunk} layers")
    return tuple(kinds[:num_trunk]), tuple(kinds[num_trunk:])


def _ropes(c: Section, layer_types: tuple[str, ...]) -> tuple[float, float, RopeScaling | None]:
    """Theta of full and of sliding layers, and the scaling of full ones. layer_types: of all blocks that are listed."""
    by_kind = c.section("rope_parameters")
    if any(isinstance(by_kind.values.get(kind), dict) for kind in (FULL, SLIDING)):
        full, sliding = by_kind.section(FULL), by_kind.section(SLIDING)
        thetas = {FULL: full.get("rope_theta", default=None), SLIDING: sliding.get("rope_theta", default=None)}
        factors = {kind: by_kind.section(kind).get("partial_rotary_factor", default=1.0) for kind in (FULL, SLIDING)}
        scalings = {FULL: _scaling(full), SLIDING: _scaling(sliding)}
    else:
        thetas = {kind: _value_of(c, "rope_theta", kind, layer_types) for kind in (FULL, SLIDING)}
        factors = {kind: _value_of(c, "partial_rotary_factors", kind, layer_types) or 1.0 for kind in (FULL, SLIDING)}
        scaling = _scaling(c.section("rope_scaling"))
        scaled = c.entries("yarn_only_types", default=[FULL])
        scalings = {kind: scaling if kind in scaled else None for kind in (FULL, SLIDING)}
    for kind in set(layer_types):
        if factors[kind] != ROTATED[kind]:
            raise UnsupportedModelError(
                f"{c.path}: RoPE turns {clip(factors[kind])} of a head in {kind} layers; GGUF has {ROTATED[kind]}"
            )
        if not isinstance(thetas[kind], float | int) or not 0 < thetas[kind] < MAX_NUMBER:
            raise ModelFormatError(f"{c.path}: rope_theta of {kind} layers is {clip(thetas[kind])}")
    if SLIDING in layer_types and scalings[SLIDING] is not None:
        raise UnsupportedModelError(f"{c.path}: RoPE of sliding layers is scaled; GGUF scales full layers alone")
    of_full, of_sliding = thetas[FULL] or thetas[SLIDING], thetas[SLIDING] or thetas[FULL]
    return float(of_full), float(of_sliding), scalings[FULL]


def _value_of(c: Section, key: str, kind: str, layer_types: tuple[str, ...]) -> Any:
    """The value of `key` at layers of this kind, of which GGUF has one; None where there is none."""
    value = c.get(key, default=None)
    if not isinstance(value, list):
        return value
    found = {entry for entry, of in zip(value, layer_types, strict=False) if of == kind and _is_number(entry)}
    if len(found) > 1:
        raise UnsupportedModelError(f"{c.path}: {key} of {kind} layers is {sorted(found)}; GGUF has one value for all")
    return next(iter(found), None)


def _kind_of_rope(section: Section) -> str:
    """`rope_type` by either of its names."""
    return str(section.get("rope_type", "type", default="default") or "default")


def _scaling(section: Section) -> RopeScaling | None:
    kind = _kind_of_rope(section)
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModelError(f"{section.path}: rope_type {clip(kind)}; default and llama3 are converted")
    scaling = RopeScaling(
        factor=section.positive_float("factor"),
        original_context=section.positive("original_max_position_embeddings"),
        low=section.positive_float("low_freq_factor"),
        high=section.positive_float("high_freq_factor"),
    )
    if scaling.high <= scaling.low:
        raise ModelFormatError(
            f"{section.path}: high_freq_factor {scaling.high} is not above low_freq_factor {scaling.low}"
        )
    return scaling


def _experts(c: Section) -> Experts | None:
    num_experts = c.optional_count("moe_num_experts", "n_routed_experts", "num_local_experts")
    if not num_experts:
        return None
    activation = c.get("moe_router_activation", default="sigmoid")
    if activation != "sigmoid":
        raise UnsupportedModelError(
            f"{c.path}: moe_router_activation {clip(activation)}; this architecture has sigmoid"
        )
    top_k = c.positive("moe_top_k", "num_experts_per_tok")
    if top_k > num_experts:
        raise ModelFormatError(f"{c.path}: moe_top_k={top_k} of {num_experts} experts")
    return Experts(
        num_experts=num_experts,
        top_k=top_k,
        width=c.positive("moe_intermediate_size"),
        shared_width=c.positive("share_expert_dim", "share_expert_dims"),
        scale=c.positive_float("moe_router_scaling_factor", default=1.0),
        is_normalized=c.flag("norm_expert_weight", default=True),
    )


def _moe_layers(c: Section) -> frozenset[int] | None:
    listed, kinds = c.get("moe_layers_enum", default=None), c.get("mlp_layer_types", default=None)
    if isinstance(listed, str):
        listed = [part.strip() for part in listed.split(",") if part.strip()]
    if listed is None and isinstance(kinds, list):
        return frozenset(index for index, kind in enumerate(kinds) if kind == "sparse")
    if listed is None:
        return None
    try:
        return frozenset(int(entry) for entry in listed)
    except (TypeError, ValueError):
        raise ModelFormatError(f"{c.path}: moe_layers_enum {clip(listed)} is not a list of layers") from None


def _clamps(c: Section, key: str, num_trunk: int) -> tuple[float, ...]:
    values = c.get(key, default=None) or []
    if not isinstance(values, list) or not all(value is None or _is_number(value) for value in values):
        raise ModelFormatError(f"{c.path}: {key} {clip(values)} is not a list of numbers and nulls")
    if values and len(values) < num_trunk:  # more are of heads
        raise ModelFormatError(f"{c.path}: {key} has {len(values)} entries for {num_trunk} layers")
    clamps = tuple(0.0 if value is None else value for value in values)
    if not all(0 <= clamp < MAX_NUMBER for clamp in clamps):
        raise ModelFormatError(f"{c.path}: {key} has entries that are no limits: {clip(values)}")
    return tuple(map(float, clamps))


def _token_ids(c: Section, key: str) -> tuple[int, ...]:
    value = c.get(key, default=None)
    ids: Iterable[Any] = value if isinstance(value, list) else () if value is None else (value,)
    ids = tuple(token_id for token_id in ids if token_id != -1)  # -1: none
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        raise ModelFormatError(f"{c.path}: {key} {clip(value)} is no token id")
    return ids


def _block_shape(c: Section) -> tuple[int, int]:
    shape = c.section("quantization_config").entries("weight_block_size", default=[128, 128])
    if len(shape) != 2 or not all(type(size) is int and 0 < size <= 1 << 20 for size in shape):
        raise ModelFormatError(f"{c.path}: weight_block_size {clip(shape)} is not two sizes")
    return shape[0], shape[1]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
