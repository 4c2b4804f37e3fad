"""The items of a response's output, and the events that tell of each while it grows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stepahead.server.responses.custom_input import CustomInput
from stepahead.server.responses.tool_names import WireName
from stepahead.server.turn_service import TokenLogprob

Event = tuple[str, dict[str, Any]]  # its type, and its fields but for type and sequence_number


class OutputItem(ABC):
    """One item. Its id and call_id are the same in all events; clients check."""

    PREFIX = ""

    def __init__(self, index: int, identity: str) -> None:
        self._index = index
        self._id = f"{self.PREFIX}_{identity}{index:02x}"

    @abstractmethod
    def item(self, status: str) -> dict[str, Any]:
        """As output lists it."""

    def opening(self) -> Iterable[Event]:
        yield "response.output_item.added", {"output_index": self._index, "item": self.item("in_progress")}

    def closing(self, status: str) -> Iterable[Event]:
        yield "response.output_item.done", {"output_index": self._index, "item": self.item(status)}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self._index}


class ReasoningItem(OutputItem):
    """seal packs the text for the client to send back: see reasoning_state."""

    PREFIX = "rs"

    def __init__(self, index: int, identity: str, seal: Callable[[str], str]) -> None:
        super().__init__(index, identity)
        self._seal = seal
        self._text: list[str] = []

    def item(self, status: str) -> dict[str, Any]:
        item = {"id": self._id, "type": "reasoning", "summary": [], "content": [], "status": status}
        if not self._text:
            return item
        text = "".join(self._text)
        return {**item, "content": [{"type": "reasoning_text", "text": text}], "encrypted_content": self._seal(text)}

    def push(self, text: str) -> Iterable[Event]:
        self._text.append(text)
        yield "response.reasoning_text.delta", {**self._place(), "content_index": 0, "delta": text}

    def closing(self, status: str) -> Iterable[Event]:
        yield "response.reasoning_text.done", {**self._place(), "content_index": 0, "text": "".join(self._text)}
        yield from super().closing(status)


class MessageItem(OutputItem):
    PREFIX = "msg"

    def __init__(self, index: int, identity: str) -> None:
        super().__init__(index, identity)
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def item(self, status: str) -> dict[str, Any]:
        content = [self._part()] if self._text else []
        return {"id": self._id, "type": "message", "role": "assistant", "status": status, "content": content}

    def opening(self) -> Iterable[Event]:
        yield from super().opening()
        yield "response.content_part.added", {**self._place(), "content_index": 0, "part": self._part()}

    def push(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterable[Event]:
        shown = [_logprob(one) for one in logprobs]
        self._text.append(text)
        self._logprobs += shown
        place = {**self._place(), "content_index": 0}
        yield "response.output_text.delta", {**place, "delta": text, "logprobs": shown}

    def closing(self, status: str) -> Iterable[Event]:
        place, part = {**self._place(), "content_index": 0}, self._part()
        yield "response.output_text.done", {**place, "text": part["text"], "logprobs": self._logprobs}
        yield "response.content_part.done", {**place, "part": part}
        yield from super().closing(status)

    def _part(self) -> dict[str, Any]:
        text = "".join(self._text)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}


class CallItem(OutputItem):
    """A call of a function."""

    PREFIX = "fc"

    def __init__(self, index: int, identity: str, call_id: str, wire: WireName) -> None:
        super().__init__(index, identity)
        self._call_id = call_id
        self._wire = wire
        self._arguments: list[str] = []

    def item(self, status: str) -> dict[str, Any]:
        arguments = "".join(self._arguments)
        call = {"call_id": self._call_id, **self._wire.fields(), "arguments": arguments}
        return {"id": self._id, "type": "function_call", **call, "status": status}

    def push(self, json_text: str) -> Iterable[Event]:
        self._arguments.append(json_text)
        yield "response.function_call_arguments.delta", {**self._place(), "delta": json_text}

    def closing(self, status: str) -> Iterable[Event]:
        done = {"arguments": "".join(self._arguments), "name": self._wire.name}
        yield "response.function_call_arguments.done", {**self._place(), **done}
        yield from super().closing(status)


class CustomCallItem(OutputItem):
    """A call of a tool that takes plain text."""

    PREFIX = "ctc"

    def __init__(self, index: int, identity: str, call_id: str, wire: WireName) -> None:
        super().__init__(index, identity)
        self._call_id = call_id
        self._wire = wire
        self._input = CustomInput()

    def item(self, status: str) -> dict[str, Any]:
        call = {"call_id": self._call_id, **self._wire.fields(), "input": self._input.text}
        return {"id": self._id, "type": "custom_tool_call", **call, "status": status}

    def push(self, json_text: str) -> Iterable[Event]:
        return self._added(self._input.push(json_text))

    def closing(self, status: str) -> Iterable[Event]:
        yield from self._added(self._input.end())
        yield "response.custom_tool_call_input.done", {**self._place(), "input": self._input.text}
        yield from super().closing(status)

    def _added(self, text: str) -> Iterable[Event]:
        if text:
            yield "response.custom_tool_call_input.delta", {**self._place(), "delta": text}


def _logprob(one: TokenLogprob) -> dict[str, Any]:
    return {**_token(one.token, one.logprob), "top_logprobs": [_token(*other) for other in one.top]}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "bytes": list(token), "logprob": logprob}
