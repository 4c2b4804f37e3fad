"""What the experiment on prices reports, of passes whose cost is known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pricing import ALL, Step, compare, main
from stepahead.speculative.cost import CostSeed

SEED = CostSeed((1, 2, 3, 4), (2.0, 3.0, 4.0, 5.0), (10.0, 20.0, 30.0, 40.0), 0.1, (0.2, 0.2, 0.2), 0.0, 0.0)


def passes(count: int, switch: int, by_expert: float) -> list[Step]:
    """Texts that share half or none of their experts, each for `switch` passes; an expert costs `by_expert` ms."""
    steps = []
    for number in range(count):
        share = 0.5 if number // switch % 2 else 1.0
        rows = 1 + number % 4
        growth = tuple(10 + int(10 * share * row) for row in range(rows))
        kind = "alike" if share < 1.0 else "foreign"
        steps.append(Step(kind, number, rows, 1.0 + 0.1 * 10 * rows + by_expert * (growth[-1] - 10 * rows), growth))
    return steps


def medians(steps: list[Step], kind: str = ALL) -> list[float]:
    return [float(np.median(errors)) for errors in compare(SEED, steps)[kind].errors]


def test_counting_experts_helps_where_they_cost_and_change() -> None:
    rows_only, experts, known = medians(passes(2000, 200, by_expert=0.1))
    assert known < experts < 0.8 * rows_only
    figures = compare(SEED, passes(2000, 200, by_expert=0.1))
    assert set(figures) == {"foreign", "alike", ALL}
    assert len(figures[ALL].errors[0]) == 1500, "a pass of one row verifies nothing"
    assert any(first != second for first, second in figures[ALL].chosen)
    assert np.mean(figures[ALL].lost[1]) < np.mean(figures[ALL].lost[0])


def test_it_hurts_where_they_cost_nothing() -> None:
    rows_only, experts, _ = medians(passes(2000, 200, by_expert=0.0))
    assert rows_only < 1e-6 < experts


def test_a_model_runs_through_it(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_model), "--tokens", "4", "--threads", "1", "--synth-rates", ".9,.8,.7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny on ")
    assert [line.split()[0] for line in lines[4:]] == ["code", "edit", "prose", "chat", "json", "translation", ALL]
    assert all(len(line.split()) == 11 for line in lines[4:])


def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--synth-rates", ".5,.9"]) == 2
    assert capsys.readouterr().err.startswith("pricing: ")
