"""What a turn of the assistant says, whatever its tokens are: reasoning, content and calls.

Owns which differences count. Must not know how a turn is written.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from stepahead.turns.event import CallArguments, CallStarted, ContentText, Event, ReasoningText
from stepahead.turns.history import arguments_object


def said_by(events: Iterable[Event]) -> bytes:
    """A digest: equal for turns that say the same to the character.

    Arguments count as what they say, since clients write their JSON anew; so 1, 1.0 and 1e0 are one number. White space
    beside calls is no content.
    """
    reasoning: list[str] = []
    content: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for event in events:
        match event:
            case ReasoningText():
                reasoning.append(event.text)
            case ContentText():
                content.append(event.text)
            case CallStarted():
                calls.append((event.name, []))
            case CallArguments():
                calls[-1][1].append(event.json_text)
    text = "".join(content)
    said = [
        "".join(reasoning),
        "" if calls and text.isspace() else text,
        [[name, _plain(arguments_object("".join(pieces)))] for name, pieces in calls],
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


def _plain(value: Any) -> Any:
    """JSON has one kind of number: some clients write 1.0 as 1."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
