"""A repaired file is written whole or not at all, never over the broken one, and has the bytes of the good one."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stepahead.demo import demo_path
from stepahead.errors import CapacityError, ConfigError, ModelFormatError
from stepahead.filecheck.examine import examine
from stepahead.filecheck.fixed_file import write_fixed
from stepahead.filecheck.patched_file import PatchedFile
from stepahead.filecheck.repair import Repair, add, pair_by_halves, swap_halves
from stepahead.gguf import (
    GGUFFile,
    QuantType,
    TensorData,
    TensorInfo,
    dequantize,
    destination,
    file_range,
    quantize,
    write_gguf,
    write_split_gguf,
)
from support.broken_files import from_checkpoint, norms_of, plus, rewrite
from support.random_step35 import Shape, metadata, model_tensors

DEMO = Path(demo_path())


def silent(done: int, total: int) -> None:
    pass


def test_the_repaired_file_is_the_good_file(tmp_path: Path) -> None:
    good = rewrite(DEMO, tmp_path / "good.gguf", dict.fromkeys(norms_of(DEMO), from_checkpoint(1)))
    names = norms_of(good, range(14, 17))
    broken = rewrite(good, tmp_path / "broken.gguf", dict.fromkeys(names, from_checkpoint(0)))
    assert broken.read_bytes() != good.read_bytes()
    heard = []
    with GGUFFile.open(broken) as file:
        write_fixed(examine(file)[1], tmp_path / "fixed.gguf", lambda done, total: heard.append((done, total)))
    assert (tmp_path / "fixed.gguf").read_bytes() == good.read_bytes()
    assert len(heard) > 1 and heard[-1][0] == heard[-1][1] > 0
    assert sorted(heard) == heard


def test_a_split_file_becomes_one(tmp_path: Path) -> None:
    shape = Shape()
    keys = metadata(shape)
    keys["step35.nextn_predict_layers"] = 2
    first = write_split_gguf(tmp_path / "split", keys, dict(model_tensors(shape)), num_shards=3)[0]
    with GGUFFile.open(first) as file:
        write_fixed(examine(file)[1], tmp_path / "one.gguf", silent)
    with GGUFFile.open(tmp_path / "one.gguf") as one:
        assert one.get_int("step35.nextn_predict_layers") == 3
        assert not [key for key in one.metadata if key.startswith("split.")]
        for name, source in model_tensors(shape):
            assert one.data(name).tobytes() == np.asarray(source.data).tobytes()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(data: object, info: TensorInfo) -> np.ndarray:
        raise RuntimeError("in the middle")

    with GGUFFile.open(DEMO) as file:
        view = PatchedFile(file, Repair("", tensors={"blk.16.nextn.hnorm.weight": fail}))
        with pytest.raises(RuntimeError):
            write_fixed(view, tmp_path / "fixed.gguf", silent)
    assert list(tmp_path.iterdir()) == []


def broken(folder: Path) -> Path:
    """The demo model with norms that lack their 1 and a list that ends too early."""
    counts = "step35.attention.head_count"
    with GGUFFile.open(DEMO) as file:
        short = file.metadata[counts][:14]
    return rewrite(
        DEMO, folder / "broken.gguf", dict.fromkeys(norms_of(DEMO, range(14, 17)), plus(-1.0)), {counts: short}
    )


def test_the_broken_file_is_never_written_over(tmp_path: Path) -> None:
    path = broken(tmp_path)
    (tmp_path / "link.gguf").symlink_to(path)
    os.link(path, tmp_path / "hard.gguf")
    before = path.read_bytes()
    with GGUFFile.open(path) as file:
        view = examine(file)[1]
        for name in ("broken.gguf", "link.gguf", "hard.gguf"):
            with pytest.raises(ConfigError, match="another name"):
                write_fixed(view, tmp_path / name, silent)
        for name, words in (("none/out.gguf", "no such folder"), ("out.bin", r"ends in \.gguf")):
            with pytest.raises(ConfigError, match=words):
                write_fixed(view, tmp_path / name, silent)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["broken.gguf", "hard.gguf", "link.gguf"]


def test_a_full_disk_is_noticed_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    path = broken(tmp_path)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda _: Usage)
    with GGUFFile.open(path) as file, pytest.raises(CapacityError, match="another disk"):
        write_fixed(examine(file)[1], tmp_path / "out.gguf", silent)
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = broken(tmp_path)
    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    with GGUFFile.open(path) as file, pytest.raises(CapacityError, match="the disk filled up; nothing was left"):
        write_fixed(examine(file)[1], tmp_path / "out.gguf", silent)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changes_while_it_is_copied(tmp_path: Path) -> None:
    path = broken(tmp_path)
    with GGUFFile.open(path) as file, pytest.raises(ModelFormatError, match="was changed while it was in use"):
        write_fixed(examine(file)[1], tmp_path / "out.gguf", lambda done, total: os.utime(path, ns=(0, 1)))
    assert list(tmp_path.iterdir()) == [path]


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from stepahead.filecheck.examine import examine
from stepahead.filecheck.fixed_file import write_fixed
from stepahead.gguf import GGUFFile
def on_progress(done, total):
    if done >= float(sys.argv[1]) * total:
        os.kill(os.getpid(), signal.SIGKILL)
with GGUFFile.open(sys.argv[2]) as file:
    write_fixed(examine(file)[1], Path(sys.argv[3]), on_progress)
"""


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_kill_leaves_no_file_that_looks_whole(tmp_path: Path, share: float) -> None:
    path, out = broken(tmp_path), tmp_path / "out.gguf"
    before = path.read_bytes()
    words = [sys.executable, "-c", KILLED_AT, str(share), str(path), str(out)]
    assert subprocess.run(words, timeout=60, check=False).returncode == -signal.SIGKILL
    assert not out.exists() and path.read_bytes() == before
    (left,) = [one for one in tmp_path.iterdir() if one != path]
    assert left.suffix == ".tmp"
    with GGUFFile.open(path) as file:
        assert write_fixed(examine(file)[1], out, silent) == (left,)
    with GGUFFile.open(out) as fixed:
        assert examine(fixed) == ((), fixed)


def test_what_is_not_repaired_is_shared_where_the_disk_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a header of another length."""
    path = broken(tmp_path)
    shared = []

    def share(source: int, target: int, offset: int, position: int, nbytes: int) -> bool:
        os.pwrite(target, os.pread(source, nbytes, offset), position)
        shared.append(nbytes)
        return True

    with GGUFFile.open(path) as file:
        write_fixed(examine(file)[1], tmp_path / "copied.gguf", silent)
        monkeypatch.setattr(file_range, "_share", share)
        write_fixed(examine(file)[1], tmp_path / "shared.gguf", silent)
    assert (tmp_path / "shared.gguf").read_bytes() == (tmp_path / "copied.gguf").read_bytes()  # on every disk alike
    assert sum(shared) > 0.5 * path.stat().st_size
    with GGUFFile.open(tmp_path / "shared.gguf") as fixed, GGUFFile.open(DEMO) as demo:
        assert all(abs(fixed.array(name) - demo.array(name)).max() < 1e-6 for name in demo.tensors)


# --- edits ---
TYPES = [type for type in QuantType if type.name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")]


@pytest.mark.parametrize("type", TYPES, ids=lambda type: type.name)
@pytest.mark.parametrize("width", [512, 256, 32])
def test_swapping_halves_twice_changes_nothing(type: QuantType, width: int) -> None:
    """Where a half is whole blocks; where it is not, the numbers are encoded anew and may move by a step."""
    if width % type.block_size:
        pytest.skip("no such rows")
    values = np.random.default_rng(1).standard_normal((6, width)).astype(np.float32)
    data = quantize(values, type)
    info = TensorInfo("eh_proj", values.shape, type, 0, data.size, 0)
    found = dequantize(swap_halves(data, info), type)
    stored = dequantize(data, type)
    expected = np.hstack([stored[:, width // 2 :], stored[:, : width // 2]])
    if (width // 2) % type.block_size == 0:
        assert (found == expected).all()
        assert (swap_halves(swap_halves(data, info), info) == data).all()
    else:
        np.testing.assert_allclose(found, expected, atol=0.5)


def test_a_type_without_encoder_is_named(tmp_path: Path) -> None:
    type = QuantType.IQ4_XS
    info = TensorInfo("blk.45.nextn.eh_proj.weight", (2, 256), type, 0, 272, 0)
    with pytest.raises(ConfigError, match=r"eh_proj.*IQ4_XS"):
        swap_halves(np.zeros((2, 136), np.uint8), info)


@pytest.mark.parametrize("type", [QuantType.F32, QuantType.F16, QuantType.BF16], ids=lambda type: type.name)
def test_adding_keeps_the_type(type: QuantType) -> None:
    data = quantize(np.array([-0.5, 0.25, 3.0], np.float32), type)
    info = TensorInfo("norm", (3,), type, 0, data.size, 0)
    assert dequantize(add(1.0)(data, info), type).tolist() == [0.5, 1.25, 4.0]


def test_reordering_undoes_the_order_of_other_models() -> None:
    dim, heads = 8, 3
    rows = np.arange(heads * dim, dtype=np.float32)[:, None].repeat(4, axis=1)
    # As other converters do: each head's two halves, rows one by one from either.
    other = rows.reshape(heads, 2, dim // 2, 4).swapaxes(1, 2).reshape(heads * dim, 4)
    info = TensorInfo("attn_q", rows.shape, QuantType.F32, 0, rows.nbytes, 0)
    data = quantize(other, QuantType.F32)
    assert (dequantize(pair_by_halves(dim)(data, info), QuantType.F32) == rows).all()


def test_a_view_reads_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, {"general.architecture": "x", "a": 1}, {"t": TensorData.from_array(np.ones(4, np.float32))})
    with GGUFFile.open(path) as file:
        view = PatchedFile(PatchedFile(file, Repair("", tensors={"t": add(1.0)})), Repair("", tensors={"t": add(2.0)}))
        assert view.array("t").tolist() == [4.0] * 4
        assert file.array("t").tolist() == [1.0] * 4
        assert view.metadata == file.metadata
        without = PatchedFile(view, Repair("", metadata={"a": None}))
        assert "a" not in without.metadata
        assert without.array("t").tolist() == [4.0] * 4
        with pytest.raises(AssertionError):
            without.identity()
