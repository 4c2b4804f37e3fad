"""Ranges of files in a new file: the same bytes by every way of copying, shared where that is possible."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import FileRange, GGUFFile, QuantType, TensorData, file_range, write_gguf, write_split_gguf
from stepahead.gguf.file_range import BLOCK_BYTES, can_share, copy_range, shareable
from stepahead.gguf.writer import PADDING_KEY

NBYTES = 5 * BLOCK_BYTES + 777
needs_kernel_copy = pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="this system has no copy_file_range")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(np.random.default_rng(0).bytes(NBYTES))
    return path


def whole(path: Path) -> FileRange:
    return part(path, 0, path.stat().st_size)


def part(path: Path, offset: int, nbytes: int) -> FileRange:
    return FileRange(path, offset, nbytes, path.stat().st_mtime_ns)


def copied(source: FileRange, target: Path, before: bytes = b"", on_bytes=None) -> bytes:
    with target.open("wb") as file:
        file.write(before)
        copy_range(source, file, on_bytes)
        assert file.tell() == len(before) + source.nbytes
        file.write(b"end")
    assert target.read_bytes().startswith(before) and target.read_bytes().endswith(b"end")
    return target.read_bytes()[len(before) : -3]


class Sharing:
    """Stands in for a file system that shares: copies, notes what it was asked for, and gives up where told."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.ranges: list[tuple[int, int, int]] = []
        self.limit = limit

    def __call__(self, source: int, target: int, offset: int, position: int, nbytes: int) -> bool:
        assert not offset % BLOCK_BYTES and not position % BLOCK_BYTES and not nbytes % BLOCK_BYTES
        if len(self.ranges) >= self.limit:
            return False
        self.ranges.append((offset, position, nbytes))
        os.pwrite(target, os.pread(source, nbytes, offset), position)
        return True


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> Sharing:
    found = Sharing()
    monkeypatch.setattr(file_range, "_share", found)
    return found


def without_kernel_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "copy_file_range", raising=False)


def refusing(code: int):
    def copy_file_range(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    return copy_file_range


def in_small_steps(source: int, target: int, nbytes: int, offset: int, position: int) -> int:
    return os.pwrite(target, os.pread(source, min(nbytes, 1000), offset), position)


WAYS = {
    "as it comes": lambda patch: None,
    "no such call": without_kernel_copy,
    "another disk": lambda patch: patch.setattr(os, "copy_file_range", refusing(errno.EXDEV), raising=False),
    "not supported": lambda patch: patch.setattr(os, "copy_file_range", refusing(errno.EOPNOTSUPP), raising=False),
    "nothing copied": lambda patch: patch.setattr(os, "copy_file_range", lambda *_: 0, raising=False),
    "small steps": lambda patch: patch.setattr(os, "copy_file_range", in_small_steps, raising=False),
    "shared": lambda patch: patch.setattr(file_range, "_share", Sharing()),
    "shared at first": lambda patch: (
        patch.setattr(file_range, "_share", Sharing(limit=2)),
        patch.setattr(file_range, "_SHARED_PIECE_BYTES", BLOCK_BYTES),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, NBYTES), nbytes=st.integers(0, NBYTES), before=st.integers(0, 2 * BLOCK_BYTES))
def test_every_way_copies_the_bytes(
    source: Path, tmp_path: Path, way: str, offset: int, nbytes: int, before: int
) -> None:
    nbytes = min(nbytes, NBYTES - offset)
    counts: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        WAYS[way](patch)
        patch.setattr(file_range, "_BUFFER_BYTES", 3000)
        data = copied(
            part(source, offset, nbytes), tmp_path / "out", bytes(before), lambda count, _: counts.append(count)
        )
    assert data == source.read_bytes()[offset : offset + nbytes]
    assert sum(counts) == nbytes and all(counts)


@given(offset=st.integers(0, 99_999), nbytes=st.integers(0, 99_999), position=st.integers(0, 99_999))
def test_what_is_shareable_is_whole_blocks_of_both(offset: int, nbytes: int, position: int) -> None:
    found = FileRange(Path("x"), offset, nbytes, 0)
    start, stop = shareable(found, position)
    assert offset <= start <= stop <= found.stop
    if start < stop:
        assert not start % BLOCK_BYTES and not stop % BLOCK_BYTES and not (position + start - offset) % BLOCK_BYTES
    elif (position - offset) % BLOCK_BYTES == 0:
        assert nbytes < 2 * BLOCK_BYTES  # else there would be a whole block


def test_whole_blocks_are_shared(source: Path, tmp_path: Path, sharing: Sharing) -> None:
    counts: list[tuple[int, bool]] = []
    copied(part(source, 100, NBYTES - 200), tmp_path / "out", bytes(100), lambda *count: counts.append(count))
    assert sharing.ranges == [(BLOCK_BYTES, BLOCK_BYTES, 4 * BLOCK_BYTES)]
    assert counts == [(BLOCK_BYTES - 100, False), (4 * BLOCK_BYTES, True), (777 - 100, False)]
    sharing.ranges.clear()
    copied(whole(source), tmp_path / "out", bytes(32))
    assert sharing.ranges == []  # no block of the one is a block of the other


def test_this_disk_does_as_it_says(source: Path, tmp_path: Path) -> None:
    shared: list[int] = []
    copied(whole(source), tmp_path / "out", b"", lambda count, is_shared: shared.append(count * is_shared))
    assert (sum(shared) > 0) == can_share(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source.bin"]


def test_sharing_is_asked_by_trying(source: Path, tmp_path: Path, sharing: Sharing) -> None:
    assert can_share(source, tmp_path)
    assert sharing.ranges == [(0, 0, BLOCK_BYTES)]
    assert not can_share(source, tmp_path / "nowhere")
    assert not can_share(tmp_path / "nothing", tmp_path)


@needs_kernel_copy
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_faults_of_the_disk_are_passed_on(source: Path, tmp_path: Path, code: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", refusing(code))
    with pytest.raises(OSError) as found:
        copied(whole(source), tmp_path / "out")
    assert found.value.errno == code


@pytest.mark.parametrize("way", ["as it comes", "no such call"])
def test_a_file_that_is_cut_short_meanwhile(source: Path, tmp_path: Path, way: str, monkeypatch) -> None:
    WAYS[way](monkeypatch)
    longer = FileRange(source, 0, NBYTES + 1, source.stat().st_mtime_ns)
    with pytest.raises(ModelFormatError, match=f"source.bin: ends at byte {NBYTES} of {NBYTES + 1}: it was cut short"):
        copied(longer, tmp_path / "out")


def test_a_file_that_was_changed(source: Path, tmp_path: Path) -> None:
    found = whole(source)
    os.utime(source, ns=(0, 1))
    with pytest.raises(ModelFormatError, match=r"source.bin: was changed while it was in use"):
        copied(found, tmp_path / "out")
    found = whole(source)
    with pytest.raises(ModelFormatError, match=r"source.bin: was changed while it was in use"):
        copied(found, tmp_path / "out", b"", lambda *_: os.utime(source, ns=(0, 2)))


# --- in a GGUF file ---
def tensors(num: int = 6, rows: int = 37) -> dict[str, TensorData]:
    generator = np.random.default_rng(1)
    return {
        f"t{index}": TensorData.from_array(generator.standard_normal((rows + index, 32), np.float32), QuantType.Q8_0)
        for index in range(num)
    }


def ranges(file: GGUFFile) -> dict[str, TensorData]:
    return {name: TensorData(t.type, t.shape, file.range(name)) for name, t in file.tensors.items()}


def write_source(path: Path, alignment: int = 32) -> Path:
    write_gguf(path, {"general.name": "x" * 100}, tensors(), alignment=alignment)
    return path


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(range(6)), st.integers(1, 6), st.sampled_from([8, 32, 64]), st.sampled_from([8, 32, 64]),
    st.integers(0, 5000), st.integers(0, 6), st.booleans(),
)  # fmt: skip
def test_ranges_in_any_order_between_other_tensors(
    tmp_path: Path, order: list[int], keep: int, old: int, new: int, length: int, own: int, has_share: bool
) -> None:
    write_source(tmp_path / "source.gguf", old)
    with GGUFFile.open(tmp_path / "source.gguf") as file:
        chosen = {f"t{index}": ranges(file)[f"t{index}"] for index in order[:keep]}
        named = list(chosen.items())
        named.insert(min(own, keep), ("own", TensorData.from_array(np.ones((3, 32), np.float32))))
        share = f"t{order[0]}" if has_share else None
        pairs = {"general.name": "y" * length, "last": 1}
        write_gguf(tmp_path / "out.gguf", pairs, dict(named), alignment=new, share=share)
        with GGUFFile.open(tmp_path / "out.gguf") as out:
            assert list(out.tensors) == [name for name, _ in named]
            for name in chosen:
                assert out.data(name).tobytes() == file.data(name).tobytes()
            assert (out.array("own") == 1).all()
            assert [key for key in out.metadata if key not in (PADDING_KEY, "general.alignment")] == list(pairs)
            if share and new <= old:
                assert (out.range(share).offset - file.range(share).offset) % BLOCK_BYTES == 0
            if not share:
                assert PADDING_KEY not in out.metadata


def test_neighbours_are_one_range(tmp_path: Path, sharing: Sharing) -> None:
    write_gguf(tmp_path / "source.gguf", {}, tensors(rows=400))
    with GGUFFile.open(tmp_path / "source.gguf") as file:
        found = ranges(file)
        write_gguf(tmp_path / "all.gguf", {"a": 1}, found, share="t0")
        assert len(sharing.ranges) == 1
        sharing.ranges.clear()
        del found["t2"]
        write_gguf(tmp_path / "some.gguf", {"a": 1}, found, share="t3")
        first, last = file.range("t3"), file.range("t5")
    assert [offset for offset, _, _ in sharing.ranges] == [first.offset + -first.offset % BLOCK_BYTES]
    assert sum(nbytes for _, _, nbytes in sharing.ranges) > last.stop - first.offset - 2 * BLOCK_BYTES


def test_the_padding_is_made_anew_and_no_longer_than_needed(tmp_path: Path) -> None:
    write_source(tmp_path / "source.gguf")
    with GGUFFile.open(tmp_path / "source.gguf") as file:
        found, pairs = ranges(file), {"general.name": "y" * 50}
        write_gguf(tmp_path / "once.gguf", pairs, found, share="t0")
    with GGUFFile.open(tmp_path / "once.gguf") as file:
        assert len(file.get_str(PADDING_KEY)) < BLOCK_BYTES
        write_gguf(tmp_path / "twice.gguf", file.typed_metadata(), ranges(file), share="t0")
        write_gguf(tmp_path / "without.gguf", file.typed_metadata(), ranges(file))
    assert (tmp_path / "twice.gguf").read_bytes() == (tmp_path / "once.gguf").read_bytes()
    with GGUFFile.open(tmp_path / "without.gguf") as file:
        assert PADDING_KEY not in file.metadata
    same = tmp_path / "same.gguf"
    with GGUFFile.open(tmp_path / "source.gguf") as file:
        write_gguf(same, file.typed_metadata(), ranges(file), share="t0")
    assert same.read_bytes() == (tmp_path / "source.gguf").read_bytes()


def test_a_range_of_a_later_shard(tmp_path: Path) -> None:
    first = write_split_gguf(tmp_path / "parts", {}, tensors(), num_shards=3)[0]
    with GGUFFile.open(first) as file:
        assert file.range("t5").path == tmp_path / "parts-00003-of-00003.gguf"
        write_gguf(tmp_path / "one.gguf", {}, ranges(file))
        with GGUFFile.open(tmp_path / "one.gguf") as one:
            assert all(one.data(name).tobytes() == file.data(name).tobytes() for name in file.tensors)


def test_a_range_of_another_size_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "source.gguf")
    with GGUFFile.open(tmp_path / "source.gguf") as file:
        wrong = TensorData(QuantType.F32, (37, 32), file.range("t0"))
        with pytest.raises(
            ConfigError, match=r"tensor 't0': F32 of shape \(37, 32\) takes 4736 uint8, got a range of 1258"
        ):
            write_gguf(tmp_path / "out.gguf", {}, {"t0": wrong})
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]
