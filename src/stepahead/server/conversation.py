"""Puts a conversation together for chat templates, from the pieces in which agents send it."""

import json
from typing import Any


class Conversation:
    """Messages of a TurnRequest, in the order of the calls. What an assistant said in one turn becomes one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def system(self, text: str) -> None:
        """Also in the middle. Neighbours are joined: some templates take a system message in the first place only."""
        last = self._last("system")
        if last is None:
            self.messages.append({"role": "system", "content": text})
        else:
            last["content"] += f"\n\n{text}"

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def tool_result(self, call_id: str, text: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def reasoning(self, text: str) -> None:
        """A turn begins with its reasoning, so reasoning after an answer belongs to the next turn."""
        turn = self._turn()
        if turn["content"] or "tool_calls" in turn:
            turn = self._new_turn()
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def answer(self, text: str) -> None:
        self._turn()["content"] += text

    def call(self, call_id: str, name: str, arguments: Any) -> None:
        """arguments: an object, or the text of one; text that is none stays text."""
        function = {"name": name, "arguments": _arguments(arguments)}
        call = {"id": call_id, "type": "function", "function": function}
        self._turn().setdefault("tool_calls", []).append(call)

    def _turn(self) -> dict[str, Any]:
        return self._last("assistant") or self._new_turn()

    def _new_turn(self) -> dict[str, Any]:
        self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]

    def _last(self, role: str) -> dict[str, Any] | None:
        return self.messages[-1] if self.messages and self.messages[-1]["role"] == role else None


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
