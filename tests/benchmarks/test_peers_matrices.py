"""The comparison of single matrices: every side answers, and a wrong answer is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import llama, matrices
from benchmarks.peers.matrices import Cell
from stepahead.gguf import QuantType


def test_ratios_are_taken_within_a_round() -> None:
    cell = Cell("Q4_K", 4, 2_000_000, 1e9, {"plain": [1.0, 2.0, 4.0], "ggml": [3.0, 4.0, 4.0]})
    assert cell.ratio("ggml", "plain") == 2.0
    assert cell.floor_ms == 2.0
    assert cell.best(matrices.OURS) == "plain"
    assert cell.best(("ggml repacked",)) is None
    assert cell.ratio(None, "plain") is None


def test_the_command_measures_every_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "matrices.json"
    arguments = ["--types", "Q4_K", "F16", "--rows", "4", "1", "--megabytes", "1", "--rounds", "1", "--json", str(out)]
    assert matrices.main(arguments) == 0
    cells = json.loads(out.read_text())
    assert [(cell["type"], cell["rows"]) for cell in cells] == [("Q4_K", 1), ("Q4_K", 4), ("F16", 1), ("F16", 4)]
    peers = {"ggml", "ggml repacked"} if llama.why_missing() is None else set()
    assert set(cells[0]["seconds"]) == {"plain", "interleaved"} | peers
    assert "/ 1 row" in capsys.readouterr().out


@pytest.mark.skipif(llama.why_missing() is not None, reason=str(llama.why_missing()))
def test_another_product_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    product = matrices.ggml.Product.result
    monkeypatch.setattr(matrices.ggml.Product, "result", lambda self, rows: product(self, rows)[:, ::-1])
    bench = matrices.Bench(QuantType.Q8_0, 1 << 20, [2], 1, None)
    difference, digest = bench.disagreement()
    bench.close()
    assert difference > matrices.CLOSE
    assert len(digest) == 12
    assert np.isfinite(difference)
