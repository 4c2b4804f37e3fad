"""Our extension of streamed chat and text completions: what each step drafted, so that a client can show it.

A request asks for it with `"stepahead": {"steps": true}`, on `/v1/chat/completions` and `/v1/completions`; False is the
default. Then every chunk that carries what a step added also has, at its top level,

    "stepahead": {"num_tokens": 4, "num_accepted": 3, "num_drafted": 3, "pieces": ["def ", "fib", "(n", "):"]}

and the last chunk that has choices or usage carries `"metrics"` (see server/statistics.py) at its top level.

`pieces` has one entry for each token of the step, in order, the accepted draft tokens first: the content that came out
with that token, "" where there was none (reasoning, calls, text held back until it is known what it is). Joined, they
are the chunk's `delta.content` (or `text`). A step that adds to both reasoning and content is still one step: where it
takes several chunks, the first of them carries the counts, and a chunk of content the pieces. A step without any text
of its own is counted as well: its chunk has an empty delta.
"""

from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.turn_service import TurnStep

FIELD = "stepahead"


def wants_steps(value: Any) -> bool:
    """Of the request's field `stepahead`, None where it has none. Raises ApiError for anything else than documented."""
    if value is None:
        return False
    if not isinstance(value, dict):
        raise ApiError("invalid_request", "stepahead must be an object", param=FIELD)
    for key in value:
        if key != "steps":
            raise ApiError("invalid_request", "stepahead has one field, steps", param=FIELD, code="unsupported_value")
    steps = value.get("steps", False)
    if not isinstance(steps, bool):
        raise ApiError("invalid_request", "steps must be true or false", param=f"{FIELD}.steps")
    return steps


def step_extension(step: TurnStep) -> dict[str, Any]:
    """The object of a step's chunk, under the name FIELD."""
    return {
        "num_tokens": step.num_tokens,
        "num_accepted": step.num_accepted,
        "num_drafted": step.num_drafted,
        "pieces": list(step.pieces),
    }
