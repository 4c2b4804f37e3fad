"""`stepahead join`, `split` and `graft`: what they print, where, and with which exit code."""

import json
from dataclasses import replace

import pytest

from support.spliced import SMALL, content, heads_of, write


@pytest.fixture
def files(tmp_path):
    return {
        "full": write(tmp_path / "full.gguf"),
        "trunk": write(tmp_path / "trunk.gguf", part="trunk"),
        "heads": write(tmp_path / "heads.gguf", part="heads"),
        "one": write(tmp_path / "one.gguf", heads_of(SMALL, 1)),
        "out": tmp_path / "out.gguf",
    }


def test_join_says_what_it_made(cli, files):
    result = cli("join", files["trunk"], files["heads"], "-o", files["out"])
    assert (result.code, result.out) == (0, "")
    first, second = result.err.splitlines()
    assert first.startswith(f"{files['out']}: ") and first.endswith(f" {len(content(files['out'])[1])} tensors")
    assert second.startswith("3 layers, 3 MTP heads of ") and "(F32)" in second
    assert content(files["out"]) == content(files["full"])


def test_graft_says_which_heads_went(cli, files):
    result = cli("graft", files["heads"], files["one"], "-o", files["out"])
    assert result.code == 0
    assert result.err.splitlines()[-1] == (f"1 MTP heads of {files['one']} were left out, 3 took their place")
    assert content(files["out"]) == content(files["full"])


def test_split_says_both(cli, files, tmp_path):
    a, b = tmp_path / "a.gguf", tmp_path / "b.gguf"
    result = cli("split", files["full"], "--trunk", a, "--heads", b)
    assert result.code == 0
    assert [line.partition(": ")[0] for line in result.err.splitlines()[:2]] == [str(a), str(b)]
    assert content(a) == content(files["trunk"]) and content(b) == content(files["heads"])


def test_one_head_of_three_is_said(cli, files):
    result = cli("join", files["trunk"], files["one"], "-o", files["out"])
    assert "1 of the published model's 3 MTP heads" in result.err
    assert "3 layers, 1 MTP head of" in result.err


def test_json_is_one_object(cli, files):
    result = cli("join", files["trunk"], files["heads"], "-o", files["out"], "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["files"] == [
        {
            "path": str(files["out"]),
            "nbytes": files["out"].stat().st_size,
            "shared_bytes": found["files"][0]["shared_bytes"],
            "num_tensors": len(content(files["out"])[1]),
        }
    ]
    assert (found["num_trunk_layers"], found["num_heads"], found["notes"], found["left_over"]) == (3, 3, [], [])
    assert found["embeddings"] == {"verdict": "equal", "correlation": 1.0, "types": ["F32", "F32"]}
    assert json.loads(cli("split", files["full"], "--heads", files["out"], "--json").out)["embeddings"] is None


def test_left_over_files_are_named(cli, files, tmp_path):
    left = tmp_path / ".out.gguf.01234567.tmp"
    left.write_bytes(b"")
    result = cli("join", files["trunk"], files["heads"], "-o", files["out"])
    assert result.err.splitlines()[-1].startswith(f"{left} was left by a run that was killed: delete it")


def test_refusals_are_a_line_and_force_goes_on(cli, files, tmp_path):
    result = cli("join", files["full"], files["heads"], "-o", files["out"])
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "stepahead graft" in result.err
    result = cli("join", tmp_path / "nothing.gguf", files["heads"], "-o", files["out"])
    assert (result.code, result.err) == (2, f"stepahead: {tmp_path / 'nothing.gguf'}: no such file\n")
    assert cli("split", files["full"]).code == 2
    strange = write(tmp_path / "strange.gguf", replace(SMALL, seed=9), "heads")
    result = cli("join", files["trunk"], strange, "-o", files["out"])
    assert result.code == 2 and "--force" in result.err and not files["out"].exists()
    assert cli("join", files["trunk"], strange, "-o", files["out"], "--force").code == 0


def test_damaged_files_are_another_code(cli, files, tmp_path):
    broken = write(tmp_path / "broken.gguf", part="heads", tensors={"blk.5.nextn.hnorm.weight": None})
    result = cli("join", files["trunk"], broken, "-o", files["out"])
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "blk.5.nextn.hnorm.weight" in result.err


def test_a_terminal_shows_progress(terminal, tmp_path):
    big = replace(SMALL, vocab=40_000)
    trunk, heads = write(tmp_path / "trunk.gguf", big, "trunk"), write(tmp_path / "heads.gguf", big, "heads")
    shown = terminal("join", trunk, heads, "-o", tmp_path / "out.gguf")
    assert shown.wait() == 0
    assert "3 MTP heads of" in shown.shown


def test_a_name_that_no_disk_takes(cli, files, tmp_path):
    result = cli("join", files["trunk"], files["heads"], "-o", tmp_path / f"{'x' * 300}.gguf")
    assert result.code == 2
    assert "is no name for a model file: File name too long" in result.err
