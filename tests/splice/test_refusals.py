"""What does not belong together is refused, with both values, before a byte is written."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepahead.errors import ConfigError, ModelFormatError, StepaheadError, UnsupportedModelError
from stepahead.gguf import QuantType, TensorData, TypedValue, ValueType
from stepahead.splice import graft, join, split
from support.random_step35 import metadata
from support.spliced import SMALL, block, content, parts_of, with_expert_heads, write

LAST = SMALL.num_blocks - 1


def refused(folder: Path, error: type[StepaheadError], words: str, run: Callable[..., Any], *args: Any) -> None:
    """And nothing is written: neither a file nor a part of one."""
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(error, match=words) as found:
        run(*args)
    assert "\n" not in str(found.value)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    return write(tmp_path / "trunk.gguf", part="trunk")


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return write(tmp_path / "heads.gguf", part="heads")


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_trunk": 4}, "heads for layers of the trunk: 4, but .*trunk.gguf has 3; give the heads of this"),
    "width": ({"hidden": 64}, "heads for width 64, but .*trunk.gguf has 32"),
    "vocabulary": ({"vocab": 320}, "heads for a vocabulary of 320, but .* has 288"),
    "head size": ({"head_dim": 32}, "heads for a head size of 32, but .* has 16"),
    "window": ({"window": 32}, "heads for a window of 32, but .* has 16"),
    "query heads": ({"heads_sliding": 2}, "heads for a trunk with num_heads 2 in layer 1, but .* has 4 there"),
    "KV heads": ({"num_kv_heads": 1}, "with num_kv_heads 1 in layer 0, but .* has 2 there"),
    "pattern": ({"full_period": 2, "heads_full": 4}, "with num_heads 4 in layer 0, but .* has 2 there"),
}


@pytest.mark.parametrize("name", SIZES)
def test_other_sizes(tmp_path: Path, trunk: Path, name: str) -> None:
    changes, words = SIZES[name]
    heads = write(tmp_path / "heads.gguf", replace(SMALL, **changes), "heads")
    for force in (False, True):
        refused(tmp_path, ConfigError, words, lambda f=force: join(trunk, heads, tmp_path / "out.gguf", force=f))
    refused(tmp_path, ConfigError, words, graft, heads, trunk, tmp_path / "out.gguf")


KEYS: dict[str, tuple[Any, str]] = {
    "attention.layer_norm_rms_epsilon": (1e-6, "a norm epsilon of 9.99.*e-07, but .* has 9.99.*e-06"),
    "rope.freq_base": (
        1e6,
        r"rotary bases \(full, sliding\) \(1000000.0, 10000.0\), but .* has \(5000000.0, 10000.0\)",
    ),
    "rope.freq_base_swa": (5e4, r"rotary bases .* \(5000000.0, 50000.0\), but"),
    "attention.sliding_window_pattern": (
        [False, False, True, True, True, True],
        "is_sliding False in layer 1, but .* True",
    ),
}


@pytest.mark.parametrize("key", KEYS)
def test_other_values_of_keys(tmp_path: Path, trunk: Path, key: str) -> None:
    value, words = KEYS[key]
    typed = TypedValue(ValueType.F32, value) if isinstance(value, float) else value
    heads = write(tmp_path / "heads.gguf", part="heads", pairs={f"step35.{key}": typed})
    refused(tmp_path, ConfigError, words, join, trunk, heads, tmp_path / "out.gguf")


def test_rotary_sizes(tmp_path: Path, trunk: Path) -> None:
    pairs = {"step35.rope.dimension_count": 16, "step35.rope.dimension_count_swa": 16}
    heads = write(tmp_path / "heads.gguf", part="heads", pairs=pairs)
    words = r"rotary sizes \(full, sliding\) \(16, 16\), but .* has \(8, 16\)"
    refused(tmp_path, ConfigError, words, join, trunk, heads, tmp_path / "out.gguf")


def test_another_router(tmp_path: Path, trunk: Path) -> None:
    heads = write(tmp_path / "h.gguf", part="heads", tensors=with_expert_heads(), pairs={"step35.expert_used_count": 2})
    words = "heads with experts, for top_k 2, but .* has 1"
    refused(tmp_path, ConfigError, words, join, trunk, heads, tmp_path / "out.gguf")
    dense = write(tmp_path / "dense.gguf", part="heads", pairs={"step35.expert_used_count": 2})
    join(trunk, dense, tmp_path / "out.gguf")  # of no concern to them


def test_a_trunk_with_heads_is_for_graft(tmp_path: Path, heads: Path) -> None:
    full = write(tmp_path / "full.gguf")
    words = "has 3 MTP heads already; stepahead graft .*heads.gguf .*full.gguf -o .*out.gguf replaces them"
    refused(tmp_path, ConfigError, words, join, full, heads, tmp_path / "out.gguf")


def test_files_the_other_way_round(tmp_path: Path, trunk: Path, heads: Path) -> None:
    words = "heads.gguf: holds MTP heads only, .*trunk.gguf holds a trunk; .*: stepahead {}"
    refused(
        tmp_path, ConfigError, words.format("join .*trunk.gguf .*heads.gguf"), join, heads, trunk, tmp_path / "o.gguf"
    )
    refused(tmp_path, ConfigError, words.format("graft .*heads.gguf .*trunk"), graft, trunk, heads, tmp_path / "o.gguf")


def test_a_part_that_is_not_there(tmp_path: Path, trunk: Path, heads: Path) -> None:
    out = tmp_path / "out.gguf"
    refused(
        tmp_path, ConfigError, "trunk.gguf: has no MTP heads; give a file with blk.3 and on", join, trunk, trunk, out
    )
    refused(tmp_path, ConfigError, "heads.gguf: holds MTP heads only .*, no trunk", join, heads, heads, out)
    refused(tmp_path, ConfigError, "trunk.gguf: has no MTP heads", split, trunk, out, None)
    refused(tmp_path, ConfigError, "heads.gguf: holds MTP heads only", split, heads, None, out)
    empty = write(
        tmp_path / "declared.gguf", tensors={name: None for name in parts_of(SMALL) if block(name) >= SMALL.num_trunk}
    )
    refused(tmp_path, ConfigError, "has no MTP heads, although it declares 3", join, trunk, empty, out)


def test_another_architecture(tmp_path: Path, trunk: Path) -> None:
    other = write(tmp_path / "mmproj.gguf", part="heads", pairs={"general.architecture": "clip"})
    words = "mmproj.gguf: architecture 'clip'; heads are joined and split for 'step35'"
    refused(tmp_path, UnsupportedModelError, words, join, trunk, other, tmp_path / "out.gguf")
    refused(tmp_path, UnsupportedModelError, words, split, other, tmp_path / "out.gguf", None)


DAMAGE: dict[str, tuple[dict[str, TensorData | None], str]] = {
    "a tensor of a head is missing": ({f"blk.{LAST}.attn_k.weight": None}, f"blk.{LAST}.attn_k.weight"),
    "eh_proj is missing": ({f"blk.{LAST}.nextn.eh_proj.weight": None}, f"blk.{LAST}.nextn.eh_proj.weight"),
    "eh_proj is narrow": (
        {f"blk.{LAST}.nextn.eh_proj.weight": TensorData.from_array(np.ones((32, 32), np.float32))}, "eh_proj.*(32, 32)",
    ),
    "a foreign tensor": ({f"blk.{LAST}.strange.weight": TensorData.from_array(np.ones(32, np.float32))}, "strange"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_would_not_load(tmp_path: Path, trunk: Path, name: str) -> None:
    tensors, words = DAMAGE[name]
    heads = write(tmp_path / "heads.gguf", part="heads", tensors=tensors)
    words = f"trunk.gguf with the heads of .*heads.gguf: .*{words}"
    refused(tmp_path, (ModelFormatError, UnsupportedModelError), words, join, trunk, heads, tmp_path / "out.gguf")


def test_a_trunk_that_would_not_load(tmp_path: Path, heads: Path) -> None:
    trunk = write(tmp_path / "trunk.gguf", part="trunk", tensors={"blk.1.attn_q.weight": None})
    words = "trunk.gguf with .*: .*blk.1.attn_q.weight"
    refused(tmp_path, ModelFormatError, words, join, trunk, heads, tmp_path / "out.gguf")


def test_a_head_between_others_is_missing(tmp_path: Path, trunk: Path) -> None:
    middle = {name: None for name in parts_of(SMALL) if block(name) == 4}
    heads = write(tmp_path / "heads.gguf", part="heads", tensors=middle)
    words = "has heads up to blk.5, but no blk.4: each feeds the next"
    refused(tmp_path, ModelFormatError, words, join, trunk, heads, tmp_path / "out.gguf")


def test_heads_that_are_declared_to_the_trunk(tmp_path: Path, trunk: Path) -> None:
    full = write(tmp_path / "full.gguf", pairs={"step35.nextn_predict_layers": None})
    words = r"blk.3.nextn.eh_proj.weight belongs to a head, but metadata declares block 3 to the trunk \(.* is 0\)"
    refused(tmp_path, ModelFormatError, words, split, full, tmp_path / "out.gguf", None)
    refused(tmp_path, ModelFormatError, words, join, trunk, full, tmp_path / "out.gguf")


def test_layers_that_are_declared_to_the_heads(tmp_path: Path, trunk: Path) -> None:
    four = TypedValue(ValueType.U32, 4)
    full = write(tmp_path / "full.gguf", pairs={"step35.nextn_predict_layers": four})
    words = r"block 2 has nothing that only heads have, but metadata declares it to them \(.* is 4\)"
    refused(tmp_path, ModelFormatError, words, split, full, tmp_path / "out.gguf", None)
    refused(tmp_path, ModelFormatError, words, join, trunk, full, tmp_path / "out.gguf")


def test_heads_that_would_not_load_are_not_split_off_but_their_trunk_is(tmp_path: Path, trunk: Path) -> None:
    narrow = TensorData.from_array(np.ones((32, 32), np.float32))
    full = write(tmp_path / "full.gguf", tensors={f"blk.{LAST}.nextn.eh_proj.weight": narrow})
    words = f"blk.{LAST}.nextn.eh_proj.weight has shape"
    refused(tmp_path, ModelFormatError, words, split, full, tmp_path / "t.gguf", tmp_path / "h.gguf")
    refused(tmp_path, ModelFormatError, words, split, full, None, tmp_path / "h.gguf")
    split(full, tmp_path / "saved.gguf", None)
    assert content(tmp_path / "saved.gguf") == content(trunk)


def test_a_broken_trunk_is_not_split_off(tmp_path: Path) -> None:
    full = write(tmp_path / "full.gguf", tensors={"blk.1.attn_q.weight": None})
    refused(tmp_path, ModelFormatError, "its trunk: .*blk.1.attn_q.weight", split, full, tmp_path / "t.gguf", None)


def test_more_heads_than_blocks(tmp_path: Path, trunk: Path) -> None:
    one = metadata(replace(SMALL, num_heads_mtp=1))
    heads = write(tmp_path / "heads.gguf", part="heads", pairs=one)
    words = "has tensors of blk.4, but metadata says block_count=4"
    refused(tmp_path, ModelFormatError, words, join, trunk, heads, tmp_path / "out.gguf")


def other_tokens() -> list[str]:
    tokens = list(metadata(SMALL)["tokenizer.ggml.tokens"])
    return [*tokens[:100], "other", *tokens[101:200], "another", *tokens[201:]]


def test_other_tokens(tmp_path: Path, trunk: Path) -> None:
    tokens, out = other_tokens(), tmp_path / "out.gguf"
    heads = write(tmp_path / "heads.gguf", part="heads", pairs={"tokenizer.ggml.tokens": tokens})
    own = re.escape(repr(metadata(SMALL)["tokenizer.ggml.tokens"][100]))
    words = f"has 2 other tokens, the first 100: 'other', not {own} as .*trunk.gguf has; .*--force"
    refused(tmp_path, ConfigError, words, join, trunk, heads, out)
    shorter = write(tmp_path / "short.gguf", part="heads", pairs={"tokenizer.ggml.tokens": tokens[:-1]})
    refused(tmp_path, ConfigError, "has 287 tokens, not 288", join, trunk, shorter, out)
    join(trunk, heads, out, force=True)
    assert content(out)[0]["tokenizer.ggml.tokens"] == content(trunk)[0]["tokenizer.ggml.tokens"]
    bare = write(tmp_path / "bare.gguf", part="heads", pairs={key: None for key in metadata(SMALL) if "token" in key})
    join(trunk, bare, out)  # it says nothing of tokens


def embedded(tmp_path: Path, values: np.ndarray, type: QuantType, name: str = "heads.gguf") -> Path:
    return write(tmp_path / name, part="heads", tensors={"token_embd.weight": TensorData.from_array(values, type)})


def own_embeddings() -> np.ndarray:
    return parts_of(SMALL)["token_embd.weight"].data.view(np.float32).reshape(SMALL.vocab, SMALL.hidden)


def test_other_embeddings(tmp_path: Path, trunk: Path) -> None:
    own, out = own_embeddings(), tmp_path / "out.gguf"
    strange = np.random.default_rng(0).standard_normal(own.shape, np.float32)
    words = (
        r"token embeddings \(Q8_0\) are not those of .*trunk.gguf \(F32\): correlation -?0.0\d+, at least 0.5 .*--force"
    )
    refused(tmp_path, ConfigError, words, join, trunk, embedded(tmp_path, strange, QuantType.Q8_0), out)
    touched = own.copy()
    touched[7, 3] += 1
    words = r"\(F32\) are not those of .* \(F32\): correlation \d.\d+, equal bytes expected"
    refused(tmp_path, ConfigError, words, join, trunk, embedded(tmp_path, touched, QuantType.F32), out)
    report = join(trunk, embedded(tmp_path, strange, QuantType.Q8_0), out, force=True)
    assert report.embeddings is not None and report.embeddings.verdict == "different"
    assert "token embeddings differ" in report.notes[-1]
    for useless in (np.zeros_like(own), np.full_like(own, np.nan), np.full_like(own, np.inf)):
        path = (
            embedded(tmp_path, useless, QuantType.F16)
            if np.isfinite(useless).all()
            else write(
                tmp_path / "heads.gguf",
                part="heads",
                tensors={"token_embd.weight": TensorData.from_array(useless.astype(np.float16))},
            )
        )
        refused(tmp_path, ConfigError, "correlation 0.000, at least 0.5", join, trunk, path, out)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_embeddings_of_another_type_are_alike(tmp_path: Path, trunk: Path, name: str) -> None:
    report = join(trunk, embedded(tmp_path, own_embeddings(), QuantType[name]), tmp_path / "out.gguf")
    likeness = report.embeddings
    assert likeness is not None and likeness.verdict == "alike" and likeness.types == ("F32", name)
    assert likeness.correlation is not None and likeness.correlation > 0.98


def test_coarse_embeddings_are_alike_and_searched_ones_need_no_equal_bytes(tmp_path: Path, trunk: Path) -> None:
    coarse = np.sign(own_embeddings()) * np.float32(0.8)  # a bit an element
    report = join(trunk, embedded(tmp_path, coarse, QuantType.F16), tmp_path / "out.gguf")
    assert report.embeddings is not None and 0.7 < (report.embeddings.correlation or 0) < 0.9
    rough = TensorData.from_array(own_embeddings(), QuantType.Q4_0)
    other = TensorData.from_array(own_embeddings() * np.float32(1.01), QuantType.Q4_0)
    trunk = write(tmp_path / "rough.gguf", part="trunk", tensors={"token_embd.weight": rough})
    heads = write(tmp_path / "other.gguf", part="heads", tensors={"token_embd.weight": other})
    report = join(trunk, heads, tmp_path / "out.gguf")
    assert report.embeddings is not None and report.embeddings.verdict == "alike"
    assert report.embeddings.types == ("Q4_0", "Q4_0")


def test_heads_without_embeddings_are_joined_and_said(tmp_path: Path, trunk: Path) -> None:
    heads = write(tmp_path / "heads.gguf", part="heads", tensors={"token_embd.weight": None, "output.weight": None})
    report = join(trunk, heads, tmp_path / "out.gguf")
    assert "one of the files has no token embeddings" in report.notes[0]
    assert content(tmp_path / "out.gguf") == content(write(tmp_path / "full.gguf"))


# --- where it is written ---
def test_an_input_is_never_written(tmp_path: Path, trunk: Path, heads: Path) -> None:
    full = write(tmp_path / "full.gguf")
    linked, symbolic = tmp_path / "linked.gguf", tmp_path / "symbolic.gguf"
    os.link(trunk, linked)
    symbolic.symlink_to(heads)
    words = "is one of the files that are read; give the new file another name"
    for path in (trunk, heads, linked, symbolic, tmp_path / ".." / tmp_path.name / "trunk.gguf"):
        refused(tmp_path, ConfigError, words, join, trunk, heads, path)
    refused(tmp_path, ConfigError, words, graft, full, trunk, full)
    refused(tmp_path, ConfigError, words, split, full, tmp_path / "new.gguf", full)


def test_a_shard_of_an_input_is_never_written(tmp_path: Path, heads: Path) -> None:
    trunk = write(tmp_path / "parts.gguf", part="trunk", num_shards=3)
    last = tmp_path / "parts-00003-of-00003.gguf"
    refused(tmp_path, ConfigError, "is one of the files that are read", join, trunk, heads, last)


def test_names_that_are_none(tmp_path: Path, trunk: Path, heads: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    full = write(tmp_path / "full.gguf")
    for name, words in (
        ("out.bin", "is no name for a model file; give one that ends in .gguf"),
        ("folder.gguf", "is no name for a model file"),
        ("nowhere/out.gguf", "no such folder .*nowhere; create it first"),
        ("x" * 300 + ".gguf", "is no name for a model file: File name too long; give another one"),
    ):
        refused(tmp_path, ConfigError, words, join, trunk, heads, tmp_path / name)
    refused(tmp_path, ConfigError, "neither --trunk nor --heads", split, full, None, None)
    same = tmp_path / "new.gguf", tmp_path / "." / "new.gguf"
    refused(tmp_path, ConfigError, "is the name of both files; give two", split, full, *same)


def test_another_file_of_the_name_is_replaced(tmp_path: Path, trunk: Path, heads: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"something else")
    join(trunk, heads, out)
    assert content(out) == content(write(tmp_path / "full.gguf"))
