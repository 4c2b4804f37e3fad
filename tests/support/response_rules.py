"""The rules of a response's stream, as clients rely on them: told apart from the code that makes it."""

from typing import Any

PREFIXES = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_", "custom_tool_call": "ctc_"}
DELTAS = {
    "response.reasoning_text.delta": ("reasoning", "text"),
    "response.output_text.delta": ("message", "text"),
    "response.function_call_arguments.delta": ("function_call", "arguments"),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "input"),
}
DONES = {kind.replace(".delta", ".done"): rule for kind, rule in DELTAS.items()}
ENDS = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}


class BrokenRule(AssertionError):  # noqa: N818
    pass


def check(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Raise BrokenRule for a stream that a client could not follow; gives the last response."""
    Follower().follow(frames)
    return frames[-1]["response"]


def need(is_so: bool, rule: str) -> None:
    if not is_so:
        raise BrokenRule(rule)


class Follower:
    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.text = ""
        self.has_part = False
        self.stage = "none"  # of the open item: open, done (its text), part (its part), none

    def follow(self, frames: list[dict[str, Any]]) -> None:
        need([frame["sequence_number"] for frame in frames] == list(range(len(frames))), "numbers without gaps")
        frames = [frame for frame in frames if frame["type"] != "keepalive"]
        need([frame["type"] for frame in frames[:2]] == ["response.created", "response.in_progress"], "beginning")
        need(frames[-1]["type"] in ENDS, "an end")
        for frame in frames[2:-1]:
            self.take(frame["type"], frame)
        self.end(frames[0]["response"], frames[1]["response"], frames[-1])

    def take(self, kind: str, frame: dict[str, Any]) -> None:
        if kind == "response.output_item.added":
            self.added(frame)
            return
        need(bool(self.items) and frame["output_index"] == len(self.items) - 1, "the open item's index")
        item = self.items[-1]
        if kind == "response.output_item.done":
            need(self.stage == ("part" if item["type"] == "message" else "done"), "done after its text")
            need({**frame["item"], "status": 0}.keys() >= item.keys(), "all fields")
            need(frame["item"]["id"] == item["id"] and frame["item"].get("call_id") == item.get("call_id"), "identity")
            need(self.text_of(frame["item"]) == self.text, "whole text in the item")
            self.items[-1], self.stage = frame["item"], "none"
            return
        need(frame["item_id"] == item["id"], "the open item's id")
        if kind == "response.content_part.added":
            need(item["type"] == "message" and not self.has_part and self.stage == "open", "one part of a message")
            self.has_part = True
        elif kind == "response.content_part.done":
            need(self.stage == "done" and item["type"] == "message" and frame["part"]["text"] == self.text, "part")
            self.stage = "part"
        elif kind in DELTAS:
            need(DELTAS[kind][0] == item["type"] and self.stage == "open", "deltas of an open item of their kind")
            need(item["type"] != "message" or self.has_part, "a part before its text")
            need(frame["delta"] != "", "deltas with text")
            self.text += frame["delta"]
        else:
            need(kind in DONES, f"known events, not {kind}")
            need(DONES[kind][0] == item["type"] and self.stage == "open", "done once, of its kind")
            need(frame[DONES[kind][1]] == self.text, "whole text when done")
            self.stage = "done"

    def added(self, frame: dict[str, Any]) -> None:
        item = frame["item"]
        need(self.stage == "none", "one open item at a time")
        need(frame["output_index"] == len(self.items), "indices without gaps")
        need(item["id"].startswith(PREFIXES[item["type"]]), "the id's prefix")
        need(item["id"] not in {other["id"] for other in self.items}, "ids of their own")
        need(self.text_of(item) == "", "new items empty")
        self.items.append(item)
        self.text, self.has_part, self.stage = "", False, "open"

    def end(self, created: dict[str, Any], started: dict[str, Any], last: dict[str, Any]) -> None:
        response = last["response"]
        need(created["id"] == started["id"] == response["id"], "one response")
        need(created["status"] == started["status"] == "in_progress" and created["output"] == [], "empty at first")
        need(response["status"] == ENDS[last["type"]], "the end's status")
        need((response["error"] is not None) == (response["status"] == "failed"), "error if failed")
        need((response["incomplete_details"] is not None) == (response["status"] == "incomplete"), "why incomplete")
        need((response["usage"] is not None) == (response["status"] != "failed"), "usage")
        is_call = bool(self.items) and self.items[-1]["type"] in ("function_call", "custom_tool_call")
        is_cut = self.stage == "open" and (response["status"] == "failed" or is_call)
        need(self.stage == "none" or is_cut, "all items done, but for a cut call")
        need(not is_cut or response["status"] != "completed", "cut items in cut responses alone")
        closed = self.items[:-1] if is_cut else self.items
        need(response["output"][: len(closed)] == closed, "items as they were done")
        need(len(response["output"]) == len(self.items), "all items in the output")
        if is_cut:
            need(response["output"][-1]["status"] == "incomplete", "a cut item is incomplete")
            need(response["output"][-1]["id"] == self.items[-1]["id"], "the cut item's id")

    @staticmethod
    def text_of(item: dict[str, Any]) -> str:
        if item["type"] in ("reasoning", "message"):
            return "".join(part["text"] for part in item["content"])
        return item["arguments" if item["type"] == "function_call" else "input"]
