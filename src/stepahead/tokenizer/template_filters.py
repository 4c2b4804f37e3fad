"""Filters that a chat template may use, each with a look at what it would make before it makes it.

Owns the list of filters and their guards. A filter that is not listed is an error when the template is compiled.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

from jinja2 import pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.tests import TESTS

from stepahead.tokenizer.template_meter import Meter, TemplateLimitError

# The name under which a rendering's meter travels in the context; no template can spell it.
METER = "stepahead meter"

# These look at the container, not at what it holds.
# fmt: off
_SHALLOW = frozenset((
    "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject",
    "rejectattr", "reverse", "select", "selectattr", "slice",
))
# These take from a generator one by one, or just look at it; for others it becomes a list.
_LAZY = frozenset((
    "d", "default", "first", "map", "reject", "rejectattr", "select", "selectattr", *TESTS,
))
_DEEP = frozenset((
    "abs", "capitalize", "center", "dictsort", "e", "escape", "float", "format", "groupby", "indent", "int", "join",
    "lower", "max", "min", "replace", "round", "safe", "sort", "string", "sum", "title", "trim", "truncate",
    "unique", "upper", "wordcount",
))
_COMPARING_TESTS = frozenset((
    "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">=", "in",
))
# fmt: on

_MAX_JSON_INDENT = 64
_JSON_EXPANSION = 8

Function = Callable[..., Any]


def meter_of(context: Context) -> Meter:
    """The meter of the rendering that `context` belongs to."""
    meter: Meter = context.resolve_or_missing(METER)
    assert isinstance(meter, Meter)
    return meter


def bounded_filters() -> dict[str, Any]:
    """All filters by name, counting and guarded."""
    named: dict[str, Any] = {name: FILTERS[name] for name in _SHALLOW | _DEEP} | {
        "tojson": _tojson,
        "fromjson": _fromjson,
    }
    return {name: _metered(name, function, name not in _SHALLOW, _GUARDS.get(name)) for name, function in named.items()}


def bounded_tests() -> dict[str, Any]:
    """Jinja's tests by name, counting; those that compare look at the size of what they compare."""
    named: dict[str, Any] = dict(TESTS)
    return {name: _metered(name, function, name in _COMPARING_TESTS) for name, function in named.items()}


def _metered(name: str, function: Function, is_deep: bool, guard: Callable[..., None] | None = None) -> Function:
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = meter_of(context)
        meter.step()
        if isinstance(value, Iterator) and name not in _LAZY:
            value = meter.listed(value)
        if is_deep:
            meter.size(value, *args, *kwargs.values())
        if guard is not None:
            guard(meter, value, *args, **kwargs)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        extra = () if passed is None else (first[passed],)
        return meter.made(function(*extra, value, *args, **kwargs))

    return run


def _guard_center(meter: Meter, value: Any, width: Any = 80) -> None:
    meter.text(width)


def _guard_indent(meter: Meter, value: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    text = str(value)
    meter.text(len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else width))


def _guard_list(meter: Meter, value: Any) -> None:
    if isinstance(value, Sized):
        meter.items(len(value))


def _guard_count(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    _guard_list(meter, value)
    for count in (*args, *kwargs.values()):
        if isinstance(count, int):
            meter.made_items(count)


def _guard_round(meter: Meter, value: Any, precision: Any = 0, method: Any = "common") -> None:
    if isinstance(precision, int) and abs(precision) > 100:
        raise TemplateLimitError("it rounds to more than 100 digits")


def _guard_replace(meter: Meter, value: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    meter.replacing(str(value), str(old), str(new))


def _guard_join(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> None:
    meter.text(meter.size(value) + len(str(d)) * len(value))


def _guard_format(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    meter.percent_format(str(value), kwargs or args)


def _guard_sum(meter: Meter, value: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise TemplateLimitError("it sums up something other than numbers")


_GUARDS: Mapping[str, Callable[..., None]] = {
    "batch": _guard_count,
    "center": _guard_center,
    "format": _guard_format,
    "indent": _guard_indent,
    "join": _guard_join,
    "list": _guard_list,
    "replace": _guard_replace,
    "reverse": _guard_list,
    "round": _guard_round,
    "slice": _guard_count,
    "sum": _guard_sum,
}


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, as chat templates expect it; the arguments are those of json.dumps."""
    meter = meter_of(context)
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _MAX_JSON_INDENT or any(len(separator) > _MAX_JSON_INDENT for separator in separators or ()):
        raise TemplateLimitError(f"it indents or separates JSON by more than {_MAX_JSON_INDENT} characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    # Indentation multiplies by depth, so the text is measured while it grows.
    chunks, num_chars = [], 0
    for chunk in encoder.iterencode(value):
        chunks.append(chunk)
        num_chars += len(chunk)
        meter.text(num_chars)
    return "".join(chunks)


@pass_context
def _fromjson(context: Context, value: Any) -> Any:
    """The value that a JSON text stands for."""
    # Many small values take far more memory than their text.
    meter_of(context).made_text(_JSON_EXPANSION * len(value))
    return json.loads(value)
