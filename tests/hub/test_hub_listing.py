"""What hubs answer when asked for a repository, and what is made of it."""

import json

import pytest

from stepahead.errors import ConfigError, DownloadError
from stepahead.hub.model_files import group
from stepahead.hub.offers import offers
from stepahead.hub.remote_header import remote_facts
from stepahead.hub.remote_repo import open_repo
from support.hub_server import COMMIT, FakeRepo
from support.hub_toys import FULL, HEADS, REPO, TRUNK


def test_a_listing_has_the_gguf_files_with_sizes_and_checksums(toy_repo):
    repo = open_repo(REPO)
    assert [file.path for file in repo.files] == sorted([TRUNK, FULL, HEADS])
    assert all(file.nbytes == len(toy_repo.files[file.path]) and file.is_sha256 for file in repo.files)
    assert (repo.revision, repo.branch) == (COMMIT, "main")
    assert open_repo(REPO, COMMIT).branch is None


@pytest.mark.parametrize("card", [{}, {"base_model": "a/b"}, {"base_model": ["a/b", 3]}, {"base_model": {"x": 1}}])
def test_cards_are_written_by_people(toy_repo, card):
    toy_repo.card = card
    assert open_repo(REPO).bases == (("a/b",) if isinstance(card.get("base_model"), str | list) else ())


@pytest.mark.parametrize("statuses", [[429], [500, 502, 503], [408] * 3])
def test_a_busy_hub_is_asked_again(hub, toy_repo, statuses):
    hub.api_statuses += statuses
    assert open_repo(REPO).files


def test_a_hub_that_stays_busy_is_given_up(hub, toy_repo):
    hub.api_statuses += [503] * 50
    with pytest.raises(DownloadError, match=r"failed 4 times .* check the network"):
        open_repo(REPO)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_repository_that_is_not_there_or_private(hub, toy_repo, status):
    hub.api_statuses += [status]
    with pytest.raises(ConfigError, match="check the name; for a private or gated one set HF_TOKEN"):
        open_repo(REPO)


def test_a_revision_that_is_not_there(toy_repo):
    with pytest.raises(ConfigError, match="has no such revision"):
        open_repo(REPO, "v9")


def test_a_private_repository_with_a_token(hub, toy_repo, monkeypatch):
    toy_repo.private, hub.token = True, "hf_x"
    with pytest.raises(ConfigError, match="no such repository"):
        open_repo(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert open_repo(REPO).files


@pytest.mark.parametrize(
    "body",
    [
        b"<html>captive portal</html>",
        b"[]",
        b"{}",
        b'{"id": "x", "siblings": 3}',
        b"[" * 100_000,
        b'"' + b"x" * 2_000_000,
    ],
)
def test_an_answer_that_is_no_listing(hub, toy_repo, body):
    hub.api_body = body
    with pytest.raises(DownloadError):
        open_repo(REPO)


@pytest.mark.parametrize("path", ["../../x.gguf", "/etc/x.gguf", "a/../../../x.gguf", "..\\x.gguf"])
def test_names_that_lead_elsewhere_end_the_pull(hub, toy_repo, path):
    sha = {"sha256": "0" * 64, "size": 1, "pointerSize": 1}
    toy_repo.extra.append({"rfilename": path, "size": 1, "blobId": "0" * 40, "lfs": sha})
    with pytest.raises(DownloadError, match="leads elsewhere"):
        open_repo(REPO)


def test_a_listing_of_far_too_many_files(hub, toy_repo):
    listing = toy_repo.listing(REPO)
    listing["siblings"] = [{"rfilename": f"{index}.txt", "size": 1, "blobId": "0" * 40} for index in range(50_001)]
    hub.api_body = json.dumps(listing).encode()
    with pytest.raises(DownloadError, match="50001 files"):
        open_repo(REPO)


def test_headers_tell_heads_and_only_a_prefix_is_read(hub, toy_repo, monkeypatch):
    monkeypatch.setattr("stepahead.hub.remote_header.FIRST_BYTES", 4096)
    found = {model.path: remote_facts(model) for model in group(open_repo(REPO).files)}
    assert {path: (facts.num_heads, facts.has_trunk) for path, facts in found.items()} == {
        TRUNK: (0, True),
        FULL: (3, True),
        HEADS: (3, False),
    }
    assert hub.sent < sum(map(len, toy_repo.files.values())) / 3
    assert found[HEADS].fault_as_heads_of(found[TRUNK]) is None


def test_offers_mark_what_fits_and_the_best(hub, toy_repo):
    found = offers(open_repo(REPO), 64_000_000_000)
    assert {one.model.path: (one.num_heads, one.is_heads_only, one.fit, one.is_best) for one in found} == {
        TRUNK: (0, False, "yes", False),
        FULL: (3, False, "yes", True),
        HEADS: (3, True, "yes", False),
    }
    small = offers(open_repo(REPO), 1_000)
    assert [one.model.path for one in small if one.is_best] == [TRUNK]  # the smallest, where none fits
    assert {one.fit for one in small} == {"from disk"}


def test_a_file_that_is_no_gguf_is_offered_with_its_fault(hub, toy_repo):
    toy_repo.files["bad-Q2_K.gguf"] = b"version https://git-lfs" * 10
    faults = {one.model.path: one.fault for one in offers(open_repo(REPO), None)}
    assert "not a GGUF file" in faults["bad-Q2_K.gguf"]
    assert faults[FULL] is None


def test_a_repository_without_gguf_files_offers_nothing(hub):
    hub.repos[REPO] = FakeRepo({"model.safetensors": b"x"})
    assert offers(open_repo(REPO), None) == ()
