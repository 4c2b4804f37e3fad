"""Checkpoints that are no model of this architecture, or not a whole one: one line says why, and nothing is written."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert.changes import changed, one_by_one, renamed, without
from convert.conftest import SHAPE
from stepahead.convert import convert
from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError
from support.hub_checkpoint import hub_config

WRONG_TENSORS = {
    "unknown": (lambda t: changed(t, "model.layers.0.self_attn.q_proj.bias", "BF16", (4,)), "have no place in this"),
    "nowhere": (lambda t: changed(t, "model.layers.0.enorm.weight", "BF16", (128,)), "no place where they are"),
    "missing": (lambda t: without(t, "model.layers.2.moe.up_proj.weight"), "missing.*blk.2.ffn_up_exps.weight"),
    "missing norm": (lambda t: without(t, "model.layers.2.self_attn.k_norm.weight"), "missing.*attn_k_norm"),
    "misshapen": (
        lambda t: changed(t, "model.layers.5.self_attn.q_proj.weight", "BF16", (128, 128)),
        r"q_proj.weight has shape \[128, 128\], expected \[192, 128\] by config.json",
    ),
    "integers": (lambda t: changed(t, "model.norm.weight", "I64", (128,)), "is stored as I64; readable are F32, F16"),
    "two names of one": (
        lambda t: changed(t, "model.language_model.norm.weight", "BF16", (128,)),
        "model.norm.weight and model.language_model.norm.weight are two names of one",
    ),
    "an expert too few": (
        lambda t: without(one_by_one(t, "experts."), "model.layers.1.moe.experts.3.up_proj.weight"),
        "blk.1.ffn_up_exps.weight needs experts 0 to 7, the weights have 7 of them",
    ),
    "stacked and one by one": (
        lambda t: changed(t, "model.layers.1.moe.experts.3.up_proj.weight", "BF16", (64, 128)),
        "is there stacked and one by one",
    ),
    "Step-5": (lambda t: changed(t, "model.layers.0.self_attn.ssmax_s", "F32", (4,)), "belongs to Step-5"),
    "NVFP4": (lambda t: changed(t, "model.layers.1.moe.up_proj.weight_scale_2", "F32", (8,)), "is of an NVFP4"),
    "no embedding": (lambda t: without(t, "model.embed_tokens.weight"), "has no tensor model.embed_tokens.weight"),
    "scales of BF16": (
        lambda t: changed(t, "model.layers.1.moe.up_proj.weight_scale", "F32", (8,)),
        "up_proj.weight is BF16, but has scales",
    ),
    "scales of a stack that is not there": (
        lambda t: changed(one_by_one(t, "experts."), "model.layers.1.moe.up_proj.weight_scale_inv", "F32", (8, 1, 1)),
        r"1 scales belong to no tensor: model\.layers\.1\.moe\.up_proj\.weight_scale_inv",
    ),
    "scales of an expert that is not there": (
        lambda t: changed(t, "model.layers.1.moe.experts.9.up_proj.weight_scale", "F32", ()),
        r"1 scales belong to no tensor: model\.layers\.1\.moe\.experts\.9\.",
    ),
    "a layer in other digits": (
        lambda t: renamed(t, ("layers.1.mlp.", "layers.١.mlp."), ("layers.1.moe.", "layers.١.moe.")),
        "tensors have no place in this",
    ),
    "a layer with noughts": (lambda t: renamed(t, ("layers.1.moe.", "layers.01.moe.")), "have no place in this"),
    "a layer of many digits": (
        lambda t: renamed(t, ("layers.1.moe.gate.", f"layers.{'9' * 5000}.moe.gate.")),
        "1 tensors have no place in this",
    ),
    "experts where the config has none": (
        lambda t: changed(t, "model.layers.0.moe.gate.weight", "BF16", (8, 128)),
        "layers with experts by config.json and by their tensors differ: 0",
    ),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors(hub, bf16, tmp_path, name: str) -> None:
    change, message = WRONG_TENSORS[name]
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=message) as caught:
        convert(hub(change(bf16)), tmp_path / "out.gguf")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.gguf").exists()


WRONG_CONFIGS = {
    "another model": ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "model_type 'llama'; Step-3.5"),
    "softmax": ({"moe_router_activation": "softmax"}, "moe_router_activation 'softmax'"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn'; default and llama3"),
    "rotary": ({"partial_rotary_factors": [0.25] * 7}, "RoPE turns 0.25 of a head in"),
    "no rotary": ({"partial_rotary_factors": None}, "RoPE turns 1.0 of a head in full_attention"),
    "thetas": ({"rope_theta": [5e6, 1e4, 2e4, 1e4, 5e6, 1e4, 1e4]}, "rope_theta of sliding_attention layers is"),
    "few layers": ({"layer_types": ["full_attention"] * 3}, "layer_types has 3 entries for 4 layers"),
    "a layer": ({"layer_types": ["linear_attention"] * 4}, "layer_types has 'linear_attention'"),
    "full heads": (
        {"layer_types": ["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"] * 3,
         "rope_theta": [5e6, 1e4, 1e4, 1e4, 5e6, 5e6, 5e6], "partial_rotary_factors": [0.5, 1, 1, 1, 0.5, 0.5, 0.5]},
        r"layers.4.self_attn.q_proj.weight has shape \[192, 128\], expected \[128, 128\]",
    ),
    "clamps": ({"swiglu_limits": [0] * 3}, "swiglu_limits has 3 entries for 4 layers"),
    "clamp": ({"swiglu_limits": ["a"] * 4}, "swiglu_limits .* is not a list of numbers"),
    "a layer without RoPE": ({"use_rope_layers": [1, 1, 0, 1]}, "use_rope_layers has layers without RoPE"),
    "another scale of scores": ({"query_pre_attn_scalar": 16}, "query_pre_attn_scalar is 16; .* says 32"),
    "hidden": ({"hidden_size": -1}, "hidden_size is -1, expected 1 to"),
    "hidden text": ({"hidden_size": "128"}, "hidden_size is '128'"),
    "no window": ({"sliding_window": None}, "sliding_window is missing"),
    "eps": ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, expected a positive number"),
    "top_k": ({"moe_top_k": 9}, "moe_top_k=9 of 8 experts"),
    "act": ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    "head_dim": ({"attention_other_setting": {"head_dim": 64}}, "head_dim is 64; a file of this architecture says 32"),
    "eos": ({"eos_token_id": ["a"]}, "eos_token_id .* is no token id"),
    "eos outside": ({"eos_token_id": 1 << 30}, "eos_token_id is 1073741824, outside the vocabulary"),
    "moe layers": ({"moe_layers_enum": "1,x"}, "moe_layers_enum .* is not a list of layers"),
    "scaled sliding": (
        {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 4096,
                          "low_freq_factor": 1.0, "high_freq_factor": 4.0},
         "yarn_only_types": ["full_attention", "sliding_attention"]},
        "RoPE of sliding layers is scaled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_wrong_configs(hub, tmp_path, name: str) -> None:
    change, message = WRONG_CONFIGS[name]
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=message):
        convert(hub(config={**hub_config(SHAPE, nested=False), **change}), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", ["BF16", "Q8_0"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_no_numbers(hub, bf16, tmp_path, name: str, value: float) -> None:
    bad = np.zeros((128, 192), np.float32)
    bad[7, 3] = value
    bits = (bad.view(np.uint32) >> 16).astype(np.uint16)
    tensors = {**bf16, "model.layers.1.self_attn.o_proj.weight": ("BF16", bits)}
    with pytest.raises(ModelFormatError, match=r"o_proj\.weight, rows 0 to 127: .*: a value is Inf or NaN"):
        convert(hub(tensors), tmp_path / "out.gguf", type=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Step-Test"]


def test_a_value_too_large_for_f16(hub, f32, tmp_path) -> None:
    tensors = {**f32, "lm_head.weight": ("F32", np.full((384, 128), 1e6, np.float32))}
    with pytest.raises(ModelFormatError, match=r"lm_head\.weight, .*F16: a value is too large for the type"):
        convert(hub(tensors), tmp_path / "out.gguf", type="F16")


def test_the_config_alone_is_no_checkpoint(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hub_config(SHAPE)))
    with pytest.raises(ConfigError, match=r"has neither model\.safetensors\.index\.json nor any \.safetensors file"):
        convert(tmp_path, tmp_path / "out.gguf")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match="pickled weights are not read"):
        convert(tmp_path, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("given", "way_out"),
    [
        ("stepfun-ai/Step-3.5-Flash", "fetched with: hf download stepfun-ai/Step-3.5-Flash --local-dir Step-3.5-Flash"),
        ("model.gguf", "stepahead quantize makes smaller ones of it"),
        ("/nowhere", "the weights$"),
        ("./nowhere", "the weights$"),
        ("a/b/c", "the weights$"),
    ],
)
def test_what_is_no_folder(tmp_path, monkeypatch, given: str, way_out: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{Path(given)}: is not a folder.*{way_out}"):
        convert(Path(given), tmp_path / "out.gguf")
