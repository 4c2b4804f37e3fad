"""Loading Step-3.5 files: every part where it may lie, every fault by its name."""

from pathlib import Path

import numpy as np
import pytest

from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile, QuantType, TensorData, TypedValue, ValueType, write_gguf
from stepahead.models.model import Model
from stepahead.models.registry import load_model
from support.random_step35 import Shape, metadata, model_tensors, write_model

TINY = Shape(hidden=32, head_dim=16, num_trunk=2, num_experts=4, width=64, vocab=300, full_period=2)


def load(path: Path, heads: Path | str | None = "same") -> Model:
    file = GGUFFile.open(path)
    return load_model(file, ReferenceBackend(), file if heads == "same" else heads and GGUFFile.open(heads))


def write(path: Path, changes: dict[str, object] | None = None, drop: str = "", extra: str = "") -> Path:
    """TINY with metadata changed (None: removed), tensors dropped by prefix, one extra tensor."""
    pairs = {**metadata(TINY), **(changes or {})}
    tensors: dict[str, object] = {
        name: data for name, data in model_tensors(TINY) if not drop or not name.startswith(drop)
    }
    if extra:
        tensors[extra] = np.zeros((4, 32), np.float32)
    write_gguf(path, {key: value for key, value in pairs.items() if value is not None}, tensors)
    return path


def test_full_file_has_trunk_and_three_chained_heads(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", TINY))
    assert model.num_trunk_layers == 2 and len(model.layers) == 5
    assert model.draft is not None
    assert (model.draft.num_heads, model.draft.max_depth, model.draft.is_recurrent) == (3, 3, False)
    assert [spec.name for spec in model.kv_specs] == ["full", "sliding", "mtp-sliding"]
    assert [spec.is_moe for spec in model.layers] == [False, True, False, False, False]
    assert [spec.num_heads for spec in model.layers] == [4, 6, 6, 6, 6]


@pytest.mark.parametrize("part", ["trunk", "declared"])
def test_trunk_only_has_no_drafts_until_a_companion_comes(tmp_path: Path, part: str) -> None:
    trunk = write_model(tmp_path / "trunk.gguf", TINY, part)
    assert load(trunk).draft is None
    companion = write_model(tmp_path / "heads.gguf", TINY, "heads")
    model = load(trunk, companion)
    assert model.draft is not None and model.draft.num_heads == 3
    assert model.heads[0].embed_tokens is model.token_embd  # not loaded twice


def test_companion_may_be_a_full_file(tmp_path: Path) -> None:
    full, trunk = write_model(tmp_path / "f.gguf", TINY), write_model(tmp_path / "t.gguf", TINY, "trunk")
    assert load(trunk, full).draft is not None
    assert load(full, full).draft is not None


def test_heads_can_be_left_out(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", TINY), None)
    assert model.draft is None and len(model.layers) == 2


def test_one_head_is_recurrent(tmp_path: Path) -> None:
    shape = Shape(**{**TINY.__dict__, "num_heads_mtp": 1})
    model = load(write_model(tmp_path / "m.gguf", shape))
    assert model.draft is not None
    assert (model.draft.is_recurrent, model.draft.max_depth) == (True, 8)


def test_full_attention_heads_form_a_group_of_their_own(tmp_path: Path) -> None:
    shape = Shape(**{**TINY.__dict__, "mtp_sliding": False})
    model = load(write_model(tmp_path / "m.gguf", shape))
    assert [spec.name for spec in model.kv_specs] == ["full", "sliding", "mtp-full"]
    assert model.draft is not None and model.draft.window is None
    assert [spec.num_heads for spec in model.layers[2:]] == [4, 4, 4]


def test_one_value_may_stand_for_all_layers(tmp_path: Path) -> None:
    model = load(write(tmp_path / "m.gguf", {"step35.attention.head_count_kv": 2}))
    assert {spec.num_kv_heads for spec in model.layers} == {2}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"general.architecture": "llama"}, UnsupportedModelError, "architecture 'llama'"),
        ({"step35.block_count": None}, ModelFormatError, "step35.block_count"),
        ({"step35.block_count": 0}, ModelFormatError, "block_count=0"),
        ({"step35.block_count": 2**31 - 1}, ModelFormatError, "block_count=2147483647"),
        ({"step35.block_count": "five"}, ModelFormatError, "expected an integer"),
        ({"step35.nextn_predict_layers": 5}, ModelFormatError, "leaves no trunk"),
        ({"step35.attention.head_count": [4, 6]}, ModelFormatError, "2 values for 5 blocks"),
        ({"step35.attention.head_count": [4, 5, 6, 6, 6]}, ModelFormatError, "layer 1 has 5 query heads over 2"),
        ({"step35.attention.head_count_kv": [2, 0, 2, 2, 2]}, ModelFormatError, "over 0 KV heads"),
        ({"step35.attention.key_length": 15}, ModelFormatError, "value_length|multiple of 4"),
        ({"step35.attention.value_length": 8}, UnsupportedModelError, "value_length=8"),
        ({"step35.attention.sliding_window": 0}, ModelFormatError, "sliding_window=0"),
        ({"step35.rope.freq_base": TypedValue(ValueType.F32, -1.0)}, ModelFormatError, "freq_base=-1.0"),
        ({"step35.rope.dimension_count": 7}, UnsupportedModelError, "dimension_count=7"),
        ({"step35.expert_used_count": 9}, ModelFormatError, "expert_used_count=9"),
        ({"step35.expert_gating_func": 1}, UnsupportedModelError, "expert_gating_func=1"),
        ({"step35.embedding_length": 48}, ModelFormatError, "expected"),
    ],
)
def test_impossible_metadata_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    if "step35.attention.key_length" in changes:
        changes = {**changes, "step35.attention.value_length": 15}
    path = write(tmp_path / "m.gguf", changes)
    with pytest.raises(error, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["token_embd", "output.weight", "output_norm", "blk.1.ffn_up_exps", "blk.0.attn_q.", "blk.3.nextn.hnorm"]
)
def test_missing_tensors_are_listed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFormatError, match=f"missing tensor {name}"):
        load(write(tmp_path / "m.gguf", drop=name))


def test_leftover_tensors_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"1 tensors have no place.*blk.1.attn_sinks"):
        load(write(tmp_path / "m.gguf", extra="blk.1.attn_sinks.weight"))


def test_step5_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Step-5"):
        load(write(tmp_path / "m.gguf", extra="blk.0.sparse_indexer.weight"))


def test_heads_only_as_a_model_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="as mtp"):
        load(write_model(tmp_path / "m.gguf", TINY, "heads"))


def test_companion_of_another_model_is_refused(tmp_path: Path) -> None:
    other = Shape(**{**TINY.__dict__, "num_trunk": 3})
    with pytest.raises(ConfigError, match="companion of this model"):
        load(write_model(tmp_path / "m.gguf", TINY, "trunk"), write_model(tmp_path / "h.gguf", other, "heads"))


def test_companion_without_heads_is_refused(tmp_path: Path) -> None:
    trunk = write_model(tmp_path / "m.gguf", TINY, "trunk")
    with pytest.raises(ConfigError, match="no MTP heads"):
        load(trunk, trunk)


def test_misshapen_tensor_is_named(tmp_path: Path) -> None:
    tensors = dict(model_tensors(TINY))
    tensors["blk.1.attn_k.weight"] = TensorData.from_array(np.zeros((8, 32), np.float32), QuantType.F32)
    write_gguf(tmp_path / "m.gguf", metadata(TINY), tensors)
    with pytest.raises(ModelFormatError, match=r"blk.1.attn_k.weight has shape \[8, 32\], expected \[32, 32\]"):
        load(tmp_path / "m.gguf")
