"""Kept costs: found again by the same model and machine, and never believed when anything about them is wrong."""

import json
import os

import pytest

from stepahead.speculative import cost_file
from stepahead.speculative.cost import CostSeed
from stepahead.speculative.cost_file import CostFile

SEED = CostSeed((1, 2, 4), (5.0, 6.0, 8.0), (16.0, 30.0, 50.0), 0.05, (0.5, 0.4), 0.1, 0.02)
OTHER = CostSeed((1, 2, 4), (7.0, 8.0, 9.0), (16.0, 30.0, 50.0), 0.0, (0.5, 0.4), 0.1, 0.02)
FACTS = {"model": [{"nbytes": 5}], "cpu": "a CPU"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_found_again():
    CostFile.of(FACTS, 2).write(SEED)
    assert CostFile.of(FACTS, 2).read() == SEED
    CostFile.of(FACTS, 2).write(OTHER)
    assert CostFile.of(FACTS, 2).read() == OTHER


def test_another_model_or_machine_has_costs_of_its_own():
    CostFile.of(FACTS, 2).write(SEED)
    for facts in ({**FACTS, "cpu": "another"}, {**FACTS, "threads": 3}):
        assert CostFile.of(facts, 2).read() is None


def damaged(change):
    """A kept file's object, changed."""
    CostFile.of(FACTS, 2).write(SEED)
    path = CostFile.of(FACTS, 2).path
    found = json.loads(path.read_text())
    change(found)
    return json.dumps(found)


def put(**values):
    return lambda found: found["cost"].update(values)


DAMAGE = {
    "rows that fall": put(rows=[1, 4, 2]),
    "rows from 2": put(rows=[2, 3, 4]),
    "rows of text": put(rows=["1", "2", "4"]),
    "rows of floats": put(rows=[1.0, 2.0, 4.0]),
    "no rows": put(rows=[], pass_ms=[], num_experts=[]),
    "a count too many": put(pass_ms=[5.0, 6.0, 8.0, 9.0]),
    "a free pass": put(pass_ms=[0.0, 6.0, 8.0]),
    "a negative cost": put(pass_ms=[-5.0, 6.0, 8.0]),
    "not a number": put(ms_per_expert=float("nan")),
    "without end": put(head_row_ms=float("inf")),
    "huge": put(head_row_ms=10**400),
    "a bool": put(kv_row_ms=True),
    "nothing": put(kv_row_ms=None),
    "heads of another model": put(head_ms=[1.0]),
    "a list of lists": put(pass_ms=[[5.0], [6.0], [8.0]]),
    "an object": put(pass_ms={"0": 1}),
    "ten thousand rows": put(rows=list(range(1, 10_001))),
    "no cost": lambda found: found.pop("cost"),
    "a cost of text": lambda found: found.update(cost="cheap"),
    "another format": lambda found: found.update(format=2),
    "other facts": lambda found: found.update(facts={"cpu": "another"}),
}
TEXTS = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[1, 2]",
    "a number": b"7",
    "nested": b"[" * 60_000,
    "no text": b"\xff\xfe\x00",
    "many digits": b"9" * 60_000,
    "too long": b" " * (1 << 17),
}


@pytest.mark.parametrize("name", [*DAMAGE, *TEXTS])
def test_a_file_that_is_wrong_is_not_believed_and_is_replaced(name):
    text = damaged(DAMAGE[name]).encode() if name in DAMAGE else TEXTS[name]
    path = CostFile.of(FACTS, 2).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    assert CostFile.of(FACTS, 2).read() is None
    CostFile.of(FACTS, 2).write(OTHER)
    assert CostFile.of(FACTS, 2).read() == OTHER


def test_what_is_no_file_is_left_alone():
    path = CostFile.of(FACTS, 2).path
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert CostFile.of(FACTS, 2).read() is None
    path.unlink()
    path.mkdir()
    assert CostFile.of(FACTS, 2).read() is None
    CostFile.of(FACTS, 2).write(SEED)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_had_is_no_error(folder, monkeypatch):
    folder.write_text("a file")
    try_both()
    monkeypatch.setenv("STEPAHEAD_CACHE", str(folder / "below"))
    try_both()
    monkeypatch.delenv("STEPAHEAD_CACHE")
    monkeypatch.setattr(cost_file, "user_folder", lambda: None)
    try_both()


def try_both():
    CostFile.of(FACTS, 2).write(SEED)
    assert CostFile.of(FACTS, 2).read() is None
