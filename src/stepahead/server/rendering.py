"""A conversation to the tokens of a prompt: by the model's chat template, its own text kept apart from the client's."""

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

from stepahead.errors import StepaheadError
from stepahead.llm import LLM
from stepahead.server.api_error import ApiError
from stepahead.tokenizer import ChatTemplate, Tokenizer
from stepahead.tokenizer.protected import Protection
from stepahead.turns.tool import Tool
from stepahead.turns.turn_format import TurnFormat, detect_format
from stepahead.turns.turn_memory import TurnMemory
from stepahead.turns.turn_recall import Recalled, TurnRecall

# Templates look for these in an assistant's own turn, to tell its reasoning from its answer.
_OWN_MARKS = frozenset(("<think>", "</think>"))
_NEVER_ARGUMENTS = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
_MAX_OPENINGS = 64
_MAX_OPENING = 1000  # characters: a request's arguments may stand in it
Segment = tuple[str, int | None]


class RenderedPrompt:
    """A prompt's tokens, and the text that they stand for. place: see turns/turn_memory.py."""

    def __init__(self, tokenizer: Tokenizer, recalled: Recalled, mark: str | None) -> None:
        self._tokenizer = tokenizer
        self._parts = recalled.parts
        self._mark = mark
        self.place = recalled.place
        ids: list[int] = []
        for part in self._parts:
            ids += tokenizer.encode(part, add_bos=False, mark=mark) if isinstance(part, str) else part
        self.ids = tuple(ids)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The text, cut at special tokens, which have an id; marks of the protection are not in it."""
        segments: list[Segment] = []
        for part in self._parts:
            segments += self._tokenizer.cut(part, self._mark) if isinstance(part, str) else self._cut(part)
        return tuple(_joined(segments))

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.segments)

    @property
    def ending(self) -> str:
        """What the template wrote last."""
        last = self._parts[-1]
        assert isinstance(last, str), "a turn is followed by its end"
        return last if self._mark is None else last.replace(self._mark, "")

    def _cut(self, token_ids: "array[int]") -> Iterator[Segment]:
        """As Tokenizer.cut, of tokens."""
        apart = self._tokenizer.control_ids | self._tokenizer.delimiter_ids
        for is_apart, run in groupby(token_ids, key=apart.__contains__):
            if is_apart:
                yield from ((self._tokenizer.decode([token_id]), token_id) for token_id in run)
            else:
                yield self._tokenizer.decode(run), None


class Renderer:
    """Of one model. Safe to share between threads."""

    def __init__(self, llm: LLM, protects_special: bool, memory: TurnMemory) -> None:
        """memory: of turns that the model wrote."""
        self._tokenizer = llm.tokenizer
        self._memory = memory
        self.template = None if llm.tokenizer.chat_template is None else ChatTemplate.from_tokenizer(llm.tokenizer)
        texts = [llm.tokenizer.token_text(token_id) for token_id in llm.tokenizer.control_ids]
        self._protection = Protection(texts) if protects_special else None
        self._openings: dict[bytes, str] = {}

    @property
    def arguments(self) -> frozenset[str]:
        """What the template reads beside messages and tools."""
        return frozenset() if self.template is None else self.template.variables - _NEVER_ARGUMENTS

    @cached_property
    def turn_format(self) -> TurnFormat:
        return detect_format(self.template, self._tokenizer)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Tool],
        arguments: Mapping[str, Any],
        add_generation_prompt: bool = True,
        salt: str = "",
        callable_tools: Sequence[Tool] | None = None,
    ) -> RenderedPrompt:
        """Arguments that the template does not read are left out. salt: whose turns may be recalled. callable_tools:
        what turns may call, if that is not `tools`. Raises ApiError without a template; RequestError."""
        if self.template is None:
            raise ApiError(
                "invalid_request", "this model has no chat template: it completes text, at /v1/completions", "messages"
            )
        described = [tool.as_template_data() for tool in tools]
        known = {name: value for name, value in arguments.items() if name in self.arguments}
        mark = None
        if self._protection is not None:
            mark = self._protection.mark_for(messages, described, known)
            if mark is None:
                raise ApiError("invalid_request", "the messages hold every noncharacter of Unicode", "messages")
            messages = [self._protected(self._protection, message, mark) for message in messages]
            described = self._protection.marked(described, mark)
            known = self._protection.marked(known, mark)
        text = self.template.render(messages, described or None, add_generation_prompt=add_generation_prompt, **known)
        recalled = self._recall.recalled(text, self._opening(self.template, known), mark, callable_tools or tools, salt)
        return RenderedPrompt(self._tokenizer, recalled, mark)

    @cached_property
    def _recall(self) -> TurnRecall:
        return TurnRecall(self._tokenizer, self.turn_format, self._memory)

    def _opening(self, template: ChatTemplate, arguments: Mapping[str, Any]) -> str:
        """What the template writes before an answer; "" where that cannot be told."""
        key = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).digest()
        opening = self._openings.get(key)
        if opening is None:
            if len(self._openings) >= _MAX_OPENINGS:
                self._openings.clear()
            opening = self._openings[key] = _opening_of(template, arguments)
        return opening

    @staticmethod
    def _protected(protection: Protection, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        spared = _OWN_MARKS if message.get("role") == "assistant" else frozenset()
        marked: dict[str, Any] = protection.marked(dict(message), mark, spared)
        return marked


def _opening_of(template: ChatTemplate, arguments: Mapping[str, Any]) -> str:
    question = [{"role": "user", "content": "?"}]
    try:
        asked, told = (template.render(question, None, is_asked, **arguments) for is_asked in (True, False))
    except StepaheadError:
        return ""
    opening = asked[len(told) :] if asked.startswith(told) else ""
    return opening if len(opening) <= _MAX_OPENING else ""


def _joined(segments: list[Segment]) -> Iterator[Segment]:
    """With neighbouring texts in one."""
    for is_text, run in groupby(segments, key=lambda segment: segment[1] is None):
        if is_text:
            yield "".join(piece for piece, _ in run), None
        else:
            yield from run
