"""`doctor`: tables for people, one object for programs, one line for what is wrong."""

import json

import pytest

from stepahead.diagnosis import machine_report
from stepahead.diagnosis.bandwidth import read_bandwidth
from stepahead.texts import KINDS


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_report, "read_bandwidth", lambda threads: read_bandwidth(threads, 1 << 20))


def words(text):
    return " ".join(text.split())


def test_the_demo_model_drafts_code_well(cli):
    result = cli("doctor", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [report["kind"] for report in found["texts"]] == list(KINDS)
    code = found["texts"][0]
    assert code["acceptance"][0] > 0.8
    assert len(found["auto"]) == len(KINDS)
    assert found["info"]["num_heads_found"] == found["num_heads_usable"] == found["info"]["num_head_outputs"] == 3
    assert found["cost"]["rows"][0] == 1
    assert found["prompt_tokens_per_second"] > 0
    assert found["heads_verdict"].startswith("3 MTP heads")


def test_tables_show_costs_experts_and_texts(cli, model_path):
    result = cli("doctor", model_path("f32"), "--seconds", 5, "--threads", 1)
    assert result.code == 0, result.err
    for part in ("÷ plain step", "16 rows", "head 3", "experts touched by rows", "depth 3", "accepted", *KINDS):
        assert part in result.out
    assert "what auto will do" in result.out
    assert "advice" in result.out


def test_one_head_is_two_too_few(cli, model_path):
    result = cli("doctor", model_path("f32", num_heads_mtp=1), "--seconds", 5)
    assert result.code == 0, result.err
    assert "2 of 3 heads missing in this file" in words(result.out)


def test_without_heads_it_says_so_and_shows_the_rest(cli, model_path):
    result = cli("doctor", model_path("f32", "trunk"), "--seconds", 5)
    assert result.code == 0, result.err
    assert "no MTP heads: decoding is plain; give a companion file" in words(result.out)
    assert "auto decodes plainly" in result.out
    assert "16 rows" in result.out
    assert "head 1" not in result.out
    assert "depth 1" not in result.out


def test_a_companion_brings_its_heads(cli, model_path):
    flags = (model_path("f32", "trunk"), "--mtp", model_path("f32", "heads"))
    found = json.loads(cli("doctor", *flags, "--seconds", 5, "--json").out)
    assert found["num_heads_usable"] == 3


def test_a_truncated_file_is_one_line(cli, model_path, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(model_path("f32").read_bytes()[:5000])
    result = cli("doctor", path)
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "cut.gguf" in result.err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "99999"])
def test_a_time_that_is_none_is_refused(cli, model_path, seconds):
    result = cli("doctor", model_path("f32"), "--seconds", seconds)
    assert result.code == 2
    assert "--seconds" in result.err
