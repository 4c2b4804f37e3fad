"""Names of pulled models wherever a command reads a model file; and what is never written into the hub's folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepahead import LLM
from stepahead.backends.cpu import layouts
from stepahead.backends.cpu.ops import ISAS
from stepahead.cli import main
from stepahead.gguf import GGUFFile, QuantType
from stepahead.hub import registry
from stepahead.hub.pull import fetch, plan
from stepahead.hub.reference import Reference
from stepahead.hub.removal import plan_removal, remove
from stepahead.hub_folder import hub_folder, is_in_hub
from stepahead.repack import repacked
from support.hub_server import FakeRepo
from support.hub_toys import HEADS, REPO
from support.random_step35 import Shape, quantised, write_model

NAME, FULL_NAME = f"{REPO}:IQ4_XS", f"{REPO}:Q4_K_M"


@pytest.fixture
def cli(capsys, hub):
    def run(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def pulled(toy_repo):
    return [fetch(plan(Reference.parse(name))) for name in (NAME, FULL_NAME)]


@pytest.fixture
def small(hub, toy_files, tmp_path, monkeypatch):
    """A pulled model whose weights are repacked into a file."""
    monkeypatch.setattr(layouts, "FASTER_IN_PANELS", dict.fromkeys(ISAS, (QuantType.Q8_0,)))
    monkeypatch.setattr(repacked, "MIN_FILE_BYTES", 0)
    trunk = write_model(tmp_path / "small.gguf", quantised(Shape(), QuantType.Q8_0), "trunk")
    hub.repos[REPO] = FakeRepo({"Toy-IQ4_XS.gguf": trunk.read_bytes(), HEADS: toy_files["heads"]})
    return fetch(plan(Reference.parse(NAME)))


def num_heads(path: Path) -> int:
    with LLM(path) as llm:
        return 0 if llm.model.draft is None else llm.model.draft.num_heads


@pytest.mark.parametrize(
    "words",
    [
        ("join", NAME),
        ("join", NAME, NAME),
        ("join", NAME, FULL_NAME),
        ("graft", NAME, FULL_NAME),
        ("graft", NAME, NAME),
    ],
)
def test_heads_are_joined_by_names(cli, pulled, tmp_path, words):
    code, _, err = cli(*words, "-o", tmp_path / "out.gguf")
    assert code == 0, err
    assert num_heads(tmp_path / "out.gguf") == 3


def test_a_trunk_without_pulled_heads_needs_them_named(cli, pulled, tmp_path):
    code, _, err = cli("join", FULL_NAME, "-o", tmp_path / "out.gguf")
    assert code == 2
    assert "no heads were pulled with it: give HEADS" in err


def test_split_takes_a_name(cli, pulled, tmp_path):
    code, _, err = cli("split", FULL_NAME, "--trunk", tmp_path / "a.gguf", "--heads", tmp_path / "b.gguf")
    assert code == 0, err
    assert num_heads(tmp_path / "a.gguf") == 0
    with LLM(NAME, mtp=tmp_path / "b.gguf") as llm:
        assert llm.model.draft.num_heads == 3


def test_quantize_and_imatrix_take_a_name_and_see_its_heads(cli, pulled, tmp_path):
    text, matrix, out = tmp_path / "t.txt", tmp_path / "m.gguf", tmp_path / "q.gguf"
    text.write_text("def f(x):\n    return x\n" * 8)
    code, _, err = cli("imatrix", NAME, text, "-o", matrix, "--chunk", 16, "--max-chunks", 2)
    assert code == 0, err
    with GGUFFile.open(matrix) as file:
        assert any("nextn" in name for name in file.tensors)
    code, found, err = cli("quantize", NAME, out, "Q8_0", "--check", "--text", text, "--json")
    assert code == 0, err
    checked = json.loads(found)["check"]
    assert len(checked["before"]["acceptance"]) == len(checked["after"]["acceptance"]) > 0
    assert cli("quantize", NAME, out, "Q8_0", "--dry-run")[0] == 0


def test_a_companion_may_be_a_name(cli, pulled):
    path = str(registry.demand(NAME).path)
    with LLM(path, mtp=FULL_NAME) as llm:
        assert llm.model.draft.num_heads == 3
    assert json.loads(cli("inspect", path, "--mtp", NAME, "--json")[1])["num_heads_usable"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ("join", "o/r:Q4_0", "x.gguf", "-o"),
        ("graft", "o/r:Q4_0", "x.gguf", "-o"),
        ("split", "o/r:Q4_0", "--heads"),
        ("imatrix", "o/r:Q4_0", "-o"),
    ],
)
def test_a_name_that_was_never_pulled_says_how(cli, tmp_path, words):
    code, _, err = cli(*words, tmp_path / "out.gguf")
    assert code == 2
    assert "run `stepahead pull o/r:Q4_0`" in err


# --- what is written where ---
@pytest.mark.parametrize("place", ["out.gguf", "models--owner--Toy-GGUF/snapshots/out.gguf"])
@pytest.mark.parametrize(
    "words",
    [
        ("join", NAME, "-o"),
        ("split", FULL_NAME, "--trunk"),
        ("graft", NAME, FULL_NAME, "-o"),
        ("imatrix", NAME, "-o"),
        ("doctor", FULL_NAME, "--fix"),
        ("convert", ".", "-o"),
    ],
)
def test_nothing_is_written_into_the_hubs_folder(cli, pulled, tmp_path, words, place):
    before = sorted((tmp_path / "hub").rglob("*"))
    code, _, err = cli(*words, tmp_path / "hub" / place)
    assert code == 2
    assert "lies in the hub's cache, which other programs keep" in err
    assert sorted((tmp_path / "hub").rglob("*")) == before


def test_a_quantised_file_is_not_written_there_nor_over_its_inputs(cli, pulled, tmp_path):
    for out in (tmp_path / "hub", tmp_path / "hub" / "x.gguf", pulled[0].path.parent):
        code, _, err = cli("quantize", NAME, out, "Q8_0")
        assert (code, "lies in the hub's cache" in err) == (2, True)
    own = tmp_path / "own.gguf"
    own.symlink_to(pulled[0].path)
    assert "is one of the files that are read" in cli("quantize", NAME, own, "Q8_0")[2]
    assert "is one of the files that are read" in cli("join", NAME, "-o", own)[2]
    matrix = tmp_path / "m.gguf"
    matrix.write_bytes(b"GGUF")
    assert cli("quantize", NAME, matrix, "Q8_0", "--imatrix", matrix)[0] == 2
    assert matrix.read_bytes() == b"GGUF"


def test_a_cache_that_was_elsewhere_is_known_by_its_layout(tmp_path):
    assert is_in_hub(tmp_path / "models--a--b" / "snapshots" / ("0" * 40) / "IQ4_XS")
    assert is_in_hub(tmp_path / "models--a--b" / "blobs")
    assert not is_in_hub(tmp_path / "models--a--b")
    assert not is_in_hub(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"HF_HOME": "~/x"},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HUB_CACHE": "$HOME/y", "HF_HOME": "/z"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
    ],
)
def test_the_folder_is_the_one_of_the_hubs_library(settings, monkeypatch):
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert hub_folder() == Path(theirs.stdout.strip()).resolve()


def test_repacked_weights_of_a_pulled_model_lie_in_our_folder_and_go_with_it(small, cli, tmp_path):
    before = sorted((tmp_path / "hub").rglob("*"))
    listed = cli("list")[1]
    with LLM(NAME, threads=1) as llm:
        paths = {one.path for one in llm.repacked}
    assert paths
    assert {path.parent for path in paths} == {tmp_path / "cache"}
    assert sorted((tmp_path / "hub").rglob("*")) == before
    assert cli("list")[1] == listed
    assert json.loads(cli("inspect", NAME, "--json")[1])["repacked"] in map(str, paths)
    planned = plan_removal(registry.demand(NAME))
    assert set(planned.caches) == paths
    remove(planned)
    assert not any(path.exists() for path in paths)


def test_what_an_earlier_version_kept_beside_a_pulled_model_is_used_and_removed(small):
    with LLM(NAME, threads=1, mtp="off") as llm:
        (made,) = (one.path for one in llm.repacked)
    beside = small.path.with_name(small.path.name + ".repacked")
    made.rename(beside)
    with LLM(NAME, threads=1, mtp="off") as llm:
        assert [one.path for one in llm.repacked] == [beside]
    assert plan_removal(small).caches == (beside,)


def test_a_name_of_several_names_them_and_a_wrong_one_says_where_names_are(hub, toy_repo, cli):
    for repo in (REPO, "other/Toy-GGUF"):
        hub.repos[repo] = toy_repo
        fetch(plan(Reference(repo, "Q4_K_M")))
    code, _, err = cli("inspect", "Toy-GGUF:Q4_K_M")
    assert code == 2
    assert f"may be any of other/Toy-GGUF:Q4_K_M, {REPO}:Q4_K_M" in err
    for wrong in ("Toy-GGUF:Q4", "toy"):
        assert f"{wrong}: no such file, and no name that `stepahead list` shows" in cli("inspect", wrong)[2]
    assert "none.gguf: no such file" in cli("inspect", "none.gguf")[2]


def test_a_list_is_short_of_where_heads_were_looked_for(hub, toy_files, cli):
    hub.repos["q/Toy"] = FakeRepo({"a-Q4_0.gguf": toy_files["trunk"]})
    model = fetch(plan(Reference("q/Toy", "Q4_0")))
    assert "no others were found" in model.verdict
    assert "no others were found" not in cli("list")[1]
    model.path.unlink()
    assert "files are missing: stepahead pull q/Toy:Q4_0" in cli("list")[1].replace("\n", "")


def test_repacked_weights_go_with_a_name_whose_files_another_program_removed(small, tmp_path):
    with LLM(NAME, threads=1) as llm:
        paths = {one.path for one in llm.repacked}
    shutil.rmtree(tmp_path / "hub")
    planned = plan_removal(registry.demand(NAME))
    assert (planned.files, set(planned.caches)) == ((), paths)
    remove(planned)
    assert not any(path.exists() for path in paths)
