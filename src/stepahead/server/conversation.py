"""Puts a conversation together for chat templates, from the pieces in which agents send it."""

from typing import Any

_TEXTS = ("content", "reasoning_content")


class Conversation:
    """Built in the order of the calls. What an assistant said in one turn becomes one message."""

    def __init__(self) -> None:
        self._open: list[dict[str, Any]] = []  # messages whose texts are lists of pieces

    def messages(self) -> tuple[dict[str, Any], ...]:
        """As a TurnRequest wants them."""
        return tuple(
            {name: _joined(message["role"], value) if name in _TEXTS else value for name, value in message.items()}
            for message in self._open
        )

    def system(self, text: str) -> None:
        """Also in the middle. Neighbours are joined: some templates take a system message in the first place only."""
        (self._last("system") or self._new("system"))["content"].append(text)

    def user(self, text: str) -> None:
        self._new("user")["content"].append(text)

    def tool_result(self, call_id: str, text: str) -> None:
        self._new("tool", tool_call_id=call_id)["content"].append(text)

    def reasoning(self, text: str) -> None:
        """A turn begins with its reasoning, so reasoning after an answer belongs to the next turn."""
        turn = self._turn()
        if turn["content"] or "tool_calls" in turn:
            turn = self._new("assistant")
        turn.setdefault("reasoning_content", []).append(text)

    def answer(self, text: str) -> None:
        if text:
            self._turn()["content"].append(text)

    def call(self, call_id: str, name: str, arguments: Any) -> None:
        """arguments: an object, or text that should be one."""
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self._turn().setdefault("tool_calls", []).append(call)

    def _turn(self) -> dict[str, Any]:
        return self._last("assistant") or self._new("assistant")

    def _new(self, role: str, **others: str) -> dict[str, Any]:
        self._open.append({"role": role, **others, "content": []})
        return self._open[-1]

    def _last(self, role: str) -> dict[str, Any] | None:
        return self._open[-1] if self._open and self._open[-1]["role"] == role else None


def _joined(role: str, pieces: list[str]) -> str:
    return ("\n\n" if role == "system" else "").join(pieces)
