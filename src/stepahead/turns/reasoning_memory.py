"""The reasoning that led to recent calls, for clients that send a turn back without it.

A model that reasons before it calls has to see that reasoning again with the call's result; some clients drop it.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from stepahead.turns.history import arguments_object

_ENTRY_BYTES = 200  # what an entry costs beside its text


class ReasoningMemory:
    """Reasoning by call: what was used least recently goes first. Safe to share between threads."""

    def __init__(self, max_bytes: int = 4 << 20) -> None:
        """`max_bytes` 0: nothing is remembered."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What it holds, about."""
        return self._num_bytes

    def remember(self, reasoning: str, calls: Sequence[Mapping[str, Any]], salt: str = "") -> None:
        """Keep the reasoning of a turn with `calls` (as in a message's tool_calls). `salt`: whose it is; others do not
        get it back."""
        size = _size(reasoning)
        if not reasoning or size > self._max_bytes:
            return
        with self._lock:
            for key in _keys(calls, salt):
                self._drop(key)
                self._entries[key] = reasoning
                self._num_bytes += size
            while self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def recall(self, message: Mapping[str, Any], salt: str = "") -> str | None:
        """The reasoning of a normalised assistant's message that comes without; None unless one of its calls is known
        under its id with its name and arguments."""
        if message.get("role") != "assistant" or message.get("reasoning_content"):
            return None
        with self._lock:
            for key in _keys(message.get("tool_calls") or (), salt):
                if key in self._entries:
                    self._entries.move_to_end(key)
                    return self._entries[key]
        return None

    def restored(self, message: Mapping[str, Any], salt: str = "") -> dict[str, Any]:
        """The message, with its reasoning if that is known and missing."""
        reasoning = self.recall(message, salt)
        return dict(message) if reasoning is None else {**message, "reasoning_content": reasoning}

    def _drop(self, key: bytes) -> None:
        reasoning = self._entries.pop(key, None)
        if reasoning is not None:
            self._num_bytes -= _size(reasoning)


def _size(reasoning: str) -> int:
    return len(reasoning.encode("utf-8", "replace")) + _ENTRY_BYTES


def _keys(calls: Sequence[Mapping[str, Any]], salt: str) -> list[bytes]:
    """Of each call with an id. Arguments count as what they say: clients write their JSON anew."""
    keys = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(call.get("id"), str):
            continue
        arguments = arguments_object(function.get("arguments"))
        parts = [salt, call["id"], function.get("name"), arguments]
        try:
            text = json.dumps(parts, sort_keys=True, default=str)
        except RecursionError:
            continue  # so deep that no template renders it
        keys.append(hashlib.sha256(text.encode()).digest())
    return keys
