"""Bodies that are no JSON, almost JSON, or compressed: 400 or repaired, never a fault of ours."""

import asyncio
import gzip
import json
import zlib

import pytest
import zstandard

from stepahead.server.api_error import ApiError
from stepahead.server.body import MAX_DECODED_RATIO, parse_object, read_object

HOSTILE = {
    "empty": b"",
    "truncated": b'{"a": [1, 2',
    "no object": b"[1, 2]",
    "text": b"hello",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "beyond floats": b'{"a": [1, {"b": 1e400}]}',
    "endless integer": b'{"a": ' + b"9" * 5000 + b"}",
    "deep": b'{"a": ' + b"[" * 100_000 + b"}",
    "deep with a surrogate": b'{"b": "\\ud800", "a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "surrogate and NaN": b'{"b": "\\ud800", "a": NaN}',
    "bad UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"a": 1}',
    "bad escape": b'{"a": "\\u12"}',
    "trailing": b'{"a": 1} x',
    "nothing but blanks": b" " * 1000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_refused(data):
    with pytest.raises(ApiError) as error:
        parse_object(data)
    assert error.value.kind == "invalid_request"
    assert len(error.value.message) < 400


def test_lone_surrogates_are_replaced():
    assert parse_object(b'{"a": ["x\\ud800y", "\\ud83d\\ude00"], "\\udc00": 1}') == {"a": ["x�y", "😀"], "�": 1}


class FakeRequest:
    def __init__(self, data, encoding=None):
        self.headers = {} if encoding is None else {"content-encoding": encoding}
        self.data = data

    async def body(self):
        return self.data


def read(data, encoding=None):
    return asyncio.run(read_object(FakeRequest(data, encoding)))


BODY = {"messages": [{"role": "user", "content": "häuser " * 1000}]}
DATA = json.dumps(BODY).encode()


def test_large_bodies():
    large = {"a": "x" * 2_000_000}
    assert read(json.dumps(large).encode()) == large


@pytest.mark.parametrize(
    ("encoding", "data"),
    [("gzip", gzip.compress(DATA)), ("deflate", zlib.compress(DATA)), ("zstd", zstandard.compress(DATA))],
)
def test_compressed_bodies(encoding, data):
    assert read(data, encoding) == BODY
    for broken in (data[: len(data) // 2], b"nothing", b""):
        with pytest.raises(ApiError) as error:
            read(broken, encoding)
        assert error.value.kind == "invalid_request"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_bombs_do_not_go_off(encoding):
    zeros = b" " * (64 << 20)
    data = gzip.compress(zeros, 9) if encoding == "gzip" else zstandard.compress(zeros, 19)
    assert len(data) * MAX_DECODED_RATIO < len(zeros)
    with pytest.raises(ApiError) as error:
        read(data, encoding)
    assert error.value.kind == "too_large"


def test_unknown_encodings():
    with pytest.raises(ApiError) as error:
        read(b"{}", "br")
    assert error.value.kind == "unsupported_media_type"
