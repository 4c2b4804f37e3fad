"""A request's body: bytes to a JSON object, whatever the bytes are. Their number and time are bounded by the guard."""

import asyncio
import json
import math
import zlib
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from stepahead.server.api_error import ApiError

MAX_DECODED_BYTES = 256 << 20  # of a compressed body; the guard's limit holds for what is sent
MAX_DECODED_RATIO = 64
IN_A_THREAD = 1 << 18  # bytes: a larger body is parsed beside the event loop
MAX_NESTING = 200
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries. Raises ApiError for anything else.

    Lone surrogates, which clients make by cutting strings, become U+FFFD: refusing them would end a conversation.
    """
    data = await request.body()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if len(data) <= IN_A_THREAD and encoding == "identity":
        return parse_object(data)
    return await asyncio.to_thread(lambda: parse_object(_decoded(data, encoding)))


def parse_object(data: bytes) -> dict[str, Any]:
    """Raises ApiError unless data is one JSON object of finite numbers."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ApiError("invalid_request", "the body must be a JSON object")
    return value


def parse_json(data: bytes) -> Any:
    """Raises ApiError for what is no JSON: NaN and infinities, bad UTF-8, deep nesting, endless integers."""
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        if "surrogate" not in str(error) and "escape" not in str(error):
            raise ApiError("invalid_request", f"the body is not valid JSON: {error}"[:300]) from None
        value = _with_surrogates_replaced(data)
    _check_finite(value)
    return value


def _with_surrogates_replaced(data: bytes) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError("invalid_request", "the body is not valid JSON") from None
    return _replaced(value, 0)


def _replaced(value: Any, depth: int) -> Any:
    if depth > MAX_NESTING:
        raise ApiError("invalid_request", f"the body is nested deeper than {MAX_NESTING} levels")
    if isinstance(value, str):
        return value.translate(_SURROGATES)
    if isinstance(value, list):
        return [_replaced(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key.translate(_SURROGATES): _replaced(item, depth + 1) for key, item in value.items()}
    return value


def _check_finite(value: Any) -> None:
    """1e400 is JSON, and no number that can be calculated with."""
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, dict):
            open_values.extend(one.values())
        elif isinstance(one, list):
            open_values.extend(one)
        elif isinstance(one, float) and not math.isfinite(one):
            raise ApiError("invalid_request", "the body holds a number that is too large")


def _decoded(data: bytes, encoding: str) -> bytes:
    """What a compressed body stands for; no bomb goes off."""
    limit = min(MAX_DECODED_BYTES, max(1 << 20, len(data) * MAX_DECODED_RATIO))
    if encoding == "identity":
        return data
    if encoding in ("gzip", "deflate"):
        return _inflated(data, 31 if encoding == "gzip" else 15, limit)
    if encoding == "zstd":
        return _unzstd(data, limit)
    raise ApiError("unsupported_media_type", "Content-Encoding must be identity, gzip, deflate or zstd")


def _inflated(data: bytes, window_bits: int, limit: int) -> bytes:
    inflater = zlib.decompressobj(window_bits)
    try:
        result = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise ApiError("invalid_request", "the body is not compressed as its Content-Encoding says") from None
    return _checked(result, limit, inflater.eof)


def _unzstd(data: bytes, limit: int) -> bytes:
    try:
        import zstandard  # noqa: PLC0415 (not everyone has it)
    except ImportError:
        raise ApiError(
            "unsupported_media_type", "this server cannot read zstd: send the body as it is, or install zstandard"
        ) from None
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as reader:
            result = reader.read(limit + 1)
    except zstandard.ZstdError:
        raise ApiError("invalid_request", "the body is not compressed as its Content-Encoding says") from None
    return _checked(result, limit, True)


def _checked(result: bytes, limit: int, is_complete: bool) -> bytes:
    if len(result) > limit:
        raise ApiError("too_large", f"the body is more than {limit} bytes when decompressed")
    if not is_complete:
        raise ApiError("invalid_request", "the compressed body is incomplete")
    return result
