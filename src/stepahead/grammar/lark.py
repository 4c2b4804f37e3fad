"""Pieces of llguidance's dialect of Lark, in which a whole turn is one grammar: reasoning, then structure.

One grammar for both leaves no place where a parser would have to be switched on, in the middle of a draft, say.
"""

import json
from collections.abc import Mapping
from typing import Any

WHITE_SPACE = r"[ ]?|\n[ ]{0,40}"
"""Between the parts of JSON: without a limit, a model may write it for ever."""

SIDE_GRAMMAR = "content"
"""The name by which a grammar of the caller's is referred to."""


def literal(text: str) -> str:
    """`text`, exactly."""
    return json.dumps(text, ensure_ascii=False)


def token(token_id: int) -> str:
    """A token, whatever its bytes are."""
    return f"<[{token_id}]>"


def mark(text: str, token_id: int | None) -> str:
    """A delimiter: its token if it has one."""
    return literal(text) if token_id is None else token(token_id)


def json_value(schema: Mapping[str, Any], is_lenient: bool = False) -> str:
    """A value of an enforceable schema (json_schema.py)."""
    return f"%json {json.dumps(with_options(schema, is_lenient))}"


def with_options(schema: Mapping[str, Any], is_lenient: bool = False) -> dict[str, Any]:
    """The schema with the options of its compilation; nobody else's."""
    return {**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE, "lenient": is_lenient}}


def text_before(delimiter: str, token_id: int | None, name: str) -> tuple[str, str]:
    """Any text up to a delimiter, and the delimiter: an expression, and the rules that it needs.

    A delimiter without a token of its own is found in the text, where it comes first.
    """
    if token_id is not None:
        return f"{name} {token(token_id)}", f"{name}: /(?s:.*)/\n"
    return name, f"{name}[suffix={literal(delimiter)}]: /(?s:.*)/\n"
