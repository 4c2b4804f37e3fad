"""Chains compared: the engine's own counts, and a head that is run again without a trace."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import chains
from benchmarks.chains import ALL, beginnings, main, measure
from benchmarks.every_row import EveryRow
from benchmarks.reused_head import AS_HEAD, CATCHUP, LONGEST, ON_OUTPUT, Reuse
from stepahead import LLM
from stepahead.texts import load

TEXT = "class Box:\n    def __init__(self, width, height):\n        self.width = width\n        self.height = height\n"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM.demo(threads=1, max_num_seqs=1) as llm:
        yield llm


def test_beginnings_are_of_the_texts_and_edits_go_on_as_recorded(llm: LLM) -> None:
    found = list(beginnings(llm, 3, 20))
    assert [sum(begin.kind == kind for begin in found) for kind in chains.KINDS] == [9] * 4
    assert len({tuple(begin.ids) for begin in found}) == 36
    for begin in found:
        assert (begin.recorded is not None) == (begin.kind == "edit")
        assert begin.recorded is None or len(begin.recorded) == 20


def test_a_text_that_agrees_with_everything_accepts_everything(llm: LLM) -> None:
    ids = llm.tokenize(TEXT)
    for chances in Reuse(llm).chances(ids, 8, lambda _, position: ids[position]).values():
        assert np.nansum(chances) == np.isfinite(chances).sum()
        # Draft token j of place i is token 8 + i + j + 1, and the last one is never drafted.
        assert np.isfinite(chances).sum(axis=0).tolist() == [len(ids) - 10 - index for index in range(LONGEST)]


def test_a_head_on_its_output_leaves_its_keys_as_they_were(llm: LLM) -> None:
    """The logits of places 4 and 5 at each place, against those of a text that ends there."""
    ids, first = llm.tokenize(TEXT), 8
    seen: list[tuple[int, np.ndarray]] = []

    def choose(logits: np.ndarray, position: int) -> int:
        seen.append((position, logits.copy()))
        return ids[position]

    reuse, every = Reuse(llm), EveryRow(llm)
    rows = reuse._every.run(ids, first, LONGEST)
    reuse._on_output(rows, choose)
    num_judged = sum(np.isfinite(reuse._as_head(rows, lambda *_: 0)).sum(axis=0))
    again = seen[num_judged:]
    assert len(again) == 2 * (len(ids) - 14) + 1  # one place has room for the fourth alone
    for number in (0, 8, 20):
        (position, fourth), (after, fifth) = again[2 * number : 2 * number + 2]
        row = first + number + 3
        assert (position, after) == (row + 1, row + 2)
        alone = every.run(ids[: row + 1], first, 3)
        logits, hidden = every.head(2, ids, range(row, row + 1), alone.levels[3][-1:], row)
        assert np.array_equal(logits[0], fourth)
        logits, _ = every.head(2, ids, range(row + 1, row + 2), hidden, row + 1)
        assert np.array_equal(logits[0], fifth)


def test_a_repeated_head_has_keys_of_its_own(llm: LLM) -> None:
    ids, every = llm.tokenize(TEXT), EveryRow(llm)
    three = every.run(ids, 8, 3)
    five = every.run(ids, 8, 5)
    end = len(ids) - 1
    logits, _ = every.head(2, ids, range(end - 1, end), five.levels[2][-2:-1], end - 1)
    assert np.array_equal(logits[0], three.heads[2][-1])
    assert not np.array_equal(five.heads[3][-1], five.heads[2][-1])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_engine_accepts_what_the_figures_say(llm: LLM, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "KINDS", ("code", "edit"))
    monkeypatch.setattr(chains, "load", lambda kind: load(kind)[:1])
    found = measure(llm, temperature, 1, 16)  # raises where it does not
    for kind, number in {ALL: 2, "code": 1, "edit": 1}.items():
        assert {len(counts) for counts in found[kind].values()} == {number}
        for chain, way in (("exact", AS_HEAD), ("exact", ON_OUTPUT), ("catchup", CATCHUP)):
            rounds, engine = (found[kind][name, 3] for name in (way, chain))
            assert sum(counts.accepted for counts in rounds).tolist() == sum(c.accepted for c in engine).tolist()
            assert sum(counts.reached[0] for counts in rounds) == sum(counts.reached[0] for counts in engine)
    for way in (AS_HEAD, ON_OUTPUT, CATCHUP):
        for depth in range(3, LONGEST + 1):
            assert all(len(counts.reached) == depth for counts in found[ALL][way, depth])


def test_the_command_prints_both_tables(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "KINDS", ("code",))
    assert main(["--cuts", "1", "--tokens", "8", "--threads", "1", "--temperatures", "0"]) == 0
    text = capsys.readouterr().out
    assert text.count("0 code") == 4
    assert "0 all, as a head" in text
    assert main(["--cuts", "0"]) == 2
    assert capsys.readouterr().err.startswith("chains: give at least 1")
