"""Fields that the agents' endpoints read alike."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.fields import Fields, shown, wrong
from stepahead.server.sampling_fields import SAMPLING
from stepahead.server.wire import ignored

MAX_ITEMS = 100_000  # of any list
MORE_SAMPLING = {name: text for name, text in SAMPLING.items() if name not in ("n", "stop")}  # than the APIs have
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_TOOL_NAME = re.compile(r"[^\s<>=\"'\x00-\x1f]{1,256}")  # it stands in the model's own syntax of a call
# Agents know more levels than models were trained with.
_EFFORTS = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip


def objects(fields: Fields, name: str) -> Iterator[Fields]:
    """The objects of a list of any length."""
    return fields.objects(name, MAX_ITEMS)


def inner(fields: Fields, name: str) -> Fields:
    """An object; an empty one where there is none."""
    return fields.object(name) or Fields({}, fields.path(name))


def required(fields: Fields, name: str) -> str:
    value = fields.string(name)
    if value is None:
        raise fields.wrong(name, "is required")
    return value


def tool_name(tool: Fields) -> str:
    name = required(tool, "name")
    if _TOOL_NAME.fullmatch(name) is None:
        raise tool.wrong("name", "must have 1 to 256 characters, none of them a space, a quote, <, > or =")
    return name


def unsupported(path: str, way_out: str) -> ApiError:
    return wrong(path, f"is not supported: {way_out}", "unsupported_value")


def effort_args(settings: Fields) -> dict[str, Any]:
    """Template arguments for settings.effort; templates without such a variable have no use for it."""
    effort = _EFFORTS.get(settings.string("effort") or "")
    return {} if effort is None else {"reasoning_effort": effort}


def notice(left_out: Iterable[str]) -> dict[str, str]:
    """The header that names what was left out of a request; types in it are the client's words."""
    return ignored(map(shown, left_out))
