"""What the writer writes, as the `gguf` package reads it; what it refuses; that a file appears whole or not at all."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

import gguf as oracle
from stepahead.errors import ConfigError
from stepahead.gguf import (
    GGUFFile,
    QuantType,
    TensorData,
    TypedValue,
    ValueType,
    quantize,
    write_gguf,
    write_split_gguf,
)

ONES = np.ones((2, 32), np.float32)


def test_the_oracle_reads_the_same(tmp_path):
    path = tmp_path / "m.gguf"
    metadata = {
        "general.architecture": "step35",
        "int": 7,
        "negative": -7,
        "big": 1 << 40,
        "float": 0.5,
        "bool": True,
        "ints": [1, -2],
        "large ints": [0, 1 << 31],
        "mixed": [0, 7.0],
        "floats": (0.25, 0.5),
        "bools": [True, False],
        "strings": ["a", "", "字"],
        "u16": TypedValue(ValueType.U16, 3),
        "bytes": np.arange(5, dtype=np.uint8),
        "numpy": np.float64(0.1),
    }
    write_gguf(path, metadata, {"ones": ONES, "half": ONES.astype(np.float16)}, alignment=64)
    reader = oracle.GGUFReader(path)
    types = {key: [t.name for t in reader.fields[key].types] for key in metadata}
    assert types == {
        "general.architecture": ["STRING"],
        "int": ["UINT32"],
        "negative": ["INT32"],
        "big": ["UINT64"],
        "float": ["FLOAT32"],
        "bool": ["BOOL"],
        "ints": ["ARRAY", "INT32"],
        "large ints": ["ARRAY", "UINT32"],
        "mixed": ["ARRAY", "FLOAT32"],
        "floats": ["ARRAY", "FLOAT32"],
        "bools": ["ARRAY", "BOOL"],
        "strings": ["ARRAY", "STRING"],
        "u16": ["UINT16"],
        "bytes": ["ARRAY", "UINT8"],
        "numpy": ["FLOAT64"],
    }
    for key, value in metadata.items():
        plain = value.value if isinstance(value, TypedValue) else value
        found = reader.fields[key].contents()
        assert found == (list(plain) if isinstance(plain, tuple | np.ndarray) else plain)
    assert reader.alignment == 64
    assert [(t.name, t.tensor_type.name) for t in reader.tensors] == [("ones", "F32"), ("half", "F16")]
    assert all((t.data == 1).all() for t in reader.tensors)


@pytest.mark.parametrize("quant_type", list(QuantType), ids=lambda t: t.name)
def test_raw_tensors_of_every_type(tmp_path, quant_type):
    shape = (3, 2, quant_type.block_size * 2)
    raw = np.random.default_rng(0).integers(0, 256, quant_type.nbytes(shape), dtype=np.uint8)
    path = tmp_path / "m.gguf"
    write_gguf(path, {}, {"raw": TensorData(quant_type, shape, raw)})
    (tensor,) = oracle.GGUFReader(path).tensors
    assert (tensor.tensor_type.name, tuple(tensor.shape[::-1])) == (quant_type.name, shape)
    assert tensor.data.tobytes() == raw.tobytes()
    with GGUFFile.open(path) as file:
        assert file.data("raw").tobytes() == raw.tobytes()
        assert file.array("raw").shape == shape


def test_tensors_made_when_their_turn_comes(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return quantize(ONES, QuantType.Q8_0)

    write_gguf(tmp_path / "m.gguf", {}, {"late": TensorData(QuantType.Q8_0, (2, 32), make)})
    assert len(calls) == 1
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        assert np.allclose(file.array("late"), 1, atol=1e-3)


def test_plain_arrays_pass_verbatim(tmp_path):
    values = np.array([[np.inf, -np.inf, np.nan, 1e30]], np.float32)
    write_gguf(
        tmp_path / "m.gguf",
        {},
        {"a": values, "t": values.T, "b": np.asfortranarray(np.arange(6.0, dtype="<f4").reshape(2, 3))},
    )
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        assert np.array_equal(file.array("a"), values, equal_nan=True)
        assert np.array_equal(file.array("t"), values.T, equal_nan=True)
        assert file.array("b").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "an empty list has no element type"),
        ({}, "no GGUF type for a value of dict"),
        (None, "no GGUF type for a value of NoneType"),
        ([1, "a"], "no GGUF type for a value of int, str"),
        ([True, 1], "no GGUF type for a value of bool, int"),
        ([[1], [2]], "no GGUF type for a value of list"),
        (1 << 64, "no GGUF type for a value of int"),
        (np.zeros((2, 2), np.int32), "no GGUF type for int32 of shape"),
        (np.array(["a"]), "no GGUF type for <U1"),
        (1e300, "of type F32: float too large"),
        (TypedValue(ValueType.U8, 256), "of type U8: "),
        (TypedValue(ValueType.U32, 1.5), "of type U32: "),
        (TypedValue(ValueType.BOOL, "yes"), "of type BOOL: only True and False are bools"),
        (TypedValue(ValueType.STRING, 3), "of type STRING: "),
        (TypedValue(ValueType.STRING, "\ud800"), "of type STRING: .*surrogates"),
        (TypedValue(ValueType.I32, ["a"]), "of type I32: "),
        (TypedValue(ValueType.I32, np.array([0.5])), "of type I32: an array of float64 does not fit"),
    ],
)
def test_metadata_that_cannot_be_written(tmp_path, value, fault):
    with pytest.raises(ConfigError, match=rf"metadata key 'some\.key'.*{fault}"):
        write_gguf(tmp_path / "m.gguf", {"some.key": value}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_array_is_typed_by_its_elements():
    with pytest.raises(ConfigError, match="not ARRAY"):
        TypedValue(ValueType.ARRAY, [1])


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (np.zeros(3), "an array of float64 has no tensor type"),
        (np.float32(1).reshape(()), "must have 1 to 4 dimensions"),
        (np.zeros((1, 1, 1, 1, 1), np.float32), "must have 1 to 4 dimensions"),
        (np.zeros((0, 4), np.float32), "none of them 0"),
        (TensorData(QuantType.Q8_0, (2, 33), ONES.view(np.uint8)), "a row of 33 elements is not a multiple"),
        (TensorData(QuantType.Q8_0, (2, 32), ONES.view(np.uint8)), "takes 68 uint8, got 256 uint8"),
        (TensorData(QuantType.F32, (64,), ONES), "takes 256 uint8, got 64 float32"),
    ],
)
def test_tensors_that_cannot_be_written(tmp_path, tensor, fault):
    with pytest.raises(ConfigError, match=rf"tensor 'w'.*{fault}"):
        write_gguf(tmp_path / "m.gguf", {}, {"w": tensor})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"version": 1}, "GGUF version 1 cannot be written"),
        ({"alignment": 48}, "alignment 48 is not a power of two"),
        ({"alignment": 4}, "alignment 4 is not"),
        ({"alignment": 1 << 30}, "alignment 1073741824 is not"),
    ],
)
def test_layouts_that_cannot_be_written(tmp_path, options, fault):
    with pytest.raises(ConfigError, match=fault):
        write_gguf(tmp_path / "m.gguf", {}, {"w": ONES}, **options)


def test_alignment_and_metadata_must_agree(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, {"general.alignment": 64}, {"w": ONES}, alignment=64)
    assert GGUFFile.open(path).alignment == 64
    with pytest.raises(ConfigError, match=r"'general\.alignment' is .*64.*, but alignment=32"):
        write_gguf(path, {"general.alignment": 64}, {"w": ONES})


def test_names_too_long_and_missing_folders(tmp_path):
    with pytest.raises(ConfigError, match="the name has 65536 bytes, more than the 65535"):
        write_gguf(tmp_path / "m.gguf", {}, {"w" * 65536: ONES})
    with pytest.raises(ConfigError, match=r"no such folder .*absent; create it first"):
        write_gguf(tmp_path / "absent" / "m.gguf", {}, {})


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, {"old": True}, {"w": ONES})
    before = path.read_bytes()

    def fail():
        raise RuntimeError("out of numbers")

    with pytest.raises(RuntimeError, match="out of numbers"):
        write_gguf(path, {}, {"w": ONES, "late": TensorData(QuantType.F32, (1,), fail)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_mapped_file_can_be_replaced(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, {}, {"w": ONES})
    with GGUFFile.open(path) as file:
        write_gguf(path, {}, {"w": TensorData(QuantType.F32, (2, 32), file.data("w")), "x": ONES})
        assert (file.array("w") == 1).all()
    assert list(GGUFFile.open(path).tensors) == ["w", "x"]


def test_split_counts(tmp_path):
    for num_shards, first_empty in ((0, False), (1, True), (65536, False)):
        with pytest.raises(ConfigError, match=f"num_shards is {num_shards}"):
            write_split_gguf(tmp_path / "m", {}, {"w": ONES}, num_shards=num_shards, first_empty=first_empty)
    paths = write_split_gguf(tmp_path / "m", {}, {"w": ONES, "x": ONES}, num_shards=4, alignment=64)
    assert [len(oracle.GGUFReader(path).tensors) for path in paths] == [0, 1, 0, 1]
    assert GGUFFile.open(paths[0]).alignment == 64


def test_tensors_made_in_pieces(tmp_path):
    path, values = tmp_path / "m.gguf", np.arange(64, dtype=np.float32).reshape(2, 32)
    raw = values.reshape(-1).view(np.uint8)
    pieces = lambda: (raw[start : start + 100] for start in range(0, 256, 100))  # noqa: E731
    write_gguf(path, {}, {"w": TensorData(QuantType.F32, (2, 32), pieces), "x": ONES})
    with GGUFFile.open(path) as file:
        assert np.array_equal(file.array("w"), values)
        assert (file.array("x") == 1).all()


@pytest.mark.parametrize(
    ("sizes", "dtype", "found"),
    [
        ([100, 100], np.uint8, "200 uint8"),
        ([200, 100], np.uint8, "300 uint8"),
        ([], np.uint8, "0 uint8"),
        ([64], np.float32, "64 float32"),
    ],
)
def test_pieces_that_do_not_fit(tmp_path, sizes, dtype, found):
    tensor = TensorData(QuantType.F32, (2, 32), lambda: iter([np.zeros(size, dtype) for size in sizes]))
    with pytest.raises(ConfigError, match=rf"tensor 'w': F32 of shape \(2, 32\) takes 256 uint8, got {found}"):
        write_gguf(tmp_path / "m.gguf", {}, {"w": tensor})
    assert list(tmp_path.iterdir()) == []


def test_split_by_bytes(tmp_path):
    tensors = dict.fromkeys("abcde", ONES)  # 256 bytes each
    paths = write_split_gguf(tmp_path / "m", {"k": 1}, tensors, max_shard_bytes=600)
    assert [[t.name for t in oracle.GGUFReader(path).tensors] for path in paths] == [["a", "b"], ["c", "d"], ["e"]]
    with GGUFFile.open(paths[0]) as file:
        assert file.metadata["k"] == 1
        assert all((file.array(name) == 1).all() for name in tensors)
    with pytest.raises(ConfigError, match="tensor 'a' takes 256 bytes, more than a shard may have"):
        write_split_gguf(tmp_path / "m", {}, tensors, max_shard_bytes=255)
    with pytest.raises(ConfigError, match="give one of num_shards=None and max_shard_bytes=None"):
        write_split_gguf(tmp_path / "m", {}, tensors)


def test_a_failed_split_leaves_the_old_shards(tmp_path):
    old = write_split_gguf(tmp_path / "m", {"old": True}, {"a": ONES, "b": ONES}, num_shards=2)
    before = [path.read_bytes() for path in old]

    def fail():
        yield ONES.reshape(-1).view(np.uint8)
        raise RuntimeError("out of numbers")

    with pytest.raises(RuntimeError, match="out of numbers"):
        write_split_gguf(tmp_path / "m", {}, {"a": ONES, "b": TensorData(QuantType.F32, (2, 64), fail)}, num_shards=2)
    assert [path.read_bytes() for path in old] == before
    assert sorted(tmp_path.iterdir()) == old


def steps_on_disk(monkeypatch) -> list[str]:
    """What is done to names, and what makes it last, in the order of both."""
    seen = []
    sync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def synced(descriptor):
        if os.name == "posix":
            seen.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def replaced(self, target):
        seen.append(f"place {target.name}")
        return replace(self, target)

    def removed(self, missing_ok=False):
        if self.exists():
            seen.append(f"remove {self.name}")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", removed)
    return seen


@pytest.mark.skipif(os.name != "posix", reason="folders are synced where they can be opened")
def test_every_step_is_on_the_disk_before_the_next(tmp_path, monkeypatch):
    # Whenever the power goes, there is no first shard beside later ones of another model, and none that is not written.
    old = write_split_gguf(tmp_path / "m", {"old": True}, {"a": ONES, "b": ONES, "c": ONES}, num_shards=3)
    first, second, third = (path.name for path in old)
    seen = steps_on_disk(monkeypatch)
    write_split_gguf(tmp_path / "m", {}, {"a": ONES, "b": ONES, "c": ONES}, num_shards=3)
    assert seen == [
        *["sync file"] * 3,
        f"remove {first}",
        "sync folder",
        f"place {second}",
        f"place {third}",
        "sync folder",
        f"place {first}",
        "sync folder",
    ]
    assert "old" not in GGUFFile.open(old[0]).metadata
    seen.clear()
    write_gguf(tmp_path / "whole.gguf", {}, {"a": ONES})
    assert seen == ["sync file", "place whole.gguf", "sync folder"]
