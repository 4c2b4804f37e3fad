"""Documentation says what is: pages are fresh, links lead somewhere, included code exists, examples run."""

import ast
import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from stepahead.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load_tool(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as mkdocs makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_command_line_page_is_fresh():
    tool = load_tool("tools/docs/cli_reference.py")
    assert tool.TARGET.read_text(encoding="utf-8") == tool.page(), "run `make docs` and commit docs/reference/cli.md"


def test_the_pages_of_clients_and_serving_are_fresh():
    tool = load_tool("tools/docs/clients.py")
    texts = [target.read_text(encoding="utf-8") for target in tool.TARGETS]
    assert texts == [tool.page(text) for text in texts], "run `make docs` and commit docs/clients.md, docs/serving.md"
    filled = {found[3] for text in texts for found in tool.PLACE.finditer(text)}
    assert filled == {*tool.CLIENTS, *tool.TABLES}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in slugs(file), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_included_code_exists(page):
    for target in re.findall(r'^--8<-- "([^"]+)"$', page.read_text(encoding="utf-8"), re.MULTILINE):
        path, _, section = target.partition(":")
        text = (ROOT / path).read_text(encoding="utf-8")
        if section:
            assert f"--8<-- [start:{section}]" in text
            assert f"--8<-- [end:{section}]" in text


@pytest.mark.parametrize("drawing", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=name_of)
def test_drawings_are_well_formed_and_fetch_nothing(drawing):
    text = drawing.read_text(encoding="utf-8")
    xml.etree.ElementTree.fromstring(text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_run(example, tmp_path):
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_readme_shows_an_example_that_is_run():
    program = (ROOT / "docs" / "examples" / "generate.py").read_text(encoding="utf-8")
    statements = program.partition('"""\n\n')[2]
    assert f"```python\n{statements}```" in README


def test_the_commands_of_readme_and_docs_exist():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:#|`|$|EXTRAS))", text, re.MULTILINE)) <= targets
    assert {"run", "test"} <= targets
    shown = set(re.findall(r"^(?:echo .* \| |cat .* \| )?stepahead ([a-z]+)", text, re.MULTILINE))
    assert shown <= {command.__name__ for command in COMMANDS}


def test_the_first_screen_of_the_readme_has_the_two_commands():
    first = README.splitlines()[:25]
    assert any(line.startswith("make run") for line in first)
    assert any(line.startswith("make test") for line in first)
    assert "no assistant" in README


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in nav


def test_ci_runs_the_readmes_test_command_and_the_checks():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line.split()[1] for line in script.splitlines() if line.startswith("make ")] == ["test", "check", "docs"]


def test_the_figures_have_their_place_and_their_form():
    tool = load_tool("tools/docs/figures.py")
    assert tool.BEGIN in README
    assert tool.END in README.partition(tool.BEGIN)[2]
    row = {
        "name": "plain",
        "tokens_per_second": 100.0,
        "ratio_to_plain": 1.0,
        "tokens_per_step": 1.0,
        "acceptance": [],
        "milliseconds": {"forward": 9.0, "propose": 0.0},
        "is_same_text": True,
    }
    drafted = {**row, "name": "2", "acceptance": [0.75, 0.5], "ratio_to_plain": 1.25}
    facts = dict.fromkeys(("machine", "threads", "isa", "version", "num_prompts", "max_tokens", "rounds"), 1)
    text = tool.table({**facts, "model_bytes": 1e6, "logits_hash": "abc", "rows": [row, drafted]}, "stepahead bench")
    assert "| none | 100 | 1.00x | 1.00 | – | 9.00 | 0.00 |" in text
    assert "| 2 | 100 | 1.25x | 1.00 | 75 % 50 % |" in text


MACHINES = [
    ((3, 10), "both", True, True, "Python 3.10"),
    ((3, 12), "none", True, True, "python3.12-venv"),
    ((3, 12), "both", False, True, "python3.12-dev"),
    ((3, 12), "both", True, False, "C++ compiler"),
    ((3, 11), "both", True, True, None),
]


@pytest.mark.parametrize(("version", "modules", "headers", "compiler", "fault"), MACHINES)
def test_a_machine_that_lacks_something_is_told_what(version, modules, headers, compiler, fault):
    tool = load_tool("tools/check_machine.py")
    found = tool.missing((*version, 0), lambda _: modules == "both", headers, compiler)
    assert (found is None) if fault is None else (fault in found)
    assert found is None or "\n" not in found


def test_the_machine_check_can_be_read_by_old_pythons():
    ast.parse((ROOT / "tools" / "check_machine.py").read_text(encoding="utf-8"), feature_version=(3, 6))
