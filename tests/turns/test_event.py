"""Events joined are the same text in fewer pieces."""

from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, ReasoningText, joined


def test_pieces_of_one_kind_become_one():
    events = [
        ReasoningText("a"), ReasoningText("b"), ContentText("c"), ContentText("d"), CallStarted(0, "call_1", "f"),
        CallArguments(0, "{"), CallArguments(0, "}"), CallEnded(0), CallStarted(1, "call_2", "g"),
        CallArguments(1, "{}"), CallEnded(1), ContentText("e"),
    ]  # fmt: skip
    assert joined(events) == (
        ReasoningText("ab"), ContentText("cd"), CallStarted(0, "call_1", "f"), CallArguments(0, "{}"), CallEnded(0),
        CallStarted(1, "call_2", "g"), CallArguments(1, "{}"), CallEnded(1), ContentText("e"),
    )  # fmt: skip


def test_arguments_of_different_calls_stay_apart():
    events = (CallArguments(0, "1"), CallArguments(1, "2"))
    assert joined(events) == events
    assert joined(()) == ()
