"""A conversation to the tokens of a prompt: by the model's chat template, its own text kept apart from the client's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepahead.llm import LLM
from stepahead.server.api_error import ApiError
from stepahead.tokenizer import ChatTemplate
from stepahead.tokenizer.protected import Protection
from stepahead.turns.tool import Tool

# Templates look for these in an assistant's own turn, to tell its reasoning from its answer.
_OWN_MARKS = frozenset(("<think>", "</think>"))
_NEVER_ARGUMENTS = frozenset(("messages", "tools", "documents", "add_generation_prompt"))


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """text: as the template wrote it, without marks. segments: cut at special tokens, which have an id."""

    text: str
    ids: tuple[int, ...]
    segments: tuple[tuple[str, int | None], ...]


class Renderer:
    """Of one model. Safe to share between threads."""

    def __init__(self, llm: LLM, protects_special: bool) -> None:
        self._tokenizer = llm.tokenizer
        self.template = None if llm.tokenizer.chat_template is None else ChatTemplate.from_tokenizer(llm.tokenizer)
        texts = [llm.tokenizer.token_text(token_id) for token_id in llm.tokenizer.control_ids]
        self._protection = Protection(texts) if protects_special else None

    @property
    def arguments(self) -> frozenset[str]:
        """What the template reads beside messages and tools."""
        return frozenset() if self.template is None else self.template.variables - _NEVER_ARGUMENTS

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Tool],
        arguments: Mapping[str, Any],
        add_generation_prompt: bool = True,
    ) -> RenderedPrompt:
        """Arguments that the template does not read are left out. Raises ApiError without a template; RequestError."""
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
        ids = self._tokenizer.encode(text, add_bos=False, mark=mark)
        segments = tuple(self._tokenizer.cut(text, mark))
        return RenderedPrompt("".join(piece for piece, _ in segments), tuple(ids), segments)

    @staticmethod
    def _protected(protection: Protection, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        spared = _OWN_MARKS if message.get("role") == "assistant" else frozenset()
        marked: dict[str, Any] = protection.marked(dict(message), mark, spared)
        return marked
