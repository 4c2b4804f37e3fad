"""The held-out files of benchmarks.filecheck are good and broken as they say, and a small run counts them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.filecheck.__main__ import main, outcome
from benchmarks.filecheck.altered import Altered, differing
from benchmarks.filecheck.faults import Fault, in_headers
from benchmarks.filecheck.good import Good, parts, random_models
from stepahead.filecheck.examine import examine
from stepahead.filecheck.patched_file import PatchedFile
from stepahead.filecheck.repair import Repair, add
from stepahead.gguf.block_name import block_number


@pytest.fixture
def model() -> Iterator[Good]:
    """Within the lifetime of its file."""
    with contextlib.closing(random_models(1, 7)) as models:
        yield next(models)


def test_a_fault_changes_its_file_and_right_repairs_are_told_from_wrong_ones(model: Good) -> None:
    fault = next(one for one in in_headers() if one.name == "all with 1 twice")
    broken = fault.alter(model)
    assert broken is not None
    assert differing(broken, model.file) == [name for name in model.norms if block_number(name) in model.layout.heads]
    findings, view = examine(broken)
    assert outcome(fault, model, broken, findings, view) == "found"
    assert outcome(fault, model, broken, (), broken) == "missed"
    wrong = PatchedFile(broken, Repair("", tensors={"output_norm.weight": add(1.0)}))
    assert outcome(fault, model, broken, findings, wrong) == "wrong repair"
    part = PatchedFile(broken, Repair("", tensors={differing(broken, model.file)[0]: add(-1.0)}))
    assert outcome(fault, model, broken, findings, part) == "repaired in part"


def test_parts_of_a_file(model: Good) -> None:
    found = {good.part: good.layout for good in parts(model)}
    assert list(found) == ["full", "trunk", "heads", "one head"]
    assert (len(found["trunk"].heads), len(found["one head"].heads)) == (0, 1)
    assert found["heads"].is_companion


def test_what_is_left_out_is_not_there(model: Good) -> None:
    name = next(iter(model.file.tensors))
    assert name not in Altered(model.file, without=[name]).tensors


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "counts.json"
    main(["--models", "1", "--mixes", "--json", str(out)])
    shown, counts = capsys.readouterr().out, json.loads(out.read_text())["random models, headers"]
    assert "good files: 16 (4 full, 4 trunk, 4 heads, 4 one head)" in shown
    assert {one["fault"] for one in counts["faults"]} > {"no heads", "all without 1"}


def test_names_of_faults_are_of_one_fault_each() -> None:
    faults: list[Fault] = list(in_headers())
    assert len({fault.name for fault in faults}) == len(faults)
