"""Hostile files, byte by byte: each is refused with a ModelFormatError that names file, place and fault."""

import struct
import tracemalloc

import numpy as np
import pytest

from stepahead.errors import ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile, QuantType

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
HUGE = 1 << 63
MEMORY_LIMIT = 64 << 20


def u32(*values):
    return struct.pack(f"<{len(values)}I", *values)


def u64(*values):
    return struct.pack(f"<{len(values)}Q", *values)


def string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return u64(len(raw)) + raw


def pair(key, value_type, value):
    return string(key) + u32(value_type) + value


def info(name="w", dims=(8,), type_id=0, offset=0, num_dims=None):
    return string(name) + u32(len(dims) if num_dims is None else num_dims) + u64(*dims) + u32(type_id) + u64(offset)


def build(pairs=(), infos=(), data=b"", *, num_pairs=None, num_tensors=None, version=3, alignment=32, magic=b"GGUF"):
    """A file from its parts, with any part a lie."""
    counts = u64(len(infos) if num_tensors is None else num_tensors, len(pairs) if num_pairs is None else num_pairs)
    head = magic + u32(version) + counts + b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % alignment) + data


@pytest.fixture
def read(tmp_path):
    """Write the bytes, open them, touch every tensor."""

    def read_bytes(content):
        path = tmp_path / "evil.gguf"
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with GGUFFile.open(path) as file:
                for name, tensor in file.tensors.items():
                    assert file.array(name).shape == tensor.shape
                return dict(file.metadata)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < MEMORY_LIMIT

    return read_bytes


FLOATS = bytes(32)
GOOD_PAIRS = (
    pair("general.architecture", STRING, string("step35")),
    pair("tokens", ARRAY, u32(STRING) + u64(40) + b"".join(string(f"token{i}") for i in range(40))),
    pair("numbers", ARRAY, u32(U32) + u64(30) + u32(*range(30))),
    pair("flag", BOOL, b"\1"),
)
GOOD_INFOS = (info("a", (8,)), info("b", (32, 4), QuantType.Q8_0.id, 32), info("c", (256, 2), QuantType.Q6_K.id, 192))


def good_file():
    return build(GOOD_PAIRS, GOOD_INFOS, bytes(192 + QuantType.Q6_K.nbytes((2, 256))))


def test_the_hand_made_file_is_sound(read):
    metadata = read(good_file())
    assert metadata["tokens"][39] == "token39"
    assert metadata["flag"] is True
    assert read(build()) == {}
    assert read(build([pair("empty", ARRAY, u32(U32) + u64(0))])[:-7])["empty"].size == 0


def test_truncation_at_every_byte(read):
    content = good_file()
    for length in range(len(content)):
        with pytest.raises(ModelFormatError, match=r"evil\.gguf: byte \d+: "):
            read(content[:length])


def of_type(quant_type, dims, offset=0):
    return build(infos=[info("w", dims, quant_type.id, offset)], data=bytes(4096))


REFUSED = {
    # name: (content, words of the message)
    "empty file": (b"", "byte 0: the file is empty, not a GGUF file"),
    "another format": (b"PK\3\4" + bytes(60), "byte 0: magic: not a GGUF file: starts with b'PK"),
    "three bytes": (b"GGU", "not a GGUF file: starts with b'GGU'"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
    "metadata count": (build(num_pairs=HUGE), f"metadata count: {HUGE} items of at least 13 bytes each, but 8 bytes"),
    "tensor count": (build(num_tensors=HUGE), f"tensor count: {HUGE} items of at least 32 bytes each"),
    "tensor count, all ones": (build(num_tensors=2**64 - 1), "byte 8: tensor count: 18446744073709551615 items"),
    "one pair too many": (build(GOOD_PAIRS, num_pairs=5), "metadata key "),
    "key length": (build([u64(HUGE) + u32(U8) + b"1"]), "metadata key 0 of 1: 9223372036854775808 items"),
    "key too long": (
        build([pair("k" * 65536, U8, b"1")]),
        "metadata key 0 of 1: 65536 characters, more than the 65535",
    ),
    "key not UTF-8": (build([pair(b"k\xff", U8, b"1")]), "byte 33: metadata key 0 of 1: not valid UTF-8"),
    "value type": (build([pair("k", 13, b"1234")]), "byte 33: metadata key 'k': unknown value type 13"),
    "string length": (build([pair("k", STRING, u64(HUGE))]), f"metadata key 'k': {HUGE} items"),
    "string not UTF-8": (build([pair("k", STRING, string(b"ab\xc3("))]), "byte 47: metadata key 'k': not valid UTF-8"),
    "bool of 2": (build([pair("k", BOOL, b"\2")]), "metadata key 'k': a bool is 0 or 1, found 2"),
    "array of bool 3": (build([pair("k", ARRAY, u32(BOOL) + u64(2) + b"\1\3")]), "a bool is 0 or 1, found 3"),
    "array length": (build([pair("k", ARRAY, u32(F32) + u64(HUGE))]), f"'k', length: {HUGE} items of at least 4"),
    "array length, wrapping": (build([pair("k", ARRAY, u32(U64) + u64(1 << 61))]), f"{1 << 61} items of at least 8"),
    "strings length": (build([pair("k", ARRAY, u32(STRING) + u64(HUGE))]), f"'k', length: {HUGE} items of at least 8"),
    "element type": (build([pair("k", ARRAY, u32(99) + u64(1))]), "'k', element type: unknown value type 99"),
    "element length": (
        build([pair("k", ARRAY, u32(STRING) + u64(2) + string("a") + u64(HUGE) + bytes(64))]),
        f"'k', string 1 of 2: {HUGE} items",
    ),
    "element not UTF-8": (
        build([pair("k", ARRAY, u32(STRING) + u64(2) + string("a") + string(b"\xff") + bytes(64))]),
        "metadata key 'k', string 1: not valid UTF-8",
    ),
    "key twice": (build([pair("k", U8, b"1"), pair("k", U8, b"2")]), "byte 38: metadata key 'k': appears twice"),
    "alignment 0": (build([pair("general.alignment", U32, u32(0))]), "'general.alignment': 0 is not a power of two"),
    "alignment 48": (build([pair("general.alignment", U32, u32(48))]), "48 is not a power of two from 8 to 1048576"),
    "alignment 4": (build([pair("general.alignment", U32, u32(4))]), "4 is not a power of two from 8"),
    "alignment huge": (build([pair("general.alignment", U32, u32(1 << 31))]), "2147483648 is not a power of two"),
    "alignment U64": (build([pair("general.alignment", U64, u64(32))]), "'general.alignment': must be one U32"),
    "alignment text": (build([pair("general.alignment", STRING, string("32"))]), "must be one U32"),
    "alignment array": (build([pair("general.alignment", ARRAY, u32(U32) + u64(1) + u32(32))]), "must be one U32"),
    "alignment bool": (build([pair("general.alignment", BOOL, b"\1")]), "must be one U32"),
    "tensor name twice": (build(infos=[info("w"), info("w", offset=32)], data=bytes(64)), "tensor 'w': appears twice"),
    "tensor name not UTF-8": (build(infos=[info(b"\xfe")], data=FLOATS), "tensor 0 of 1: not valid UTF-8"),
    "no dims": (build(infos=[info(dims=(), num_dims=0) + bytes(8)], data=FLOATS), "'w': 0 dimensions, expected 1 to 4"),
    "five dims": (build(infos=[info(dims=(1,) * 5)], data=FLOATS), "tensor 'w': 5 dimensions, expected 1 to 4"),
    "2^32 dims": (build(infos=[info(num_dims=2**32 - 1)], data=FLOATS), "4294967295 dimensions, expected 1 to 4"),
    "dim of 0": (build(infos=[info(dims=(8, 0))], data=FLOATS), "tensor 'w': shape (0, 8) is empty"),
    "dim of 2^63": (build(infos=[info(dims=(HUGE,))], data=FLOATS), "exceeds 2^63 elements"),
    "product 2^64": (build(infos=[info(dims=(1 << 32, 1 << 32))], data=FLOATS), "exceeds 2^63 elements"),
    "product wraps to 0": (build(infos=[info(dims=(1 << 16,) * 4)], data=FLOATS), "exceeds 2^63 elements"),
    "bytes past int64": (build(infos=[info(dims=(1 << 62,))], data=FLOATS), "lies at bytes 64 to 18446744073709551680"),
    "row not whole blocks": (of_type(QuantType.Q8_0, (33,)), "rows of 33 elements are not whole Q8_0 blocks of 32"),
    "row below a block": (of_type(QuantType.Q4_K, (128, 2)), "rows of 128 elements are not whole Q4_K blocks of 256"),
    "offset unaligned": (of_type(QuantType.F32, (8,), 4), "offset 4 is not a multiple of the alignment 32"),
    "offset beyond": (of_type(QuantType.F32, (8,), 4096), "lies at bytes 4160 to 4192, but the file has 4160 (trunc"),
    "offset wraps": (of_type(QuantType.F32, (8,), 2**64 - 32), "but the file has 4160 (truncated?)"),
    "too long": (of_type(QuantType.F32, (1025,)), "lies at bytes 64 to 4164, but the file has 4160"),
    "overlap": (
        build(infos=[info("v", (16,)), info("w", offset=32)], data=bytes(96)),
        "byte 128: tensor 'w': overlaps tensor 'v'",
    ),
    "same place": (build(infos=[info("v"), info("w")], data=FLOATS), "overlaps tensor"),
    "names in one line": (build([pair("a\nb" * 200, 13, b"")]), r"metadata key 'a\nba\nb"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_named(read, name):
    content, fault = REFUSED[name]
    with pytest.raises(ModelFormatError) as caught:
        read(content)
    message = str(caught.value)
    assert "evil.gguf: byte " in message
    assert fault in message
    assert "\n" not in message
    assert len(message.split("evil.gguf", 1)[1]) < 300


UNSUPPORTED = {
    "version 1": (build(version=1), "byte 4: GGUF version 1, but only"),
    "version 4": (build(version=4), "GGUF version 4, but only little-endian files of version 2 or 3"),
    "version 0": (build(version=0), "GGUF version 0, but only"),
    "big-endian": (build(version=3 << 24), "a big-endian file, but only little-endian"),
    "array of arrays": (
        build([pair("k", ARRAY, u32(ARRAY) + u64(1) + u32(U8) + u64(0))]),
        "metadata key 'k': arrays of arrays are not read",
    ),
    "nested a thousand deep": (
        build([pair("k", ARRAY, (u32(ARRAY) + u64(1)) * 1000)]),
        "arrays of arrays are not read",
    ),
    "Q4_2, long gone": (build(infos=[info(type_id=4)], data=FLOATS), "tensor 'w': ggml type 4 is not one of F32, F16"),
    "I32": (build(infos=[info(type_id=26)], data=FLOATS), "ggml type 26 is not one of"),
    "type 2^32 - 1": (build(infos=[info(type_id=2**32 - 1)], data=FLOATS), "ggml type 4294967295 is not one of"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_sound_but_not_for_us(read, name):
    content, fault = UNSUPPORTED[name]
    with pytest.raises(UnsupportedModelError) as caught:
        read(content)
    assert "evil.gguf: byte " in str(caught.value)
    assert fault in str(caught.value)


def test_a_large_claim_in_a_large_file_allocates_nothing(tmp_path):
    # 1 GiB of hole on disk: claims that exceed it must be refused before anything is made.
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(build([pair("k", ARRAY, u32(F32) + u64(HUGE >> 3))]))
        file.truncate(1 << 30)
    tracemalloc.start()
    with pytest.raises(ModelFormatError, match=r"sparse\.gguf: byte \d+: metadata key 'k', length"):
        GGUFFile.open(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_tensors_in_any_order_and_with_gaps_are_sound(tmp_path):
    path = tmp_path / "m.gguf"
    data = np.arange(32, dtype="<f4").tobytes()
    path.write_bytes(build(infos=[info("late", offset=96), info("early", offset=0)], data=data))
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == ["late", "early"]
        assert file.array("late").tolist() == list(range(24, 32))
        assert file.array("early").tolist() == list(range(8))


def test_split_keys_of_a_lone_file(read):
    count = pair("split.count", U32, u32(2))
    with pytest.raises(ModelFormatError, match=r"evil\.gguf: is shard 1 of 2 by its metadata, but not by its name"):
        read(build([count]))
    with pytest.raises(ModelFormatError, match=r"'split\.no': expected an integer, found str 'x'"):
        read(build([count, pair("split.no", STRING, string("x"))]))
    with pytest.raises(ModelFormatError, match="metadata says shard 2 of 2"):
        read(build([count, pair("split.no", U32, u32(2))]))


def test_a_shard_count_that_no_name_can_have(tmp_path):
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(build([pair("split.count", U64, u64(HUGE))]))
    with pytest.raises(ModelFormatError, match=rf"is shard 1 of {HUGE} by its metadata, but not by its name"):
        GGUFFile.open(path)
