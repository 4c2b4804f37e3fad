"""The names of tensors and the forms of configs that are in use: each gives the same file."""

import numpy as np
import pytest

from convert.changes import one_by_one, renamed, without
from convert.conftest import SHAPE
from convert.model_file import same_file
from stepahead.convert import convert
from support.hub_checkpoint import hub_config

SPELLINGS = {
    "nested prefix": lambda t: renamed(t, ("model.layers.", "model.language_model.layers.")),
    "outer prefix": lambda t: {f"language_model.{name}": value for name, value in t.items()},
    "expert by expert": lambda t: one_by_one(t, "experts."),
    "expert by expert, short": lambda t: one_by_one(t, ""),
    "all of a head under transformer": lambda t: renamed(
        t, ("layers.4.eh_proj", "layers.4.transformer.eh_proj"), ("layers.5.enorm", "layers.5.transformer.enorm")
    ),
    "dimensions of 1": lambda t: {
        name: (dtype, array[None] if name.endswith(("g_proj.weight", "moe.gate.weight")) else array)
        for name, (dtype, array) in t.items()
    },
    "scales of activations": lambda t: {
        **t,
        "model.layers.1.moe.gate_proj.input_scale": ("F32", np.ones(8, np.float32)),
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_names(hub, bf16, tmp_path, spelling: str) -> None:
    plain = convert(hub(), tmp_path / "plain.gguf").files[0]
    spelt = convert(hub(SPELLINGS[spelling](bf16)), tmp_path / "spelt.gguf").files[0]
    assert same_file(plain, spelt)


def as_transformers_has_it(config: dict) -> dict:
    """The keys that transformers writes in place of the hub's."""
    sliding = config["attention_other_setting"]["num_attention_heads"]
    layers = config["layer_types"]
    ropes = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    }
    dropped = ("attention_other_setting", "rope_theta", "partial_rotary_factors", "yarn_only_types", "moe_layers_enum")
    dropped += ("moe_num_experts", "moe_top_k", "num_attention_groups", "moe_router_activation")
    return {
        **without(config, *dropped),
        "num_sliding_attention_heads": sliding,
        "num_key_value_heads": config["num_attention_groups"],
        "rope_parameters": ropes,
        "n_routed_experts": config["moe_num_experts"],
        "num_experts_per_tok": config["moe_top_k"],
        "layer_types": layers[:4],
        "mtp_layer_types": layers[4:],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "swiglu_limits": config["swiglu_limits"][:4],
    }


CONFIGS = {
    "flat": lambda: hub_config(SHAPE, nested=False),
    "lists of the trunk alone": lambda: hub_config(SHAPE, has_head_entries=False),
    "without a count of heads": lambda: without(hub_config(SHAPE, nested=False), "num_nextn_predict_layers"),
    "without a list of experts' layers": lambda: without(hub_config(SHAPE, nested=False), "moe_layers_enum"),
    "layers as a list": lambda: {**hub_config(SHAPE, nested=False), "moe_layers_enum": [1, 2, 3]},
    "nulls in the nested config": lambda: {
        **hub_config(SHAPE, nested=False),
        "text_config": {**hub_config(SHAPE, nested=False), "eos_token_id": None, "sliding_window": None},
    },
    "RoPE everywhere": lambda: {**hub_config(SHAPE, nested=False), "use_rope_layers": [], "query_pre_attn_scalar": 32},
    "qk_norm denied": lambda: {**hub_config(SHAPE, nested=False), "use_qk_norm": False},
    "of transformers": lambda: as_transformers_has_it(hub_config(SHAPE, nested=False)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_forms_of_the_config(hub, tmp_path, name: str) -> None:
    plain = convert(hub(), tmp_path / "plain.gguf").files[0]
    other = convert(hub(config=CONFIGS[name]()), tmp_path / "other.gguf").files[0]
    assert same_file(plain, other)
