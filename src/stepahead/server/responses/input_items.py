"""The input of a responses request as a conversation. Codex sends more kinds of items than a model can read."""

import json
from collections.abc import Callable
from typing import Any

from stepahead.server.agent_fields import inner, objects, required, unsupported
from stepahead.server.conversation import Conversation
from stepahead.server.fields import Fields
from stepahead.server.responses.tool_names import CUSTOM_INPUT, ToolNames

_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class InputItems:
    """Reads item after item. unseal: of reasoning that this server gave out, see reasoning_state."""

    def __init__(self, names: ToolNames, unseal: Callable[[object], str | None], ignored: list[str]) -> None:
        self.conversation = Conversation()
        self._names = names
        self._unseal = unseal
        self._ignored = ignored
        self._readers: dict[str, Callable[[Fields], None]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._function_call,
            "custom_tool_call": self._custom_call,
            "local_shell_call": self._shell_call,
            "function_call_output": self._output,
            "custom_tool_call_output": self._output,
            "local_shell_call_output": self._output,
            "additional_tools": lambda _: None,  # they are among the tools already
        }

    def read(self, item: Fields) -> None:
        kind = item.string("type") or ("message" if item.has("role") else "")
        if kind == "item_reference":
            raise unsupported(item.path("type"), "this server keeps no responses; send the items themselves")
        reader = self._readers.get(kind)
        if reader is None:
            self._ignored.append(item.path(kind))
        else:
            reader(item)

    def _message(self, item: Fields) -> None:
        role = item.choice("role", ("user", "assistant", "system", "developer"))
        if role == "assistant":
            self.conversation.answer(self._content(item, ""))
        elif role == "user":
            self.conversation.user(self._content(item, "\n\n"))
        else:
            self.conversation.system(self._content(item, "\n\n"))

    def _content(self, item: Fields, separator: str) -> str:
        if isinstance(item.values.get("content"), str):
            return required(item, "content")
        return separator.join(self._said(part) for part in objects(item, "content"))

    def _said(self, part: Fields) -> str:
        kind = required(part, "type")
        if kind in _TEXT_PARTS:
            return required(part, "text")
        if kind == "refusal":
            return required(part, "refusal")
        raise unsupported(part.path("type"), "this model reads text alone")

    def _reasoning(self, item: Fields) -> None:
        """A summary is none of the model's own words, so it is not given back to it."""
        words = self._unseal(item.values.get("encrypted_content"))
        if words is None:
            words = "".join(part.string("text") or "" for part in objects(item, "content"))
        if words:
            self.conversation.reasoning(words)
        elif item.has("encrypted_content"):
            self._ignored.append(item.path("encrypted_content"))

    def _function_call(self, item: Fields) -> None:
        self._call(item, item.string("arguments") or "")

    def _custom_call(self, item: Fields) -> None:
        self._call(item, {CUSTOM_INPUT: item.string("input") or ""})

    def _call(self, item: Fields, arguments: Any) -> None:
        name = self._names.for_model(required(item, "name"), item.string("namespace"))
        self.conversation.call(required(item, "call_id"), name, arguments)

    def _shell_call(self, item: Fields) -> None:
        self.conversation.call(_call_id(item), "local_shell", dict(inner(item, "action").values))

    def _output(self, item: Fields) -> None:
        self.conversation.tool_result(_call_id(item), self._result(item))

    def _result(self, item: Fields) -> str:
        """Its user cannot take a result back, so what cannot be read of it is said to be missing."""
        output = item.values.get("output")
        if isinstance(output, str):
            return output
        if isinstance(output, list):
            return "\n".join(self._returned(part) for part in objects(item, "output"))
        return json.dumps(output, ensure_ascii=False)

    def _returned(self, part: Fields) -> str:
        kind = part.string("type") or ""
        if kind in _TEXT_PARTS:
            return required(part, "text")
        self._ignored.append(part.path(kind))
        return f"[{kind.removeprefix('input_') or 'part'} left out: this model reads text alone]"


def _call_id(item: Fields) -> str:
    return item.string("call_id") or item.string("id") or ""
