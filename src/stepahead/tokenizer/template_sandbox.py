"""The Jinja environment that chat templates run in: sandboxed, immutable, counted.

Owns what a template can reach and how every loop, call, operator and output reports to the rendering's meter. Must
not know about messages or models.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from stepahead.tokenizer.template_code import MeteredCode
from stepahead.tokenizer.template_filters import bounded_filters, bounded_tests, meter_of
from stepahead.tokenizer.template_meter import Meter, TemplateLimits

_GLOBALS = ("cycler", "dict", "joiner", "range")

# Methods of strings and numbers that make much out of little and that no template needs.
_DENIED_METHODS = frozenset(("encode", "expandtabs", "from_bytes", "maketrans", "to_bytes", "translate"))
_PADDING_METHODS = frozenset(("center", "ljust", "rjust", "zfill"))
_SPLITTING_METHODS = frozenset(("rsplit", "split", "splitlines"))


class RaisedByTemplate(TemplateRuntimeError):  # noqa: N818 (not a fault: the template's own words)
    """The template called raise_exception: it refuses the conversation."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Renders as transformers does, within limits. Holds no state of a rendering: that is in the context's meter."""

    code_generator_class = MeteredCode
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, limits: TemplateLimits, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols], finalize=_check_output
        )
        self.limits = limits
        self.filters = bounded_filters()
        self.tests = bounded_tests()
        self.globals = {name: self.globals[name] for name in _GLOBALS} | {
            "namespace": TemplateNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: now().strftime(format),
        }

    def joiner_for(self, context: Context) -> Callable[[Iterable[str]], str]:
        """What joins the parts of macros and block assignments."""
        meter = meter_of(context)

        def join(parts: Iterable[str]) -> str:
            parts = list(parts)
            meter.made_text(sum(map(len, parts)))
            return "".join(parts)

        return join

    def concat_values(self, context: Context, values: tuple[Any, ...]) -> str:
        """The `~` operator."""
        meter = meter_of(context)
        meter.step()
        meter.size(values)
        return str(meter.made("".join(map(str, values))))

    def copied(self, context: Context, value: Any) -> Any:
        """`value`, of which a slice is about to be taken."""
        meter = meter_of(context)
        meter.step()
        return meter.made(value)

    @pass_context
    def counted(self, context: Context, iterable: Iterable[Any]) -> Iterable[Any]:
        """What a `for` loop runs over, each item a step."""
        return _Counted(meter_of(context), iterable)

    def comparable(self, context: Context, value: Any) -> Any:
        """`value`, once it is known to be small enough to be compared or hashed."""
        if isinstance(value, dict | list | tuple):
            meter_of(context).size(value)
        return value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may see this attribute."""
        if isinstance(obj, str | bytes | int) and attr in _DENIED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An intercepted operator."""
        meter = meter_of(context)
        meter.binary(operator, left, right)
        return meter.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call of a macro, a function or a method."""
        meter = meter_of(context)
        meter.step()
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = _guarded_arguments(meter, owner, method.__name__, args, kwargs)
        elif isinstance(owner, list | tuple | LoopContext):
            meter.size(owner, *args)  # index, count, changed: they compare
        meter.enter()
        try:
            return meter.made(super().call(context, obj, *args, **kwargs))
        finally:
            meter.leave()


class TemplateNamespace(Namespace):
    """`namespace()`; like everywhere in the sandbox, names that begin with an underscore are out of reach."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # self=... is a name a template may use
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's tokens for training; here its body is just rendered."""

    tags = {"generation"}  # noqa: RUF012 (declared so by Jinja)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body in a scope of its own, as transformers has it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Counted:
    """An iterable whose items are steps. Has a length iff the original has one: `loop.length` asks for it."""

    def __init__(self, meter: Meter, iterable: Iterable[Any]) -> None:
        self._meter = meter
        self._iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            self._meter.step()
            yield item

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # a TypeError is the right answer for generators


def _guarded_arguments(
    meter: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """Looks at what a method of a string would make; returns the arguments, generators among them as lists."""
    if name == "join" and args:
        items = meter.listed(args[0])
        meter.text(meter.size(items) + len(text) * len(items))
        return (items, *args[1:])
    if name in _PADDING_METHODS and args and isinstance(args[0], int):
        meter.text(args[0])
    elif name == "replace" and len(args) >= 2:
        meter.replacing(text, args[0], args[1])
    elif name in _SPLITTING_METHODS:
        separator = args[0] if args and isinstance(args[0], str) else kwargs.get("sep")
        meter.made_text(len(text))
        meter.items(text.count(separator) if isinstance(separator, str) and separator else len(text) // 2)
    elif name in ("format", "format_map"):
        meter.brace_format(text, (args, kwargs))
    return args


@pass_context
def _check_output(context: Context, value: Any) -> Any:
    """What `{{ }}` writes; Jinja turns it into text."""
    meter = meter_of(context)
    meter.step()
    if not isinstance(value, str):
        meter.size(value)
    return value


def _raise_exception(message: Any) -> None:
    raise RaisedByTemplate(str(message))


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"access to namespace attribute {name!r} is unsafe")
