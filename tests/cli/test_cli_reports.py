"""`inspect` and `perplexity`: figures that can be checked, as tables and as JSON."""

import json

import numpy as np
import pytest

from stepahead import LLM
from stepahead.cli.loading import size
from stepahead.gguf import write_gguf
from support.random_step35 import Shape, metadata, model_tensors

REF = ("--device", "reference")


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
    with LLM(model_path("f32"), device="reference") as llm:
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


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (7_421_000, "7.42 MB"), (10**15, "1000 TB")]
)
def test_sizes_for_people(nbytes, shown):
    assert size(nbytes) == shown
