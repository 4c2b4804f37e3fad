"""Downloads over bad lines: whole and verified in the end, or gone on with; never whole in name only."""

import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from stepahead.errors import CapacityError, ConfigError, DownloadError
from stepahead.hub import download as room
from stepahead.hub.download import Job, download
from stepahead.hub.partial import Partial, journal_of
from stepahead.hub.remote_file import RemoteFile
from support.hub_server import COMMIT, FakeRepo, random_cuts

DATA = random.Random(7).randbytes(500_001)  # eight segments of 64 kB, the last one short
NAME = "o/r"


@pytest.fixture
def served(hub):
    hub.repos[NAME] = FakeRepo({"a.gguf": DATA})
    return hub


def file_of(data: bytes = DATA, path: str = "a.gguf") -> RemoteFile:
    return RemoteFile(NAME, COMMIT, path, len(data), hashlib.sha256(data).hexdigest())


def job_of(folder: Path, file: RemoteFile | None = None, trusted: bool = False) -> Job:
    file = file or file_of()
    return Job(file, folder / f"{file.path}.incomplete", folder / file.path, folder / f"{file.path}.lock", trusted)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_arrives_whole_and_nothing_else_stays(served, tmp_path):
    seen = []
    download([job_of(tmp_path / "x")], on_progress=lambda one: seen.append((one.received, one.verified)))
    assert (tmp_path / "x" / "a.gguf").read_bytes() == DATA
    assert left(tmp_path / "x") == {"a.gguf"}
    assert seen[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize("connections", [1, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_connections_that_drop_at_random_bytes_are_gone_on_with(served, tmp_path, seed, connections):
    served.drops += random_cuts(seed, 25, 70_000)
    download([job_of(tmp_path)], connections)
    assert (tmp_path / "a.gguf").read_bytes() == DATA
    assert served.sent < len(DATA) + 65_536  # what came before a cut was kept


@pytest.mark.parametrize("seed", range(4))
def test_what_was_interrupted_for_good_is_gone_on_with_by_the_next_call(served, tmp_path, seed):
    served.drop_always_after = random.Random(seed).randrange(1, 40_000)
    served.drops += [70_000] * seed
    while True:
        served.drops += [0] * 6  # no byte comes six times in a row
        try:
            download([job_of(tmp_path)], connections=1)
        except DownloadError as error:
            assert "run the same command again" in str(error)
            assert "a.gguf" not in left(tmp_path)
            served.drops.clear()
            served.drop_always_after = None if served.sent > len(DATA) / 2 else served.drop_always_after
            served.drops += [30_000] * 3
            continue
        break
    assert (tmp_path / "a.gguf").read_bytes() == DATA
    assert served.sent <= len(DATA) + 65_536


@pytest.mark.parametrize("count", [0, 1, 65_535, 65_536, 65_537, 131_072])
def test_files_of_any_size(hub, tmp_path, count):
    data = DATA[:count]
    hub.repos[NAME] = FakeRepo({"a.gguf": data})
    download([job_of(tmp_path, file_of(data))])
    assert (tmp_path / "a.gguf").read_bytes() == data


def test_wrong_bytes_of_the_right_size_are_removed_and_said(served, tmp_path):
    served.wrong_bytes.add("a.gguf")
    with pytest.raises(DownloadError, match=r"came with checksum .* it was removed"):
        download([job_of(tmp_path)])
    assert left(tmp_path) == set()
    served.wrong_bytes.clear()
    download([job_of(tmp_path)])
    assert (tmp_path / "a.gguf").read_bytes() == DATA


def test_another_size_than_listed_is_said_before_much_is_fetched(served, tmp_path):
    served.short_by["a.gguf"] = 5
    with pytest.raises(DownloadError, match=f"has {len(DATA) - 5} bytes on the server, its listing says {len(DATA)}"):
        download([job_of(tmp_path)], connections=1)
    assert len(served.seen("/store/")) == 1
    assert "a.gguf" not in left(tmp_path)


def test_a_server_with_fewer_bytes_than_a_range_asks_for(served, tmp_path):
    served.store_statuses += [416]
    with pytest.raises(DownloadError, match="fewer bytes"):
        download([job_of(tmp_path)], connections=1)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(served, tmp_path, status):
    served.store_statuses += [status] * 4
    served.retry_after = "0"
    download([job_of(tmp_path)], connections=1)
    assert (tmp_path / "a.gguf").read_bytes() == DATA


def test_a_server_that_stays_busy_is_given_up(served, tmp_path):
    served.store_statuses += [503] * 100
    with pytest.raises(DownloadError, match=r"failed 6 times in a row \(the server answers 503\)"):
        download([job_of(tmp_path)], connections=1)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_again(served, tmp_path, status):
    served.store_statuses += [status]
    with pytest.raises(ConfigError):
        download([job_of(tmp_path)], connections=1)
    assert len(served.seen("/store/")) == 1


def test_the_token_goes_to_the_hub_and_never_to_the_store(served, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    served.token = "hf_secret"
    served.repos[NAME].gated = True
    download([job_of(tmp_path)])
    assert all(headers.get("authorization") == "Bearer hf_secret" for headers in served.seen("/resolve/"))
    assert served.seen("/store/")
    assert all("authorization" not in headers for headers in served.seen("/store/"))


def test_a_gated_repository_says_where_to_ask(served, tmp_path):
    served.repos[NAME].gated = True
    with pytest.raises(ConfigError, match=rf"accept at {served.url}/o/r, then set HF_TOKEN"):
        download([job_of(tmp_path)])


def test_a_server_without_ranges_is_read_from_its_beginning(served, tmp_path):
    served.has_ranges = False
    served.drops += [100_000, 200_000]
    download([job_of(tmp_path)], connections=1)
    assert (tmp_path / "a.gguf").read_bytes() == DATA


def test_a_journal_of_another_file_or_of_nonsense_begins_again(served, tmp_path):
    job = job_of(tmp_path)
    for nonsense in (b"", b"x" * 400, os.urandom(16 + 64 + 16 + 8 * 8)):
        job.part.write_bytes(b"old" * 1000)
        journal_of(job.part).write_bytes(nonsense)
        download([job])
        assert job.target.read_bytes() == DATA
        job.target.unlink()


def test_a_journal_that_promises_more_than_there_is_begins_again(served, tmp_path):
    job = job_of(tmp_path)
    with Partial(job.part, job.file) as partial:
        start, stop = partial.missing(0)
        partial.write(0, DATA[start:stop])
    os.truncate(job.part, 100)
    download([job])
    assert job.target.read_bytes() == DATA


def test_segments_that_are_there_are_not_asked_for(served, tmp_path):
    job = job_of(tmp_path)
    with Partial(job.part, job.file) as partial:
        for index in (0, 2, 5):
            start, stop = partial.missing(index)
            partial.write(index, DATA[start:stop])
        partial.write(1, DATA[65_536 : 65_536 + 1000])
    download([job])
    assert job.target.read_bytes() == DATA
    assert served.sent == len(DATA) - 3 * 65_536 - 1000


def test_a_part_that_somebody_replaced_by_a_link_is_not_followed(served, tmp_path):
    other = tmp_path / "precious"
    other.write_bytes(b"mine")
    job = job_of(tmp_path)
    job.part.symlink_to(other)
    with pytest.raises(ConfigError, match="cannot be written"):
        download([job])
    assert other.read_bytes() == b"mine"


def test_a_disk_without_room_is_said_before_the_first_byte(served, tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_400_000})())
    with pytest.raises(CapacityError, match=r"0\.0 GB are missing and 1\.0 GB are free"):
        download([job_of(tmp_path)])
    assert served.sent == 0


def test_a_disk_that_fills_up_keeps_what_came(served, tmp_path, monkeypatch):
    write, calls = Partial.write, []

    def full(self, index, data):
        calls.append(index)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        write(self, index, data)

    monkeypatch.setattr(Partial, "write", full)
    with pytest.raises(CapacityError, match="no room is left; what came so far is kept"):
        download([job_of(tmp_path)], connections=1)
    monkeypatch.setattr(Partial, "write", write)
    before = served.sent
    download([job_of(tmp_path)])
    assert (tmp_path / "a.gguf").read_bytes() == DATA
    assert served.sent - before < len(DATA)


def test_a_file_that_another_program_wrote_is_verified_once(served, tmp_path):
    job = job_of(tmp_path)
    job.target.write_bytes(DATA)
    download([job])
    assert not served.requests
    job.target.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(DownloadError, match="has checksum"):
        download([job])
    assert job.target.exists()  # not ours to remove
    download([job_of(tmp_path, trusted=True)])


def test_one_file_is_downloaded_by_one_program(served, tmp_path):
    from filelock import FileLock

    job = job_of(tmp_path)
    with FileLock(job.lock), pytest.raises(DownloadError, match="another program is downloading"):
        download([job])


def test_several_files_at_once_and_the_first_fault_ends_them_all(hub, tmp_path):
    paths = [f"{name}.gguf" for name in "abcd"]
    hub.repos[NAME] = FakeRepo({path: DATA[index:] for index, path in enumerate(paths)})
    jobs = [job_of(tmp_path, file_of(DATA[index:], path)) for index, path in enumerate(paths)]
    hub.wrong_bytes.add("b.gguf")
    with pytest.raises(DownloadError, match=r"b\.gguf came with checksum"):
        download(jobs)
    hub.wrong_bytes.clear()
    download(jobs)
    assert [(tmp_path / path).read_bytes() for path in paths] == [DATA[index:] for index in range(4)]


def test_an_interrupt_ends_the_threads_and_keeps_the_bytes(served, tmp_path, monkeypatch):
    served.pause = 0.05
    monkeypatch.setattr(room, "REPORT_SECONDS", 0.005)

    def interrupt(progress):
        if progress.received > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([job_of(tmp_path)], connections=2, on_progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]
    served.pause, before = 0.0, served.sent
    download([job_of(tmp_path)])
    assert (tmp_path / "a.gguf").read_bytes() == DATA
    assert served.sent - before < len(DATA) - 50_000


def test_connections_out_of_range_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="give 1 to 32"):
        download([job_of(tmp_path)], connections=0)


def test_nobody_at_the_other_end(served, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(DownloadError, match="failed 6 times in a row"):
        download([job_of(tmp_path)], connections=1)


def test_offline_mode_asks_nobody(served, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        download([job_of(tmp_path)])
    assert not served.requests
