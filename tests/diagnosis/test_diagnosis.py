"""A whole diagnosis of small models: what is measured, and that it ends in time."""

import time

import pytest

from stepahead import LLM
from stepahead.diagnosis import diagnosis, machine_report
from stepahead.diagnosis.bandwidth import read_bandwidth
from stepahead.diagnosis.diagnosis import diagnose
from stepahead.machine import OtherPrograms
from stepahead.speculative import model_costs
from stepahead.texts import KINDS


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path))
    monkeypatch.setattr(machine_report, "read_bandwidth", lambda threads: read_bandwidth(threads, 1 << 20))


def test_every_kind_is_drafted_and_its_experts_are_counted(model_path):
    seen = []
    with LLM(model_path("f32"), threads=1) as llm:
        found = diagnose(llm, 30.0, lambda *args: seen.append(args))
    assert [report.kind for report in found.texts] == list(KINDS)
    assert found.skipped_kinds == ()
    assert found.num_heads_usable == len(found.cost.head_ms) == 3
    for report in found.texts:
        assert report.num_tokens > 100
        assert len(report.acceptance) == len(report.expectations) == 3
        assert all(0.0 <= share <= 1.0 for share in report.acceptance)
        assert report.overlap[1] == 1.0
        assert 1.0 < report.overlap[4] <= report.overlap[16] <= 4.0  # of 8 experts, 2 a token
    assert found.machine.bytes_per_second > 1e6
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_without_heads_costs_and_experts_are_left(model_path):
    with LLM(model_path("f32", "trunk"), threads=1) as llm:
        found = diagnose(llm, 30.0)
    assert found.num_heads_usable == 0
    assert found.cost.head_ms == ()
    assert {report.acceptance for report in found.texts} == {()}
    assert all(report.overlap for report in found.texts)


@pytest.mark.parametrize("context", [8, 40, 130])
def test_a_small_context_is_room_enough(model_path, context):
    with LLM(model_path("f32", context=context), threads=1) as llm:
        found = diagnose(llm, 5.0)
    assert [report.kind for report in found.texts] == list(KINDS)


def test_one_head_is_measured_as_deep_as_three(model_path):
    with LLM(model_path("f32", num_heads_mtp=1), threads=1) as llm:
        found = diagnose(llm, 30.0)
    assert found.info.num_heads_found == 1
    assert {len(report.acceptance) for report in found.texts} == {3}


def test_a_model_that_is_too_slow_gets_one_kind_of_text_and_no_more_time(model_path, monkeypatch):
    shared = []
    monkeypatch.setattr(diagnosis, "PROMPT_TOKENS", 16)
    with LLM(model_path("f32"), threads=1, device="reference") as llm:
        started = time.perf_counter()
        found = diagnose(llm, 0.01, lambda *args: shared.append(args))
        assert time.perf_counter() - started < 20
    assert [report.kind for report in found.texts] == ["code"]
    assert found.skipped_kinds == KINDS[1:]
    assert found.texts[0].num_tokens == 16


def test_costs_are_kept_for_the_next_start(model_path, monkeypatch):
    monkeypatch.setattr(model_costs, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(OtherPrograms, "cpus", lambda _: 0.0)
    with LLM(model_path("f32"), threads=1) as llm:
        found = diagnose(llm, 1.0)
    with LLM(model_path("f32"), threads=1) as llm:
        assert llm.costs() == found.cost
