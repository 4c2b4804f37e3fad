"""The rules of a message's stream, as clients rely on them: told apart from the code that makes it."""

import json
from typing import Any

DELTAS = {
    "thinking": {"thinking_delta", "signature_delta"},
    "text": {"text_delta"},
    "tool_use": {"input_json_delta"},
}
FIRST = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}, "tool_use": {"input": {}}}


class BrokenRule(AssertionError):  # noqa: N818
    pass


def need(is_so: bool, rule: str) -> None:
    if not is_so:
        raise BrokenRule(rule)


def check(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Raise BrokenRule for a stream that a client could not follow; gives the content."""
    frames = [frame for frame in frames if frame["type"] != "ping"]
    need(frames[0]["type"] == "message_start", "message_start first")
    message = frames[0]["message"]
    need(message["content"] == [] and message["stop_reason"] is None, "empty at first")
    need(message["id"].startswith("msg_") and message["role"] == "assistant", "a message")
    if frames[-1]["type"] == "error":
        return follow(frames[1:-1], may_be_cut=True)
    need([frame["type"] for frame in frames[-2:]] == ["message_delta", "message_stop"], "end")
    reason, usage = frames[-2]["delta"]["stop_reason"], frames[-2]["usage"]
    content = follow(frames[1:-2], may_be_cut=reason in ("max_tokens", "model_context_window_exceeded"))
    need(usage["output_tokens"] >= 0 and "input_tokens" in usage, "usage")
    return content


def follow(frames: list[dict[str, Any]], may_be_cut: bool) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    is_open = is_signed = False
    for frame in frames:
        if frame["type"] == "content_block_start":
            block = frame["content_block"]
            need(not is_open, "one open block at a time")
            need(frame["index"] == len(content), "indices without gaps")
            need(FIRST[block["type"]].items() <= block.items(), "new blocks empty")
            content.append({**block, "pieces": ""})
            is_open, is_signed = True, False
            continue
        need(is_open and frame["index"] == len(content) - 1, "the open block's index")
        block = content[-1]
        if frame["type"] == "content_block_delta":
            delta = frame["delta"]
            need(delta["type"] in DELTAS[block["type"]], "deltas of the block's kind")
            need(not is_signed, "the signature last")
            if delta["type"] == "signature_delta":
                block["signature"], is_signed = delta["signature"], True
            else:
                piece = delta[delta["type"].removesuffix("_delta").replace("input_json", "partial_json")]
                need(piece != "", "deltas with text")
                block["pieces"] += piece
        else:
            need(frame["type"] == "content_block_stop", f"known events, not {frame['type']}")
            need(block["type"] != "thinking" or is_signed, "thinking with a signature")
            need(block["type"] != "text" or block["pieces"] != "", "no empty text")
            if block["type"] == "tool_use":
                need(isinstance(json.loads(block["pieces"] or "{}"), dict), "input is an object")
            is_open = False
    need(not is_open or may_be_cut, "all blocks closed, but for what was cut off")
    return content
