"""Grammars that callers write themselves, checked before llguidance reads them: its parser trusts its input."""

import json
import re
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from stepahead.grammar.grammar_error import GrammarError

MAX_BYTES = 256 * 1024
MAX_GBNF_BYTES = 32 * 1024
"""Converted in Python, which is slow."""

MAX_NESTING = 64
MAX_RULES = 1000
MAX_GROUPS = 4000
"""Of the whole grammar: rules may nest as well."""

_OPEN, _CLOSE = "([{", ")]}"
_ATTRIBUTES = re.compile(r"(?m)^\s*[?!]?[\w-]+\s*\[([^\]\n]*)\]\s*:")
_HIDING = re.compile(r"\b(max_tokens|stop|temperature)\s*=")
_RULES = re.compile(r"(?m)^[ \t]*[?!]?[\w.-]+[^:\n]{0,200}:")
_NEGATIONS = re.compile(r"(?:~\s*){9}")


def check_text(text: str, max_bytes: int = MAX_BYTES) -> None:
    """Raises GrammarError for what is too large or too deep, or no Unicode."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise GrammarError("the grammar holds a lone surrogate, which is not valid Unicode") from None
    if size > max_bytes:
        raise GrammarError(f"the grammar has {size} bytes: give at most {max_bytes}")
    depth = 0
    for char in text:
        if char in _OPEN:
            depth += 1
            if depth > MAX_NESTING:
                raise GrammarError(f"the grammar is nested deeper than {MAX_NESTING} levels: name its parts")
        elif char in _CLOSE:
            depth = max(depth - 1, 0)
    if sum(map(text.count, _OPEN)) > MAX_GROUPS or len(_RULES.findall(text)) > MAX_RULES:
        raise GrammarError(f"the grammar has more than {MAX_RULES} rules or {MAX_GROUPS} groups: make it smaller")
    if _NEGATIONS.search(text):
        raise GrammarError("the grammar negates again and again: once is enough")


def check_lark(text: str) -> None:
    """Raises GrammarError for attributes that need a text to be taken back after it was shown."""
    for head in _ATTRIBUTES.finditer(text):
        found = _HIDING.search(head.group(1))
        if found:
            raise GrammarError(f"the attribute {found.group(1)} is not supported: use suffix, or lazy")


def lark_of_gbnf(text: str) -> str:
    """Raises GrammarError for a text that is no GBNF, with the place."""
    try:
        return gbnf_to_lark(text)
    except RecursionError:
        raise GrammarError("the grammar is nested too deeply: name its parts") from None
    except Exception as error:  # it raises bare Exceptions
        raise GrammarError(f"the grammar is no GBNF: {str(error)[:200]}") from None


def regex_grammar(pattern: str) -> dict[str, Any]:
    """A grammar of one regular expression."""
    grammar: dict[str, Any] = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]
    return grammar
