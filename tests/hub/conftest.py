"""A hub of our own, a cache and a registry of their own: no test asks the network or writes to the user's folders."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from stepahead.hub import partial, patience
from support.hub_server import FakeHub, FakeRepo, serve
from support.hub_toys import FULL, HEADS, REPO, TRUNK
from support.random_step35 import Shape, write_model


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """part -> a small model's file: "full", "trunk", "heads", and "other" heads that fit no trunk here."""
    folder = tmp_path_factory.mktemp("toys")
    shapes = {"full": Shape(), "trunk": Shape(), "heads": Shape(), "other": Shape(hidden=64)}
    parts = {"other": "heads"}
    return {
        name: write_model(folder / f"{name}.gguf", shape, parts.get(name, name)).read_bytes()
        for name, shape in shapes.items()
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub that the library asks; segments of 64 kB, and no wait worth the name between tries."""
    with serve(FakeHub()) as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        template = one.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(partial, "SEGMENT", 65536)
        monkeypatch.setattr(patience, "UNIT", 0.001)
        close_session()
        yield one
        close_session()


@pytest.fixture
def toy_repo(hub: FakeHub, toy_files: dict[str, bytes]) -> FakeRepo:
    """As the official one: trunks in folders, heads beside them; and one file that has both."""
    files = {TRUNK: toy_files["trunk"], FULL: toy_files["full"], HEADS: toy_files["heads"], "README.md": b"# toy"}
    hub.repos[REPO] = FakeRepo(files)
    return hub.repos[REPO]
