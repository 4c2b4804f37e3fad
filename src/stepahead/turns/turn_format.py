"""Which format a model speaks: how it marks reasoning and calls, found out by rendering a turn with its template.

Owns the marks and the white space that belongs to them. Must not know how text is parsed.
"""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepahead.errors import StepaheadError
from stepahead.tokenizer.chat_template import ChatTemplate
from stepahead.tokenizer.tokenizer import Tokenizer

_ANSWER, _NAME, _ARGUMENT = "probe-answer", "probe_function", "probe_argument"
_MAX_NEWLINES = 2  # that can belong to a mark

# A mark that is a token stands in the text that is parsed as a character of its own. Lone surrogates are free for
# that: no text that was decoded from UTF-8 holds one.
_SYMBOLS = {"<think>": "\ud800", "</think>": "\ud801", "<tool_call>": "\ud802", "</tool_call>": "\ud803"}


class CallSyntax(enum.Enum):
    """How a call is written between <tool_call> and </tool_call>."""

    XML = "xml"  # <function=NAME>, <parameter=NAME>, raw values: Step, Qwen3-Coder
    JSON = "json"  # {"name": ..., "arguments": {...}}: Hermes and many others
    NONE = "none"  # the model's template renders no calls that are known here


@dataclass(frozen=True, slots=True)
class Mark:
    """A delimiter. If the vocabulary has a token for it, then only the token is one: the same characters made of
    other tokens are a quotation."""

    text: str
    token_id: int | None = None
    is_hidden: bool = False  # a control token: not shown where it means nothing

    @property
    def symbol(self) -> str:
        """How the mark stands in the text that is parsed."""
        return self.text if self.token_id is None else _SYMBOLS[self.text]

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> "Mark":
        """The mark as `tokenizer` writes it."""
        token_id = tokenizer.id_of(text)
        if token_id is None or token_id not in tokenizer.encode(f"a{text}b", add_bos=False):
            return cls(text)
        return cls(text, token_id, token_id in tokenizer.control_ids)


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """The format of an assistant's turn."""

    calls: CallSyntax = CallSyntax.XML
    has_reasoning: bool = True
    think_open: Mark = Mark("<think>")
    think_close: Mark = Mark("</think>")
    call_open: Mark = Mark("<tool_call>")
    call_close: Mark = Mark("</tool_call>")
    newlines_after_reasoning: int = 1  # so many at most belong to </think>
    newlines_before_call: int = 0  # so many at most belong to <tool_call>
    wants_argument_text: bool = False  # the template takes a call's arguments as JSON text only

    @property
    def marks(self) -> tuple[Mark, Mark, Mark, Mark]:
        return self.think_open, self.think_close, self.call_open, self.call_close

    def starts_in_reasoning(self, prompt_text: str) -> bool:
        """Whether a rendered prompt leaves its reasoning open, so that the model's first token belongs to it."""
        return self.has_reasoning and prompt_text.rstrip().endswith(self.think_open.text)


def detect_format(template: ChatTemplate | str | None, tokenizer: Tokenizer) -> TurnFormat:
    """The format that a model's chat template writes; one without calls if there is no template. Raises
    ModelFormatError for a text that does not compile."""
    if isinstance(template, str):
        template = ChatTemplate(template)
    source = "" if template is None else template.source
    probes = [] if template is None else [(as_text, _rendered_probe(template, as_text)) for as_text in (False, True)]
    # Some templates print an object as Python would, or fail over it: they want the text of one.
    wants_text, rendered = next(
        (probe for probe in probes if _call_syntax(probe[1]) is not CallSyntax.NONE), (False, "")
    )
    if not rendered and probes:
        rendered = probes[0][1]
    think_open, think_close, call_open, call_close = (Mark.of(mark.text, tokenizer) for mark in TurnFormat().marks)
    return TurnFormat(
        _call_syntax(rendered) if rendered else _call_syntax_of_source(source),
        "think>" in source or (template is None and think_close.token_id is not None),
        think_open,
        think_close,
        call_open,
        call_close,
        newlines_after_reasoning=_newlines_between("</think>", _ANSWER, rendered) or 1,
        newlines_before_call=_newlines_between(_ANSWER, "<tool_call>", rendered),
        wants_argument_text=wants_text,
    )


def _rendered_probe(template: ChatTemplate, as_text: bool) -> str:
    """A turn with reasoning, content and a call, from the question on; "" if none can be had."""
    arguments = {_ARGUMENT: "probe-value"}
    function = {"name": _NAME, "arguments": json.dumps(arguments) if as_text else arguments}
    call = {"id": "call_0", "type": "function", "function": function}
    assistant = {"role": "assistant", "content": _ANSWER, "reasoning_content": "because", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_0", "name": _NAME, "content": "done"}
    schema = {"type": "object", "properties": {_ARGUMENT: {"type": "string"}}}
    tool = {"type": "function", "function": {"name": _NAME, "description": "A function.", "parameters": schema}}
    user: Mapping[str, Any] = {"role": "user", "content": "question"}
    for messages in ([user, assistant, result], [user, assistant]):
        try:
            text = template.render(messages, [tool], add_generation_prompt=False)
        except StepaheadError:
            continue  # some want no result at the end, some no call without one
        return text[text.find("question") :]
    return ""


def _call_syntax(rendered: str) -> CallSyntax:
    if re.search(rf"<tool_call>\s*<function={_NAME}>\s*<parameter={_ARGUMENT}>", rendered):
        return CallSyntax.XML
    found = re.search(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", rendered, re.DOTALL)
    return CallSyntax.JSON if found and _is_json_call(found.group(1)) else CallSyntax.NONE


def _call_syntax_of_source(source: str) -> CallSyntax:
    """For a template that renders no probe."""
    if "<tool_call>" not in source:
        return CallSyntax.NONE
    return CallSyntax.XML if "<function=" in source and "<parameter=" in source else CallSyntax.JSON


def _is_json_call(text: str) -> bool:
    try:
        call = json.loads(text)
    except ValueError:
        return False
    return isinstance(call, dict) and call.get("name") == _NAME


def _newlines_between(before: str, after: str, text: str) -> int:
    """How many newlines, and nothing else, stand between two texts; 0 if anything else does."""
    found = re.search(rf"{re.escape(before)}(\n*){re.escape(after)}", text)
    return min(len(found.group(1)), _MAX_NEWLINES) if found else 0
