"""The comparison with llama.cpp that the pages show is the one that was measured."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load_tool():
    spec = importlib.util.spec_from_file_location("peers_pages", ROOT / "tools" / "docs" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load_tool()


def figure(key: str, ours: float, theirs: float, ratio: float | None) -> dict:
    sides = {"stepahead": {"median": ours}, "llama.cpp repacked": {"median": theirs}}
    times = None if ratio is None else {"median": ratio}
    return {
        "key": key,
        "label": key,
        "unit": "ms",
        "peer": "llama.cpp repacked",
        "sides": sides,
        "times_as_fast": times,
    }


def test_the_pages_say_what_the_results_say():
    for path, text in TOOL.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run tools/docs/peers.py and commit {path.name}"


def test_a_cell_has_the_ratio_and_both_sides():
    result = {"model_bytes": 5e7, "sides": {"stepahead": {}}, "figures": [figure("verify-4", 0.83, 2.77, 3.43)]}
    lines = TOOL.comparison({"small": result}, None)
    assert lines[0] == "|  | small, 0.05 GB |"
    assert lines[2] == "| verify-4, ms | **3.43x** (0.83 / 2.77) |"


def test_parts_and_figures_that_were_not_asked_are_left_out():
    figures = [figure("draft", 1.0, 2.0, None), figure("decode", 1.0, 2.0, 2.0), figure("load", 1.0, 2.0, 2.0)]
    found = {"small": {"model_bytes": 5e7, "sides": {"stepahead": {}}, "figures": figures}}
    assert len(TOOL.comparison(found, ("decode", "draft"))) == 3


def test_a_matrix_is_compared_with_the_better_layout_of_each_side():
    one = {"rows": 1, "nbytes": 100, "bandwidth": 100.0, "seconds": {"plain": [2.0], "ggml": [3.0]}}
    four = {**one, "rows": 4, "seconds": {"plain": [4.0], "interleaved": [2.5], "ggml": [9.0], "ggml repacked": [5.0]}}
    line = TOOL._matrix_line("Q4_K", dict.fromkeys(TOOL.ROWS, four) | {1: one})
    assert line[:4] == ["Q4_K", "2000.00", "0.50", "1.25"]
    assert line[-6] == "1.50"
    assert line[-1] == "2.00"
