"""`stepahead quantize` and `stepahead imatrix` as commands: what they print, write and refuse."""

import json
from pathlib import Path

import pytest

from stepahead.gguf import GGUFFile, QuantType
from support.hub_checkpoint import hub_tensors, write_hub
from support.random_step35 import Shape, quantised

TEXT = "def the return in the def " * 40


@pytest.fixture
def source(model_path) -> Path:
    return model_path(quantised(Shape(num_trunk=3), QuantType.BF16))


def test_a_file_and_a_table(cli, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    result = cli("quantize", source, out, "q4_k")
    assert result.code == 0, result.err
    assert "blk.0.attn_q.weight" in result.out
    assert "RMSE" in result.out
    assert f"{out}: " in result.err
    assert "Q4_K_M" in result.err
    assert cli("inspect", out).code == 0
    assert "3 usable" in cli("inspect", out).out


def test_json(cli, source: Path, tmp_path: Path) -> None:
    result = cli("quantize", source, tmp_path / "out.gguf", "Q4_K_M", "--json")
    found = json.loads(result.out)
    assert found["files"] == [str(tmp_path / "out.gguf")]
    assert found["nbytes"] == (tmp_path / "out.gguf").stat().st_size
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert by_name["blk.0.attn_q.weight"]["to"] == "Q4_K"
    assert 0 < by_name["blk.0.attn_q.weight"]["relative"] < 0.12
    assert by_name["blk.3.nextn.eh_proj.weight"]["to"] == "Q8_0"
    assert found["check"] is None


def test_dry_run_writes_nothing(cli, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "out.gguf"
    result = cli("quantize", source, out, "Q4_K_M", "--dry-run", "--tensor", "ffn_down_exps=F16")
    assert result.code == 0
    assert "nothing was written" in result.out
    planned = json.loads(cli("quantize", source, out, "Q4_K_M", "--dry-run", "--json").out)
    assert cli("quantize", source, tmp_path / "out.gguf", "Q4_K_M").code == 0
    found = {info.name: info.type.name for info in GGUFFile.open(tmp_path / "out.gguf").tensors.values()}
    assert {tensor["name"]: tensor["to"] for tensor in planned["tensors"]} == found
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_importance_from_text_to_file(cli, source: Path, tmp_path: Path) -> None:
    text, matrix = tmp_path / "text.txt", tmp_path / "imatrix.gguf"
    text.write_text(TEXT)
    result = cli("imatrix", source, "-o", matrix, text, "--chunk", "128", "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    assert made["num_chunks"] > 1
    assert made["chunk_size"] == 128
    plain = json.loads(cli("quantize", source, tmp_path / "a.gguf", "Q3_K_S", "--json").out)
    weighed = json.loads(cli("quantize", source, tmp_path / "b.gguf", "Q3_K_S", "--imatrix", matrix, "--json").out)
    assert weighed["not_in_imatrix"] == ["token_embd.weight"]
    assert all(tensor.get("relative_weighted") is None for tensor in plain["tensors"])
    changed = [t for t in weighed["tensors"] if t["to"] == "Q3_K" and t["name"] != "token_embd.weight"]
    assert len(changed) > 20
    assert all(tensor["relative_weighted"] > 0 for tensor in changed)


def test_importance_of_the_built_in_texts(cli, source: Path, tmp_path: Path) -> None:
    result = cli("imatrix", source, "-o", tmp_path / "imatrix.gguf", "--max-chunks", "2", "--mtp", "off")
    assert result.code == 0, result.err
    assert "2 chunks of 512" in result.err


def test_check(cli, source: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    command = ("quantize", source, tmp_path / "out.gguf", "Q4_0", "--check", "--text", text)
    found = json.loads(cli(*command, "--json").out)["check"]
    assert found["num_tokens"] > 100
    assert found["mean_kl_divergence"] > 0
    assert len(found["before"]["acceptance"]) == 3
    shown = cli(*command).out
    assert "mean KL divergence" in shown
    assert "drafts accepted" in shown


def test_what_does_not_fit_is_one_line(cli, model_path, tmp_path: Path) -> None:
    source = model_path(Shape(num_trunk=2, hidden=160, width=288))
    result = cli("quantize", source, tmp_path / "out.gguf", "Q4_K_M")
    line = next(line for line in result.err.splitlines() if "no whole blocks" in line)
    assert "Q4_K -> Q5_0" in line
    assert "Q6_K -> Q8_0" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Q4",), "no mix of types 'Q4'"),
        (("Q4_K_M", "--tensor", "ffn_dwn=Q8_0"), "matches none"),
        (("Q4_K_M", "--heads-type", "Q9"), "no tensor type 'Q9'"),
        (("Q4_K_M", "--text", "x.txt"), "--check"),
        (("Q4_K_M", "--check", "--dry-run"), "--dry-run"),
        (("Q4_K_M", "--split-size", "0"), "--split-size 0"),
        (("Q4_K_M", "--imatrix", "SOURCE"), "no importance matrix"),
    ],
)
def test_refusals_are_one_line(cli, source: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = cli("quantize", source, tmp_path / "out.gguf", *(source if word == "SOURCE" else word for word in words))
    assert result.code in (1, 2)
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--chunk", "1"), "--chunk 1"),
        (("--max-chunks", "0"), "--max-chunks 0"),
        (("--chunk", "5000"), "more than the context"),
    ],
)
def test_refusals_of_imatrix(cli, source: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = cli("imatrix", source, "-o", tmp_path / "out.gguf", *words)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert message in result.err
    assert not list(tmp_path.iterdir())
    assert cli("imatrix", source, "-o", source).code == 2


def test_from_a_checkpoint_to_text(cli, tmp_path: Path) -> None:
    """convert, quantize, inspect, run."""
    shape = Shape(rope_freqs=False)
    folder = write_hub(tmp_path / "Step-Test", shape, hub_tensors(shape, "BF16"))
    whole, small = tmp_path / "whole.gguf", tmp_path / "small.gguf"
    assert cli("convert", folder, "-o", whole).code == 0
    assert cli("quantize", whole, small, "Q4_0").code == 0
    assert "3 usable" in cli("inspect", small).out
    result = cli("run", small, "-p", "def the", "--max-tokens", "8", "--ignore-eos", "--speculation", "mtp")
    assert result.code == 0, result.err
    assert small.stat().st_size < 0.5 * whole.stat().st_size
