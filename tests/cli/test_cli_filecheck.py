"""Findings of `inspect` and `doctor`, and `doctor --fix`."""

import json
from pathlib import Path

import pytest

from stepahead.demo import demo_path
from stepahead.diagnosis import machine_report
from stepahead.diagnosis.bandwidth import read_bandwidth
from support.broken_files import norms_of, plus, rewrite, swapped

DEMO = Path(demo_path())
HEADS = range(14, 17)
SWAPPED = {f"blk.{block}.nextn.eh_proj.weight": swapped for block in HEADS}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_report, "read_bandwidth", lambda threads: read_bandwidth(threads, 1 << 20))


@pytest.fixture
def without_one(tmp_path):
    return rewrite(DEMO, tmp_path / "lacking.gguf", dict.fromkeys(norms_of(DEMO, HEADS), plus(-1.0)))


@pytest.fixture
def uncounted(tmp_path):
    """Cannot be loaded."""
    return rewrite(DEMO, tmp_path / "uncounted.gguf", metadata={"step35.nextn_predict_layers": 2})


def words(text):
    return " ".join(text.split())


def test_inspect_says_that_a_good_file_is_good(cli):
    assert "checked nothing wrong in headers and samples" in words(cli("inspect").out)
    assert json.loads(cli("inspect", "--json").out)["findings"] == []


def test_inspect_shows_a_finding_in_one_line(cli, without_one):
    result = cli("inspect", without_one)
    assert result.code == 0, result.err
    line = next(line for line in result.out.splitlines() if line.startswith("fault"))
    assert words(line) == "fault norms of heads 1 to 3: lack the 1 that converting adds; --fix adds 1"
    (found,) = json.loads(cli("inspect", without_one, "--json").out)["findings"]
    assert found == {
        "kind": "norm-offset", "severity": "fault", "where": "norms of heads 1 to 3",
        "what": "lack the 1 that converting adds", "repair": "--fix adds 1", "can_fix": True,
    }  # fmt: skip


def test_inspect_names_the_way_to_heads(cli, model_path):
    out = words(cli("inspect", model_path("f32", "trunk")).out)
    assert "note heads: there are none" in out
    assert "stepahead join" in out


def test_inspect_names_the_companion_of_a_finding(cli, model_path, tmp_path):
    heads = model_path("f32", "heads")
    broken = rewrite(heads, tmp_path / "few.gguf", without=("blk.6.",))
    findings = json.loads(cli("inspect", model_path("f32", "trunk"), "--mtp", broken, "--json").out)["findings"]
    assert {one["where"].split(":")[0] for one in findings} == {"few.gguf"}


def test_doctor_shows_what_it_tried(cli, tmp_path):
    broken = rewrite(DEMO, tmp_path / "swapped.gguf", SWAPPED)
    result = cli("doctor", broken, "--seconds", 5)
    assert result.code == 0, result.err
    out = words(result.out)
    assert "of drafts are right as it is" in out
    assert "with the halves of eh_proj swapped; --fix swaps them" in out
    assert "what auto will do" in out
    found = json.loads(cli("doctor", broken, "--seconds", 5, "--json").out)
    assert [one["kind"] for one in found["findings"]] == ["concat-order"]
    assert {one["contract"] for one in found["contracts"]} >= {"as it is", "the halves of eh_proj swapped"}
    assert found["fixed"] is None


def test_doctor_does_not_measure_where_it_is_told_not_to(cli, tmp_path):
    broken = rewrite(DEMO, tmp_path / "swapped.gguf", SWAPPED)
    found = json.loads(cli("doctor", broken, "--seconds", 5, "--no-measure", "--json").out)
    assert found["findings"] == found["contracts"] == []


def test_doctor_writes_the_repaired_file(cli, tmp_path):
    broken, out = rewrite(DEMO, tmp_path / "swapped.gguf", SWAPPED), tmp_path / "fixed.gguf"
    result = cli("doctor", broken, "--fix", out)
    assert result.code == 0, result.err
    assert f"written: {out}" in result.out
    assert "plain step" not in result.out
    assert out.read_bytes() == rewrite(DEMO, tmp_path / "good.gguf").read_bytes()


def test_doctor_repairs_what_cannot_be_loaded(cli, uncounted, tmp_path):
    result = cli("doctor", uncounted)
    assert result.code != 0
    assert result.err.count("\n") == 1
    assert "declares 17 blocks, 2 of them heads" in result.out
    out = tmp_path / "fixed.gguf"
    found = json.loads(cli("doctor", uncounted, "--fix", out, "--json").out)
    assert found["fixed"] == str(out)
    assert [one["kind"] for one in found["findings"]] == ["heads-count"]
    assert out.read_bytes() == rewrite(DEMO, tmp_path / "good.gguf").read_bytes()


def test_doctor_writes_nothing_where_nothing_is_wrong(cli, tmp_path):
    out = tmp_path / "fixed.gguf"
    result = cli("doctor", DEMO, "--fix", out)
    assert result.code == 0, result.err
    assert "nothing to repair" in result.out
    assert "checked: nothing wrong in headers, samples and drafts" in result.out
    assert not out.exists()


def test_doctor_does_not_write_over_its_file(cli, without_one):
    before = without_one.read_bytes()
    result = cli("doctor", without_one, "--fix", without_one)
    assert result.code == 2
    assert "another name" in result.err
    assert without_one.read_bytes() == before


def test_doctor_says_that_a_repaired_file_cannot_be_loaded(cli, uncounted, tmp_path):
    """What it can mend is mended, and the rest is an error."""
    both = rewrite(uncounted, tmp_path / "both.gguf", without=("blk.16.attn_k.",))
    out = tmp_path / "fixed.gguf"
    result = cli("doctor", both, "--fix", out)
    assert result.code == 1
    assert f"written: {out}" in result.out
    assert "blk.16.attn_k.weight" in result.err


def test_doctor_calls_no_file_good_that_cannot_be_loaded(cli, tmp_path):
    zero = rewrite(DEMO, tmp_path / "zero.gguf", metadata={"step35.attention.layer_norm_rms_epsilon": float("nan")})
    result = cli("doctor", zero, "--fix", tmp_path / "fixed.gguf")
    assert result.code == 1
    assert "layer_norm_rms_epsilon=nan is not a positive number" in result.err


def test_doctor_repairs_heads_apart_and_names_what_was_left(cli, model_path, tmp_path):
    heads = rewrite(model_path("f32", "heads"), tmp_path / "heads.gguf", metadata={"step35.nextn_predict_layers": 1})
    left = tmp_path / ".fixed.gguf.0123.tmp"
    left.write_bytes(b"")
    result = cli("doctor", heads, "--fix", tmp_path / "fixed.gguf")
    assert result.code == 0, result.err
    assert f"{left.name} was left by a run" in words(result.out)
    assert (tmp_path / "fixed.gguf").exists()


def test_doctor_measures_a_trunk_where_it_is_told_to(cli, tmp_path):
    heads = tuple(f"blk.{block}." for block in HEADS)
    doubled = dict.fromkeys(norms_of(DEMO, range(14)), plus(1.0)) | {"output_norm.weight": plus(1.0)}
    trunk = rewrite(DEMO, tmp_path / "trunk.gguf", doubled, without=heads)
    found = json.loads(cli("doctor", trunk, "--measure", "--fix", tmp_path / "fixed.gguf", "--json").out)
    assert "norm-offset" in [one["kind"] for one in found["findings"] if one["severity"] == "fault"]
    assert found["fixed"] is not None


def test_inspect_says_that_heads_alone_are_for_a_trunk(cli, tmp_path):
    trunk, heads = tmp_path / "t.gguf", tmp_path / "h.gguf"
    cli("split", DEMO, "--trunk", trunk, "--heads", heads)
    said = words(cli("inspect", heads).out)
    assert "3 declared, 3 found" in said and "without a trunk" in said and "usable" not in said
    assert "3 usable" in words(cli("inspect", trunk, "--mtp", heads).out)
