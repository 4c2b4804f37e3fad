"""GGUFFile on sound files: metadata, getters, tensors, lifetime, split models; and wrong paths."""

import os

import numpy as np
import pytest

import gguf as oracle
from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile, QuantType, TensorData, TypedValue, ValueType, write_gguf, write_split_gguf

METADATA = {
    "general.architecture": "step35",
    "u8": TypedValue(ValueType.U8, 255),
    "i8": TypedValue(ValueType.I8, -128),
    "u16": TypedValue(ValueType.U16, 65535),
    "i16": TypedValue(ValueType.I16, -32768),
    "u32": 4096,
    "i32": -5,
    "u64": 1 << 63,
    "i64": -(1 << 40),
    "f32": 1e-5,
    "f64": TypedValue(ValueType.F64, 1e-5),
    "yes": True,
    "no": False,
    "text": "naïve 🙂\nline",
    "empty": "",
    "tokens": ["a", "", "Ġthe", "字"],
    "heads": [64, 96, 96],
    "clamp": [0.0, 7.0],
    "pattern": [False, True],
    "wide": np.array([1, 1 << 40], np.int64),
    "nothing": TypedValue(ValueType.I32, []),
    "no strings": TypedValue(ValueType.STRING, []),
}


def random_tensors():
    rng = np.random.default_rng(0)

    def matrix(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "norm.weight": matrix(96),
        "half.weight": matrix(4, 32).astype(np.float16),
        "q8.weight": TensorData.from_array(matrix(6, 64), QuantType.Q8_0),
        "experts.weight": TensorData.from_array(matrix(3, 4, 256), QuantType.Q4_K),
        "deep.weight": matrix(2, 3, 5, 7),
    }


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, METADATA, random_tensors())
    with GGUFFile.open(path) as file:
        yield file


def test_metadata_values_and_their_python_types(model):
    assert list(model.metadata) == list(METADATA)
    for key, source in METADATA.items():
        value = source.value if isinstance(source, TypedValue) else source
        found = model.metadata[key]
        if isinstance(found, np.ndarray):
            assert not found.flags.writeable
            assert found.tolist() == list(value)
        elif key == "f32":
            assert found == float(np.float32(1e-5))
        else:
            assert (found, type(found)) == (value, type(value))
    assert model.metadata["heads"].dtype == np.int32
    assert model.metadata["pattern"].dtype == np.bool_
    assert model.metadata["nothing"].dtype == np.int32


def test_typed_metadata_writes_the_same_file(model, tmp_path):
    copy = tmp_path / "copy.gguf"
    tensors = {t.name: TensorData(t.type, t.shape, model.data(t.name)) for t in model.tensors.values()}
    write_gguf(copy, model.typed_metadata(), tensors)
    assert copy.read_bytes() == model.path.read_bytes()


def test_getters(model):
    assert model.get_str("general.architecture") == "step35"
    assert model.get_int("u64") == 1 << 63
    assert model.get_float("f64") == 1e-5
    assert model.get_bool("yes") is True
    assert model.get_array("tokens", kind=str) == ["a", "", "Ġthe", "字"]
    assert model.get_array("heads", kind=int).tolist() == [64, 96, 96]
    assert model.get_array("clamp", kind=float).tolist() == [0, 7]
    assert model.get_array("pattern", kind=bool).tolist() == [False, True]
    assert model.get_array("nothing").size == 0


@pytest.mark.parametrize("getter", ["get_str", "get_int", "get_float", "get_bool", "get_array"])
def test_getters_with_a_default_and_without(model, getter):
    marker = object()
    assert getattr(model, getter)("absent", marker) is marker
    assert getattr(model, getter)("absent", None) is None
    with pytest.raises(ModelFormatError, match=r"model\.gguf: metadata key 'absent' is missing \(expected an? "):
        getattr(model, getter)("absent")


@pytest.mark.parametrize(
    ("getter", "key", "fault"),
    [
        ("get_str", "u32", "expected a string, found int 4096"),
        ("get_int", "f32", "expected an integer, found float 9.99"),
        ("get_int", "yes", "expected an integer, found bool True"),
        ("get_int", "heads", "expected an integer, found an array of 3 int32"),
        ("get_float", "u32", "expected a float, found int 4096"),
        ("get_bool", "u8", "expected a bool, found int 255"),
        ("get_array", "text", "expected an array, found str 'naïve"),
        ("get_str", "tokens", "expected a string, found an array of 4 strings"),
    ],
)
def test_getters_name_file_key_and_both_types(model, getter, key, fault):
    # A default is for an absent key, not for one of the wrong type.
    for arguments in ((key,), (key, None)):
        with pytest.raises(ModelFormatError) as caught:
            getattr(model, getter)(*arguments)
        assert f"model.gguf: metadata key {key!r}: {fault}" in str(caught.value)


def test_array_kinds_are_checked(model):
    with pytest.raises(ModelFormatError, match=r"'heads': expected an array of float, found an array of 3 int32"):
        model.get_array("heads", kind=float)
    with pytest.raises(ModelFormatError, match=r"'pattern': expected an array of int, found an array of 2 bool"):
        model.get_array("pattern", kind=int)
    with pytest.raises(ModelFormatError, match=r"'tokens': expected an array of int, found an array of 4 strings"):
        model.get_array("tokens", kind=int)


def test_tensors_equal_the_oracle(model):
    reader = oracle.GGUFReader(model.path)
    assert list(model.tensors) == [tensor.name for tensor in reader.tensors] == list(random_tensors())
    for tensor in reader.tensors:
        info, data = model.tensors[tensor.name], model.data(tensor.name)
        assert info.shape == tuple(tensor.shape[::-1])
        assert (info.type.name, info.offset, info.nbytes) == (
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
        )
        assert data.shape == (*info.shape[:-1], info.row_bytes)
        assert data.tobytes() == tensor.data.tobytes()
        expected = oracle.quants.dequantize(tensor.data, tensor.tensor_type).reshape(info.shape)
        assert np.array_equal(model.array(tensor.name), expected)


def test_views_are_read_only_and_outlive_close(model):
    data, expected = model.data("norm.weight"), model.array("norm.weight")
    assert not data.flags.writeable
    model.close()
    model.close()
    assert np.array_equal(data.view(np.float32), expected)
    with pytest.raises(ConfigError, match=r"model\.gguf: is closed"):
        model.data("norm.weight")
    assert model.get_int("u32") == 4096


def test_an_unknown_tensor_is_named(model):
    with pytest.raises(ModelFormatError, match=r"model\.gguf: has no tensor 'nope' among its 5"):
        model.data("nope")
    with pytest.raises(ModelFormatError, match="has no tensor 'nope'"):
        model.array("nope")


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_versions_and_alignments(tmp_path, alignment, version):
    path = tmp_path / "m.gguf"
    write_gguf(path, {"a": 1}, random_tensors(), alignment=alignment, version=version)
    with GGUFFile.open(str(path)) as file:
        assert (file.version, file.alignment) == (version, alignment)
        assert all(info.offset % alignment == 0 for info in file.tensors.values())
        assert np.array_equal(file.array("norm.weight"), random_tensors()["norm.weight"])


def test_a_path_that_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        "missing.gguf": "no such file",
        ".": "is a directory",
        "fifo": "is not a regular file",
        "loop": "cannot be opened",
        "nul\0.gguf": "null",
    }
    for name, fault in cases.items():
        with pytest.raises(ConfigError, match=fault):
            GGUFFile.open(tmp_path / name)
    with pytest.raises(ConfigError, match="/dev/zero: is not a regular file"):
        GGUFFile.open("/dev/zero")


# --- split models


def split(tmp_path, **options):
    return write_split_gguf(tmp_path / "big", METADATA, random_tensors(), **{"num_shards": 3, **options})


@pytest.mark.parametrize("first_empty", [False, True])
def test_a_split_model_reads_like_a_whole_one(tmp_path, model, first_empty):
    paths = split(tmp_path, first_empty=first_empty)
    assert [path.name for path in paths] == [f"big-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    with GGUFFile.open(paths[0]) as file:
        assert file.shards == tuple(paths)
        assert list(file.tensors) == list(model.tensors)
        assert file.get_str("general.architecture") == "step35"
        assert {info.shard for info in file.tensors.values()} == ({1, 2} if first_empty else {0, 1, 2})
        for name in file.tensors:
            assert np.array_equal(file.data(name), model.data(name))


def test_one_shard_of_one_and_a_merged_file(tmp_path):
    (path,) = split(tmp_path, num_shards=1)
    assert len(GGUFFile.open(path).tensors) == 5
    # llama.cpp's merge tool leaves split.count = 0 behind.
    write_gguf(tmp_path / "merged.gguf", {"split.no": 0, "split.count": 0, "split.tensors.count": 9}, random_tensors())
    assert len(GGUFFile.open(tmp_path / "merged.gguf").tensors) == 5


def test_a_later_shard_names_the_first(tmp_path):
    with pytest.raises(
        ConfigError, match=r"00002-of-00003\.gguf: is shard 2 of 3; open the first, .*-00001-of-00003\.gguf"
    ):
        GGUFFile.open(split(tmp_path)[1])


def test_missing_shards_are_named(tmp_path):
    paths = split(tmp_path)
    paths[1].unlink()
    with pytest.raises(
        ModelFormatError, match=r"00001-of-00003\.gguf: 1 of 3 shards are missing, first .*00002-of-00003"
    ):
        GGUFFile.open(paths[0])


def test_a_renamed_first_shard_is_told_its_name(tmp_path):
    renamed = split(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelFormatError, match=r"model\.gguf: is shard 1 of 3 .* rename it NAME-00001-of-00003\.gguf"):
        GGUFFile.open(renamed)


def test_shards_in_each_others_place(tmp_path):
    paths = split(tmp_path)
    paths[2].unlink()
    paths[2].symlink_to(paths[0])  # a circle: the third is the first
    with pytest.raises(ModelFormatError, match=r"00003-of-00003\.gguf: should be shard 3 of 3 .* says shard 1 of 3"):
        GGUFFile.open(paths[0])
    paths[2].unlink()
    paths[2].symlink_to(paths[1])  # the second twice
    with pytest.raises(ModelFormatError, match=r"should be shard 3 of 3 .* says shard 2 of 3"):
        GGUFFile.open(paths[0])


def write_shard(path, index, count, total, tensors):
    write_gguf(path, {"split.no": index, "split.count": count, "split.tensors.count": total}, tensors)


def test_inconsistent_shards(tmp_path):
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    a, b = {"a": np.zeros(3, np.float32)}, {"b": np.zeros(3, np.float32)}
    write_shard(first, 0, 2, 2, a)
    write_shard(second, 1, 2, 2, b)
    assert list(GGUFFile.open(first).tensors) == ["a", "b"]

    write_shard(second, 1, 2, 2, a)
    with pytest.raises(ModelFormatError, match=r"00002-of-00002\.gguf: tensor 'a' is in .*00001-of-00002\.gguf, too"):
        GGUFFile.open(first)
    write_shard(second, 1, 2, 3, b)
    with pytest.raises(ModelFormatError, match=r"'split\.tensors\.count' is 3, but the 2 shards have 2 tensors"):
        GGUFFile.open(first)
    write_shard(second, 1, 3, 2, b)
    with pytest.raises(ModelFormatError, match=r"should be shard 2 of 2 .* says shard 2 of 3"):
        GGUFFile.open(first)
    write_gguf(second, {}, b)
    with pytest.raises(ModelFormatError, match=r"00002-of-00002\.gguf: metadata key 'split\.no' is missing"):
        GGUFFile.open(first)
    second.write_bytes(b"GGUF")
    with pytest.raises(ModelFormatError, match=r"00002-of-00002\.gguf: byte 4: version"):
        GGUFFile.open(first)
    write_shard(first, 5, 2, 2, a)
    with pytest.raises(ModelFormatError, match=r"metadata says shard 5 of 2"):
        GGUFFile.open(first)
    write_gguf(first, {"split.count": "two"}, a)
    with pytest.raises(ModelFormatError, match=r"'split\.count': expected an integer, found str 'two'"):
        GGUFFile.open(first)
