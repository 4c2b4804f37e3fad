"""Chat templates: a conversation to the text that the model continues.

Owns compiling and rendering, and turns whatever goes wrong into one error. Must not know any model's format, nor
how text becomes tokens.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import meta
from jinja2.exceptions import TemplateSyntaxError

from stepahead.errors import ModelFormatError, RequestError
from stepahead.tokenizer.conversation import checked_messages, checked_tools, has_parts, joined_parts, plain_data
from stepahead.tokenizer.template_filters import METER
from stepahead.tokenizer.template_meter import Meter, TemplateLimitError, TemplateLimits
from stepahead.tokenizer.template_sandbox import RaisedByTemplate, TemplateSandbox
from stepahead.tokenizer.tokenizer import Tokenizer

_MAX_MESSAGE_CHARS = 300


class ChatTemplate:
    """A compiled chat template. Immutable; safe to share between threads."""

    def __init__(
        self,
        source: str,
        bos_token: str = "",
        eos_token: str = "",
        *,
        limits: TemplateLimits | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile `source`. `now` is the clock behind the template's `strftime_now`.

        Raises ModelFormatError naming the line for a template that does not compile, and for one that is too long.
        """
        self.source = source
        self._limits = limits or TemplateLimits()
        sandbox = TemplateSandbox(self._limits, now)
        if len(source) > self._limits.source_chars:
            raise ModelFormatError(
                f"the chat template has {len(source)} characters; at most {self._limits.source_chars} are supported"
            )
        try:
            self.variables = frozenset(meta.find_undeclared_variables(sandbox.parse(source)))
            self._template = sandbox.from_string(source)
        except TemplateSyntaxError as error:
            raise ModelFormatError(f"the chat template is wrong in line {error.lineno}: {error.message}") from None
        except (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            raise ModelFormatError(f"the chat template cannot be compiled: {_short(error)}") from None
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._reserved = frozenset((*self._tokens, *sandbox.globals))

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "ChatTemplate":
        """The template of the model file.

        Raises RequestError if the file has none, ModelFormatError if it does not compile.
        """
        if tokenizer.chat_template is None:
            raise RequestError("the model file has no chat template; pass a prompt, or a file with a template")
        ids = (tokenizer.bos_id, tokenizer.eos_id)
        return cls(tokenizer.chat_template, *("" if one is None else tokenizer.token_text(one) for one in ids))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """The text of a conversation, by default ending where the assistant's answer begins.

        `messages` are objects with `role` and `content` (a string, a list of text parts, or None); other keys, such
        as `tool_calls`, go to the template as they are. So do several text parts if the template reads parts;
        otherwise they are joined. `extra` are further variables of the template, such as `reasoning_effort`;
        `variables` tells which it reads. Raises RequestError for messages that are wrong, that the template refuses
        or cannot render, and for a rendering past the limits.
        """
        taken = sorted(self._reserved & extra.keys())
        if taken:
            raise RequestError(f"template variable {taken[0]!r} belongs to the template itself; choose another name")
        conversation = checked_messages(messages)
        if has_parts(conversation) and not self._reads_parts:
            conversation = joined_parts(conversation)
        variables = {
            # Templates ask whether it is None, not whether it is there.
            "documents": None,
            **{name: plain_data(value, name) for name, value in extra.items()},
            "messages": conversation,
            "tools": checked_tools(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._generated(variables)
        except RaisedByTemplate as error:
            raise RequestError(f"the chat template refuses the conversation: {_short(error)}") from None
        except TemplateLimitError as error:
            raise RequestError(
                f"the chat template{_line(error)} goes past a limit: {error.message}; shorten the conversation, "
                "or use another template"
            ) from None
        except Exception as error:  # a template can fail in any way that Python can
            raise RequestError(f"the chat template fails{_line(error)}: {_short(error)}") from None

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template reads content in parts, each in its way; others would print or lose the list."""
        first, second = "one-part", "another-part"
        parts = [{"type": "text", "text": text} for text in (first, second)]
        try:
            text = self._generated({"messages": [{"role": "user", "content": parts}], "tools": None})
        except Exception:
            return False
        _, found, rest = text.partition(first)
        between, also_found, _ = rest.partition(second)
        return bool(found and also_found) and "text" not in between

    def _generated(self, variables: dict[str, Any]) -> str:
        meter = Meter(self._limits)
        pieces, num_chars = [], 0
        for piece in self._template.generate({**variables, **self._tokens, METER: meter}):
            pieces.append(piece)
            num_chars += len(piece)
            if num_chars > self._limits.text_chars:
                raise TemplateLimitError(f"it writes more than {self._limits.text_chars} characters")
        return "".join(pieces)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[:_MAX_MESSAGE_CHARS] + "…"


def _line(error: BaseException) -> str:
    """The innermost place in the template, where the traceback knows it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    return f" in line {lines[-1]}" if lines else ""
