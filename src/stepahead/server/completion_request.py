"""The body of a text completion to what is to be continued, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepahead.server.cache_salt import read_salt
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.fields import Fields, FieldTable, Refused
from stepahead.server.sampling_fields import (
    FORMATS,
    SAMPLING,
    read_format,
    read_logprobs,
    read_params,
    read_speculation,
)
from stepahead.server.step_extension import wants_steps
from stepahead.server.wire import PROGRESS
from stepahead.turns.turn_request import TurnRequest

MAX_PROMPTS, MAX_PROMPT_TOKENS, MAX_CHOICES = 128, 1 << 22, 128
DEFAULT_MAX_TOKENS = 16  # of OpenAI's API

COMPLETION_FIELDS = FieldTable(
    honoured={
        "model": "any name; the answer says which model it was",
        "prompt": "a text, token ids, or a list of either; control tokens in a text are recognised",
        "max_tokens": "default 16, as in OpenAI's API; what the context cannot hold is cut",
        "echo": "the prompt in front of each answer",
        "stream": "server-sent events",
        "stream_options": "include_usage; include_obfuscation has no effect",
        "return_progress": PROGRESS,
        "logprobs": "0 to 20; not together with echo",
        "response_format": "text, json_object or json_schema",
        "stepahead": "object: steps (true: see the extension below)",
        **SAMPLING,
        **FORMATS,
    },
    hints={
        "user": "",
        "metadata": "",
        "service_tier": "",
        "prompt_cache_key": "prefixes are found by their tokens",
        "cache_prompt": "prefixes are always kept",
        "safety_identifier": "",
    },
    refused={
        "suffix": Refused("text is continued at its end: fill-in-the-middle is not done", ("",)),
        "best_of": Refused("give n and choose among the answers", (1,)),
        "use_beam_search": Refused("answers are sampled", (False,)),
        "prompt_logprobs": Refused("log-probabilities of prompts are not computed", (0,)),
        "messages": Refused("conversations go to /v1/chat/completions"),
    },
)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a text completion asks for, checked."""

    prompts: tuple[str | list[int], ...]
    turn: TurnRequest  # without messages
    has_echo: bool
    is_stream: bool
    has_usage: bool
    has_progress: bool
    warnings: tuple[str, ...]

    @property
    def has_steps(self) -> bool:
        return self.turn.tells_steps

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.turn.num_choices


def read_completion(body: Mapping[str, Any], settings: EndpointSettings) -> CompletionRequest:
    """Raises ApiError for whatever is wrong with it."""
    warnings = COMPLETION_FIELDS.check(body, settings.unknown_fields)
    fields = Fields(body)
    fields.string("model")
    is_stream = fields.boolean("stream")
    options = fields.object("stream_options")
    if options is not None and not is_stream and options.values:
        raise fields.wrong("stream_options", "needs stream: true")
    logprobs, has_echo = read_logprobs(fields, "logprobs"), fields.boolean("echo")
    if has_echo and logprobs is not None:
        raise fields.wrong("logprobs", "of prompts are not computed: leave echo out", "unsupported_value")
    max_tokens = fields.integer("max_tokens", 1) or DEFAULT_MAX_TOKENS
    turn = TurnRequest(
        messages=(),
        output_format=read_format(fields),
        params=read_params(fields, max_tokens, settings.default_temperature, logprobs),
        speculation=read_speculation(fields),
        num_choices=fields.integer("n", 1, MAX_CHOICES) or 1,
        tells_steps=wants_steps(body.get("stepahead")),
        cache_salt=read_salt(fields),
    )
    has_usage = options is not None and options.boolean("include_usage")
    return CompletionRequest(
        _prompts(fields), turn, has_echo, is_stream, has_usage, fields.boolean("return_progress"), tuple(warnings)
    )


def _prompts(fields: Fields) -> tuple[str | list[int], ...]:
    value = fields.values.get("prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise fields.wrong("prompt", "must be a text, a list of token ids, or a list of either")
    if _is_ids(value):
        return (value,)
    if len(value) > MAX_PROMPTS:
        raise fields.wrong("prompt", f"must have at most {MAX_PROMPTS} prompts")
    for index, one in enumerate(value):
        if not isinstance(one, str) and not (isinstance(one, list) and _is_ids(one)):
            raise fields.wrong(f"prompt[{index}]", "must be a text or a list of token ids")
    return tuple(value)


def _is_ids(value: list[Any]) -> bool:
    return 0 < len(value) <= MAX_PROMPT_TOKENS and all(type(one) is int for one in value)
