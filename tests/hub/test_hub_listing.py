"""What hubs answer when asked for a repository, and what is made of it."""

import json

import pytest

from stepahead.cli import main
from stepahead.config import EngineConfig
from stepahead.errors import ConfigError, DownloadError
from stepahead.gguf import GGUFFile, QuantType, TensorInfo, write_gguf
from stepahead.gguf.header import Header
from stepahead.hub import companions
from stepahead.hub.model_files import group
from stepahead.hub.need import OVERHEAD, REST, Need, Needs
from stepahead.hub.offers import offers
from stepahead.hub.remote_header import remote_facts
from stepahead.hub.remote_repo import open_repo
from stepahead.hub.unread_model import UnreadModel
from stepahead.memory.planner import Planner
from stepahead.opening import make_backend
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
    assert {one.fit for one in small if not one.is_heads_only} == {"no"}
    assert {one.fit for one in offers(open_repo(REPO), None)} == {"unknown"}


def test_what_fits_is_what_the_memory_plan_says(hub, toy_repo, tmp_path):
    """As of the files themselves, heads beside a trunk included, and from headers alone."""
    found = {one.model.path: one.need for one in offers(open_repo(REPO), None)}
    paths = {path: tmp_path / f"{index}.gguf" for index, path in enumerate((TRUNK, FULL, HEADS))}
    for path, place in paths.items():
        place.write_bytes(toy_repo.files[path])
    asked = EngineConfig(max_num_seqs=1)
    with GGUFFile.open(paths[TRUNK]) as trunk, GGUFFile.open(paths[FULL]) as full, GGUFFile.open(paths[HEADS]) as heads:
        for file, companion, path in ((trunk, heads, TRUNK), (full, None, FULL)):
            plan = Planner(file, companion, make_backend(asked)).plan(asked, max_cache_nbytes=0)
            assert found[path] == Need(plan.nbytes, plan.anonymous_nbytes, "memory plan")
    need = found[TRUNK]
    for memory, fit in ((need.nbytes + REST, "yes"), (need.nbytes + REST - 1, "from disk"),
                        (need.has_to_fit + REST, "from disk"), (need.has_to_fit + REST - 1, "no")):  # fmt: skip
        assert {one.model.path: one.fit for one in offers(open_repo(REPO), memory)}[TRUNK] == fit


def test_a_file_that_cannot_be_planned_is_judged_by_its_size(hub, toy_repo, tmp_path):
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "other"}, {})
    write_gguf(tmp_path / "n.gguf", {"general.architecture": "step35"}, {})
    for name in "mn":
        toy_repo.files[f"{name}-Q2_K.gguf"] = (tmp_path / f"{name}.gguf").read_bytes()
    toy_repo.files["bad-Q2_K.gguf"] = b"GGUF" * 10
    found = {one.model.path: one.need for one in offers(open_repo(REPO), None)}
    for path in ("m-Q2_K.gguf", "n-Q2_K.gguf", "bad-Q2_K.gguf"):
        assert found[path] == Need(len(toy_repo.files[path]) + OVERHEAD, 0, "file size")


@pytest.mark.parametrize("shape", [(1 << 25, 4), (4, 1 << 19)])
def test_a_header_that_claims_huge_matrices_is_not_planned(shape):
    nbytes = 4 * shape[0] * shape[1]
    tensors = {"token_embd.weight": TensorInfo("token_embd.weight", shape, QuantType.F32, 0, nbytes, 0)}
    header = Header(3, {"general.architecture": "step35"}, {}, 32, tensors, 0)
    assert Needs().of(nbytes, UnreadModel("x", [header]), None).rule == "file size"


def test_heads_of_another_repository_count_with_their_files_size(hub, toy_files, monkeypatch):
    monkeypatch.setitem(companions.HEADS_OF, "maker/Toy", "maker/Toy-GGUF")
    hub.repos["maker/Toy-GGUF"] = FakeRepo({HEADS: toy_files["heads"]}, commit="f" * 40)
    hub.repos["q/x"] = FakeRepo({f"a-Q{bits}_K.gguf": toy_files["trunk"] for bits in (2, 3)})
    alone = offers(open_repo("q/x"), None, open_repo=open_repo)
    hub.repos["q/x"].card = {"base_model": "maker/Toy"}
    before, sent = len(hub.requests), hub.sent
    found = offers(open_repo("q/x"), None, open_repo=open_repo)
    assert [one.need.nbytes for one in found] == [one.need.nbytes + len(toy_files["heads"]) for one in alone]
    asked = [path for _, path, _ in hub.requests[before:]]
    assert [path for path in asked if "maker" in path] == ["/api/models/maker/Toy-GGUF"]  # once, and no header
    assert hub.sent - sent == 2 * len(toy_files["trunk"])


def test_a_listing_reads_no_more_than_headers_and_names_the_rule(hub, toy_repo, capsys):
    assert main(["pull", REPO, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["offers"]
    assert {one["fit_by"] for one in found if not one["is_heads_only"]} == {"memory plan"}
    assert all(one["needed_bytes"] > one["nbytes"] for one in found)
    assert len(hub.seen("/store/")) == 3


def test_a_file_that_is_no_gguf_is_offered_with_its_fault(hub, toy_repo):
    toy_repo.files["bad-Q2_K.gguf"] = b"version https://git-lfs" * 10
    faults = {one.model.path: one.fault for one in offers(open_repo(REPO), None)}
    assert "not a GGUF file" in faults["bad-Q2_K.gguf"]
    assert faults[FULL] is None


def test_a_repository_without_gguf_files_offers_nothing(hub):
    hub.repos[REPO] = FakeRepo({"model.safetensors": b"x"})
    assert offers(open_repo(REPO), None) == ()
