"""System prompt and messages of a messages request, block by block, as a conversation."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from stepahead.server.agent_fields import inner, objects, required, unsupported
from stepahead.server.conversation import Conversation
from stepahead.server.fields import Fields
from stepahead.server.messages.tools import OfferedTools

_BILLING = "x-anthropic-billing-header:"
_ROLES = ("user", "assistant", "system")


class Blocks:
    """unseal: of reasoning that this server gave out, see reasoning_state."""

    def __init__(self, unseal: Callable[[object], str | None], tools: OfferedTools, ignored: list[str]) -> None:
        self.conversation = Conversation()
        self._unseal = unseal
        self._tools = tools
        self._ignored = ignored

    def read_system(self, request: Fields, strips_billing_header: bool) -> None:
        """The billing line of Claude Code is another in each conversation, and nothing to the model.

        It is left out only as a block of its own; the same words anywhere else are text like any other.
        """
        texts = [required(block, "text") for block in _blocks(request, "system")]
        kept = [text for text in texts if text and not (strips_billing_header and _is_billing_line(text))]
        if kept:
            self.conversation.system("\n\n".join(kept))

    def read_messages(self, request: Fields) -> None:
        """Neighbours of one role are one turn. Raises ApiError if nobody is left to be answered."""
        messages = list(objects(request, "messages"))
        if not messages:
            raise request.wrong("messages", "must hold at least one message")
        last = messages[-1]
        if last.values.get("role") == "assistant":
            raise unsupported(last.path("role"), "the conversation must end with a user message; there is no prefill")
        for role, group in groupby(messages, key=_role):
            blocks = [block for message in group for block in _blocks(message, "content")]
            if role == "user":
                self._user(blocks)
            elif role == "assistant":
                for block in blocks:
                    self._assistant(block)
            else:
                self.conversation.system("\n\n".join(self._announced(block) for block in blocks))

    def _user(self, blocks: list[Fields]) -> None:
        """Results come first: they answer the calls of the turn before."""
        texts = []
        for block in blocks:
            if block.values.get("type") == "tool_result":
                self.conversation.tool_result(required(block, "tool_use_id"), self._result(block))
            else:
                texts.append(self._text(block))
        if texts or not blocks:
            self.conversation.user("\n\n".join(texts))

    def _announced(self, block: Fields) -> str:
        is_change = block.values.get("type") in ("tool_addition", "tool_removal")
        return self._tools.changed(block) if is_change else self._text(block)

    def _assistant(self, block: Fields) -> None:
        kind = required(block, "type")
        if kind == "text":
            self.conversation.answer(required(block, "text"))
        elif kind == "tool_use":
            arguments = dict(inner(block, "input").values)
            self.conversation.call(required(block, "id"), required(block, "name"), arguments)
        elif kind in ("thinking", "redacted_thinking"):
            self._thinking(block)
        else:
            self._ignored.append(block.path(kind))

    def _thinking(self, block: Fields) -> None:
        """A signature holds the words too, so that they survive where a client keeps nothing else."""
        state = block.values.get("signature", block.values.get("data"))
        words = block.string("thinking") or self._unseal(state)
        if words:
            self.conversation.reasoning(words)
        else:
            self._ignored.append(block.path(str(block.values["type"])))

    def _text(self, block: Fields) -> str:
        kind = required(block, "type")
        source = inner(block, "source")
        if kind == "text":
            return required(block, "text")
        if kind == "document" and source.values.get("type") == "text":
            titles = (block.string("title"), block.string("context"))
            return "\n\n".join([*(title for title in titles if title), required(source, "data")])
        if kind == "document" and source.values.get("type") == "content":
            return "\n\n".join(self._text(part) for part in _blocks(source, "content"))
        raise unsupported(block.path("type"), "this model reads text alone")

    def _result(self, block: Fields) -> str:
        parts = [self._returned(part) for part in _blocks(block, "content")] if block.has("content") else []
        text = "\n".join(parts)
        return f"[error]\n{text}" if block.boolean("is_error") else text

    def _returned(self, part: Fields) -> str:
        """Its user cannot take a result back, so what cannot be read of it is said to be missing."""
        kind = required(part, "type")
        if kind == "text":
            return required(part, "text")
        if kind == "tool_reference":
            return self._tools.told(part.string("tool_name") or "")
        self._ignored.append(part.path(kind))
        return f"[{kind} left out: this model reads text alone]"


def _role(message: Fields) -> str:
    role = message.choice("role", _ROLES)
    if role is None:
        raise message.wrong("role", "is required")
    return role


def _blocks(owner: Fields, name: str) -> Iterator[Fields]:
    """A string stands for one block of text."""
    value: Any = owner.values.get(name)
    if isinstance(value, str):
        yield Fields({"type": "text", "text": value}, owner.path(name))
    else:
        yield from objects(owner, name)


def _is_billing_line(text: str) -> bool:
    return text.startswith(_BILLING) and "\n" not in text.strip()
