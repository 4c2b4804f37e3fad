"""Pulls from a name to a model that drafts: which heads are found, what is registered, what other programs see."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

from stepahead import LLM, SamplingParams
from stepahead.errors import ConfigError, DownloadError, UnsupportedModelError
from stepahead.gguf import GGUFFile, write_gguf, write_split_gguf
from stepahead.hub import companions, registry
from stepahead.hub.pull import fetch, plan
from stepahead.hub.reference import Reference
from stepahead.hub.removal import plan_removal, remove
from support.hub_server import FakeRepo
from support.hub_toys import FULL, HEADS, REPO, TRUNK
from support.random_step35 import Shape, metadata, model_tensors

BASE, OFFICIAL = "maker/Toy", "maker/Toy-GGUF"


def pull(text: str, **settings):
    return fetch(plan(Reference.parse(text), **settings))


@pytest.fixture
def official(hub, toy_files, monkeypatch):
    monkeypatch.setitem(companions.HEADS_OF, BASE, OFFICIAL)
    hub.repos[OFFICIAL] = FakeRepo({HEADS: toy_files["heads"]}, commit="f" * 40)
    return hub.repos[OFFICIAL]


def test_heads_beside_a_trunk_are_pulled_and_used_by_name_and_by_path(toy_repo):
    model = pull(f"{REPO}:IQ4_XS")
    assert model.name == f"{REPO}:IQ4_XS"
    assert model.verdict == f"3 MTP heads from {REPO}:{HEADS}"
    for opened in (model.name, "Toy-GGUF:iq4_xs", model.path, str(model.path)):
        with LLM(opened) as llm:
            assert llm.model.draft.num_heads == 3
            assert llm.generate("def f(", SamplingParams(max_tokens=4)).token_ids
    with LLM(model.name, mtp="off") as llm:
        assert llm.model.draft is None


def test_a_model_with_its_own_heads_fetches_no_others(hub, toy_repo):
    model = pull(f"{REPO}:Q4_K_M")
    assert (model.heads, model.verdict) == ((), "3 MTP heads in the file")
    assert not [headers for headers in hub.seen(f"/store/{REPO}/{HEADS}") if headers]


def test_a_community_trunk_gets_the_heads_of_the_official_repository(hub, toy_files, official):
    hub.repos["some/Toy-GGUF"] = FakeRepo({"Toy-Q4_0.gguf": toy_files["trunk"]}, card={"base_model": [BASE]})
    model = pull("some/Toy-GGUF:Q4_0")
    assert model.verdict == f"3 MTP heads from {OFFICIAL}:{HEADS}"
    assert model.heads[0].repo == OFFICIAL
    assert model.heads[0].revision == "f" * 40


def test_a_quantisation_of_a_pruning_leads_to_the_model_by_its_cards(hub, toy_files, official):
    hub.repos["p/Pruned"] = FakeRepo({}, card={"base_model": BASE + "-FP8"})
    hub.repos["q/Pruned-GGUF"] = FakeRepo({"a-Q4_0.gguf": toy_files["trunk"]}, card={"base_model": "p/Pruned"})
    assert pull("q/Pruned-GGUF:Q4_0").heads[0].repo == OFFICIAL


@pytest.mark.parametrize("card", [{}, {"base_model": "no/body"}, {"base_model": "q/Toy-GGUF"}])
def test_without_heads_anywhere_the_model_is_pulled_and_it_is_said(hub, toy_files, card):
    hub.repos["q/Toy-GGUF"] = FakeRepo({"a-Q4_0.gguf": toy_files["trunk"]}, card=card)
    model = pull("q/Toy-GGUF:Q4_0")
    assert model.heads == ()
    assert model.verdict.startswith("no MTP heads; no others were found (q/Toy-GGUF has no file of heads that fits")
    with LLM(model.name) as llm:
        assert llm.model.draft is None


def test_heads_that_do_not_fit_are_not_taken(hub, toy_files, official):
    official.files = {HEADS: toy_files["other"]}
    hub.repos["q/Toy-GGUF"] = FakeRepo({"a-Q4_0.gguf": toy_files["trunk"]}, card={"base_model": BASE})
    model = pull("q/Toy-GGUF:Q4_0")
    assert model.heads == ()
    assert "does not fit: width 64 instead of 128" in model.verdict


def test_of_several_heads_the_best_type_is_taken(toy_repo):
    toy_repo.files |= {"Toy-mtp-BF16.gguf": toy_repo.files[HEADS], "mtp-Q2_K.gguf": toy_repo.files[HEADS]}
    assert pull(f"{REPO}:IQ4_XS").heads[0].path == HEADS


def test_a_quantisation_that_heads_have_too_means_the_model(toy_repo):
    toy_repo.files["Toy-Q8_0.gguf"] = toy_repo.files[TRUNK] + b"\0"
    model = pull(f"{REPO}:Q8_0")
    assert (model.files[0].path, model.name) == ("Toy-Q8_0.gguf", f"{REPO}:Q8_0")


def test_heads_alone_are_no_model(toy_repo):
    with pytest.raises(ConfigError, match="holds MTP heads alone"):
        pull(f"{REPO}:{HEADS}")


def test_what_may_be_several_is_refused_with_their_names(toy_repo):
    toy_repo.files["other/Toy-Q4_K_M.gguf"] = toy_repo.files[FULL] + b"\0"
    with pytest.raises(ConfigError, match=f"may be any of 2; give one: .*{REPO}:{FULL}"):
        pull(f"{REPO}:Q4_K_M")
    assert pull(f"{REPO}:other/Toy-Q4_K_M.gguf").name == f"{REPO}:other/Toy-Q4_K_M"


def test_a_model_that_cannot_be_run_is_refused_before_it_is_fetched(hub, tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, {"general.architecture": "other"}, {})
    hub.repos["o/r"] = FakeRepo({"m-Q4_0.gguf": path.read_bytes()})
    with pytest.raises(UnsupportedModelError, match="architecture 'other'; this version runs step35"):
        pull("o/r:Q4_0")


@pytest.mark.parametrize("first_empty", [False, True])
def test_a_split_model_is_one_name(hub, tmp_path, first_empty):
    shape = Shape()
    paths = write_split_gguf(
        tmp_path / "Toy-Q8_0", metadata(shape), dict(model_tensors(shape)), num_shards=3, first_empty=first_empty
    )
    hub.repos["o/r"] = FakeRepo({f"Q8_0/{path.name}": path.read_bytes() for path in paths})
    model = pull("o/r:Q8_0")
    assert len(model.files) == 3
    assert model.verdict == "3 MTP heads in the file"
    with GGUFFile.open(model.path) as file:
        assert len(file.shards) == 3


def test_a_second_pull_fetches_and_reads_nothing_again(hub, toy_repo, monkeypatch):
    first = pull(f"{REPO}:IQ4_XS")
    hub.requests.clear()
    monkeypatch.setattr("stepahead.hub.download.digest_of", lambda *_: pytest.fail("was verified before"))
    again = pull(f"{REPO}:IQ4_XS")
    assert (again.files, again.heads) == (first.files, first.heads)
    ranges = [headers["range"] for headers in hub.seen("/store/")]
    assert ranges  # headers alone
    assert all(int(text.split("-")[1]) <= 8 << 20 for text in ranges)


def test_the_hubs_own_library_finds_what_was_pulled(toy_repo, monkeypatch):
    model = pull(f"{REPO}:IQ4_XS")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Path(hf_hub_download(REPO, TRUNK)).samefile(model.path)
    cache = scan_cache_dir(constants.HF_HUB_CACHE)
    assert not cache.warnings
    assert not cache.incomplete_files


def test_what_the_hubs_own_library_downloaded_is_not_fetched_again(hub, toy_repo):
    hf_hub_download(REPO, TRUNK)
    hub.requests.clear()
    model = pull(f"{REPO}:IQ4_XS", heads=False)
    assert len(hub.seen("/store/")) == 1  # the header
    assert model.is_here


def test_a_file_that_git_keeps_is_verified_by_gits_checksum(hub, toy_repo):
    toy_repo.in_git = frozenset({FULL})
    assert len(pull(f"{REPO}:Q4_K_M").files[0].digest) == 40
    hub.wrong_bytes.add(FULL)
    remove(plan_removal(registry.demand(f"{REPO}:Q4_K_M")))
    with pytest.raises((DownloadError, ConfigError), match=r"checksum|GGUF"):
        pull(f"{REPO}:Q4_K_M")


def test_a_pull_by_a_name_of_ones_own(toy_repo):
    assert pull(f"{REPO}:IQ4_XS", name="step").name == "step"
    with LLM("step") as llm:
        assert llm.model.draft.num_heads == 3
    with pytest.raises(ConfigError, match="cannot be a name"):
        pull(f"{REPO}:IQ4_XS", name="a\nb")


def test_a_path_that_exists_wins_over_a_name(toy_repo, tmp_path, monkeypatch):
    pull(f"{REPO}:IQ4_XS", name="m.gguf")
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").write_bytes(toy_repo.files[TRUNK])
    with LLM("m.gguf") as llm:
        assert llm.model.draft is None


def test_a_name_whose_files_have_gone_says_so(toy_repo):
    model = pull(f"{REPO}:IQ4_XS")
    Path(model.heads[0].local).unlink()
    with pytest.raises(ConfigError, match=r"is gone or has changed its size: run `stepahead pull"):
        LLM(model.name)
    with LLM(model.path) as llm:  # a path asks for no more than is there
        assert llm.model.draft is None
    with LLM(model.name, mtp="off") as llm:
        assert llm.model.draft is None


def test_a_name_that_was_never_pulled_says_how(hub):
    with pytest.raises(
        ConfigError, match=r"no such file, and nothing was pulled as that: run `stepahead pull o/r:Q4_0`"
    ):
        LLM("o/r:Q4_0")


def test_entries_that_cannot_be_read_harm_nobody(toy_repo, tmp_path):
    model = pull(f"{REPO}:IQ4_XS")
    folder = tmp_path / "cache" / "models"
    good = json.loads(next(folder.glob("*.json")).read_text())
    for index, bad in enumerate(
        ["", "[]", "{", json.dumps({**good, "format": 9}), json.dumps({**good, "files": []}), "[" * 100_000]
    ):
        (folder / f"bad{index}.json").write_text(bad)
    (folder / "dir.json").mkdir()
    assert [one.name for one in registry.all_models()] == [model.name]
    assert LLM(model.name).model.draft.num_heads == 3


# --- removal ---
def test_removing_the_last_name_of_a_commit_leaves_nothing(toy_repo, tmp_path):
    model = pull(f"{REPO}:IQ4_XS")
    beside = model.path.with_name(model.path.name + ".repacked")
    beside.write_bytes(b"x" * 100)
    planned = plan_removal(model)
    assert len(planned.files) == 2
    assert planned.nbytes == model.nbytes + 100
    remove(planned)
    assert not list(registry.all_models())
    assert not list((tmp_path / "hub").rglob("*.gguf*"))
    assert not list((tmp_path / "hub").glob("models--*/blobs/*"))


def test_files_of_other_names_and_other_programs_stay(toy_repo, tmp_path):
    first, second = pull(f"{REPO}:IQ4_XS"), pull(f"{REPO}:IQ4_XS", name="mine")
    readme = Path(hf_hub_download(REPO, "README.md"))
    planned = plan_removal(first)
    assert (planned.files, len(planned.kept)) == ((), 2)
    remove(planned)
    assert second.is_here
    full = pull(f"{REPO}:Q4_K_M")
    remove(plan_removal(second))
    assert not second.is_here
    assert full.is_here
    assert readme.read_bytes() == b"# toy"
    assert not scan_cache_dir(constants.HF_HUB_CACHE).warnings


def test_a_removal_of_files_that_have_gone_removes_the_name(toy_repo, tmp_path):
    import shutil

    model = pull(f"{REPO}:IQ4_XS")
    shutil.rmtree(tmp_path / "hub")
    remove(plan_removal(model))
    assert not list(registry.all_models())
