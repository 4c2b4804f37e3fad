"""Folders for machines without a network: written whole, verified, installed; changed ones are refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from stepahead import LLM
from stepahead.errors import ConfigError, DownloadError
from stepahead.hub import registry
from stepahead.hub.bundle import DESCRIPTION, SUMS, install, write_bundle
from stepahead.hub.pull import fetch, plan
from stepahead.hub.reference import Reference
from support.hub_toys import FULL, HEADS, REPO, TRUNK

WANTED = Reference(REPO, "IQ4_XS")
NAMES = {"Toy-IQ4_XS.gguf", HEADS, SUMS, DESCRIPTION}


@pytest.fixture
def bundle(toy_repo, tmp_path) -> Path:
    write_bundle(plan(WANTED), tmp_path / "stick")
    return tmp_path / "stick"


@pytest.fixture
def elsewhere(bundle, tmp_path, monkeypatch) -> Path:
    """Another machine: no network, another cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "there" / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "there" / "hub"))
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "there" / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return bundle


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_has_the_files_and_sums_that_sha256sum_reads(bundle):
    assert visible(bundle) == NAMES
    for line in (bundle / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert not list(registry.all_models())


def test_it_is_installed_without_a_network_and_drafts(hub, elsewhere):
    hub.requests.clear()
    model = install(elsewhere)
    assert not hub.requests
    assert model.name == f"{REPO}:IQ4_XS"
    shutil.rmtree(elsewhere)  # the stick is pulled out
    with LLM(model.name) as llm:
        assert llm.model.draft.num_heads == 3
    assert registry.demand(model.name).is_here


def test_it_is_installed_twice_and_under_another_name(elsewhere):
    install(elsewhere)
    assert install(elsewhere, name="step").name == "step"
    assert {model.name for model in registry.all_models()} == {f"{REPO}:IQ4_XS", "step"}


def test_what_is_in_the_cache_is_not_fetched_for_a_folder(hub, toy_repo, tmp_path):
    fetch(plan(WANTED))
    wanted, before = plan(WANTED), hub.sent
    write_bundle(wanted, tmp_path / "stick")
    assert hub.sent == before
    assert visible(tmp_path / "stick") == NAMES


def test_an_interrupted_folder_looks_like_none_and_is_gone_on_with(hub, toy_repo, tmp_path):
    wanted, folder = plan(WANTED), tmp_path / "stick"
    hub.drop_always_after = 30_000
    hub.drops += [60_000] + [0] * 6
    with pytest.raises(DownloadError):
        write_bundle(wanted, folder, connections=1)
    assert not visible(folder) & NAMES
    with pytest.raises(ConfigError, match="an interrupted one"):
        install(folder)
    hub.drop_always_after = None
    hub.drops.clear()
    write_bundle(wanted, folder)
    assert visible(folder) == NAMES


def test_a_folder_of_another_model_is_not_mixed_with_this_one(bundle):
    with pytest.raises(DownloadError, match="holds owner/Toy-GGUF:IQ4_XS already"):
        write_bundle(plan(Reference(REPO, FULL)), bundle)
    write_bundle(plan(WANTED), bundle)
    assert visible(bundle) == NAMES


def test_a_changed_byte_is_found_and_nothing_is_registered(elsewhere):
    path = elsewhere / "Toy-IQ4_XS.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(DownloadError, match="checksum"):
        install(elsewhere)
    assert not list(registry.all_models())


def test_a_missing_file_a_link_and_a_folder_that_is_none(elsewhere, tmp_path):
    heads = elsewhere / HEADS
    kept = heads.rename(tmp_path / "kept.gguf")
    with pytest.raises(ConfigError, match="is missing"):
        install(elsewhere)
    heads.symlink_to(kept)
    with pytest.raises(ConfigError, match="is a link"):
        install(elsewhere)
    with pytest.raises(ConfigError, match=f"has no {DESCRIPTION}"):
        install(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"local": "../../secret"},
        {"path": "../../x.gguf"},
        {"digest": "../../../x"},
        {"revision": "../x"},
        {"digest": "0" * 64},
        {"nbytes": -5},
        {"local": 3},
    ],
)
def test_a_description_that_was_changed_installs_nothing(elsewhere, change):
    path = elsewhere / DESCRIPTION
    data = json.loads(path.read_text())
    data["files"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises((DownloadError, ConfigError)):
        install(elsewhere)
    assert not list(registry.all_models())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "[" * 100_000])
def test_a_description_of_nonsense(elsewhere, text):
    (elsewhere / DESCRIPTION).write_text(text)
    with pytest.raises(DownloadError, match="is damaged"):
        install(elsewhere)


def test_trunks_of_folders_come_with_their_plain_names(bundle):
    assert TRUNK.rpartition("/")[2] in visible(bundle)
