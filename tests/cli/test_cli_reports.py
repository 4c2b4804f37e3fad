"""`inspect`, `perplexity` and `bench`: figures that can be checked, as tables and as JSON."""

import hashlib
import json

import numpy as np
import pytest

from stepahead import LLM
from stepahead.cli.bench import _parse_depths
from stepahead.cli.loading import size
from stepahead.errors import ConfigError
from stepahead.gguf import write_gguf
from support.random_step35 import Shape, metadata, model_tensors

REF = ("--backend", "reference")


# --- inspect ---
def test_inspect_counts_every_byte(cli, model_path):
    found = json.loads(cli("inspect", model_path("f32"), "--json", "--context-length", 1000).out)
    assert found["num_trunk_layers"] == 4
    assert found["num_heads_declared"] == found["num_heads_found"] == found["num_heads_usable"] == 3
    assert sum(found["bytes_by_part"].values()) == sum(found["bytes_by_type"].values()) == found["nbytes"]
    assert found["is_supported"]
    blocks = -(-1000 // 64)
    # One full layer of two KV heads of 32, keys and values in f16.
    assert found["context_bytes"]["1000"]["full"] == blocks * 64 * 2 * 2 * 32 * 2


HEADS = [
    ("full", {}, "drafting up to 3 tokens a step"),
    ("trunk", {}, "no MTP heads"),
    ("declared", {}, "although 3 are declared"),
    ("full", {"num_heads_mtp": 1}, "1 of 3 MTP heads"),
]


@pytest.mark.parametrize(("part", "changes", "sentence"), HEADS)
def test_inspect_says_plainly_what_the_heads_are(cli, model_path, part, changes, sentence):
    result = cli("inspect", model_path("f32", part, **changes))
    assert result.code == 0, result.err
    assert sentence in " ".join(result.out.split())


def test_inspect_takes_the_heads_of_a_companion(cli, model_path):
    flags = (model_path("f32", "trunk"), "--mtp", model_path("f32", "heads"), "--json")
    found = json.loads(cli("inspect", *flags).out)
    assert found["num_heads_usable"] == 3
    assert found["bytes_by_part"]["heads"] > 0


def test_inspect_shows_a_file_that_cannot_be_run_and_says_why(cli, tmp_path):
    path = tmp_path / "other.gguf"
    shape = Shape()
    write_gguf(path, {**metadata(shape), "general.architecture": "llama"}, dict(model_tensors(shape)))
    result = cli("inspect", path)
    assert result.code == 1
    assert "llama" in result.out
    assert "'llama' is not supported" in result.err
    assert result.err.count("\n") == 1


def test_inspect_refuses_a_context_the_model_has_not(cli, model_path):
    result = cli("inspect", model_path("f32"), "--context-length", 5000)
    assert result.code == 2
    assert "5000" in result.err
    assert "4096" in result.err


# --- perplexity ---
def test_perplexity_is_that_of_the_logits(cli, model_path, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("def add(a, b):\n    return a + b\n" * 4)
    flags = ("perplexity", model_path("f32"), "--file", text, "--window", 40, *REF)
    found = json.loads(cli(*flags, "--json").out)
    nats, count = 0.0, 0
    with LLM(model_path("f32"), backend="reference") as llm:
        ids = llm.tokenize(text.read_text())
        for start in range(0, len(ids), 40):
            window = ids[start : start + 40]
            rows = llm.logits(window).astype(np.float64)[:-1]
            rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
            nats -= rows[np.arange(len(window) - 1), window[1:]].sum()
            count += len(window) - 1
    assert found["num_tokens"] == count
    assert found["perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-9)
    line = cli(*flags)
    assert line.code == 0
    assert f"perplexity {found['perplexity']:.4f}" in line.out
    assert line.out.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "flags", "fragment"),
    [
        ("a", (), "1 tokens"),
        ("", (), "0 tokens"),
        ("abcdef", ("--window", 1), "--window 1"),
        ("abc", ("--window", 9999), "9999"),
    ],
)
def test_perplexity_refuses_what_cannot_be_scored(cli, model_path, tmp_path, text, flags, fragment):
    (tmp_path / "text.txt").write_text(text)
    result = cli("perplexity", model_path("f32"), "--file", tmp_path / "text.txt", *flags, *REF)
    assert result.code == 2
    assert fragment in result.err


# --- bench ---
@pytest.fixture(scope="module")
def bench_flags():
    return (*REF, "-p", "def f", "--max-tokens", 12, "--rounds", 2)


def test_bench_measures_plain_each_depth_and_auto(cli, model_path, bench_flags):
    result = cli("bench", model_path("f32"), *bench_flags, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [row["name"] for row in found["rows"]] == ["plain", "1", "2", "3", "auto"]
    assert all(row["is_same_text"] for row in found["rows"])
    plain, *_, deepest, _ = found["rows"]
    assert plain["ratio_to_plain"] == plain["tokens_per_step"] == 1.0
    assert plain["acceptance"] == []
    assert len(deepest["acceptance"]) == 3
    assert deepest["tokens_per_step"] > 1.0
    assert len(deepest["tokens_per_second_by_round"]) == 2
    assert set(deepest["milliseconds"]) == {"forward", "verify", "propose", "commit"}
    with LLM(model_path("f32"), backend="reference") as llm:
        logits = llm.logits(llm.tokenize("def f"))
    assert found["logits_hash"] == hashlib.sha256(logits.tobytes()).hexdigest()[:16]


def test_bench_shows_a_table_and_the_hash(cli, model_path, bench_flags):
    result = cli("bench", model_path("f32"), *bench_flags, "--depths", "2")
    assert result.code == 0, result.err
    assert "logits hash" in result.out
    for column in ("tokens/s", "gain", "trunk", "draft ms", "same"):
        assert column in result.out


def test_bench_of_a_model_without_heads_measures_plain_decoding(cli, model_path, bench_flags):
    found = json.loads(cli("bench", model_path("f32", "trunk"), *bench_flags, "--json").out)
    assert [row["name"] for row in found["rows"]] == ["plain"]


def test_bench_refuses_depths_and_rounds_that_are_none(cli, model_path, bench_flags):
    assert _parse_depths("3, 1,0") == [1, 3]
    with pytest.raises(ConfigError, match="'1,x'"):
        _parse_depths("1,x")
    assert cli("bench", model_path("f32"), *bench_flags, "--depths", "7").code == 2
    assert cli("bench", model_path("f32"), *REF, "--rounds", 0).code == 2
    full = cli("bench", model_path("f32", context=32), *REF, "-p", "a" * 31, "--rounds", 1)
    assert full.code == 2
    assert "no room to decode in a context of 32" in full.err


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (7_421_000, "7.42 MB"), (10**15, "1000 TB")]
)
def test_sizes_for_people(nbytes, shown):
    assert size(nbytes) == shown
