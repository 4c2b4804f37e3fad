"""Repacked weights: written once, mapped afterwards, made again when in doubt; and never another bit of a logit."""

import errno
import fcntl
import json
import logging
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM, SamplingParams, Speculation
from stepahead.backends.cpu import layouts
from stepahead.backends.cpu.ops import ISAS
from stepahead.cli import main
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, write_split_gguf
from stepahead.repack import folders, repacked
from stepahead.repack.cache_file import MAGIC, MAX_INDEX_BYTES
from support.random_step35 import Shape, metadata, model_tensors, quantised, write_model

SHAPE = quantised(Shape(num_trunk=3, fused_qkv=True), QuantType.Q4_K)
IDS = [5, 60, 7, 300]
INT8_TYPES = (QuantType.Q8_0, QuantType.Q4_K, QuantType.Q6_K)
GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)
PIECE = 16 * 3 * 144  # a few pieces a tensor


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model whole, and as trunk and companion."""
    folder = tmp_path_factory.mktemp("originals")
    return {part: write_model(folder / f"{part}.gguf", SHAPE, part).read_bytes() for part in ("full", "trunk", "heads")}


@pytest.fixture
def model(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """A file in a folder of its own, for which a cache file is worth it."""
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "model.gguf"
    path.write_bytes(files["full"])
    return path


def prefer_panels(monkeypatch: pytest.MonkeyPatch, *types: QuantType) -> None:
    monkeypatch.setattr(layouts, "FASTER_IN_PANELS", dict.fromkeys(ISAS, types))


@pytest.fixture(autouse=True)
def everything_is_repacked_into_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prefer_panels(monkeypatch, *INT8_TYPES)
    monkeypatch.setattr(repacked, "MIN_FILE_BYTES", 0)
    monkeypatch.setattr(repacked, "PIECE_BYTES", PIECE)
    monkeypatch.setenv("STEPAHEAD_CACHE", str(tmp_path / "user"))


class Start:
    """What one start of a model did and computed."""

    def __init__(self, path: Path, choice: str = "auto", **settings: object) -> None:
        self.calls: list[tuple[Path, int, int]] = []
        note = lambda *call: self.calls.append(call)  # noqa: E731
        with LLM(path, threads=2, context_length=128, repack=choice, on_repack=note, **settings) as llm:
            self.paths = [found.path for found in llm.repacked]
            self.names = {name for found in llm.repacked for name in found.matrices}
            self.bits = llm.logits(IDS).tobytes()
            if llm.model.draft is not None:
                self.bits += llm.draft_logits(IDS).tobytes()
                self.text = llm.generate(IDS, GREEDY, Speculation("mtp", depth=3)).token_ids
            else:
                self.text = llm.generate(IDS, GREEDY).token_ids


def cache_of(model: Path) -> Path:
    return model.with_name("model.gguf.repacked")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- writing and mapping ---
def test_the_first_start_writes_and_the_second_maps(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = Start(model, "never")
    assert (plain.paths, plain.calls, names(model.parent)) == ([], [], ["model.gguf"])
    first = Start(model)
    assert first.paths == [cache_of(model)] and names(model.parent) == ["model.gguf", "model.gguf.repacked"]
    path, done, total = first.calls[0]
    assert (path, done) == (cache_of(model), 0) and first.calls[-1] == (path, total, total)
    assert [call[1] for call in first.calls] == sorted(call[1] for call in first.calls) and len(first.calls) > 20
    assert path.stat().st_size >= total > model.stat().st_size // 2
    assert len(warnings(caplog)) == 1 and f"to {path}: once" in warnings(caplog)[0]
    before = path.stat()
    second = Start(model)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns) and second.calls == []
    assert second.paths == first.paths and len(warnings(caplog)) == 1
    assert first.bits == second.bits == plain.bits and first.text == second.text == plain.text


@pytest.mark.parametrize("type", [QuantType.Q8_0, QuantType.Q6_K], ids=lambda t: t.name)
def test_other_types(tmp_path: Path, type: QuantType) -> None:
    path = write_model(tmp_path / "model.gguf", replace(quantised(Shape(num_trunk=2), type), own_embed=True))
    assert Start(path).bits == Start(path).bits == Start(path, "never").bits


def test_a_split_model_is_one(tmp_path: Path) -> None:
    paths = write_split_gguf(tmp_path / "model", metadata(SHAPE), dict(model_tensors(SHAPE)), num_shards=3)
    first = Start(paths[0])
    assert [path.name for path in first.paths] == ["model-00001-of-00003.gguf.repacked"]
    assert Start(paths[0]).calls == [] and first.bits == Start(paths[0], "never").bits
    os.utime(paths[2], ns=(1, 1))
    assert Start(paths[0]).calls


def test_what_is_repacked(model: Path) -> None:
    found = Start(model).names
    assert {
        "blk.0.attn_qkv.weight",
        "output.weight",
        "blk.1.ffn_gate_exps.weight",
        "blk.3.nextn.eh_proj.weight",
    } <= found
    assert "token_embd.weight" not in found  # of which a few rows are looked up
    assert not any("attn_gate" in name or "gate_inp" in name for name in found)  # 4 or 8 rows; float32


def test_rows_that_are_cut_within_a_panel_stay_plain(tmp_path: Path) -> None:
    shape = replace(SHAPE, head_dim=8, num_kv_heads=1, heads_full=32, heads_sliding=32)
    path = write_model(tmp_path / "model.gguf", shape)
    found = Start(path)
    assert not any("attn_qkv" in name for name in found.names) and found.bits == Start(path, "never").bits


def test_where_nothing_wins_there_is_no_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_panels(monkeypatch)
    assert Start(model).paths == [] and names(model.parent) == ["model.gguf"]


def test_the_reference_reads_the_file(model: Path) -> None:
    with LLM(model, device="reference", context_length=64) as llm:
        assert llm.repacked == ()
    assert names(model.parent) == ["model.gguf"]


def test_small_models_are_repacked_in_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repacked, "MIN_FILE_BYTES", 256 << 20)
    start, plain = Start(model), Start(model, "never")
    assert start.paths == [None] and len(start.names) > 20 and start.calls == []
    assert names(model.parent) == ["model.gguf"]
    assert (start.bits, start.text) == (plain.bits, plain.text)


def test_a_folder_of_ones_own(model: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    first = Start(model, tmp_path / "own")
    assert [path.parent for path in first.paths] == [tmp_path / "own"] and names(model.parent) == ["model.gguf"]
    assert Start(model, str(tmp_path / "own")).calls == []
    other = tmp_path / "model.gguf"  # of the same name
    other.write_bytes(model.read_bytes())
    assert Start(other, tmp_path / "own").paths != first.paths
    assert Start(model, tmp_path / "own").calls == []


def test_a_companion_has_a_file_of_its_own(tmp_path: Path, files: dict[str, bytes]) -> None:
    trunk, heads = tmp_path / "trunk.gguf", tmp_path / "heads.gguf"
    trunk.write_bytes(files["trunk"])
    heads.write_bytes(files["full"])  # of which the heads are read
    plain, first = Start(trunk, "never", mtp=heads), Start(trunk, mtp=heads)
    assert first.paths == [tmp_path / "trunk.gguf.repacked", tmp_path / "heads.gguf.repacked"]
    assert first.paths[1].stat().st_size < first.paths[0].stat().st_size
    second = Start(trunk, mtp=heads)
    assert second.calls == [] and plain.bits == first.bits == second.bits and plain.text == second.text
    heads.write_bytes(files["heads"])
    third = Start(trunk, mtp=heads)
    assert {call[0].name for call in third.calls} == {"heads.gguf.repacked"} and third.bits == plain.bits


def test_a_run_without_heads_writes_them_for_later_ones(model: Path) -> None:
    without = Start(model, mtp="off")
    assert without.bits == Start(model, "never", mtp="off").bits
    assert Start(model).calls == []


# --- stale and damaged files ---
def append_a_byte(model: Path) -> None:
    before = model.stat()
    with model.open("ab") as file:
        file.write(b"\0")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(model: Path) -> None:
    before = model.stat()
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def rename_it(model: Path) -> None:
    before, raw = model.stat(), model.read_bytes()
    at = raw.index(b"general.name") + len(b"general.name") + 4 + 8
    model.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [append_a_byte, touch, rename_it])
def test_another_version_of_the_model_is_repacked_again(model: Path, change) -> None:
    first = Start(model)
    change(model)
    second = Start(model)
    assert second.calls and second.bits == first.bits
    assert Start(model).calls == []


def index_of(raw: bytes) -> dict:
    (length,) = struct.unpack("<Q", raw[8:16])
    return json.loads(raw[16 : 16 + length])


def with_index(change):
    """Another index before the same tensors; its length may grow."""

    def damage(raw: bytes) -> bytes:
        index = index_of(raw)
        (length,) = struct.unpack("<Q", raw[8:16])
        data = raw[16 + length + -(16 + length) % 4096 :]
        new = change(index)
        new = json.dumps(new if new is not None else index).encode() if not isinstance(new, bytes) else new
        return MAGIC + struct.pack("<Q", len(new)) + new + bytes(-(16 + len(new)) % 4096) + data

    return damage


def in_tensor(**values: object):
    return with_index(lambda index: index["tensors"][3].update(values))


DAMAGE = {
    "empty": lambda raw: b"",
    "cut in the magic": lambda raw: raw[:5],
    "cut in the index": lambda raw: raw[:4000],
    "cut in a tensor": lambda raw: raw[:-5000],
    "one byte too many": lambda raw: raw + b"\0",
    "something else": lambda raw: b"GGUF" + raw[4:],
    "length beyond the file": lambda raw: raw[:8] + struct.pack("<Q", len(raw)) + raw[16:],
    "length of 2^64 - 1": lambda raw: raw[:8] + b"\xff" * 8 + raw[16:],
    "length of 0": lambda raw: raw[:8] + bytes(8) + raw[16:],
    "no JSON": lambda raw: raw[:16] + b"\xff{" + raw[18:],
    "deep JSON": with_index(lambda index: b"[" * (1 << 20)),
    "a number without end": with_index(lambda index: b"9" * 100_000),
    "an index too long": with_index(lambda index: json.dumps(index).encode() + b" " * MAX_INDEX_BYTES),
    "a list": with_index(lambda index: [index]),
    "null": with_index(lambda index: b"null"),
    "no tensors": with_index(lambda index: index.update(tensors=[])),
    "tensors are numbers": with_index(lambda index: index.update(tensors=[1, 2])),
    "another version": with_index(lambda index: index.update(version=2)),
    "no sources": with_index(lambda index: index.update(sources=[])),
    "bytes are a text": with_index(lambda index: index.update(nbytes="8")),
    "negative offset": in_tensor(offset=-4096),
    "offset within a page": in_tensor(offset=8),
    "offset beyond the end": in_tensor(offset=1 << 40),
    "offset beyond 2^63": in_tensor(offset=1 << 80),
    "offset is a float": in_tensor(offset=4096.0),
    "offset is true": in_tensor(offset=True),
    "offset is infinite": in_tensor(offset=float("inf")),
    "another shape": in_tensor(shape=[1, 256]),
    "a shape of texts": in_tensor(shape="256"),
    "another type": in_tensor(type="Q8_0"),
    "another layout": in_tensor(layout="panels8"),
    "other bytes": in_tensor(nbytes=4096),
    "another name": in_tensor(name="blk.0.nothing"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_file_is_made_again(model: Path, fault: str) -> None:
    first, sound = Start(model), cache_of(model).read_bytes()
    cache_of(model).write_bytes(DAMAGE[fault](sound))
    second = Start(model)
    assert second.calls and second.paths == [cache_of(model)] and second.bits == first.bits
    assert cache_of(model).read_bytes() == sound and names(model.parent) == ["model.gguf", "model.gguf.repacked"]


def test_a_file_with_more_tensors_serves_those_that_are_wanted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Start(model)
    prefer_panels(monkeypatch, QuantType.Q6_K)
    assert Start(model).paths == []
    cache = cache_of(model)
    cache.write_bytes(
        with_index(lambda i: i["tensors"].append({**i["tensors"][0], "name": "more"}))(cache.read_bytes())
    )
    prefer_panels(monkeypatch, *INT8_TYPES)
    assert Start(model).calls == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_what_is_no_file_is_replaced(model: Path, make) -> None:
    make(cache_of(model))
    assert Start(model).calls and cache_of(model).is_file() and not cache_of(model).is_symlink()


def test_a_folder_under_its_name_is_left_alone(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache_of(model).mkdir()
    start = Start(model)
    assert start.paths == [] and len(warnings(caplog)) == 1 and cache_of(model).is_dir()
    assert start.bits == Start(model, "never").bits


# --- where it cannot be written ---
def deny(monkeypatch: pytest.MonkeyPatch, *denied: Path) -> None:
    """Not with chmod, which means nothing to root."""
    really = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in denied and really(path, mode))


def test_a_read_only_folder_leads_to_the_users(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, model.parent)
    first = Start(model)
    assert [path.parent for path in first.paths] == [tmp_path / "user"] and names(model.parent) == ["model.gguf"]
    second = Start(model)
    assert second.calls == [] and second.paths == first.paths and second.bits == Start(model, "never").bits


def test_no_folder_at_all(model: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    deny(monkeypatch, model.parent, tmp_path / "user")
    start = Start(model)
    (line,) = warnings(caplog)
    assert start.paths == [] and "cannot be written to" in line and str(model.parent) in line and "--repack" in line
    assert start.bits == Start(model, "never").bits and len(warnings(caplog)) == 1


def test_no_room(model: Path, monkeypatch, caplog) -> None:
    total = Start(model).calls[0][2]
    cache_of(model).write_bytes(b"stale")
    monkeypatch.setattr(repacked, "free_bytes", lambda folder: total + repacked.MIN_FREE_BYTES - 1)
    caplog.clear()
    start = Start(model)
    (line,) = warnings(caplog)
    assert start.paths == [] and start.calls == [] and "do not fit into" in line and "1.0 GB stay so" in line
    assert start.bits == Start(model, "never").bits and names(model.parent) == ["model.gguf"]
    monkeypatch.setattr(repacked, "free_bytes", lambda folder: total + repacked.MIN_FREE_BYTES)
    assert Start(model).paths == [cache_of(model)]


def test_a_disk_that_is_full_halfway(model: Path, monkeypatch, caplog) -> None:
    really, count = repacked.pad, iter(range(100))

    def pad(file: object) -> None:
        if next(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        really(file)

    monkeypatch.setattr(repacked, "pad", pad)
    start = Start(model)
    assert len(start.calls) > 5 and start.paths == [] and names(model.parent) == ["model.gguf"]
    assert "No space left on device" in warnings(caplog)[-1] and len(warnings(caplog)) == 2
    assert start.bits == Start(model, "never").bits


# --- who else writes ---
def test_an_interrupt_leaves_nothing(model: Path) -> None:
    def interrupt(path: Path, done: int, total: int) -> None:
        if done > total // 2:
            assert len(names(model.parent)) == 2  # the model and the temporary file
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LLM(model, threads=1, on_repack=interrupt)
    assert names(model.parent) == ["model.gguf"]
    assert Start(model).paths == [cache_of(model)]


def test_what_a_killed_process_left_is_removed(model: Path) -> None:
    left = model.with_name(".model.gguf.repacked.0badcafe.tmp")
    left.write_bytes(b"half")
    other = model.with_name(".other.gguf.repacked.0badcafe.tmp")
    other.write_bytes(b"half")
    assert Start(model).paths == [cache_of(model)]
    assert not left.exists() and other.exists()


def test_what_another_process_writes_is_left_to_it(model: Path, caplog) -> None:
    theirs = model.with_name(".model.gguf.repacked.0badcafe.tmp")
    with theirs.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = Start(model)
    (line,) = warnings(caplog)
    assert start.paths == [] and "another process is writing" in line and theirs.exists()
    assert Start(model).paths == [cache_of(model)] and not theirs.exists()


def test_what_is_being_written_is_seen_by_others(model: Path) -> None:
    seen: list[Start] = []

    def meanwhile(path: Path, done: int, total: int) -> None:
        if done > total // 2 and not seen:
            seen.append(Start(model))

    with LLM(model, threads=1, on_repack=meanwhile) as llm:
        assert [found.path for found in llm.repacked] == [cache_of(model)]
    assert seen[0].paths == [] and seen[0].calls == [] and seen[0].bits == Start(model, "never").bits


PROCESS = """
import hashlib, sys
from stepahead import LLM
from stepahead.backends.cpu import layouts
from stepahead.backends.cpu.ops import ISAS
from stepahead.gguf import QuantType
from stepahead.repack import repacked
layouts.FASTER_IN_PANELS = dict.fromkeys(ISAS, [QuantType.Q4_K])
repacked.MIN_FILE_BYTES, repacked.PIECE_BYTES = 0, 7000
for _ in range(3):
    with LLM(sys.argv[1], threads=1, context_length=64) as llm:
        print(hashlib.sha256(llm.logits([5, 60, 7, 300]).tobytes()).hexdigest())
"""


def test_several_processes_at_once(model: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(model)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert len({line for out, _ in said for line in out.split()}) == 1
    assert names(model.parent) == ["model.gguf", "model.gguf.repacked"] and Start(model).calls == []


# --- folders ---
def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert folders.user_folder() == tmp_path / "user"
    monkeypatch.delenv("STEPAHEAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders.user_folder() == tmp_path / "stepahead"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folders.user_folder() == tmp_path / "home" / ".cache" / "stepahead"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert folders.user_folder() == tmp_path / "home" / "Library" / "Caches" / "stepahead"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert folders.user_folder() == tmp_path / "local" / "stepahead"


def test_a_users_folder_that_is_a_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPAHEAD_CACHE", str(model))
    with pytest.raises(ConfigError, match=r"STEPAHEAD_CACHE='.*model.gguf' is no folder"):
        LLM(model)


@pytest.mark.parametrize("choice", ["nowhere", "nvr", __file__, ""])
def test_a_choice_that_is_none_is_refused(model: Path, choice: str) -> None:
    with pytest.raises(ConfigError, match=r"repack='.*give \"auto\", \"never\" or a folder") as caught:
        LLM(model, repack=choice)
    assert "\n" not in str(caught.value)


def test_inspect_names_the_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repacked"] is None
    Start(model)
    assert main(["inspect", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repacked"] == str(cache_of(model))
    assert main(["inspect", str(model)]) == 0
    assert f"repacked       {cache_of(model)}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "perplexity", "bench", "chat"])
def test_the_flag(model: Path, tmp_path: Path, command: str, capsys, monkeypatch) -> None:
    monkeypatch.delenv("STEPAHEAD_LOG", raising=False)
    flags = {
        "run": ("-p", "ab", "--max-tokens", "2"),
        "perplexity": ("--file", str(tmp_path / "text")),
        "bench": ("-p", "ab", "--max-tokens", "2", "--rounds", "1"),
        "chat": (),
    }[command]
    (tmp_path / "text").write_text("some text")
    folder = tmp_path / "own folder"
    wrong = main([command, str(model), *flags, "--repack", str(folder)])
    said = capsys.readouterr()
    assert (wrong, said.out, said.err.count("\n")) == (2, "", 1) and "no such folder" in said.err
    folder.mkdir()
    code = main([command, str(model), *flags, "--repack", str(folder)])
    announced = capsys.readouterr().err.splitlines()[0]
    assert code == (2 if command == "chat" else 0)  # this model has no chat template
    (path,) = folder.iterdir()
    assert announced.startswith("warning: writing 3.0") and f"MB of repacked weights to {path}: once" in announced
    assert names(model.parent) == ["model.gguf"]
    main([command, str(model), *flags, "--repack", str(folder)])
    assert "repacked" not in capsys.readouterr().err


def test_pages_that_were_repacked_leave_memory(model: Path) -> None:
    """A second copy of a large model would not fit: what was read is given back at once, and still reads the same."""
    from stepahead.gguf import GGUFFile

    with GGUFFile.open(model) as file:
        name = "output.weight"
        before = file.data(name).copy()
        file.release(name, 0, before.nbytes)
        assert np.array_equal(file.data(name), before)
