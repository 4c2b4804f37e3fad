"""Reasoning that a client carries for us: what it must send back unchanged, so that the model reads its own words.

Codex returns nothing of a reasoning item but `encrypted_content`, Claude Code a thinking block with its `signature`.
Both hold the text itself, packed and signed, not encrypted: the client has seen it anyway. Whatever cannot be read,
because it was changed, or comes from another server or model, is nothing; it is never an error.
"""

import base64
import hashlib
import hmac
import json
import zlib

_VERSION = "sa1"
_MAC_BYTES = 8
_MAX_TEXT_BYTES = 8 << 20  # a small state could unpack to any size


def seal(text: str, model: str, key: bytes) -> str:
    """`text` as a state of `model`: letters, digits and -_=. alone."""
    packed = _base64(zlib.compress(json.dumps({"model": model, "text": text}).encode()))
    return f"{_VERSION}.{packed}.{_base64(_mac(packed, key))}"


def unseal(state: object, model: str, key: bytes) -> str | None:
    """The text of a state that this key sealed for this model, or None."""
    if not isinstance(state, str) or not state.isascii():
        return None
    version, _, rest = state.partition(".")
    packed, _, mac = rest.partition(".")
    if version != _VERSION or not hmac.compare_digest(mac, _base64(_mac(packed, key))):
        return None
    try:
        unpacker = zlib.decompressobj()
        content = json.loads(unpacker.decompress(base64.urlsafe_b64decode(packed), _MAX_TEXT_BYTES))
    except (ValueError, zlib.error, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("model") != model or not isinstance(content.get("text"), str):
        return None
    text: str = content["text"]
    return text


def _mac(packed: str, key: bytes) -> bytes:
    return hmac.digest(key, packed.encode(), hashlib.sha256)[:_MAC_BYTES]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
