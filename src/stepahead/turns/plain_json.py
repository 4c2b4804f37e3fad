"""JSON that everyone can read: finite numbers, whole characters, no endless nesting.

Owns what is asked of JSON text beyond its grammar, since it goes on to programs that are stricter than Python's.
"""

import json
import math
from typing import Any

MAX_DEPTH = 100


def loads(text: str) -> Any:
    """The value of JSON text. Half of a character, which JSON can escape and no tokenizer encodes, becomes U+FFFD.

    Raises ValueError for what is no JSON, for numbers beyond a double, and for nesting deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _whole(value, 0)


def json_string(text: str) -> str:
    """`text` as a JSON string. The inner parts of several, joined, are those of the joined text."""
    return json.dumps(text, ensure_ascii=False)


def _whole(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_whole(key, depth): _whole(item, depth + 1) for key, item in value.items()}
    return value


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON's")
