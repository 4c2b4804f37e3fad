"""Which costs belong to which model, machine and settings; and that they are measured once."""

import pytest

from stepahead import LLM
from stepahead.machine import OtherPrograms
from stepahead.speculative import model_costs
from stepahead.speculative.cost_file import CostFile


def path_of(llm):
    return CostFile.of(llm._costs.facts(), 3).path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path))
    monkeypatch.setattr(model_costs, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(OtherPrograms, "cpus", lambda _: 0.0)
    return tmp_path


def test_costs_are_measured_once_and_anew_when_asked(model_path):
    with LLM(model_path("f32"), threads=1) as llm:
        first = llm.costs()
        assert len(first.head_ms) == 3
        assert llm.costs() is first
        anew = llm.costs(anew=True)
        assert anew != first
        assert llm.costs() is anew
    with LLM(model_path("f32"), threads=1) as llm:
        assert llm.costs() == anew
    with LLM(model_path("f32", "trunk"), threads=1) as llm:
        assert llm.costs().head_ms == ()


OTHERS = {
    "file": {"model": "q8_0"},
    "without heads": {"mtp": "off"},
    "threads": {"threads": 2},
    "keys": {"kv_type": "f32"},
    "device": {"device": "reference"},
    "shortlist": {"draft_vocab": 64},
    "heads' type": {"draft_type": "Q8_0"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_or_setting_has_costs_of_its_own(model_path, name):
    same = {"model": "f32", "threads": 1}
    changed = {**same, **OTHERS[name]}
    paths = []
    for settings in (same, same, changed):
        with LLM(**{**settings, "model": model_path(settings["model"])}) as llm:
            paths.append(path_of(llm))
    assert paths[0] == paths[1] != paths[2]


def test_a_companion_and_an_instruction_set_count_too(model_path, monkeypatch):
    paths = []
    for heads in (model_path("f32", "heads"), model_path("f32", "heads", seed=2)):
        with LLM(model_path("f32", "trunk"), mtp=heads, threads=1) as llm:
            paths.append(path_of(llm))
    monkeypatch.setenv("STEPAHEAD_ISA", "scalar")
    with LLM(model_path("f32", "trunk"), mtp=model_path("f32", "heads"), threads=1) as llm:
        paths.append(path_of(llm))
    assert len(set(paths)) == 3


def test_what_costs_no_time_is_not_kept(model_path, folder, monkeypatch):
    monkeypatch.setattr(model_costs, "MIN_SECONDS", 60.0)
    with LLM(model_path("f32"), threads=1) as llm:
        llm.costs()
    assert list(folder.iterdir()) == []


def test_what_was_measured_on_a_busy_machine_is_not_kept(model_path, folder, monkeypatch):
    monkeypatch.setattr(model_costs, "default_threads", lambda: 4)
    monkeypatch.setattr(OtherPrograms, "cpus", lambda _: 3.6)
    with LLM(model_path("f32"), threads=1) as llm:
        llm.costs()
        assert list(folder.iterdir()) == []
        monkeypatch.setattr(OtherPrograms, "cpus", lambda _: 3.4)
        llm.costs(anew=True)
        assert list(folder.iterdir()) != []
