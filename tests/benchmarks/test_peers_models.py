"""The models that benchmarks make: they load, have the shapes they claim, and are the same every time."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import stepahead
from benchmarks.peers.models import PRESETS, Shape, make_model, nbytes, tensors
from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile


def test_a_made_model_loads_and_drafts(tiny_shape: Shape, tiny_model: Path) -> None:
    with stepahead.LLM(tiny_model, threads=1, context_length=256) as llm:
        assert llm.info.num_trunk_layers == tiny_shape.num_trunk
        assert llm.info.num_heads_found == tiny_shape.num_mtp
        assert (llm.info.num_experts, llm.info.num_experts_used) == (tiny_shape.num_experts, tiny_shape.top_k)
        assert llm.info.vocab_size == tiny_shape.vocab
        assert llm.info.nbytes == nbytes(tiny_shape)
        params = stepahead.SamplingParams(max_tokens=8, ignore_eos=True)
        plain = llm.generate([1, 2, 3], params, stepahead.Speculation("off"))
        drafted = llm.generate([1, 2, 3], params, stepahead.Speculation("mtp", 3, adaptive=False))
        assert plain.token_ids == drafted.token_ids
        assert drafted.speculation.num_draft_tokens > 0
        assert np.isfinite(llm.logits([1, 2, 3])).all()
        assert llm.detokenize(llm.tokenize("inside")) == "inside"


def test_weights_have_the_deviation_asked_for(tiny_shape: Shape, tiny_model: Path) -> None:
    with GGUFFile.open(tiny_model) as file:
        for name, std in (("output.weight", 4 / 16), ("blk.0.attn_q.weight", 1 / 16), ("token_embd.weight", 1.0)):
            values = file.array(name)
            assert abs(values.mean()) < 0.02 * std
            assert values.std() == pytest.approx(std, rel=0.05)  # scales are random, too


def test_the_same_shape_is_the_same_file(tiny_shape: Shape, tiny_model: Path, tmp_path: Path) -> None:
    again = make_model(tiny_shape, tmp_path / "new folder")
    assert again.name == tiny_model.name
    assert again.read_bytes() == tiny_model.read_bytes()
    written = again.stat().st_mtime_ns
    assert make_model(tiny_shape, tmp_path / "new folder").stat().st_mtime_ns == written
    assert replace(tiny_shape, num_experts=8).file_name != tiny_shape.file_name
    assert replace(tiny_shape, window=32).file_name != tiny_shape.file_name


def test_presets_have_the_sizes_they_are_known_by() -> None:
    assert nbytes(PRESETS["small"]) == pytest.approx(52e6, rel=0.01)
    assert nbytes(PRESETS["mid"]) == pytest.approx(6.8e9, rel=0.01)
    assert nbytes(PRESETS["mid288"]) == pytest.approx(10.5e9, rel=0.01)
    more = replace(PRESETS["mid"], num_experts=25)
    experts = 15 * 3 * 4096 * 1280 * 144 // 256
    assert nbytes(more) - nbytes(PRESETS["mid"]) == experts + 15 * 4 * (4096 + 1)  # router rows and biases


def test_mid_has_the_layers_of_step() -> None:
    shapes = {name: data.shape for name, data in tensors(PRESETS["mid"])}
    assert shapes["blk.0.attn_q.weight"] == (64 * 128, 4096)  # full attention
    assert shapes["blk.1.attn_q.weight"] == (96 * 128, 4096)  # sliding
    assert shapes["blk.0.ffn_up.weight"] == (11264, 4096)  # the dense layer
    assert shapes["blk.15.ffn_down_exps.weight"] == (24, 4096, 1280)
    assert shapes["blk.18.nextn.shared_head_head.weight"] == (128896, 4096)
    assert "blk.16.ffn_up_exps.weight" not in shapes and "blk.19.attn_norm.weight" not in shapes


def test_a_model_that_does_not_fit_is_refused(
    tiny_shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(ConfigError, match=r"1\.1 GB are free: give another --folder"):
        make_model(tiny_shape, tmp_path)
    assert not list(tmp_path.iterdir())


def test_fewer_experts_than_are_used_are_refused(tiny_shape: Shape) -> None:
    with pytest.raises(ConfigError, match="experts=1 is fewer than the top 2 of tiny"):
        replace(tiny_shape, num_experts=1)
