"""What a turn consists of, piece by piece: the one language between a model's format and the wire formats.

In the order of arrival; pieces of the same kind that follow each other are one text. Nothing of the model's output is
lost: what is no reasoning and no call is content.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """Text of the reasoning, without its delimiters."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call of a tool that the request offers; its name is complete. Calls are numbered from 0."""

    index: int
    call_id: str  # unique within the conversation: call_ and letters or digits, at most 40 characters
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the call's arguments; the pieces of one call make one JSON object."""

    index: int
    json_text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is complete, its arguments are valid JSON. A call that was cut off never ends."""

    index: int


Event = ReasoningText | ContentText | CallStarted | CallArguments | CallEnded


def joined(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same, with pieces of one kind that follow each other made one."""
    found: list[Event] = []
    for event in events:
        match (found[-1] if found else None, event):
            case (ReasoningText(before), ReasoningText(text)):
                found[-1] = ReasoningText(before + text)
            case (ContentText(before), ContentText(text)):
                found[-1] = ContentText(before + text)
            case (CallArguments(index, before), CallArguments(same, text)) if index == same:
                found[-1] = CallArguments(index, before + text)
            case _:
                found.append(event)
    return tuple(found)
