"""The measurement of gaps runs, and tells a limit from none."""

import json
from pathlib import Path

from benchmarks.serve_gap import main


def test_gaps_are_measured_with_and_without_a_limit(tiny_model: Path, tmp_path: Path, capsys) -> None:
    found = tmp_path / "gaps.json"
    arguments = [str(tiny_model), "--prompt", "500", "--limits", "none,5", "--rounds", "1", "--threads", "1"]
    assert main([*arguments, "--json", str(found)]) == 0
    unlimited, limited = json.loads(found.read_text())
    assert unlimited["max_step_ms"] is None and limited["max_step_ms"] == 5.0
    assert len(unlimited["beside"]) <= 4 < len(limited["beside"]), "more and shorter steps"
    lines = capsys.readouterr().out.splitlines()
    assert "beside: p50" in lines[1] and len(lines) == 4


def test_a_wrong_limit_is_one_line(capsys) -> None:
    assert main(["--limits", "fast"]) == 2
    assert capsys.readouterr().err.startswith("serve_gap: ")
