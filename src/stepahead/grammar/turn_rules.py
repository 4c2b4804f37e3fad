"""Lark for a whole turn: reasoning, then text, structure or calls, as the request has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stepahead.grammar.lark import literal, mark, text_before
from stepahead.grammar.tool_calls import CallRules
from stepahead.turns.tool import ToolChoice


class Delimiter(Protocol):
    """As turns.turn_format.Mark."""

    @property
    def text(self) -> str: ...
    @property
    def token_id(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Expression:
    """A part of a rule, and the rules that it refers to."""

    text: str = ""
    rules: str = ""


def reasoning_before(end: Delimiter, newlines: int) -> Expression:
    """Any text, what closes it, and newlines."""
    expression, rules = text_before(end.text, end.token_id, "reasoning")
    return Expression(f"{expression} {literal(chr(10) * newlines)}" if newlines else expression, rules)


def calling_turn(
    calls: Sequence[CallRules],
    choice: ToolChoice,
    marks: tuple[Delimiter, Delimiter],
    reasoning: Expression,
    answer: Expression | None,
) -> str:
    """A turn that must call, or may; answer: what it says instead of calling, None: any text, before calls too."""
    opened, closed = (mark(one.text, one.token_id) for one in marks)
    one_call = f"({' | '.join(call.name for call in calls)}) {closed}"
    calling = f"{opened} {one_call}" + (f' ("\\n"? {opened} {one_call})*' if choice.is_parallel else "")
    rules = [reasoning.rules, *(call.text() for call in calls)]
    if choice.mode in ("required", "named"):
        rules.append(f"start: {reasoning.text} {calling}")
    elif answer is not None:
        rules += [f"start: {reasoning.text} (calling | {answer.text})", f"calling: {calling}", answer.rules]
    else:
        before, before_rules = text_before(marks[0].text, marks[0].token_id, "before_call")
        repeated = "*" if choice.is_parallel else "?"
        rules += [f"start: {reasoning.text} ({before} {one_call}){repeated} after_calls", before_rules]
        rules.append("after_calls: /(?s:.*)/")
    return "\n".join([*rules, ""])
