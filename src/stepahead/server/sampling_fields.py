"""The fields of chat and text completions that say how tokens are chosen, and of what form the text must be."""

import re
from typing import Any

from stepahead.engine.params import MAX_LOGPROBS, SamplingParams, Speculation
from stepahead.errors import RequestError
from stepahead.server.api_error import ApiError
from stepahead.server.fields import Fields
from stepahead.turns.output_format import GrammarText, JsonObject, JsonSchema, OutputFormat

MAX_STOPS, MAX_STOP_CHARS = 64, 1000
MAX_SCHEMA_CHARS = 256 << 10
_STRUCTURED = ("json", "regex", "choice", "grammar", "json_object")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

SAMPLING = {
    "temperature": "0 to 2; 0 takes the likeliest token; absent: the server's default (1)",
    "top_p": "above 0, up to 1",
    "top_k": "integer; 0: all (not in OpenAI's API)",
    "min_p": "0 to 1 (not in OpenAI's API)",
    "presence_penalty": "-2 to 2",
    "frequency_penalty": "-2 to 2",
    "repetition_penalty": "above 0; 1: none (not in OpenAI's API)",
    "logit_bias": "token id to -100 to 100",
    "seed": "integer of 64 bits, negative ones too; same seed, same text, whatever runs beside it",
    "stop": "a string or a list of them; of visible text alone",
    "stop_token_ids": "list of token ids (not in OpenAI's API)",
    "ignore_eos": "goes on after the model's end token (not in OpenAI's API)",
    "n": "how many choices; choice i has seed + i",
    "speculation": "object: mode (auto, off, mtp, copy), depth, adaptive: changes the speed, never the text",
    "cache_salt": "prompts share what is computed with those of the same salt alone: 1 to 128 characters without @, /, "
    "\\ and NUL (vLLM's name)",
}
FORMATS = {
    "guided_json": "a JSON schema that the text must follow (vLLM's name)",
    "guided_regex": "a regular expression (vLLM's name)",
    "guided_choice": "a list of texts, one of which must come (vLLM's name)",
    "guided_grammar": "a grammar: Lark, or GBNF if it has `::=` (vLLM's name)",
    "structured_outputs": "object with one of json, regex, choice, grammar, json_object (vLLM's name)",
    "grammar": "a GBNF grammar (llama.cpp's name)",
    "json_schema": "a JSON schema (llama.cpp's name)",
}


def read_params(
    fields: Fields, max_tokens: int | None, default_temperature: float, logprobs: int | None
) -> SamplingParams:
    """Raises ApiError for values out of range."""
    temperature = fields.number("temperature", 0.0, 2.0)
    top_p = fields.number("top_p", 0.0, 1.0)
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    repetition = fields.number("repetition_penalty", 0.001, 100.0)
    top_k = fields.integer("top_k", -1)
    stop_ids = fields.list("stop_token_ids", MAX_STOPS) or []
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in stop_ids):
        raise fields.wrong("stop_token_ids", "must be a list of integers")
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=default_temperature if temperature is None else temperature,
            top_k=max(top_k or 0, 0),
            top_p=1.0 if top_p is None else top_p,
            min_p=fields.number("min_p", 0.0, 1.0) or 0.0,
            repetition_penalty=1.0 if repetition is None else repetition,
            presence_penalty=fields.number("presence_penalty", -2.0, 2.0) or 0.0,
            frequency_penalty=fields.number("frequency_penalty", -2.0, 2.0) or 0.0,
            logit_bias=_bias(fields),
            seed=None if seed is None else seed % 2**64,
            stop=fields.strings("stop", MAX_STOPS, MAX_STOP_CHARS),
            stop_token_ids=tuple(stop_ids),
            ignore_eos=fields.boolean("ignore_eos"),
            logprobs=logprobs,
        )
    except RequestError as error:
        raise ApiError("invalid_request", str(error)[:300], str(error).partition("=")[0][:64]) from None


def read_speculation(fields: Fields) -> Speculation:
    asked = fields.object("speculation")
    if asked is None:
        return Speculation()
    mode = asked.choice("mode", ("auto", "off", "mtp", "copy")) or "auto"
    depth = asked.integer("depth", 0, 16)
    return Speculation(mode, depth=depth, adaptive=asked.boolean("adaptive", True))  # type: ignore[arg-type]


def read_logprobs(fields: Fields, name: str) -> int | None:
    return fields.integer(name, 0, MAX_LOGPROBS)


def read_format(fields: Fields) -> OutputFormat | None:
    """What the text must look like; at most one field may say so. Raises ApiError."""
    asked = [name for name in ("response_format", *FORMATS) if fields.has(name)]
    found = [(name, one) for name in asked if (one := _format_of(fields, name)) is not None]
    if len(found) > 1:
        raise fields.wrong(found[1][0], f"and {fields.path(found[0][0])} both say what the text must be: give one")
    return found[0][1] if found else None


def _format_of(fields: Fields, name: str) -> OutputFormat | None:
    if name == "response_format":
        return _response_format(fields)
    if name == "structured_outputs":
        return _structured(fields)
    return _named_format(fields, name, name.removeprefix("guided_"))


def _named_format(fields: Fields, name: str, kind: str) -> OutputFormat:
    match kind:
        case "json" | "json_schema":
            return JsonSchema(_schema(fields, name))
        case "regex":
            return GrammarText("regex", _text(fields, name))
        case "choice":
            return _choices(fields, name)
        case "json_object":
            return JsonObject()
    text = _text(fields, name)
    return GrammarText("gbnf" if "::=" in text else "lark", text)


def _response_format(fields: Fields) -> OutputFormat | None:
    asked = fields.object("response_format")
    assert asked is not None
    kind = asked.choice("type", ("text", "json_object", "json_schema"))
    if kind is None:
        raise asked.wrong("type", "must be text, json_object or json_schema")
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonSchema(_schema(asked, "schema")) if asked.has("schema") else JsonObject()
    described = asked.object("json_schema")
    if described is None:
        raise asked.wrong("json_schema", "must be an object with a schema")
    name = described.string("name")
    if name is not None and not _NAME.fullmatch(name):
        raise described.wrong("name", "must be 1 to 64 letters, digits, _ or -")
    if not described.has("schema"):
        return JsonObject()
    described.boolean("strict")
    return JsonSchema(_schema(described, "schema"), is_lenient=described.boolean("lenient"))


def _structured(fields: Fields) -> OutputFormat:
    inner = fields.object("structured_outputs")
    assert inner is not None
    names = [name for name, value in inner.values.items() if value is not None]
    if len(names) != 1 or names[0] not in _STRUCTURED:
        raise fields.wrong("structured_outputs", f"must have one of {', '.join(_STRUCTURED)}, and nothing else")
    return _named_format(inner, names[0], names[0])


def _schema(fields: Fields, name: str) -> Any:
    value = fields.values.get(name)
    if isinstance(value, str):
        raise fields.wrong(name, "must be a JSON schema as an object, not as text")
    if not isinstance(value, dict | bool):
        raise fields.wrong(name, "must be a JSON schema")
    return value


def _text(fields: Fields, name: str) -> str:
    text = fields.string(name, MAX_SCHEMA_CHARS)
    if not text:
        raise fields.wrong(name, "must not be empty")
    return text


def _choices(fields: Fields, name: str) -> OutputFormat:
    texts = fields.strings(name, 1000, MAX_STOP_CHARS)
    if not texts:
        raise fields.wrong(name, "must hold at least one text")
    return GrammarText("regex", "|".join(re.escape(text) for text in texts))


def _bias(fields: Fields) -> dict[int, float]:
    asked = fields.object("logit_bias")
    if asked is None:
        return {}
    if len(asked.values) > 10_000:
        raise fields.wrong("logit_bias", "must have at most 10000 tokens")
    bias = {}
    for name in asked.values:
        if not (name.isascii() and name.isdecimal() and len(name) <= 9):
            raise fields.wrong("logit_bias", "must have token ids as its keys")
        value = asked.number(name, -100.0, 100.0)
        if value is not None:
            bias[int(name)] = value
    return bias
