"""What one step brought, with pieces that follow each other made one: a step makes one delta of a kind, not four."""

from collections.abc import Iterable, Iterator

from stepahead.turns.event import CallArguments, ContentText, Event, ReasoningText


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """The same events in fewer pieces; empty pieces are left out."""
    held: Event | None = None
    for event in events:
        both = None if held is None else _as_one(held, event)
        if both is None and held is not None and not _is_empty(held):
            yield held
        held = event if both is None else both
    if held is not None and not _is_empty(held):
        yield held


def _as_one(first: Event, second: Event) -> Event | None:
    if isinstance(first, ReasoningText) and isinstance(second, ReasoningText):
        return ReasoningText(first.text + second.text)
    if isinstance(first, ContentText) and isinstance(second, ContentText):
        return ContentText(first.text + second.text)
    if isinstance(first, CallArguments) and isinstance(second, CallArguments) and first.index == second.index:
        return CallArguments(first.index, first.json_text + second.json_text)
    return None


def _is_empty(event: Event) -> bool:
    match event:
        case ReasoningText(text) | ContentText(text) | CallArguments(_, text):
            return not text
    return False
