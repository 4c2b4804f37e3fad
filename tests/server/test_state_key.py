"""The key that signs reasoning outlives a server, and a folder that cannot keep it is no error."""

import os
import stat

import pytest

from stepahead.server.state_key import kept_key


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_made_once_and_is_the_owners_alone(folder):
    key = kept_key()
    assert len(key) == 32
    assert kept_key() == key
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_one_is_made_again(folder):
    key = kept_key()
    (path,) = folder.iterdir()
    path.write_bytes(b"short")
    assert kept_key() != key
    assert kept_key() == kept_key()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_no_error(folder):
    folder.mkdir()
    folder.chmod(0o500)
    assert kept_key() != kept_key()


def test_without_a_folder_it_holds_for_once(monkeypatch):
    monkeypatch.setattr("stepahead.server.state_key.user_folder", lambda: None)
    assert len(kept_key()) == 32
    assert kept_key() != kept_key()
