"""Heads of two models of the same shapes in one repository: told apart by what is said of them, or not taken."""

import json

import pytest

from stepahead.cli import main
from stepahead.errors import ConfigError
from stepahead.gguf import write_gguf
from stepahead.hub import companions
from stepahead.hub.pull import plan
from stepahead.hub.reference import Reference
from support.hub_server import FakeRepo
from support.random_step35 import Shape, metadata, model_tensors

OLD, NEW = "Step3.5-mtp-Q8_0.gguf", "Step3.7-mtp-Q8_0.gguf"


@pytest.fixture
def made(tmp_path):
    """A toy's file with other metadata; no two have the same bytes."""

    def make(part: str, **keys: str) -> bytes:
        shape = Shape()
        path = tmp_path / "made.gguf"
        pairs = {**metadata(shape, part != "trunk"), **{key.replace("__", "."): text for key, text in keys.items()}}
        pairs["test.number"] = make.count = make.count + 1
        tensors = dict(model_tensors(shape))
        write_gguf(path, pairs, {name: tensors[name] for name in tensors if belongs(name, shape, part)})
        return path.read_bytes()

    make.count = 0
    return make


def belongs(name: str, shape: Shape, part: str) -> bool:
    block = int(name.split(".")[1]) if name.startswith("blk.") else -1
    return block < 0 or (block >= shape.num_trunk) == (part == "heads")


def chosen(hub, files: dict[str, bytes], choice: str, repo: str = "o/r", **settings: object) -> str:
    hub.repos[repo] = FakeRepo(files, **settings)
    (heads,) = plan(Reference(repo, choice)).heads.heads
    return heads.path


@pytest.mark.parametrize(
    ("trunk", "heads"),
    [("Step-3.5-Flash-IQ4_XS.gguf", OLD), ("Step-3.7-Flash-IQ4_XS.gguf", NEW), ("3.7/Step-IQ4_XS.gguf", NEW)],
)
def test_the_names_of_files_tell(hub, made, trunk, heads):
    files = {trunk: made("trunk"), OLD: made("heads"), NEW: made("heads")}
    assert chosen(hub, files, "IQ4_XS") == heads


def test_of_the_right_kind_the_best_type_is_taken(hub, made):
    files = {"Step-3.7-IQ4_XS.gguf": made("trunk"), OLD: made("heads")}
    files |= {NEW.replace("Q8_0", label): made("heads") for label in ("Q4_0", "BF16")}
    assert chosen(hub, files, "IQ4_XS") == NEW.replace("Q8_0", "BF16")


def test_what_the_headers_say_counts_more_than_names(hub, made):
    def of(part: str, version: str) -> bytes:
        return made(part, general__base_model__0__repo_url=f"https://huggingface.co/maker/Step-{version}-Flash")

    files = {"Step-3.5-IQ4_XS.gguf": of("trunk", "3.7"), OLD: of("heads", "3.7"), NEW: of("heads", "3.5")}
    assert chosen(hub, files, "IQ4_XS") == OLD


def test_titles_in_headers_tell(hub, made):
    files = {"a-IQ4_XS.gguf": made("trunk", general__name="Step 3.7 Flash")}
    files |= {f"{name}-mtp.gguf": made("heads", general__name=f"Step {name} Flash MTP") for name in ("3.5", "3.7")}
    files = {path.replace("3.5", "x").replace("3.7", "y"): data for path, data in files.items()}
    assert chosen(hub, files, "IQ4_XS") == "y-mtp.gguf"


def test_the_repositorys_name_and_its_card_tell(hub, made):
    files = {"a-IQ4_XS.gguf": made("trunk", general__name=""), OLD: made("heads"), NEW: made("heads")}
    assert chosen(hub, files, "IQ4_XS", repo="o/Step-3.7-GGUF") == NEW
    assert chosen(hub, files, "IQ4_XS", card={"base_model": "maker/Step-3.5-Flash"}) == OLD


def test_heads_of_another_version_leave_those_that_say_nothing(hub, made):
    files = {"Step-3.5-IQ4_XS.gguf": made("trunk"), "mtp-Q4_0.gguf": made("heads"), NEW: made("heads")}
    assert chosen(hub, files, "IQ4_XS") == "mtp-Q4_0.gguf"


def test_where_nothing_tells_both_are_named_and_the_flag(hub, made, capsys):
    hub.repos["o/r"] = FakeRepo({"a-IQ4_XS.gguf": made("trunk"), OLD: made("heads"), NEW: made("heads")})
    before = len(hub.seen("/store/"))
    assert main(["pull", "o/r:IQ4_XS"]) == 2
    said = capsys.readouterr().err
    assert "nothing says which are its own" in said
    assert all(word in said for word in ("--heads-file", f"o/r:{OLD}", f"o/r:{NEW}"))
    assert len(hub.seen("/store/")) - before == 3  # headers alone
    for given in (NEW, f"o/r:{NEW}"):
        assert main(["pull", "o/r:IQ4_XS", "--heads-file", given, "--json"]) == 0
        assert [file["path"] for file in json.loads(capsys.readouterr().out)["heads"]] == [NEW]
    assert main(["pull", "o/r:IQ4_XS", "--no-heads"]) == 0


def test_the_same_holds_for_the_official_repository(hub, made, monkeypatch):
    monkeypatch.setitem(companions.HEADS_OF, "maker/Step", "maker/Step-GGUF")
    hub.repos["maker/Step-GGUF"] = FakeRepo({OLD: made("heads"), NEW: made("heads")}, commit="f" * 40)
    card = {"base_model": "maker/Step"}
    assert chosen(hub, {"x-3.7-IQ4_XS.gguf": made("trunk")}, "IQ4_XS", card=card) == NEW
    hub.repos["q/x"] = FakeRepo({"x-IQ4_XS.gguf": made("trunk")}, card=card)
    with pytest.raises(ConfigError, match=f"maker/Step-GGUF:{OLD}, maker/Step-GGUF:{NEW}"):
        plan(Reference("q/x", "IQ4_XS"))
    assert plan(Reference("q/x", "IQ4_XS"), heads_file=f"maker/Step-GGUF:{OLD}").heads.heads[0].path == OLD


def test_the_file_with_more_heads_is_taken(hub, made, toy_files):
    files = {"a-IQ4_XS.gguf": toy_files["trunk"], "x-mtp.gguf": toy_files["heads"], "y-mtp.gguf": toy_files["other"]}
    assert chosen(hub, files, "IQ4_XS") == "x-mtp.gguf"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.gguf", "has no 'none.gguf'"),
        ("other-mtp.gguf", "does not fit: width 64 instead of 128"),
        ("a-IQ4_XS.gguf", "it holds no heads"),
        ("no/body:x.gguf", "no such repository"),
        ("a b:c", "names no repository"),
    ],
)
def test_named_heads_that_cannot_be(hub, toy_files, given, said):
    hub.repos["o/r"] = FakeRepo({"a-IQ4_XS.gguf": toy_files["trunk"], "other-mtp.gguf": toy_files["other"]})
    with pytest.raises(ConfigError, match=said):
        plan(Reference("o/r", "IQ4_XS"), heads_file=given)
