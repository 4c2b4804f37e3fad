"""A checkpoint becomes the file that it was made from: values, types, metadata, logits; whole, in parts and split."""

from pathlib import Path

import numpy as np
import pytest

import gguf as oracle
from convert.conftest import SHAPE
from convert.model_file import same_file, tensors_of
from stepahead import LLM
from stepahead.convert import convert
from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile, QuantType, TypedValue, dequantize, quantize
from stepahead.quantize.encoder import encode
from stepahead.quantize.mix import find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.quantize.quantization import quantize_file
from support.hub_checkpoint import Tensors, hub_config, hub_name, hub_tensors, numbers, words, write_hub
from support.random_step35 import Shape, metadata, write_model

IDS = list(range(3, 43))  # two windows and a half


def logits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of the trunk, and of the heads."""
    llm = LLM(path, device="reference", kv_type="f32")
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
            assert np.array_equal(file.data(tensor), encode(values, info.type)), tensor
            if name != "Q8_0":  # nothing is searched there: the same bytes in two ways
                assert np.array_equal(file.data(tensor), quantize(values, info.type)), tensor


def test_q8_0_is_what_quantising_gives_and_nearer_than_rounding(hub, f32, tmp_path) -> None:
    folder = hub(f32)
    original = convert(folder, tmp_path / "f32.gguf", type="F32").files[0]
    at_once = convert(folder, tmp_path / "at_once.gguf", type="Q8_0").files[0]
    with GGUFFile.open(original) as file:
        quantize_file(make_plan(file, Request(find_mix("Q8_0"))), tmp_path / "later.gguf")
    assert same_file(at_once, tmp_path / "later.gguf")
    with GGUFFile.open(original) as values, GGUFFile.open(at_once) as file:
        names = [name for name, info in file.tensors.items() if info.type is QuantType.Q8_0]
        for name in names:
            exact = values.array(name)
            rounded = dequantize(quantize(exact, QuantType.Q8_0), QuantType.Q8_0)
            most = 1.0 if "eh_proj" in name else 0.9  # near the identity: most errors are those of its ones
            assert np.square(file.array(name) - exact).sum() < most * np.square(rounded - exact).sum(), name
    assert len(names) > 40


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
    together = LLM(trunk.files[0], mtp=heads.files[0], device="reference", kv_type="f32")
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
    assert len(LLM(out, device="reference").draft_logits(IDS)) >= 1


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
