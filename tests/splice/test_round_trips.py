"""split and join undo one another, graft is both at once; what is written says of heads what is in it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepahead import LLM, SamplingParams, Speculation
from stepahead.gguf import GGUFFile, QuantType
from stepahead.splice import graft, join, split
from support.random_step35 import Shape, quantised
from support.spliced import ORDERS, SMALL, block, content, heads_of, is_head, with_expert_heads, write

SHAPES = st.builds(
    replace,
    st.just(SMALL),
    seed=st.integers(0, 3),
    num_trunk=st.integers(1, 5),
    num_heads_mtp=st.integers(1, 3),
    mtp_sliding=st.booleans(),
    dense_lead=st.integers(0, 2),
    type=st.sampled_from([QuantType.F32, QuantType.F16, QuantType.Q8_0, QuantType.Q4_0]),
    own_head=st.booleans(),
    own_norm=st.booleans(),
    own_embed=st.booleans(),
    fused_qkv=st.booleans(),
    rope_freqs=st.booleans(),
)
IDS = list(range(3, 30))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHAPES, st.sampled_from(list(ORDERS)), st.integers(1, 3), st.booleans(), st.sampled_from([32, 64, 8]))
def test_join_undoes_split(
    tmp_path: Path, shape: Shape, order: str, num_shards: int, first_empty: bool, alignment: int
) -> None:
    full = write(
        tmp_path / "full.gguf", shape, order=order, num_shards=num_shards, first_empty=first_empty, alignment=alignment
    )
    trunk, heads, again = (tmp_path / f"{name}.gguf" for name in ("trunk", "heads", "again"))
    split(full, trunk, heads)
    join(trunk, heads, again)
    assert content(again) == content(full)
    if num_shards + first_empty == 1 and order != "heads first":
        assert again.read_bytes() == full.read_bytes()
    join(trunk, full, tmp_path / "from-full.gguf")
    assert (tmp_path / "from-full.gguf").read_bytes() == again.read_bytes()
    graft(heads, again, tmp_path / "grafted.gguf")
    assert (tmp_path / "grafted.gguf").read_bytes() == again.read_bytes()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHAPES, st.integers(1, 3))
def test_split_undoes_join(tmp_path: Path, shape: Shape, num_shards: int) -> None:
    trunk = write(tmp_path / "trunk.gguf", shape, "trunk", num_shards=num_shards)
    heads = write(tmp_path / "heads.gguf", shape, "heads")
    join(trunk, heads, tmp_path / "full.gguf")
    assert content(tmp_path / "full.gguf") == content(write(tmp_path / "expected.gguf", shape))
    split(tmp_path / "full.gguf", tmp_path / "trunk-again.gguf", tmp_path / "heads-again.gguf")
    assert content(tmp_path / "trunk-again.gguf") == content(trunk)
    assert content(tmp_path / "heads-again.gguf") == content(heads)
    if num_shards == 1:
        join(tmp_path / "trunk-again.gguf", tmp_path / "heads-again.gguf", tmp_path / "full-again.gguf")
        assert (tmp_path / "full-again.gguf").read_bytes() == (tmp_path / "full.gguf").read_bytes()


def test_the_parts_are_what_they_say(tmp_path: Path) -> None:
    split(write(tmp_path / "full.gguf"), tmp_path / "trunk.gguf", tmp_path / "heads.gguf")
    n = SMALL.num_trunk
    with GGUFFile.open(tmp_path / "trunk.gguf") as file:
        assert file.get_int("step35.block_count") == n
        assert "step35.nextn_predict_layers" not in file.metadata
        assert {len(file.get_array(key)) for key in file.metadata if "head_count" in key or "clamp" in key} == {n}
        assert max(map(block, file.tensors)) == n - 1
    with GGUFFile.open(tmp_path / "heads.gguf") as file:
        assert file.get_int("step35.block_count") == n + 3
        assert file.get_int("step35.nextn_predict_layers") == 3
        assert {block(name) for name in file.tensors} == {-1, n, n + 1, n + 2}
        assert {"token_embd.weight", "output_norm.weight", "output.weight"} < file.tensors.keys()


def test_one_part_is_enough(tmp_path: Path) -> None:
    full = write(tmp_path / "full.gguf")
    split(full, tmp_path / "trunk.gguf", tmp_path / "heads.gguf")
    report = split(full, None, tmp_path / "alone.gguf")
    assert (tmp_path / "alone.gguf").read_bytes() == (tmp_path / "heads.gguf").read_bytes()
    assert [file.path.name for file in report.files] == ["alone.gguf"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_trunk_may_declare_heads_that_it_has_not(tmp_path: Path, declared: bool) -> None:
    full = write(tmp_path / "x.gguf")
    heads = {name: None for name in content(full)[1] if is_head(name)}
    trunk = write(tmp_path / "trunk.gguf", part="full" if declared else "trunk", tensors=heads)
    join(trunk, write(tmp_path / "heads.gguf", part="heads"), tmp_path / "full.gguf")
    assert content(tmp_path / "full.gguf") == content(full)


def test_heads_of_one_quantisation_over_the_trunk_of_another(tmp_path: Path) -> None:
    small, exact = quantised(Shape(num_trunk=2), QuantType.Q4_K), quantised(Shape(num_trunk=2), QuantType.Q8_0)
    into, source = write(tmp_path / "q4.gguf", small), write(tmp_path / "q8.gguf", exact)
    report = graft(source, into, tmp_path / "mixed.gguf")
    _, mixed = content(tmp_path / "mixed.gguf")
    _, own = content(into)
    _, other = content(source)
    assert mixed == {name: (other if block(name) >= 2 else own)[name] for name in own}
    assert report.embeddings is not None and report.embeddings.verdict == "alike"
    assert report.embeddings.types == ("Q4_K", "Q8_0")
    assert "3 MTP heads of" in report.notes[-1]


def test_one_head_of_three(tmp_path: Path) -> None:
    trunk, one = write(tmp_path / "trunk.gguf", part="trunk"), heads_of(SMALL, 1)
    report = join(trunk, write(tmp_path / "heads.gguf", one, "heads"), tmp_path / "full.gguf")
    assert report.num_heads == 1
    assert "1 of the published model's 3 MTP heads" in report.notes[0]
    assert content(tmp_path / "full.gguf") == content(write(tmp_path / "expected.gguf", one))
    replaced = graft(write(tmp_path / "three.gguf"), tmp_path / "full.gguf", tmp_path / "all.gguf")
    assert replaced.num_heads == 3
    assert content(tmp_path / "all.gguf") == content(tmp_path / "three.gguf")


def test_three_declared_and_one_there(tmp_path: Path) -> None:
    gone = {name: None for name in content(write(tmp_path / "x.gguf"))[1] if block(name) > SMALL.num_trunk}
    heads = write(tmp_path / "heads.gguf", part="heads", tensors=gone)
    report = join(write(tmp_path / "trunk.gguf", part="trunk"), heads, tmp_path / "full.gguf")
    assert "declares 3 MTP heads and has 1" in report.notes[0]
    assert content(tmp_path / "full.gguf") == content(write(tmp_path / "expected.gguf", heads_of(SMALL, 1)))


def test_heads_with_experts(tmp_path: Path) -> None:
    changes = with_expert_heads()
    full = write(tmp_path / "full.gguf", tensors=changes)
    split(full, tmp_path / "trunk.gguf", tmp_path / "heads.gguf")
    join(tmp_path / "trunk.gguf", tmp_path / "heads.gguf", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == full.read_bytes()
    assert LLM(tmp_path / "again.gguf", device="reference").model.draft.num_heads == 3


def test_heads_with_experts_over_a_dense_trunk(tmp_path: Path) -> None:
    dense = replace(SMALL, dense_lead=SMALL.num_trunk)
    rules = [key for key in content(write(tmp_path / "x.gguf", dense))[0] if key.startswith("step35.expert_")]
    trunk = write(tmp_path / "trunk.gguf", dense, "trunk", pairs=dict.fromkeys(rules))
    heads = write(tmp_path / "heads.gguf", part="heads", tensors=with_expert_heads())
    join(trunk, heads, tmp_path / "full.gguf")
    assert LLM(tmp_path / "full.gguf", device="reference").model.draft.num_heads == 3


def test_heads_without_an_output_matrix_are_said(tmp_path: Path) -> None:
    shape = replace(SMALL, own_head=False)
    trunk, heads = write(tmp_path / "trunk.gguf", shape, "trunk"), write(tmp_path / "heads.gguf", shape, "heads")
    report = join(trunk, heads, tmp_path / "full.gguf")
    assert report.notes == ("3 of 3 heads have no output matrix of their own and use the trunk's output.weight",)


def test_clamps_that_only_one_file_knows(tmp_path: Path) -> None:
    keys = ("step35.swiglu_clamp_exp", "step35.swiglu_clamp_shexp")
    trunk = write(tmp_path / "trunk.gguf", part="trunk", pairs=dict.fromkeys(keys))
    join(trunk, write(tmp_path / "heads.gguf", part="heads"), tmp_path / "none.gguf")
    assert not set(keys) & content(tmp_path / "none.gguf")[0].keys()  # the heads have none, the trunk says nothing
    clamped = {keys[1]: np.float32([0, 0, 0, 0, 0, 2.5])}
    join(trunk, write(tmp_path / "clamped.gguf", part="heads", pairs=clamped), tmp_path / "full.gguf")
    assert content(tmp_path / "full.gguf")[0][keys[1]][1] == [0, 0, 0, 0, 0, 2.5]
    silent = write(tmp_path / "silent.gguf", part="heads", pairs=dict.fromkeys(keys))
    join(write(tmp_path / "whole.gguf", part="trunk"), silent, tmp_path / "other.gguf")
    assert content(tmp_path / "other.gguf") == content(write(tmp_path / "x.gguf"))


OPTIONAL = (
    "expert_weights_scale", "expert_weights_norm", "expert_gating_func", "swiglu_clamp_exp", "swiglu_clamp_shexp",
    "leading_dense_block_count", "rope.freq_base_swa", "attention.value_length",
)  # fmt: skip


@pytest.mark.parametrize("key", OPTIONAL)
def test_what_a_trunk_leaves_out_is_not_taken_from_the_heads(tmp_path: Path, key: str) -> None:
    """A key that is missing says something: that weights of experts are not normalised, for one."""
    trunk = write(tmp_path / "trunk.gguf", part="trunk", pairs={f"step35.{key}": None})
    join(trunk, write(tmp_path / "heads.gguf", part="heads"), tmp_path / "full.gguf")
    assert f"step35.{key}" not in content(tmp_path / "full.gguf")[0]
    models = [LLM(path, device="reference", mtp="off") for path in (trunk, tmp_path / "full.gguf")]
    assert np.array_equal(models[0].logits(IDS), models[1].logits(IDS))


def test_one_value_for_all_layers_stays_one(tmp_path: Path) -> None:
    key = "step35.attention.head_count_kv"
    trunk = write(tmp_path / "trunk.gguf", part="trunk", pairs={key: 2})
    join(trunk, write(tmp_path / "heads.gguf", part="heads"), tmp_path / "full.gguf")
    assert content(tmp_path / "full.gguf")[0][key][1] == 2
    alike = replace(SMALL, heads_full=4)
    key = "step35.attention.head_count"
    trunk = write(tmp_path / "trunk.gguf", alike, "trunk", pairs={key: 4})
    join(trunk, write(tmp_path / "heads.gguf", alike, "heads"), tmp_path / "full.gguf")
    assert content(tmp_path / "full.gguf")[0][key][1] == 4


@pytest.mark.parametrize("is_for_all", [True, False])
def test_one_value_for_all_layers_becomes_one_for_each(tmp_path: Path, is_for_all: bool) -> None:
    shape = replace(SMALL, full_period=1)  # 2 query heads in each layer of the trunk, 4 in heads
    key = "step35.attention.head_count"
    trunk = write(tmp_path / "trunk.gguf", shape, "trunk", pairs={key: 2} if is_for_all else None)
    join(trunk, write(tmp_path / "heads.gguf", shape, "heads"), tmp_path / "full.gguf")
    assert content(tmp_path / "full.gguf")[0][key][1] == [2, 2, 2, 4, 4, 4]
    assert LLM(tmp_path / "full.gguf", device="reference").model.draft.num_heads == 3


def test_keys_of_ours_and_of_nobody_are_kept_as_they_are(tmp_path: Path) -> None:
    n = SMALL.num_blocks
    own = {"general.name": "mine", "step35.strange": ["a", "b", "c"], "step35.other": "text", "x.y": 1}
    pairs = {"general.name": "theirs", "step35.strange": ["d"] * n, "step35.other": [1] * n, "x.z": 2}
    trunk = write(tmp_path / "trunk.gguf", part="trunk", pairs=own)
    join(trunk, write(tmp_path / "heads.gguf", part="heads", pairs=pairs), tmp_path / "full.gguf")
    found = content(tmp_path / "full.gguf")[0]
    assert {key: found[key][1] for key in own} == own
    assert "x.z" not in found


def test_text_and_drafts_stay_what_they_were(tmp_path: Path) -> None:
    full = write(tmp_path / "full.gguf")
    trunk, heads, again = (tmp_path / f"{name}.gguf" for name in ("trunk", "heads", "again"))
    split(full, trunk, heads)
    join(trunk, heads, again)
    models = [LLM(full), LLM(trunk, mtp=heads), LLM(again)]
    params = SamplingParams(max_tokens=24, temperature=0.7, seed=5, ignore_eos=True)
    answers = [llm.generate(IDS, params, Speculation("mtp", depth=3, adaptive=False)) for llm in models]
    assert len({tuple(answer.token_ids) for answer in answers}) == 1
    assert len({tuple(answer.speculation.num_accepted_tokens_per_pos) for answer in answers}) == 1
    assert answers[0].speculation.num_accepted_tokens > 0
    drafts = [llm.draft_logits(IDS) for llm in models]
    assert all(np.array_equal(other, drafts[0]) for other in drafts[1:])
    plain = LLM(trunk).generate(IDS, params)
    assert plain.token_ids == answers[0].token_ids
