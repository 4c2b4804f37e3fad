"""Every kind of broken file is found in headers and samples, and its repair gives the good file back; no good file is
accused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepahead.demo import demo_path
from stepahead.filecheck.attention_checks import llama3_factors
from stepahead.filecheck.examine import examine
from stepahead.gguf import (
    GGUFFile,
    QuantType,
    TensorData,
    TypedValue,
    ValueType,
    quantize,
    write_gguf,
    write_split_gguf,
)
from support.broken_files import Change, bf16, from_checkpoint, norms_of, ones, plus, rewrite, zeros
from support.random_step35 import Shape, metadata, model_tensors, quantised, write_model

HEADS = range(14, 17)  # of the demo model
DEMO = Path(demo_path())
SLIDING = "step35.attention.sliding_window_pattern"
COUNT = "step35.attention.head_count"


def findings(path: Path) -> list[tuple[str, str, str]]:
    with GGUFFile.open(path) as file:
        return [(one.kind, one.severity, one.where) for one in examine(file)[0]]


def faults(path: Path) -> list[tuple[str, str]]:
    return [(kind, where) for kind, severity, where in findings(path) if severity != "note"]


def assert_repaired(broken: Path, good: Path, tolerance: float = 0.0) -> None:
    """The repaired view is the good file, key for key and byte for byte, or number for number within a rounding."""
    with GGUFFile.open(broken) as file, GGUFFile.open(good) as expected:
        _, view = examine(file)
        assert {key: repr(value) for key, value in view.typed_metadata().items()} == {
            key: repr(value) for key, value in expected.typed_metadata().items()
        }
        assert list(view.tensors) == list(expected.tensors)
        for name in expected.tensors:
            if tolerance:
                np.testing.assert_allclose(view.array(name), expected.array(name), atol=tolerance, err_msg=name)
            else:
                assert (view.data(name) == expected.data(name)).all(), name
        assert not [one for one in examine(view)[0] if one.severity == "fault"]


# --- good files ---
GOOD = ["golden-f32", "golden-f32-variants", "golden-f32-one-head", "golden-q8_0", "golden-q4_k", "f32", "q6_k"]


@pytest.mark.parametrize("part", ["full", "trunk", "declared", "heads"])
@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_not_accused(model_path, name: str, part: str) -> None:
    assert faults(model_path(name, part)) == []


def test_the_demo_model_is_good() -> None:
    with GGUFFile.open(DEMO) as file:
        assert examine(file) == ((), file)


def test_a_split_file_is_judged_as_a_whole(tmp_path: Path) -> None:
    shape = Shape()
    tensors = dict(model_tensors(shape))
    paths = write_split_gguf(tmp_path / "split", metadata(shape), tensors, num_shards=3, first_empty=True)
    assert findings(paths[0]) == []


def test_files_of_other_architectures_are_not_judged(tmp_path: Path) -> None:
    other = rewrite(DEMO, tmp_path / "other.gguf", metadata={"general.architecture": "llama"})
    assert findings(other) == []


def test_metadata_of_wrong_types(tmp_path: Path) -> None:
    wrong = {"step35.block_count": TypedValue(ValueType.STRING, "many")}
    with GGUFFile.open(rewrite(DEMO, tmp_path / "wrong.gguf", metadata=wrong)) as file:
        (finding,), view = examine(file)
    assert (finding.kind, finding.severity, view) == ("metadata", "fault", file)
    assert finding.what == "metadata key 'step35.block_count': expected an integer, found str 'many'"


def test_norms_of_a_model_that_never_was_zero_centred_are_as_they_should_be(tmp_path: Path) -> None:
    """BF16 numbers themselves, in trunk and heads alike."""

    def plain(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        values = np.abs(from_checkpoint(0)(data, file, name).view(np.float32)) + np.float32(2.0**-6)
        return quantize((values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32), QuantType.F32)

    path = rewrite(DEMO, tmp_path / "plain.gguf", dict.fromkeys(norms_of(DEMO), plain))
    assert [one for one in findings(path) if one[1] == "fault"] == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_random_good_file_is_accused(tmp_path: Path, data: st.DataObject) -> None:
    draw = data.draw
    shape = Shape(
        seed=draw(st.integers(0, 2**32)),
        hidden=64,
        num_trunk=draw(st.integers(1, 5)),
        num_heads_mtp=draw(st.integers(0, 3)),
        full_period=draw(st.integers(1, 5)),
        mtp_sliding=draw(st.booleans()),
        heads_full=draw(st.sampled_from([2, 4])),
        heads_sliding=draw(st.sampled_from([4, 6])),
        width=64,
        vocab=288,
        num_experts=4,
        dense_lead=draw(st.integers(0, 3)),
        own_head=draw(st.booleans()),
        own_norm=draw(st.booleans()),
        own_embed=draw(st.booleans()),
        fused_qkv=draw(st.booleans()),
        head_gate=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        rope_freqs=draw(st.booleans()),
    )
    path = write_model(tmp_path / "random.gguf", shape, draw(st.sampled_from(["full", "trunk", "declared", "heads"])))
    if draw(st.booleans()):
        change = from_checkpoint(1, shape.seed)
        path = rewrite(path, tmp_path / "norms.gguf", dict.fromkeys(norms_of(path), change))
    assert faults(path) == []


# --- heads ---
def test_a_trunk_without_heads_is_told_where_to_get_them(model_path) -> None:
    with GGUFFile.open(model_path("f32", "declared")) as file:
        (finding,), view = examine(file)
    assert (finding.kind, finding.severity) == ("heads-missing", "note")
    assert "though the metadata declares 3" in finding.what
    for way in ("--mtp", "stepahead join", "stepahead pull"):
        assert way in finding.repair.text
    assert view is file


def test_one_of_three_heads_is_few(model_path) -> None:
    assert findings(model_path("f32", num_heads_mtp=1)) == [("heads-few", "note", "heads")]


@pytest.mark.parametrize("keys", [{"step35.nextn_predict_layers": None}, {"step35.nextn_predict_layers": 1}])
def test_heads_that_are_not_declared_are_counted(tmp_path: Path, model_path, keys: dict[str, object]) -> None:
    good = model_path("f32")
    broken = rewrite(good, tmp_path / "broken.gguf", metadata=keys)
    assert ("heads-count", "step35.nextn_predict_layers") in faults(broken)
    if keys["step35.nextn_predict_layers"]:
        assert_repaired(broken, good)
    else:
        with GGUFFile.open(broken) as file:
            assert examine(file)[1].get_int("step35.nextn_predict_layers") == 3


def test_heads_that_were_left_behind_are_counted_and_their_lists_made_longer(tmp_path: Path, model_path) -> None:
    """A trunk's metadata over all tensors."""
    good = model_path("f32")
    with GGUFFile.open(good) as file:
        lists = {key: value[:4] for key, value in file.metadata.items() if isinstance(value, np.ndarray)
                 and key.startswith("step35.")}  # fmt: skip
    broken = rewrite(
        good, tmp_path / "broken.gguf", metadata={**lists, "step35.block_count": 4, "step35.nextn_predict_layers": 0}
    )
    assert faults(broken) == [("heads-count", "step35.nextn_predict_layers")]
    assert_repaired(broken, good)


def test_heads_that_are_declared_and_incomplete_are_counted_as_they_are(tmp_path: Path, model_path) -> None:
    broken = rewrite(model_path("f32"), tmp_path / "broken.gguf", without=("blk.5.", "blk.6."))
    assert {kind for kind, *_ in findings(broken)} == {"heads-few", "heads-count"}
    with GGUFFile.open(broken) as file:
        view = examine(file)[1]
        assert (view.get_int("step35.block_count"), view.get_int("step35.nextn_predict_layers")) == (5, 1)
        assert len(view.get_array(COUNT)) == 5


def test_heads_that_are_declared_and_cost_the_trunk_its_layers(tmp_path: Path, model_path) -> None:
    broken = rewrite(
        model_path("f32", "trunk"), tmp_path / "broken.gguf",
        metadata={"step35.nextn_predict_layers": TypedValue(ValueType.U32, 3)},
    )  # fmt: skip
    assert faults(broken) == [("heads-count", "step35.nextn_predict_layers")]
    assert_repaired(broken, model_path("f32", "trunk"))


@pytest.mark.parametrize("lost", ["nextn.enorm", "attn_k.", "ffn_down"])
def test_a_head_that_lacks_a_tensor_cannot_be_repaired(tmp_path: Path, model_path, lost: str) -> None:
    broken = rewrite(model_path("f32"), tmp_path / "broken.gguf", without=(f"blk.5.{lost}",))
    assert ("head-incomplete", "fault", "head 2") in findings(broken)


def test_a_head_without_what_the_others_have_is_unclear(tmp_path: Path, model_path) -> None:
    broken = rewrite(model_path("f32"), tmp_path / "broken.gguf", without=("blk.6.nextn.shared_head_head",))
    assert findings(broken) == [("head-incomplete", "unclear", "head 3")]


def test_heads_without_what_every_block_of_the_trunk_has_are_unclear(tmp_path: Path, model_path) -> None:
    """A converter that dropped a kind of tensor from all heads."""
    broken = rewrite(
        model_path("f32"), tmp_path / "broken.gguf", without=tuple(f"blk.{block}.attn_gate" for block in (4, 5, 6))
    )
    assert findings(broken) == [("head-incomplete", "unclear", f"head {number}") for number in (1, 2, 3)]


def test_a_matrix_on_its_side(tmp_path: Path, model_path) -> None:
    good, broken, name = model_path("f32"), tmp_path / "broken.gguf", "blk.5.nextn.eh_proj.weight"
    with GGUFFile.open(good) as file:
        tensors = {one: TensorData(info.type, info.shape, file.data(one)) for one, info in file.tensors.items()}
        tensors[name] = TensorData.from_array(file.array(name).T)
        write_gguf(broken, file.typed_metadata(), tensors)
    assert findings(broken) == [("shape", "fault", name)]


def test_heads_with_a_gap_before_them_are_misnumbered(tmp_path: Path, model_path) -> None:
    broken = rewrite(model_path("f32"), tmp_path / "broken.gguf", without=("blk.4.",))
    assert ("heads-numbering", "fault", "heads") in findings(broken)


# --- lists ---
def test_lists_without_the_heads_are_made_longer(tmp_path: Path) -> None:
    with GGUFFile.open(DEMO) as file:
        short = {key: file.metadata[key][:14] for key in (COUNT, SLIDING)}
    broken = rewrite(DEMO, tmp_path / "broken.gguf", metadata=short)
    assert faults(broken) == [("list-length", f"{COUNT} and {SLIDING}")]
    assert_repaired(broken, DEMO)


def test_lists_with_heads_over_a_trunk_are_cut(tmp_path: Path, model_path) -> None:
    good = model_path("f32", "trunk")
    with GGUFFile.open(model_path("f32")) as file:
        long = {COUNT: file.metadata[COUNT]}
    broken = rewrite(good, tmp_path / "broken.gguf", metadata=long)
    assert faults(broken) == [("list-length", COUNT)]
    assert_repaired(broken, good)


def test_full_instead_of_sliding_heads(tmp_path: Path) -> None:
    """As early forks wrote them: full attention and the head count of full layers, over matrices of sliding ones."""
    with GGUFFile.open(DEMO) as file:
        pattern, counts = file.metadata[SLIDING].copy(), file.metadata[COUNT].copy()
    pattern[14:], counts[14:] = False, 8
    broken = rewrite(DEMO, tmp_path / "broken.gguf", metadata={SLIDING: pattern, COUNT: counts})
    assert faults(broken) == [("head-count", COUNT), ("window", "heads 1 to 3")]
    assert_repaired(broken, DEMO)


def test_one_full_head(tmp_path: Path) -> None:
    with GGUFFile.open(DEMO) as file:
        pattern = file.metadata[SLIDING].copy()
    pattern[15] = False
    broken = rewrite(DEMO, tmp_path / "broken.gguf", metadata={SLIDING: pattern})
    assert faults(broken) == [("window", "head 2")]
    assert_repaired(broken, DEMO)


@pytest.mark.parametrize("key", [COUNT, "step35.attention.head_count_kv"])
def test_a_head_count_that_the_matrices_have_not(tmp_path: Path, key: str) -> None:
    with GGUFFile.open(DEMO) as file:
        counts = file.metadata[key].copy()
    counts[16] = counts[16] // 2
    broken = rewrite(DEMO, tmp_path / "broken.gguf", metadata={key: counts})
    assert ("head-count", key) in faults(broken)
    assert_repaired(broken, DEMO)


# --- rotary factors ---
def test_the_published_factors() -> None:
    """Entries of the two computations, as published files have them: over 64 of 128 dims, and over all of them."""
    right, early = llama3_factors(64, 5e6), llama3_factors(128, 5e6)
    assert right[[13, 14, 20, 21, 31]] == pytest.approx([1.0, 1.13836, 1.97725, 2.0, 2.0], abs=1e-5)
    assert early[[26, 27, 31, 42]] == pytest.approx([1.0, 1.0142, 1.48071, 2.0], abs=1e-5)


def test_factors_of_the_early_converters(tmp_path: Path) -> None:
    def early(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        return quantize(llama3_factors(64, 5e6), QuantType.F32)

    broken = rewrite(DEMO, tmp_path / "broken.gguf", {"rope_freqs.weight": early})
    assert faults(broken) == [("rope-freqs", "rope_freqs.weight")]
    assert_repaired(broken, DEMO, tolerance=1e-6)


# --- norms ---
GROUPS = {
    "all": ("",), "projection": ("enorm", "hnorm"), "block": ("attn_norm", "ffn_norm"), "rows": ("q_norm", "k_norm"),
    "head": ("shared_head_norm",),
}  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with norms as from a BF16 checkpoint."""
    path = tmp_path_factory.mktemp("norms") / "good.gguf"
    return rewrite(DEMO, path, dict.fromkeys(norms_of(DEMO), from_checkpoint(1)))


@pytest.mark.parametrize("heads", [HEADS, range(15, 16)], ids=["all heads", "one head"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("times", [0, 2])
def test_norms_of_a_checkpoint_tell_how_often_1_was_added(
    tmp_path: Path, converted: Path, times: int, group: str, heads: range
) -> None:
    assert faults(converted) == []
    names = norms_of(converted, heads, GROUPS[group])
    broken = rewrite(converted, tmp_path / "broken.gguf", dict.fromkeys(names, from_checkpoint(times)))
    (found,) = faults(broken)
    assert found[0] == "norm-offset"
    assert found[1].endswith("heads 1 to 3" if heads is HEADS else "head 2")
    assert_repaired(broken, converted)


@pytest.mark.parametrize("times", [0, 2])
def test_norms_of_a_whole_file(tmp_path: Path, converted: Path, times: int) -> None:
    broken = rewrite(converted, tmp_path / "broken.gguf", dict.fromkeys(norms_of(converted), from_checkpoint(times)))
    assert faults(broken) == [("norm-offset", "norms")]
    assert_repaired(broken, converted)


@pytest.mark.parametrize("group", ["all", "block", "rows", "head"])
def test_norms_without_their_1_show_it_by_their_signs(tmp_path: Path, group: str) -> None:
    """The demo's weights were trained in F32: there is no fingerprint."""
    names = norms_of(DEMO, HEADS, GROUPS[group])
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(names, plus(-1.0)))
    (found,) = faults(broken)
    assert found[0] == "norm-offset"
    assert_repaired(broken, DEMO, tolerance=1e-6)


def test_norms_of_a_whole_file_without_their_1(tmp_path: Path) -> None:
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO), plus(-1.0)))
    assert faults(broken) == [("norm-offset", "norms")]
    assert_repaired(broken, DEMO, tolerance=1e-6)


def drawn(seed: int, name: str, file: GGUFFile, mean: float, spread: float) -> np.ndarray:
    rng = np.random.default_rng([seed, *name.encode()])
    return rng.normal(mean, spread, file.tensors[name].shape).astype(np.float32)


def gains(mean: float, spread: float, seed: int = 3) -> Change:
    """In BF16, and never around zero."""

    def change(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        return quantize(bf16(np.abs(drawn(seed, name, file, mean, spread))), QuantType.F32)

    return change


def sums(mean: float, spread: float, times: int, is_narrow: bool = False) -> Change:
    """Of a BF16 checkpoint with weights around `mean`; is_narrow: added in BF16."""

    def change(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        values = bf16(drawn(5, name, file, mean, spread)) + np.float32(times)
        return quantize(bf16(values) if is_narrow else values, QuantType.F32)

    return change


def test_small_gains_that_never_were_zero_centred_lack_nothing(tmp_path: Path) -> None:
    """Heads with gains of 0.15 on a trunk with others, all BF16 numbers as they are."""
    heads = norms_of(DEMO, HEADS)
    changes = dict.fromkeys(norms_of(DEMO), gains(1.3, 0.2)) | dict.fromkeys(heads, gains(0.15, 0.03))
    path = rewrite(DEMO, tmp_path / "plain.gguf", changes)
    assert [one for one in findings(path) if one[1] == "fault"] == []


@pytest.mark.parametrize("mean", [0.3, -0.8, 1.5])
def test_sums_that_were_rounded_lack_nothing(tmp_path: Path, mean: float) -> None:
    """Heads of a converter that adds in BF16, on a trunk of one that adds in F32."""
    heads = norms_of(DEMO, HEADS)
    changes = dict.fromkeys(norms_of(DEMO), from_checkpoint(1))
    changes |= dict.fromkeys(heads, sums(mean, 0.03, 1, is_narrow=True))
    path = rewrite(DEMO, tmp_path / "narrow.gguf", changes)
    assert [one for one in findings(path) if one[1] == "fault"] == []


@pytest.mark.parametrize("mean", [-0.8, 0.0, 0.3, 1.5])
@pytest.mark.parametrize("times", [1, 2])
def test_digits_tell_of_gains_of_any_size(tmp_path: Path, mean: float, times: int) -> None:
    """Near zero, near one and large: how often 1 was added to a BF16 number."""
    names = norms_of(DEMO, HEADS)
    changes = dict.fromkeys(norms_of(DEMO), from_checkpoint(1))
    good = rewrite(DEMO, tmp_path / "good.gguf", changes | dict.fromkeys(names, sums(mean, 0.03, 1)))
    path = rewrite(DEMO, tmp_path / "x.gguf", changes | dict.fromkeys(names, sums(mean, 0.03, times)))
    assert faults(path) == ([] if times == 1 else [("norm-offset", "norms of heads 1 to 3")])
    assert_repaired(path, good)


def test_norms_that_cannot_tell_follow_those_of_their_head(tmp_path: Path) -> None:
    """Norms of queries and keys that were never trained are 1, and 2 where it was added twice."""

    def twos(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        return quantize(np.full(file.tensors[name].shape, 2.0, np.float32), QuantType.F32)

    rows = norms_of(DEMO, HEADS, ("q_norm", "k_norm"))
    changes = dict.fromkeys(norms_of(DEMO), from_checkpoint(1))
    good = rewrite(DEMO, tmp_path / "good.gguf", changes | dict.fromkeys(rows, ones))
    changes |= dict.fromkeys(norms_of(DEMO, HEADS), from_checkpoint(2)) | dict.fromkeys(rows, twos)
    broken = rewrite(DEMO, tmp_path / "broken.gguf", changes)
    assert faults(good) == []
    assert faults(broken) == [("norm-offset", "norms of heads 1 to 3")]
    assert_repaired(broken, good)


def test_two_norms_without_their_1_do_not_condemn_their_head(tmp_path: Path) -> None:
    """The others are small, as norms without their 1 may be, and right."""
    small = {name: plus(-0.3) for name in norms_of(DEMO, HEADS, ("attn_norm", "ffn_norm", "shared_head_norm"))}
    good = rewrite(DEMO, tmp_path / "good.gguf", small)
    names = norms_of(DEMO, HEADS, ("q_norm", "k_norm"))
    broken = rewrite(good, tmp_path / "broken.gguf", dict.fromkeys(names, plus(-1.0)))
    assert_repaired(broken, good, tolerance=1e-6)


def test_a_whole_file_of_large_norms_is_unclear(tmp_path: Path) -> None:
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO), plus(1.0)))
    assert findings(broken) == [("norm-offset", "unclear", "norms")]


def test_norms_that_are_only_large_are_not_judged(tmp_path: Path) -> None:
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO, HEADS), plus(1.0)))
    assert findings(broken) == [("norm-offset", "unclear", "norms of heads 1 to 3")]
    with GGUFFile.open(broken) as file:
        assert examine(file)[1] is file


def test_signs_that_1_would_not_mend_are_not_called_so(tmp_path: Path) -> None:
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO, HEADS), plus(-9.0)))
    assert [one for one in findings(broken) if one[1] == "fault"] == []


# --- weights ---
@pytest.mark.parametrize("part", ["nextn.eh_proj", "nextn.shared_head_head", "attn_v"])
def test_matrices_of_zeros(tmp_path: Path, part: str) -> None:
    broken = rewrite(DEMO, tmp_path / "broken.gguf", {f"blk.{block}.{part}.weight": zeros for block in HEADS})
    with GGUFFile.open(broken) as file:
        (finding,), view = examine(file)
    assert (finding.kind, finding.severity, finding.where) == ("untrained", "fault", "heads 1 to 3")
    assert part.rpartition(".")[2] in finding.what
    assert view is file


def test_a_matrix_whose_samples_are_zero_is_read_whole(tmp_path: Path) -> None:
    """Most rows of zeros, and one that is not."""

    def nearly(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        kept = np.zeros_like(data)
        kept[7] = data[7]
        return kept

    broken = rewrite(DEMO, tmp_path / "broken.gguf", {"blk.14.nextn.eh_proj.weight": nearly})
    assert findings(broken) == []


def test_norms_as_before_training_are_unclear(tmp_path: Path) -> None:
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO, HEADS), ones))
    assert ("untrained", "unclear", "heads 1 to 3") in findings(broken)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    def infinite(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        values = file.array(name)
        values[3] = np.nan
        return values.view(np.uint8)

    broken = rewrite(DEMO, tmp_path / "broken.gguf", {"blk.15.nextn.hnorm.weight": infinite})
    assert ("not-finite", "fault", "head 2") in findings(broken)


def test_values_that_are_no_numbers_beside_norms_without_their_1(tmp_path: Path) -> None:
    """Nothing is added to them."""

    def endless(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        values = file.array(name) - np.float32(1)
        values[3] = np.inf
        return values.view(np.uint8)

    changes = dict.fromkeys(norms_of(DEMO, HEADS), plus(-1.0)) | {"blk.15.attn_norm.weight": endless}
    broken = rewrite(DEMO, tmp_path / "broken.gguf", changes)
    assert {kind for kind, _ in faults(broken)} == {"norm-offset", "not-finite"}


# --- several at once ---
def test_faults_that_hide_each_other_are_all_repaired(tmp_path: Path) -> None:
    with GGUFFile.open(DEMO) as file:
        pattern, counts = file.metadata[SLIDING].copy(), file.metadata[COUNT][:14]
    pattern[14:] = False
    broken = rewrite(
        DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO, HEADS), plus(-1.0)),
        {SLIDING: pattern, COUNT: counts},
    )  # fmt: skip
    assert {kind for kind, _ in faults(broken)} == {"list-length", "window", "norm-offset"}
    assert_repaired(broken, DEMO, tolerance=1e-6)


def test_a_quantised_model_with_other_types_is_judged_alike(tmp_path: Path) -> None:
    path = write_model(tmp_path / "good.gguf", quantised(Shape(seed=3), QuantType.Q5_K))
    assert faults(path) == []
