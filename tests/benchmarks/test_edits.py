"""Edits that are replayed: they are what they say, they parse, and nothing else of the file has changed."""

import ast
import difflib
import json

import pytest

from benchmarks.edits.__main__ import as_text, find_tasks, main
from benchmarks.edits.changes import add_argument, excerpts, insert_guards, make_edits, rename
from stepahead import LLM

SOURCE = '''"""Shapes."""


def area(width, height=1):
    """Of a rectangle; its width counts."""
    return width * height


class Box:
    def grow(self, width):
        self.width = width + area(width=width)
        return {"width": width}
'''


def changed(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[0] in "+-" and not line.startswith(("+++", "---"))]


def test_a_rename_leaves_attributes_and_strings_alone():
    edit = rename(SOURCE)
    assert edit.instruction == "Rename width to given_width."
    assert "def area(given_width, height=1):" in edit.edited
    assert "Of a rectangle; its width counts." in edit.edited
    assert "self.width = given_width + area(given_width=given_width)" in edit.edited
    assert 'return {"width": given_width}' in edit.edited


def test_an_argument_is_added_and_used():
    edit = add_argument(SOURCE)
    assert changed(SOURCE, edit.edited) == [
        "-def area(width, height=1):",
        "+def area(width, height=1, verbose=False):",
        "+    if verbose:",
        '+        print("area was called")',
    ]
    assert edit.edited.index('counts."""') < edit.edited.index("if verbose")


def test_guards_stand_after_the_docstring_in_every_function():
    edit = insert_guards(SOURCE)
    assert edit.instruction.startswith("Raise ValueError in area, grow ")
    assert edit.edited.count("    if width is None:\n") == 2
    assert '        if width is None:\n            raise ValueError("width must not be None")\n' in edit.edited
    assert all(line.startswith("+") for line in changed(SOURCE, edit.edited))


def test_what_has_no_place_gets_no_edit():
    assert make_edits("x = 1\n") == []
    assert make_edits("def f(*args): return args\n") == []
    assert [edit.kind for edit in make_edits("def f(a, *rest):\n    return a\n")] == ["guard"]


def test_a_wide_character_before_an_argument_moves_nothing():
    edit = add_argument('def f(a="é", b="ü"):\n    return a + b\n')
    assert edit.edited.startswith('def f(a="é", b="ü", verbose=False):\n')


def test_excerpts_end_at_the_top_level_the_longest_first():
    found = list(excerpts(SOURCE, most=len(SOURCE), least=50))
    assert found[0] == SOURCE
    assert found[1].endswith("return width * height\n")
    assert len(found) == 2
    assert list(excerpts(SOURCE, most=len(SOURCE) - 1, least=50)) == found[1:]


def test_the_demo_model_has_files_of_every_edit():
    with LLM.demo(threads=1) as llm:
        tasks = find_tasks(llm, 5, None)
        room = llm.config.context_length
        assert all(len(llm.tokenize(task.case.prompt + task.case.recording)) <= room for task in tasks)
    assert len({task.file for task in tasks}) == 5
    assert [task.edit.kind for task in tasks] == ["rename", "argument", "guard"] * 5
    for task in tasks:
        original = task.case.prompt.split("```python\n")[1].partition("```")[0]
        ast.parse(original)
        assert changed(original, task.edit.edited)
        assert task.case.recording == task.edit.edited + "```\n"


def test_the_report_has_a_line_for_each_edit_and_the_median(tmp_path, capsys):
    out = tmp_path / "edits.json"
    flags = ["--files", "1", "--rounds", "1", "--max-tokens", "12", "--depths", "1 auto", "--threads", "1"]
    assert main([*flags, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report["median_ratio_to_plain"]) == {"plain", "1", "auto"}
    assert len(report["edits"]) == 3
    for edit in report["edits"]:
        assert all(row["num_tokens"] == 11 and row["is_same_text"] for row in edit["rows"])
    text = capsys.readouterr().out
    assert text.rstrip() == as_text(report)
    assert text.count("colorsys.py") == 3
    assert "median" in text


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--files", "0"], ["--json", "/nowhere/at/all.json"]])
def test_flags_that_make_no_sense_are_refused(flags, capsys):
    assert main(flags) == 2
    assert capsys.readouterr().err.startswith("edits: ")
