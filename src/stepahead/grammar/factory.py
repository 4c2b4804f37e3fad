"""Grammars for what requests ask for: output of a format, calls of tools, after reasoning or not."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stepahead.grammar.compiler import MAX_CACHED, Compiler
from stepahead.grammar.grammar_error import GrammarError
from stepahead.grammar.grammar_text import (
    MAX_BYTES,
    MAX_GBNF_BYTES,
    check_lark,
    check_text,
    lark_of_gbnf,
    regex_grammar,
)
from stepahead.grammar.json_schema import STRUCTURE, definitions, enforceable, subschemas
from stepahead.grammar.lark import SIDE_GRAMMAR, json_value
from stepahead.grammar.own_text import own_text
from stepahead.grammar.state import GrammarState
from stepahead.grammar.tool_calls import ANY_TEXT, CallRules, json_call, xml_call
from stepahead.grammar.turn_rules import Delimiter, Expression, calling_turn, reasoning_before
from stepahead.tokenizer import Tokenizer
from stepahead.turns.output_format import GrammarText, JsonObject, JsonSchema, OutputFormat
from stepahead.turns.tool import Tool, ToolChoice

COMPILE_SECONDS = 5.0
BLAME_SECONDS = 1.0
"""For finding the place that a grammar fails at."""


class ModelSize(Protocol):
    @property
    def vocab_size(self) -> int: ...


class LoadedModel(Protocol):
    """As stepahead.LLM."""

    tokenizer: Tokenizer

    @property
    def model(self) -> ModelSize: ...


class CallSyntax(Protocol):
    """As turns.turn_format.CallSyntax."""

    @property
    def value(self) -> str: ...


class TurnFormat(Protocol):
    """As turns.turn_format.TurnFormat."""

    @property
    def calls(self) -> CallSyntax: ...
    @property
    def think_close(self) -> Delimiter: ...
    @property
    def call_open(self) -> Delimiter: ...
    @property
    def call_close(self) -> Delimiter: ...
    @property
    def newlines_after_reasoning(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Mark:
    """A Delimiter."""

    text: str
    token_id: int | None


@dataclass(frozen=True, slots=True)
class _Answer(Expression):
    """What a turn says that follows a format."""

    side: dict[str, Any] | None = None  # a grammar of the caller's
    schema: Mapping[str, Any] = field(default_factory=dict)
    is_lenient: bool = False
    left_out: tuple[str, ...] = ()


class GrammarFactory:
    """Grammars for one model. Safe to share between threads; what it returns belongs to the thread that generates.

    Its methods wait until a grammar is compiled: milliseconds for most, at most `seconds`. They raise GrammarError, a
    RequestError, for what cannot be enforced.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, seconds: float = COMPILE_SECONDS) -> None:
        """vocab_size: of the model's logits."""
        self._tokenizer = tokenizer
        self._compiler = Compiler(tokenizer, vocab_size, seconds)
        self._own_texts: dict[str, str | None] = {}

    @classmethod
    def of(cls, llm: LoadedModel) -> "GrammarFactory":
        """Grammars for an LLM's `SamplingParams.grammar`."""
        return cls(llm.tokenizer, llm.model.vocab_size)

    def prepare(self) -> None:
        """What the first grammar would wait for: about a second for 128 K tokens."""
        assert self._compiler.trie is not None

    def for_output(
        self, output_format: OutputFormat, reasoning_end: int | str | None = None, newlines: int = 1
    ) -> GrammarState:
        """Output of a format, and nothing else.

        reasoning_end: where the prompt leaves reasoning open, the token, or text, that closes it; any text may come
        before it, and `newlines` newlines come after it.
        """
        answer = self._answer(output_format)
        if reasoning_end is None:
            return self._alone(answer)
        if answer.side is not None or "$ref" in answer.schema:
            self._alone(answer)  # after reasoning, a circle would be found too late
        reasoning = reasoning_before(self._mark_of(reasoning_end), newlines)
        lark = f"start: {reasoning.text} {answer.text}\n{reasoning.rules}{answer.rules}"
        return self._placed(answer, lambda: self._compiler.compile(_beside(lark, answer), answer.left_out))

    def for_tools(
        self,
        tools: Sequence[Tool],
        choice: ToolChoice,
        turn_format: TurnFormat,
        in_reasoning: bool = False,
        output_format: OutputFormat | None = None,
    ) -> GrammarState | None:
        """Turns that call tools as `choice` has it; None where nothing has to be enforced.

        in_reasoning: the prompt leaves reasoning open. output_format: of a turn that does not call. What is not
        enforced of the tools' schemas is told by `warnings` of the result; tools that are strict are refused instead.
        """
        think_close = self._mark(turn_format.think_close)
        is_forced = choice.mode in ("required", "named")
        is_called = is_forced or (choice.mode == "auto" and bool(tools) and turn_format.calls.value != "none")
        if not is_called and output_format is not None:
            end = think_close.text if think_close.token_id is None else think_close.token_id
            return self.for_output(output_format, end if in_reasoning else None, turn_format.newlines_after_reasoning)
        if not is_called or not (is_forced or output_format is not None or any(tool.is_strict for tool in tools)):
            return None
        reasoning = Expression()
        if in_reasoning:
            reasoning = reasoning_before(think_close, turn_format.newlines_after_reasoning)
        answer = None if is_forced or output_format is None else self._answer(output_format)
        if answer is not None:
            self._alone(answer)  # an error is its own, or the tools'
        marks = self._mark(turn_format.call_open), self._mark(turn_format.call_close)
        calls = _rules_of(_chosen(tools, choice), turn_format.calls.value)
        sides = [side for call in calls for side in self._own_grammar(call)]

        def compiled() -> GrammarState:
            warnings = [warning for call in calls for warning in call.warnings]
            left_out = tuple(warnings) + (answer.left_out if answer is not None else ())
            lark = calling_turn(calls, choice, marks, reasoning, answer)
            return self._compiler.compile(_beside(lark, answer, sides), left_out)

        try:
            return compiled()
        except GrammarError:
            if not self._compiler.in_time(lambda: [one for call in calls for one in self._drop_unusable(call)]):
                raise
        return compiled()

    def _mark(self, mark: Delimiter) -> Delimiter:
        """The mark by its token only where that token is no text."""
        return mark if mark.token_id in self._tokenizer.delimiter_ids else Mark(mark.text, None)

    def _mark_of(self, end: int | str) -> Delimiter:
        if isinstance(end, str):
            return self._mark(Mark(end, self._tokenizer.id_of(end)))
        return self._mark(Mark(self._tokenizer.token_text(end), end))

    def _answer(self, output_format: OutputFormat) -> "_Answer":
        if isinstance(output_format, GrammarText):
            return _Answer(f"@{SIDE_GRAMMAR}", side=self._side_grammar(output_format))
        asked = JsonSchema({"type": "object"}) if isinstance(output_format, JsonObject) else output_format
        schema, left_out = enforceable(asked.schema, asked.is_lenient)
        rules = f"answer: {json_value(schema, asked.is_lenient)}\n"
        return _Answer("answer", rules, None, schema, asked.is_lenient, left_out)

    def _side_grammar(self, asked: GrammarText) -> dict[str, Any]:
        check_text(asked.text, MAX_GBNF_BYTES if asked.syntax == "gbnf" else MAX_BYTES)
        if asked.syntax == "regex":
            return regex_grammar(asked.text)
        lark = asked.text
        if asked.syntax == "gbnf":
            lark = self._compiler.in_time(lambda: lark_of_gbnf(asked.text))
        check_lark(lark)
        return {"lark_grammar": lark}

    def _own_grammar(self, call: CallRules) -> list[dict[str, Any]]:
        """The grammar that a tool brings along, as its calls refer to it. Raises GrammarError, with the place."""
        grammar = call.tool.grammar
        if grammar is None:
            return []
        try:
            side = self._side_grammar(grammar)
            self._compiler.compile(json.dumps({"grammars": [side]}))
        except GrammarError as error:
            place = f"{call.place}.format.definition"
            raise GrammarError(f"{place}: {error}", (place,)) from None
        if not call.custom_rule:
            return []
        lark = self._kept_apart(side["lark_grammar"])
        if lark is None:
            call.give_up_grammar("its texts cannot be kept apart from the tag that ends values")
            return []
        return [{"lark_grammar": lark, "name": call.side_grammar}]

    def _kept_apart(self, lark: str) -> str | None:
        """The grammar, cut down to texts that a call can hold; None if it cannot be."""
        if lark not in self._own_texts:
            if len(self._own_texts) >= MAX_CACHED:
                self._own_texts.clear()
            own = own_text(lark)
            is_apart = (
                own is not None
                and self._has_texts(own.lark)
                and self._has_texts(own.any_terminal)
                and not self._has_texts(own.long_terminal)
            )
            self._own_texts[lark] = own.lark if own is not None and is_apart else None
        return self._own_texts[lark]

    def _has_texts(self, lark: str) -> bool:
        try:
            self._compiler.compile(lark)
        except GrammarError:
            return False
        return True

    def _drop_unusable(self, call: CallRules) -> list[str]:
        """Give up the schemas and patterns of a call that fail alone; returns their rules."""
        dropped: list[str] = []
        for rule, (path, pattern) in call.patterns.items():
            reason = self._compiler.error_of(f"start: TEXT\nTEXT: {pattern}")
            if reason:
                call.give_up(path, f"{path}: {reason}")
                call.patterns[rule] = (path, ANY_TEXT)
                dropped.append(rule)
        for rule, (path, schema) in call.schemas.items():
            reason = self._compiler.error_of(f"start: {json_value(schema, not call.tool.is_strict)}")
            if reason:
                call.give_up(path, f"{path}: {reason}" if path else reason)
                call.schemas[rule] = (path, {"type": schema["type"]} if "type" in schema else {})
                dropped.append(rule)
        return dropped

    def _alone(self, answer: "_Answer") -> GrammarState:
        if answer.side is not None:
            return self._compiler.compile(json.dumps({"grammars": [answer.side]}))
        return self._placed(answer, lambda: self._compiler.compile(f"start: answer\n{answer.rules}", answer.left_out))

    def _placed(self, answer: "_Answer", compiled: Callable[[], GrammarState]) -> GrammarState:
        """The grammar, or the error of the innermost part of the schema that fails alone."""
        try:
            return compiled()
        except GrammarError as error:
            why = str(error)
        if answer.side is not None:
            raise GrammarError(why)
        place = ""
        with contextlib.suppress(GrammarError):  # it takes too long to tell
            place, why = self._compiler.in_time(lambda: self._blamed(answer, why))
        raise GrammarError(f"{place}: {why}" if place else why, (place,))

    def _blamed(self, answer: "_Answer", why: str) -> tuple[str, str]:
        place, started = "", time.monotonic()
        shared = {name: answer.schema[name] for name in STRUCTURE if name in answer.schema}
        parts = [*definitions(answer.schema), *subschemas(answer.schema)]
        while parts and time.monotonic() - started < BLAME_SECONDS:
            path, part = parts.pop(0)
            if not isinstance(part, Mapping):
                continue
            reason = self._compiler.error_of(f"start: {json_value({**shared, **part}, answer.is_lenient)}")
            if reason:
                place, why = path, f"the schema cannot be enforced: {reason}"
                parts = list(subschemas(part, path))
        return place, why


def _beside(lark: str, answer: "_Answer | None", sides: Sequence[dict[str, Any]] = ()) -> str:
    """A Lark grammar, and those that it refers to: by their names, or as @content."""
    if answer is not None and answer.side is not None:
        sides = (*sides, {**answer.side, "name": SIDE_GRAMMAR})
    return json.dumps({"grammars": [{"lark_grammar": lark}, *sides]}) if sides else lark


def _chosen(tools: Sequence[Tool], choice: ToolChoice) -> list[Tool]:
    """The tools that may be called."""
    if choice.mode != "named":
        if not tools:
            raise GrammarError(f"tool_choice is {choice.mode}, and there are no tools: give some")
        return list(tools)
    found = {tool.name: tool for tool in tools}
    for name in choice.names:
        if name not in found:
            raise GrammarError("tool_choice names a tool that is not among the tools")
    if not choice.names:
        raise GrammarError("tool_choice names no tool")
    return [found[name] for name in choice.names]


def _rules_of(tools: Sequence[Tool], syntax: str) -> list[CallRules]:
    make = {"xml": xml_call, "json": json_call}.get(syntax)
    if make is None:
        raise GrammarError("the model's chat template writes no calls: tool_choice and strict tools cannot be enforced")
    return [make(tool, number) for number, tool in enumerate(tools)]
