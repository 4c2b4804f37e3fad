"""Listings that no honest hub sends: one error each, before anything is written; and names that are odd but honest."""

import gzip
import json

import pytest

from stepahead.cli import main
from stepahead.errors import ConfigError, DownloadError
from stepahead.hub import registry, remote_repo
from stepahead.hub.pull import fetch, plan
from stepahead.hub.reference import Reference
from stepahead.hub.remote_repo import open_repo
from support.hub_server import FakeRepo
from support.hub_toys import FULL, HEADS, REPO, TRUNK

HUGE_NUMBER = b"9" * 5000


def entry(path: object, size: object = 1, sha: object = "0" * 64) -> dict[str, object]:
    return {"rfilename": path, "size": 1, "blobId": "0" * 40, "lfs": {"size": size, "sha256": sha, "pointerSize": 1}}


def test_a_listing_that_is_too_long_is_not_read_to_its_end(hub, toy_repo, monkeypatch):
    monkeypatch.setattr(remote_repo, "MAX_LISTING_BYTES", 100_000)
    hub.api_body = b'{"padding": "' + b"x" * 50_000_000
    with pytest.raises(DownloadError, match="the listing is longer than"):
        open_repo(REPO)


def test_a_listing_that_unpacks_to_too_much(hub, toy_repo, monkeypatch):
    monkeypatch.setattr(remote_repo, "MAX_LISTING_BYTES", 1 << 20)
    hub.api_body, hub.api_headers = gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="the listing is longer than 1 MiB"):
        open_repo(REPO)


def test_a_listing_that_never_ends(hub, toy_repo, monkeypatch):
    monkeypatch.setattr(remote_repo, "MAX_LISTING_SECONDS", -1.0)
    with pytest.raises(DownloadError, match="has not ended"):
        open_repo(REPO)


def test_a_part_of_a_listing_is_not_taken_for_all_of_it(hub, toy_repo):
    hub.api_headers = {"Link": f'<{hub.url}/api/models/{REPO}?cursor=2>; rel="next"'}
    with pytest.raises(DownloadError, match="comes in pages"):
        open_repo(REPO)


@pytest.mark.parametrize("size", [-1, -(1 << 70), 1 << 44, 1 << 70, 1.5, "1", None, True, [1]])
def test_sizes_that_no_file_has(toy_repo, size):
    toy_repo.extra.append(entry("a-Q4_0.gguf", size))
    with pytest.raises(DownloadError, match=r"gives no size for a-Q4_0\.gguf that a file can have"):
        open_repo(REPO)


@pytest.mark.parametrize("siblings", [[3], [None], [{"rfilename": 3}], [{}], "x", {"a": 1}, [["a.gguf"]]])
def test_files_that_are_none(hub, toy_repo, siblings):
    hub.api_body = json.dumps({"sha": "0" * 40, "siblings": siblings}).encode()
    with pytest.raises(DownloadError, match="something else than files"):
        open_repo(REPO)


@pytest.mark.parametrize("lfs", [3, [], {}, {"size": 1}, {"size": 1, "sha256": 7}, {"size": 1, "sha256": "0" * 63}])
def test_checksums_that_are_none(toy_repo, lfs):
    toy_repo.extra.append({**entry("a-Q4_0.gguf"), "lfs": lfs})
    with pytest.raises(DownloadError, match="gives no"):
        open_repo(REPO)


def test_a_number_that_nobody_can_read(hub, toy_repo):
    hub.api_body = b'{"sha": ' + HUGE_NUMBER + b"}"
    with pytest.raises(DownloadError, match="is no listing"):
        open_repo(REPO)


@pytest.mark.parametrize("sha", [None, 3, "main", "0" * 39, "0" * 41, "../../../x", "G" * 40])
def test_a_commit_that_is_none(hub, toy_repo, sha):
    hub.api_body = json.dumps({"sha": sha, "siblings": []}).encode()
    with pytest.raises(DownloadError, match="names a commit that is none"):
        open_repo(REPO)


def test_another_commit_than_was_asked_for(toy_repo, hub):
    hub.api_body = json.dumps({"sha": "0" * 40, "siblings": []}).encode()
    with pytest.raises(DownloadError, match=f"was asked for commit {'1' * 40} and answers with {'0' * 40}"):
        hub.repos[REPO].commit = "1" * 40
        open_repo(REPO, "1" * 40)


@pytest.mark.parametrize(
    "path",
    [
        "a\u202egguf.4Q.gguf", "a\u2028.gguf", "a\u0085.gguf", "a\x1b[2J.gguf", "\ud800.gguf", "a\u200b.gguf",
        "a/" * 600 + "x.gguf", "a|b.gguf", "nul\0.gguf", " /x.gguf",
    ],
)  # fmt: skip
def test_names_that_cannot_be_shown_or_written(toy_repo, path, capsys):
    toy_repo.extra.append(entry(path))
    with pytest.raises(DownloadError, match="leads elsewhere or cannot be shown") as caught:
        open_repo(REPO)
    assert str(caught.value).isascii()
    assert main(["pull", f"{REPO}:IQ4_XS"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "paths", [("a.gguf", "a.gguf"), ("a.gguf", "a.gguf/b.gguf"), ("x/y.gguf", "x/y.gguf/z/b.gguf")]
)
def test_a_name_that_is_there_twice_or_is_a_folder(toy_repo, paths):
    toy_repo.extra += [entry(path) for path in paths]
    with pytest.raises(DownloadError, match="twice, or as a folder"):
        open_repo(REPO)


@pytest.mark.parametrize(
    "path", ["Töy 100% #1 (a&b)+Q4_0.gguf", "模型/Toy-Q4_0.gguf", "a b/c;d,e=f@g-Q4_0.gguf", "-Q4_0.gguf"]
)
def test_names_that_are_odd_are_pulled(hub, toy_files, path):
    hub.repos[REPO] = FakeRepo({path: toy_files["full"]})
    model = fetch(plan(Reference(REPO, "Q4_0")))
    assert model.files[0].path == path
    assert model.path.read_bytes() == toy_files["full"]
    assert registry.demand(model.name) == model


@pytest.mark.parametrize("base", ["../../api", "a/b?x=1", "x", "a b/c", "/a", "a/b/c", "ü/x", ""])
def test_a_base_model_that_is_no_name_is_not_asked_for(hub, toy_files, base):
    hub.repos["q/Toy-GGUF"] = FakeRepo({"a-Q4_0.gguf": toy_files["trunk"]}, card={"base_model": base})
    before = len(hub.requests)
    assert plan(Reference("q/Toy-GGUF", "Q4_0")).heads.heads == ()
    assert [path for _, path, _ in hub.requests[before:] if path.startswith("/api/")] == ["/api/models/q/Toy-GGUF"]


# --- revisions ---
@pytest.fixture
def tagged(toy_repo, toy_files):
    """v1 has one more file than main, another commit, and other bytes under the same name."""
    files = {**toy_repo.files, FULL: toy_files["full"] + b"\0" * 32, "Old-Q2_K.gguf": toy_files["trunk"] + b"\0" * 64}
    toy_repo.revisions["v1"] = toy_repo.revisions["refs/pr/7"] = FakeRepo(files, commit="a" * 40)
    return toy_repo


@pytest.mark.parametrize("revision", ["v1", "refs/pr/7", "a" * 40])
def test_a_revision_reaches_all_of_its_repository(hub, tagged, revision, capsys, monkeypatch):
    assert main(["pull", f"{REPO}:Q2_K", "--revision", revision, "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    assert [file["revision"] for file in (*model["files"], *model["heads"])] == ["a" * 40] * 2
    asked = {path for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked and all(f"/resolve/{'a' * 40}/" in path for path in asked)
    assert main(["list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["revision"], listed["branch"]) == ("a" * 40, None if revision == "a" * 40 else revision)
    registry.demand(model["name"]).path.unlink()
    assert main(["run", model["name"], "-p", "x"]) == 2
    assert f"run `stepahead pull {REPO}:Q2_K --revision {revision}` again" in capsys.readouterr().err


def test_an_interrupted_pull_of_a_revision_is_gone_on_with(hub, tagged):
    wanted = plan(Reference(REPO, "Q4_K_M"), "v1")
    hub.drops += [70_000] + [0] * 6
    with pytest.raises(DownloadError):
        fetch(wanted, connections=1)
    hub.drops.clear()
    before = hub.sent
    fetch(plan(Reference(REPO, "Q4_K_M"), "v1"))
    size = len(tagged.revisions["v1"].files[FULL])
    assert hub.sent - before < 2 * size - 60_000  # the header, and what was missing


def test_the_listing_is_of_the_revision(tagged, capsys):
    assert main(["pull", REPO, "--revision", "v1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["revision"] == "a" * 40
    assert "Q2_K" in [one["label"] for one in found["offers"]]


def test_heads_of_another_repository_are_of_its_own_revision_and_it_is_said(hub, toy_files, capsys, monkeypatch):
    from stepahead.hub import companions

    monkeypatch.setitem(companions.HEADS_OF, "maker/Toy", "maker/Toy-GGUF")
    hub.repos["maker/Toy-GGUF"] = FakeRepo({HEADS: toy_files["heads"]}, commit="f" * 40)
    other = FakeRepo({"a-Q4_0.gguf": toy_files["trunk"]}, commit="b" * 40, card={"base_model": "maker/Toy"})
    hub.repos["q/Toy"] = FakeRepo({}, revisions={"v1": other})
    assert main(["pull", "q/Toy:Q4_0", "--revision", "v1"]) == 0
    assert "--revision v1 is of q/Toy; the heads are of maker/Toy-GGUF as it is now" in capsys.readouterr().err
    assert {file.revision for file in registry.demand("q/Toy:Q4_0").heads} == {"f" * 40}


@pytest.mark.parametrize("revision", ["", "../x", "a b", "-x", "a..b", "a?b", "x\n", "/x", "x/", "a" * 300])
def test_a_revision_that_can_be_none(toy_repo, hub, revision):
    with pytest.raises(ConfigError, match="can be no branch, tag or commit"):
        open_repo(REPO, revision)
    assert not hub.requests


def test_offline_another_revision_is_not_taken_for_the_one_asked_for(tagged, capsys, monkeypatch):
    from huggingface_hub import constants

    assert main(["pull", f"{REPO}:{TRUNK}", "--revision", "v1"]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["pull", f"{REPO}:IQ4_XS", "--revision", "v1"]) == 0
    assert main(["pull", f"{REPO}:IQ4_XS", "--revision", "a" * 40]) == 0
    assert main(["pull", f"{REPO}:IQ4_XS", "--revision", "v2"]) == 2


def test_what_a_name_stood_for_before_is_said_to_stay(tagged, capsys):
    assert main(["pull", f"{REPO}:Q4_K_M", "--revision", "v1"]) == 0
    assert "stay in the hub's cache" not in capsys.readouterr().err
    assert main(["pull", f"{REPO}:Q4_K_M"]) == 0
    assert f"of commit {'a' * 8} stay in the hub's cache, where no name here uses them" in capsys.readouterr().err
    assert main(["pull", f"{REPO}:Q4_K_M"]) == 0
    assert "stay in" not in capsys.readouterr().err
