"""`stepahead convert`: what it says, as text and as JSON, and what it refuses."""

import json
from pathlib import Path

import pytest

from stepahead.gguf import GGUFFile
from support.hub_checkpoint import hub_tensors, tokenizer_json, write_hub
from support.random_step35 import Shape

SHAPE = Shape(rope_freqs=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hub(tmp_path / "Step-Test", SHAPE, hub_tensors(SHAPE, "BF16"), num_files=4)


def test_a_line_says_what_was_written(cli, folder: Path, tmp_path: Path) -> None:
    result = cli("convert", folder, "-o", tmp_path / "out.gguf", "--type", "Q8_0")
    assert result.code == 0
    assert result.out == ""
    for said in (f"{tmp_path}/out.gguf: ", " MB, Q8_0, ", "4 layers, 3 MTP heads; ", "B/s; 4 of 4 shards read"):
        assert said in result.err
    assert cli("inspect", tmp_path / "out.gguf").code == 0


def test_json(cli, folder: Path, tmp_path: Path) -> None:
    result = cli("convert", folder, "-o", tmp_path, "--heads-only", "--json")
    found = json.loads(result.out)
    assert found["files"] == [str(tmp_path / "mtp-Step-Test-BF16.gguf")]
    assert (found["num_heads"], found["has_trunk"], found["num_shards_opened"], found["num_shards"]) == (3, False, 2, 4)
    assert found["nbytes"] == (tmp_path / "mtp-Step-Test-BF16.gguf").stat().st_size


def test_parts_split_and_pre(cli, folder: Path, tmp_path: Path) -> None:
    result = cli("convert", folder, "-o", tmp_path / "trunk.gguf", "--no-heads", "--split-size", 0.0004)
    assert "trunk-00001-of-00007.gguf in 7 files" in result.err
    assert "no MTP heads" in result.err
    found = tokenizer_json(SHAPE)
    found["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(found))
    result = cli("convert", folder, "-o", tmp_path / "out.gguf")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "say so: --pre NAME" in result.err
    assert cli("convert", folder, "-o", tmp_path / "out.gguf", "--pre", "deepseek-v3").code == 0
    assert GGUFFile.open(tmp_path / "out.gguf").metadata["tokenizer.ggml.pre"] == "deepseek-v3"


def test_notes(cli, tmp_path: Path) -> None:
    shape = Shape(rope_freqs=False, expert_width=48)
    tensors = hub_tensors(shape, "BF16")
    tensors["vision_model.a"] = tensors["vision_model.b"] = tensors["model.norm.weight"]
    folder = write_hub(tmp_path / "hub", shape, tensors)
    (tmp_path / ".out.gguf.0123abcd.tmp").touch()
    result = cli("convert", folder, "-o", tmp_path / "out.gguf", "--type", "Q8_0")
    assert "2 vision tensors were left out" in result.err
    assert "3 tensors are F16, their rows are no whole blocks of Q8_0: blk.1.ffn_down_exps.weight" in result.err
    assert ".out.gguf.0123abcd.tmp was left by a run that was killed" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--heads-only", "--no-heads"), "--heads-only and --no-heads leave nothing: give one of them"),
        (("--split-size", "0"), "--split-size 0 is no size in GB"),
        (("--split-size", "0.0001"), "more than a shard may have (100000)"),
        (("--type", "Q4_K"), "'Q4_K' is not one of"),
        (("--pre", "x"), "--pre x is not known; known are deepseek-v3"),
    ],
)
def test_mistakes(cli, folder: Path, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    result = cli("convert", folder, "-o", tmp_path / "out.gguf", *flags)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err
    assert not (tmp_path / "out.gguf").exists()
