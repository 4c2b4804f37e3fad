"""Damaged and malicious checkpoints: one line that names the file and the fault, quickly, and nothing is written."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert.conftest import SHAPE
from stepahead.convert import convert
from stepahead.convert.weight_file import WeightFile
from stepahead.errors import ConfigError, ModelFormatError, StepaheadError
from support.hub_checkpoint import write_weights

RNG = np.random.default_rng(7)


def entry(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file_of(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


HEADERS = {
    "empty": (b"", "has 0 bytes, too few"),
    "short": (b"1234567", "has 7 bytes, too few"),
    "huge header": (file_of({}, length=1 << 40), "claims a header of 1099511627776 bytes, but has"),
    "largest header": (file_of({}, length=(1 << 64) - 1), "claims a header of 18446744073709551615 bytes"),
    "not JSON": (file_of(b"{"), "the header: is not JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "the header: is not JSON"),
    "a list": (file_of([]), "the header: holds a list, expected an object"),
    "nested": (file_of(b'{"a":' * 100_000), "the header: is nested too deeply|is not JSON"),
    "a number of many digits": (file_of(b'{"a": ' + b"9" * 5000 + b"}"), "the header: is not JSON"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "pointer that Git LFS leaves"),
    "entry": (file_of({"a": 1}), "tensor 'a': its entry is a int"),
    "no dtype": (file_of({"a": entry(dtype=None)}), "tensor 'a': no dtype"),
    "negative shape": (file_of({"a": entry(shape=[-4])}), r"tensor 'a': shape \[-4\] is not a list of"),
    "float shape": (file_of({"a": entry(shape=[4.0])}), r"tensor 'a': shape \[4.0\]"),
    "bool shape": (file_of({"a": entry(shape=[True])}), r"tensor 'a': shape \[True\]"),
    "huge shape": (file_of({"a": entry(shape=[1 << 47] * 8)}), r"takes \d+ bytes, not 16"),
    "many dims": (file_of({"a": entry(shape=[1] * 9)}), "is not a list of at most 8 sizes"),
    "offsets": (file_of({"a": entry(offsets=[16, 0])}), "are not two rising numbers"),
    "one offset": (file_of({"a": entry(offsets=[16])}), "are not two rising numbers"),
    "wrong size": (file_of({"a": entry(shape=[5])}), r"F32 of shape \[5\] takes 20 bytes, not 16"),
    "cut": (file_of({"a": entry(offsets=[0, 32], shape=[8])}), "but the file has .*; the download is incomplete"),
    "overlap": (
        file_of({"a": entry(), "b": entry(offsets=[8, 24])}, bytes(24)),
        "tensor 'b' overlaps tensor 'a'",
    ),
    "same place": (file_of({"a": entry(), "b": entry()}), "tensor 'b' overlaps tensor 'a'"),
    "hole": (
        file_of({"a": entry(), "b": entry(offsets=[20, 36])}, bytes(36)),
        "4 bytes between tensor 'a' and tensor 'b' are nobody's",
    ),
    "tail": (file_of({"a": entry()}, bytes(17)), "goes on for 1 bytes after tensor 'a'"),
    "long name": (file_of({"n" * 5000: entry(shape=[5])}), "tensor 'n{90,110}…: F32"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path: Path, name: str) -> None:
    raw, message = HEADERS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ModelFormatError, match=message) as caught:
        WeightFile.open(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_sound_file_of_everything(tmp_path: Path) -> None:
    tensors = {
        "a": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "empty": ("BF16", np.empty((0, 4), np.uint16)),
    }
    tensors["other"] = ("I64", np.arange(2))
    file = WeightFile.open(write_weights(tmp_path / "a.safetensors", tensors))
    assert {name: (t.dtype, t.shape, t.nbytes) for name, t in file.tensors.items()} == {
        "a": ("F32", (2, 3), 24),
        "empty": ("BF16", (0, 4), 0),
        "other": ("I64", (2,), 16),
    }
    assert file.tensors["a"].read(4, 12).view(np.float32).tolist() == [1, 2]
    file.close()


def test_a_file_that_shrinks_is_an_error_not_a_signal(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "a.safetensors", {"a": ("F32", np.zeros(1 << 16, np.float32))})
    file = WeightFile.open(path)
    os.truncate(path, 1000)
    with pytest.raises(
        ModelFormatError, match=r"a\.safetensors: byte \d+: 262144 bytes expected, \d+ found; it was cut"
    ):
        file.tensors["a"].read(0, 1 << 18)
    file.close()


PLACES = ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "C:x.safetensors", "a\\b.safetensors"]
PLACES += [".safetensors", 7, None, "weights.bin", "x\0.safetensors"]


@pytest.mark.parametrize("place", PLACES)
def test_the_index_names_no_other_place(hub, tmp_path: Path, place: object) -> None:
    folder = hub(num_files=4)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = place
    path.write_text(json.dumps(index))
    with pytest.raises(ModelFormatError, match=r"tensor 'model\.norm\.weight' should be in .*not the name of"):
        convert(folder, tmp_path / "out.gguf")


def rewrite(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(found)))

    return apply


def misplace(index: dict) -> dict:
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = names[0]
    return index


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "config is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        r"config\.json: is not a regular file",
    ),
    "config is a FIFO": (
        lambda f: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")),
        r"config\.json: is not a regular file",
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "holds a list, expected an object"),
    "config is huge": (
        lambda f: os.truncate(f / "config.json", 1 << 30),
        r"config\.json: has 1073741824 bytes; a file of this name has at most",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: no such file; download"),
    "no weight map": (rewrite("model.safetensors.index.json", lambda i: {}), "has no weight_map"),
    "misplaced": (rewrite("model.safetensors.index.json", misplace), r"lacks tensor 'model\.norm\.weight', which"),
    "a shard is a FIFO": (
        lambda f: (
            (f / "model-00001-of-00004.safetensors").unlink(),
            os.mkfifo(f / "model-00001-of-00004.safetensors"),
        ),
        "is not a regular file",
    ),
    "text config is text": (rewrite("config.json", lambda c: {**c, "text_config": "x"}), "model_type|is missing"),
    "template is no text": (
        lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"),
        r"chat_template\.jinja: is not UTF-8",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(hub, tmp_path: Path, name: str) -> None:
    change, message = FOLDERS[name]
    folder = hub(num_files=4)
    change(folder)
    with pytest.raises(StepaheadError, match=message):
        convert(folder, tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Step-Test"]


def test_damaged_bytes_anywhere_in_a_header_or_config_are_errors_of_ours(hub, tmp_path: Path) -> None:
    folder = hub()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = folder / name
        sound = path.read_bytes()
        limit = 8 + struct.unpack("<Q", sound[:8])[0] if name == "model.safetensors" else len(sound)
        for _ in range(60):
            damaged = bytearray(sound)
            for place in RNG.integers(0, limit, RNG.integers(1, 4)):
                damaged[place] = RNG.integers(0, 256)
            path.write_bytes(damaged)
            try:
                convert(folder, tmp_path / "out.gguf")
            except StepaheadError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 1500
        path.write_bytes(sound)
    convert(folder, tmp_path / "out.gguf")


def test_two_files_without_an_index(hub, bf16, tmp_path: Path) -> None:
    folder = hub()
    (folder / "model.safetensors").unlink()
    names = list(bf16)
    write_weights(folder / "a.safetensors", {name: bf16[name] for name in names[:20]})
    write_weights(folder / "b.safetensors", {name: bf16[name] for name in names[20:]})
    assert convert(folder, tmp_path / "out.gguf").num_shards == 2
    write_weights(folder / "c.safetensors", {names[0]: bf16[names[0]]})
    with pytest.raises(ModelFormatError, match=r"c\.safetensors: tensor .* is in a\.safetensors, too"):
        convert(folder, tmp_path / "out.gguf")


def test_names_of_outputs(hub, tmp_path: Path) -> None:
    folder = hub()
    with pytest.raises(ConfigError, match=r"must end in \.gguf"):
        convert(folder, tmp_path / "out.bin")
    with pytest.raises(ConfigError, match="no such folder"):
        convert(folder, tmp_path / "none" / "out.gguf")
    with pytest.raises(ConfigError, match="type Q4_K is not one of F32, F16, BF16, Q8_0"):
        convert(folder, tmp_path / "out.gguf", type="Q4_K")
    cache = tmp_path / "models--stepfun-ai--Step-3.7-Flash" / "snapshots" / "0123abcd"
    cache.parent.mkdir(parents=True)
    folder.rename(cache)
    assert convert(cache, tmp_path, type="Q8_0").files[0].name == "Step-3.7-Flash-Q8_0.gguf"
    assert SHAPE.num_heads_mtp == 3
