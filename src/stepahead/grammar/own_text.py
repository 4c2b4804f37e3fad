"""A caller's grammar for text that stands in a call as it is: nothing in it may look like the tag that ends values.

Whoever reads the call would take that for the end, while the grammar waits for another one. So no terminal may begin
with the tag, which at the beginning of a line ends the value. A terminal of several lines would have the tag within it,
and cannot be cut short there: the longest match counts, and nothing is taken back.
"""

import re
from dataclasses import dataclass

_TAG = "</parameter>"
_NO_TAG = r"~/<\/parameter>(?s:.*)/"
_PREFIX = "OWN_TEXT_"

_STRING = r'"(?:\\.|[^"\\\n])*"i?'
_REGEX = r"/(?![/*])(?:\\.|[^/\\\n])+/[imslux]*"
_COMMENT = r"//[^\n]*"
_WORDS = re.compile(f"(?P<string>{_STRING})|(?P<comment>{_COMMENT})|(?P<regex>{_REGEX})")
_HEAD = re.compile(r"(?m)^[ \t]*(?:[?!]?(?P<name>[A-Za-z_][\w-]*)(?:[.\[][^:\n]*)?[ \t]*:|(?P<import>%import)|%)")


@dataclass(frozen=True, slots=True)
class OwnText:
    """lark: the grammar without texts that begin with the tag. any_terminal: a grammar of its terminals, which has
    texts; long_terminal: of those texts of theirs that go on after a newline, which should have none."""

    lark: str
    any_terminal: str
    long_terminal: str


def own_text(lark: str) -> OwnText | None:
    """None where the tag is spelled out."""
    lark = _WORDS.sub(lambda word: "" if word.group("comment") else word.group(), lark)
    if _TAG in lark.replace("\\", ""):
        return None
    rules, terminals, imports, hoisted = list[str](), dict[str, str](), list[str](), list[str]()
    heads = list(_HEAD.finditer(lark))
    for head, after in zip(heads, [*(one.start() for one in heads[1:]), len(lark)], strict=False):
        body = lark[head.end() : after]
        name = head.group("name")
        if name is None:
            (imports if head.group("import") else rules).append(f"{head.group()}{body}\n")
        elif name.strip("_")[:1].isupper():
            terminals[name] = " ".join(body.split("\n"))
        else:
            rules.append(f"{head.group()}{_WORDS.sub(lambda word: _hoisted(word, hoisted), body)}\n")
    terminals |= {f"{_PREFIX}{number}": regex for number, regex in enumerate(hoisted)}
    named = "".join([*imports, *(f"{name}: {body}\n" for name, body in terminals.items())])
    without_tag = "".join(f"{name}: ({body}) & {_NO_TAG}\n" for name, body in terminals.items())
    one = " | ".join(terminals) or '"a"'
    check = f"start: {_PREFIX}ANY\n{named}{_PREFIX}ANY: ({one}) & "
    return OwnText("".join([*rules, *imports, without_tag]), f"{check}/(?s:.+)/\n", f"{check}/(?s:.*\\n.+)/\n")


def _hoisted(word: re.Match[str], found: list[str]) -> str:
    """A regular expression within a rule by the name of a terminal."""
    regex = word.group("regex")
    if regex is None:
        return word.group()
    if regex not in found:
        found.append(regex)
    return f"{_PREFIX}{found.index(regex)}"
