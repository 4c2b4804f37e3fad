"""Fields that the agents' endpoints read alike."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepahead.engine.params import SamplingParams
from stepahead.errors import RequestError
from stepahead.server.api_error import ApiError
from stepahead.server.fields import Fields, shown, wrong

MAX_ITEMS = 100_000  # of any list
EXTRA_SAMPLING: Mapping[str, str] = {
    "frequency_penalty": "-2 to 2; an addition of this server",
    "min_p": "0 to 1; an addition of this server",
    "presence_penalty": "-2 to 2; an addition of this server",
    "repetition_penalty": "above 0; an addition of this server",
    "seed": "an integer; an addition of this server",
    "top_k": "0 for no limit",
}
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_TOOL_NAME = re.compile(r"[^\s<>=\"'\x00-\x1f]{1,256}")  # it stands in the model's own syntax of a call
_DEFAULT_TEMPERATURE = 1.0  # of both APIs
# Agents know more levels than models were trained with.
_EFFORTS = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip
_MAX_SHOWN = 40


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


def read_sampling(
    request: Fields, max_tokens: int | None, stop: tuple[str, ...] = (), logprobs: int | None = None
) -> SamplingParams:
    """Raises ApiError for values out of range."""
    temperature = request.number("temperature", 0.0, 2.0)
    top_p = request.number("top_p", 0.0, 1.0)
    extras = {name: request.values[name] for name in EXTRA_SAMPLING if request.has(name)}
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_DEFAULT_TEMPERATURE if temperature is None else temperature,
            top_p=1.0 if top_p is None else top_p,
            stop=stop,
            logprobs=logprobs,
            **extras,
        )
    except RequestError as error:
        name = str(error).partition("=")[0]
        raise wrong(name, "has a type or a value that is not possible") from None


def effort_args(settings: Fields) -> dict[str, Any]:
    """Template arguments for settings.effort; templates without such a variable have no use for it."""
    effort = _EFFORTS.get(settings.string("effort") or "")
    return {} if effort is None else {"reasoning_effort": effort}


def notices(ignored: Sequence[str], warnings: Sequence[str]) -> dict[str, str]:
    """Headers that name what was left out of a request, and what the service has to say about it."""
    names = [shown(name) for name in ignored[:_MAX_SHOWN]]
    if len(ignored) > _MAX_SHOWN:
        names.append(f"and {len(ignored) - _MAX_SHOWN} more")
    told = {"x-stepahead-ignored": ", ".join(names), "x-stepahead-warnings": "; ".join(map(shown, warnings))}
    return {name: value for name, value in told.items() if value}
