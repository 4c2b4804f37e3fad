"""Whatever happens to the disk or to the process: under its name there is the whole file, the old one, or nothing."""

import errno
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from stepahead.errors import CapacityError, ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile, destination, file_range
from stepahead.gguf.file_range import can_share
from stepahead.splice import graft, join, output, split
from support.spliced import content, write

Usage = namedtuple("Usage", "total used free")
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from stepahead import splice
from stepahead.gguf import file_range
file_range._PIECE_BYTES = 4096
share = float(sys.argv[1])
def on_progress(done, total):
    if done >= share * total:
        os.kill(os.getpid(), signal.SIGKILL)
splice.join(*map(Path, sys.argv[2:5]), on_progress=on_progress)
"""
LIMITED = """
import resource, sys
from stepahead.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "trunk.gguf", part="trunk"), write(tmp_path / "heads.gguf", part="heads")


def run(script: str, *args: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_kill_leaves_no_file_that_looks_whole(tmp_path: Path, parts, share: float, is_there: bool) -> None:
    out = tmp_path / "out.gguf"
    if is_there:
        out.write_bytes(b"what was there")
    assert run(KILLED_AT, share, *parts, out).returncode == -signal.SIGKILL
    assert (out.read_bytes() == b"what was there") if is_there else not out.exists()
    left = [path for path in tmp_path.iterdir() if path not in (*parts, out)]
    assert [path.suffix for path in left] == [".tmp"]
    report = join(*parts, out)
    assert report.left_over == tuple(left)
    assert content(out) == content(write(tmp_path / "full.gguf"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_file_that_grows_too_large(tmp_path: Path, parts) -> None:
    done = run(LIMITED, "join", *parts, "-o", tmp_path / "out.gguf")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"stepahead: {tmp_path / 'out.gguf'}: too large a file for this disk; give a folder of another one\n"
    )
    assert sorted(tmp_path.iterdir()) == sorted(parts)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "the disk filled up"), (errno.EDQUOT, "the disk filled up")]
)
def test_a_disk_that_fills_up(tmp_path: Path, parts, code: int, words: str, monkeypatch) -> None:
    def full(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    with pytest.raises(CapacityError, match=f"out.gguf: {words}; nothing was left there: free some room"):
        join(*parts, tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == sorted(parts)


def test_a_disk_that_fails(tmp_path: Path, parts, monkeypatch) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "copy_file_range", fail, raising=False)
    with pytest.raises(ConfigError, match=r"out.gguf: cannot be written: Input/output error"):
        join(*parts, tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == sorted(parts)


def test_a_file_that_changes_while_it_is_copied(tmp_path: Path, parts) -> None:
    def touch(*_: int) -> None:
        os.utime(parts[0], ns=(0, 1))

    with pytest.raises(ModelFormatError, match=r"trunk.gguf: was changed while it was in use"):
        join(*parts, tmp_path / "out.gguf", on_progress=touch)
    assert sorted(tmp_path.iterdir()) == sorted(parts)


def test_room_is_looked_for_first(tmp_path: Path, parts, monkeypatch) -> None:
    sizes = [sum(info.nbytes for info in GGUFFile.open(path).tensors.values()) for path in parts]
    monkeypatch.setattr(output, "can_share", lambda *_: False)
    free = Usage(0, 0, max(sizes) + destination.HEADER_BYTES)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda _: free)
    words = r"out.gguf: takes 0.0 GB, but .* has 0.0 GB free; free some room"
    with pytest.raises(CapacityError, match=words):
        join(*parts, tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    monkeypatch.setattr(output, "can_share", lambda *_: True)
    join(*parts, tmp_path / "out.gguf")  # what is shared takes no room
    monkeypatch.setattr(output, "can_share", lambda *_: False)
    with pytest.raises(CapacityError):  # each would fit, both do not
        split(tmp_path / "out.gguf", tmp_path / "a.gguf", tmp_path / "b.gguf")


def test_the_trunk_is_shared_where_the_disk_can(tmp_path: Path, monkeypatch) -> None:
    trunk, heads = (
        write(tmp_path / "trunk.gguf", part="trunk", num_shards=2),
        write(tmp_path / "heads.gguf", part="heads"),
    )
    real = can_share(trunk, tmp_path)
    report = join(trunk, heads, tmp_path / "real.gguf")
    assert (report.files[0].shared_bytes > 0) == real

    def share(source: int, target: int, offset: int, position: int, nbytes: int) -> bool:
        os.pwrite(target, os.pread(source, nbytes, offset), position)
        return True

    monkeypatch.setattr(file_range, "_share", share)
    report = join(trunk, heads, tmp_path / "shared.gguf")
    assert (tmp_path / "shared.gguf").read_bytes() == (tmp_path / "real.gguf").read_bytes()  # on every disk alike
    largest = max(path.stat().st_size for path in tmp_path.glob("trunk-*"))
    assert largest - 3 * 4096 < report.files[0].shared_bytes <= report.files[0].nbytes


def test_progress_goes_up_to_the_end(tmp_path: Path, parts, monkeypatch) -> None:
    monkeypatch.setattr(file_range, "_PIECE_BYTES", 4096)
    seen: list[tuple[int, int]] = []
    full = tmp_path / "full.gguf"
    for run in (
        lambda: join(*parts, full, on_progress=lambda *step: seen.append(step)),
        lambda: split(full, tmp_path / "a.gguf", tmp_path / "b.gguf", on_progress=lambda *step: seen.append(step)),
        lambda: graft(parts[1], full, tmp_path / "c.gguf", on_progress=lambda *step: seen.append(step)),
    ):
        seen.clear()
        run()
        assert len(seen) > 10
        assert seen == sorted(seen) and len({total for _, total in seen}) == 1
        assert seen[-1][0] == seen[-1][1]
