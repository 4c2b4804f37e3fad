"""A checkpoint becomes the file that it was made from: values, metadata, logits; in every spelling that is in use."""

import json
from pathlib import Path

import numpy as np
import pytest

import gguf as oracle
from convert.conftest import SHAPE
from stepahead import LLM
from stepahead.convert import convert
from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile, QuantType, TypedValue, dequantize, quantize
from support.hub_checkpoint import DTYPES, Tensors, hub_config, hub_name, hub_tensors, numbers, words, write_hub
from support.random_step35 import Shape, metadata, write_model

IDS = list(range(3, 43))  # two windows and a half


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    with GGUFFile.open(path) as file:
        return {name: file.array(name) for name in file.tensors}


def logits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of the trunk, and of the heads."""
    llm = LLM(path, backend="reference", kv_type="f32")
    return llm.logits(IDS), llm.draft_logits(IDS)


def test_a_checkpoint_in_f32_becomes_the_model_it_was_made_from(hub, f32, tmp_path) -> None:
    original = write_model(tmp_path / "original.gguf", SHAPE)
    report = convert(hub(f32), tmp_path / "out.gguf", type="F32")
    expected, found = tensors_of(original), tensors_of(report.files[0])
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        # A norm has lost a bit to the one that was taken off.
        assert np.abs(found[name] - values).max() <= (1e-6 if name.endswith("norm.weight") else 0), name
    for ours, theirs in zip(logits(report.files[0]), logits(original), strict=True):
        assert np.abs(ours - theirs).max() < 1e-4
    assert (report.num_trunk_layers, report.num_heads, report.num_tensors) == (4, 3, len(expected))


def test_metadata(hub, tmp_path) -> None:
    convert(hub(), tmp_path / "out.gguf")
    expected = {k: v.value if isinstance(v, TypedValue) else v for k, v in metadata(SHAPE).items()}
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.metadata.items()}
    fields = oracle.GGUFReader(tmp_path / "out.gguf").fields
    types = {key: field.types[-1].name for key, field in fields.items()}
    assert found.pop("general.name") == "Step-Test"
    extra = {key: found[key] for key in found.keys() - expected.keys()}
    assert extra == {
        "general.type": "model",
        "general.file_type": 32,
        "general.quantization_version": 2,
        "step35.moe_every_n_layers": 1,
        "tokenizer.chat_template": "{{ messages }}",
    }
    for key in expected.keys() - {"general.name", "tokenizer.ggml.tokens"}:
        if isinstance(expected[key], float) or key.startswith("step35.swiglu"):
            assert np.allclose(found[key], expected[key], rtol=1e-7), key
        else:
            assert found[key] == expected[key], key
    # Fillers are named after their ids.
    pairs = zip(found["tokenizer.ggml.tokens"], expected["tokenizer.ggml.tokens"], strict=True)
    assert all(ours == (f"[PAD{i}]" if theirs.startswith("[PAD") else theirs) for i, (ours, theirs) in enumerate(pairs))
    assert types["step35.attention.head_count"] == types["tokenizer.ggml.token_type"] == "INT32"
    assert types["step35.attention.sliding_window_pattern"] == types["tokenizer.ggml.add_bos_token"] == "BOOL"
    assert {types[f"step35.{key}"] for key in ("block_count", "expert_count", "nextn_predict_layers")} == {"UINT32"}
    assert {types[f"step35.{key}"] for key in ("rope.freq_base", "swiglu_clamp_exp", "expert_weights_scale")} == {
        "FLOAT32"
    }


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0"])
def test_every_type_of_every_dtype(hub, tmp_path, stored: str, name: str) -> None:
    tensors = hub_tensors(SHAPE, stored)
    convert(hub(tensors), tmp_path / "out.gguf", type=name)
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        for tensor, info in file.tensors.items():
            values = numbers(*tensors[hub_name(tensor)])
            values = values + np.float32(1) if tensor.endswith("norm.weight") else values
            is_small = values.ndim == 1 or tensor.endswith(("ffn_gate_inp.weight", ".bias"))
            assert info.type.name == ("F32" if is_small else name)
            assert np.array_equal(file.array(tensor), dequantize(quantize(values, info.type), info.type)), tensor


def test_parts(hub, tmp_path) -> None:
    folder = hub(num_files=6)
    full = convert(folder, tmp_path / "full.gguf", type="F32")
    heads = convert(folder, tmp_path / "heads.gguf", type="F32", part="heads")
    trunk = convert(folder, tmp_path / "trunk.gguf", type="F32", part="trunk")
    assert (full.num_shards, full.num_shards_opened) == (6, 6)
    # Heads alone need the file of the heads and the one of what they share.
    assert (heads.num_shards, heads.num_shards_opened, heads.num_heads) == (6, 2, 3)
    assert (trunk.num_shards_opened, trunk.num_heads) == (5, 0)
    whole, apart, alone = (tensors_of(report.files[0]) for report in (full, heads, trunk))
    shared = {"token_embd.weight", "output_norm.weight", "output.weight"}
    assert apart.keys() & alone.keys() == shared
    assert apart.keys() | alone.keys() == whole.keys()
    assert all(np.array_equal(values, whole[name]) for part in (apart, alone) for name, values in part.items())
    with GGUFFile.open(trunk.files[0]) as file:
        assert file.metadata["step35.block_count"] == 4
        assert "step35.nextn_predict_layers" not in file.metadata
    together = LLM(trunk.files[0], mtp=heads.files[0], backend="reference", kv_type="f32")
    for ours, theirs in zip((together.logits(IDS), together.draft_logits(IDS)), logits(full.files[0]), strict=True):
        assert np.array_equal(ours, theirs)


def test_only_the_needed_files_have_to_be_there(hub, tmp_path) -> None:
    folder = hub(num_files=6)
    for index in range(1, 5):
        (folder / f"model-{index:05d}-of-00006.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"model-00001-of-00006\.safetensors: is missing; the checkpoint is incomplete"
    ):
        convert(folder, tmp_path / "out.gguf")
    assert convert(folder, tmp_path, part="heads").files[0].name == "mtp-Step-Test-BF16.gguf"


def same_file(left: Path, right: Path) -> bool:
    with GGUFFile.open(left) as one, GGUFFile.open(right) as other:
        keys = one.metadata.keys() == other.metadata.keys()
        values = all(np.array_equal(one.metadata[key], other.metadata[key]) for key in one.metadata)
        names = list(one.tensors) == list(other.tensors)
        return keys and values and names and all(np.array_equal(one.data(t), other.data(t)) for t in one.tensors)


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> Tensors:
    found = tensors
    for old, new in pairs:
        found = {name.replace(old, new, 1): value for name, value in found.items()}
    return found


def one_by_one(tensors: Tensors, infix: str) -> Tensors:
    """Stacks of experts cut up, and in no good order."""
    found: Tensors = {}
    for name, (dtype, array) in tensors.items():
        if ".moe." in name and array.ndim == 3:
            for expert in reversed(range(len(array))):
                found[name.replace(".moe.", f".moe.{infix}{expert}.")] = (dtype, array[expert])
        else:
            found[name] = (dtype, array)
    return found


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


def without(config: dict, *names: str) -> dict:
    return {name: value for name, value in config.items() if name not in names}


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
    "qk_norm denied": lambda: {**hub_config(SHAPE, nested=False), "use_qk_norm": False},
    "of transformers": lambda: as_transformers_has_it(hub_config(SHAPE, nested=False)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_forms_of_the_config(hub, tmp_path, name: str) -> None:
    plain = convert(hub(), tmp_path / "plain.gguf").files[0]
    other = convert(hub(config=CONFIGS[name]()), tmp_path / "other.gguf").files[0]
    assert same_file(plain, other)


def test_vision_is_left_out(hub, bf16, tmp_path) -> None:
    vision = {
        name: ("BF16", np.zeros((2, 2), np.uint16))
        for name in ("vision_model.conv1.weight", "vit_large_projector.weight", "model.vision_model.ln_pre.bias")
    }
    report = convert(hub({**bf16, **vision}), tmp_path / "out.gguf")
    assert report.num_vision_skipped == 3
    assert same_file(convert(hub(), tmp_path / "plain.gguf").files[0], report.files[0])


def test_tied_embeddings(hub, bf16, tmp_path) -> None:
    tied = {name: value for name, value in bf16.items() if name != "lm_head.weight"}
    config = hub_config(SHAPE, nested=False)
    with pytest.raises(ModelFormatError, match=r"1 tensors are missing, as GGUF names: output\.weight"):
        convert(hub(tied, config), tmp_path / "out.gguf")
    convert(hub(tied, {**config, "tie_word_embeddings": True}), tmp_path / "out.gguf")
    found = tensors_of(tmp_path / "out.gguf")
    assert np.array_equal(found["output.weight"], found["token_embd.weight"])


def drop_heads(tensors: Tensors, *layers: int) -> Tensors:
    return {name: value for name, value in tensors.items() if not any(f"layers.{i}." in name for i in layers)}


def test_heads_are_not_lost_without_a_word(hub, bf16, tmp_path) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(
        ConfigError, match=r"promises 3 MTP heads, but the weights have 0 .*--no-heads converts the trunk"
    ):
        convert(hub(drop_heads(bf16, 4, 5, 6)), out)
    with pytest.raises(
        ConfigError, match=r"promises 3 MTP heads, but the weights have 1 .*num_nextn_predict_layers to 1"
    ):
        convert(hub(drop_heads(bf16, 5, 6)), out)
    with pytest.raises(ConfigError, match="has no MTP heads: no tensor of layer 4 or later"):
        convert(hub(drop_heads(bf16, 4, 5, 6)), out, part="heads")
    with pytest.raises(ConfigError, match="promises 0 MTP heads, but the weights have 3"):
        convert(hub(config={**hub_config(SHAPE, nested=False), "num_nextn_predict_layers": 0}), out)
    assert not out.exists()
    assert convert(hub(drop_heads(bf16, 4, 5, 6)), out, part="trunk").num_heads == 0
    one = {**hub_config(SHAPE, nested=False, has_head_entries=False), "num_nextn_predict_layers": 1}
    assert convert(hub(drop_heads(bf16, 5, 6), one), out).num_heads == 1
    assert len(LLM(out, backend="reference").draft_logits(IDS)) >= 1


def changed(tensors: Tensors, name: str, dtype: str, shape: tuple[int, ...]) -> Tensors:
    return {**tensors, name: (dtype, np.zeros(shape, DTYPES[dtype]))}


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


def test_rope_factors_of_the_published_models(tmp_path) -> None:
    shape = Shape(hidden=64, head_dim=128, num_trunk=1, num_heads_mtp=0, dense_lead=1, heads_full=2, heads_sliding=2)
    shape = Shape(**{**vars(shape), "rope_freqs": False, "num_kv_heads": 1})
    scaling = {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 131072}
    config = {
        **hub_config(shape, nested=False),
        "rope_scaling": {**scaling, "low_freq_factor": 1.0, "high_freq_factor": 32.0},
        "moe_layers_enum": "",
    }
    convert(write_hub(tmp_path / "hub", shape, hub_tensors(shape), config), tmp_path / "out.gguf")
    factors = tensors_of(tmp_path / "out.gguf")["rope_freqs.weight"]
    ramp = [1.13836, 1.3745, 1.57644, 1.73373, 1.84757, 1.92565, 1.97725]
    assert np.allclose(factors, [1.0] * 14 + ramp + [2.0] * 11 + [1.0] * 32, rtol=1e-5)


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


def test_rows_that_are_no_whole_blocks(tmp_path) -> None:
    shape = Shape(rope_freqs=False, expert_width=48)
    folder = write_hub(tmp_path / "hub", shape, hub_tensors(shape))
    report = convert(folder, tmp_path / "out.gguf", type="Q8_0")
    assert report.fallbacks == tuple(f"blk.{layer}.ffn_down_exps.weight" for layer in (1, 2, 3))
    with GGUFFile.open(report.files[0]) as file:
        assert {file.tensors[name].type for name in report.fallbacks} == {QuantType.F16}


def test_many_pieces_are_the_same_as_one(hub, bf16, tmp_path, monkeypatch) -> None:
    folder, seen = hub(), []
    whole = convert(folder, tmp_path / "whole.gguf", type="Q8_0").files[0]
    monkeypatch.setattr("stepahead.convert.stream.PIECE_ELEMENTS", 1000)
    report = convert(
        folder, tmp_path / "cut.gguf", type="Q8_0", on_progress=lambda done, total: seen.append((done, total))
    )
    assert same_file(whole, report.files[0])
    assert len(seen) > 500
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_split_files(hub, tmp_path) -> None:
    folder = hub()
    whole = convert(folder, tmp_path / "whole.gguf").files[0]
    report = convert(folder, tmp_path / "out.gguf", max_shard_bytes=400_000)
    assert len(report.files) > 2
    assert report.files[0].name == f"out-00001-of-{len(report.files):05d}.gguf"
    assert max(path.stat().st_size for path in report.files[1:]) < 410_000
    with GGUFFile.open(report.files[0]) as split, GGUFFile.open(whole) as one:
        assert split.tensors.keys() == one.tensors.keys()
        assert all(np.array_equal(split.data(name), one.data(name)) for name in one.tensors)


def test_words_and_numbers_agree() -> None:
    values = np.array([1.5, -2.0, 0.0], np.float32)
    assert all(np.array_equal(numbers(dtype, words(values, dtype)), values) for dtype in ("F32", "F16", "BF16"))


def test_the_config_alone_is_no_checkpoint(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hub_config(SHAPE)))
    with pytest.raises(ConfigError, match=r"has neither model\.safetensors\.index\.json nor any \.safetensors file"):
        convert(tmp_path, tmp_path / "out.gguf")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match="pickled weights are not read"):
        convert(tmp_path, tmp_path / "out.gguf")
    with pytest.raises(ConfigError, match="is not a folder"):
        convert(tmp_path / "config.json", tmp_path / "out.gguf")
