"""What --check measures: nothing between a model and itself, more the smaller the type."""

from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM
from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile
from stepahead.quantize.check import CheckText, Side, built_in_texts, compare
from stepahead.quantize.mix import find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.quantize.quantization import quantize_file

TEXTS = [CheckText("def the return", "def the return " * 12)]


def opened(path: Path) -> LLM:
    return LLM(path, threads=1, max_num_seqs=1, repack="never", draft_vocab="full")


def test_a_model_and_itself(f32: Path) -> None:
    with opened(f32) as a, opened(f32) as b:
        report = compare(a, b, TEXTS)
    assert report.num_tokens > 40
    assert (report.agreement, report.mean_divergence) == (1.0, 0.0)
    assert report.perplexity(report.old) == report.perplexity(report.new)
    assert report.old.acceptance == report.new.acceptance
    assert len(report.old.acceptance) == 3


def test_the_figures_are_those_of_the_logits(f32: Path, tmp_path: Path) -> None:
    with GGUFFile.open(f32) as file:
        out = quantize_file(make_plan(file, Request(find_mix("Q4_0"))), tmp_path / "out.gguf").files[0]
    with opened(f32) as a, opened(out) as b:
        report = compare(a, b, TEXTS)
        ids = a.tokenize(TEXTS[0].text)
        old, new = (np.float64(model.logits(ids)[:-1]) for model in (a, b))
    logs = [rows - np.log(np.exp(rows).sum(1, keepdims=True)) for rows in (old, new)]
    nats = -logs[1][np.arange(len(ids) - 1), ids[1:]].mean()
    assert report.perplexity(report.new) == pytest.approx(np.exp(nats), rel=1e-6)
    divergence = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).mean()
    assert report.mean_divergence == pytest.approx(divergence, rel=1e-6)
    assert divergence > 1e-4
    assert report.agreement == pytest.approx((old.argmax(1) == new.argmax(1)).mean())


def test_models_without_heads_draft_nothing(model_path) -> None:
    with opened(model_path("f32", part="trunk")) as a, opened(model_path("f32")) as b:
        report = compare(a, b, TEXTS)
    assert report.old.acceptance == []
    assert report.new.tokens_per_step == 1.0


def test_texts_without_two_tokens(f32: Path) -> None:
    with opened(f32) as a, opened(f32) as b, pytest.raises(ConfigError, match="no two tokens"):
        compare(a, b, [CheckText("", "a")])


def test_acceptance_is_of_drafts_that_got_that_far() -> None:
    side = Side(drafted=[10, 10, 10], accepted=[8, 5, 0])
    assert side.acceptance == [0.8, 0.5, 0.0]
    assert side.tokens_per_step == 2.3


def test_the_built_in_texts_are_all_of_them() -> None:
    assert len(built_in_texts()) == 18
    assert all(text.text.startswith(text.prompt) for text in built_in_texts())
