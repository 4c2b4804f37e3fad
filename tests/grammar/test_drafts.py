"""Grammars change what is said, and drafts do not: token for token, greedy and random, in every mode of drafting."""

import json

import jsonschema
import numpy as np
import pytest

from stepahead import SamplingParams, Speculation
from stepahead.engine.request import Sequence, SequenceKV
from stepahead.speculative.forced import forced_ids
from stepahead.turns.output_format import GrammarText, JsonSchema
from stepahead.turns.tool import Tool, ToolChoice
from stepahead.turns.turn_format import CallSyntax, Mark, TurnFormat
from support.toy_engine import make_request

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

PERSON = {
    "type": "object",
    "properties": {
        "identification_number": {"type": "integer", "minimum": 1000, "maximum": 9999},
        "kind_of_person": {"enum": ["customer", "supplier", "competitor"]},
        "nickname": {"type": "string", "maxLength": 6},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 3},
        "is_active": {"type": "boolean"},
    },
    "required": ["identification_number", "kind_of_person", "tags", "is_active"],
    "additionalProperties": False,
}
FORMATS = {
    "schema": JsonSchema(PERSON),
    "object": JsonSchema({"type": "object", "maxProperties": 3, "additionalProperties": {"type": "number"}}),
    "regex": GrammarText("regex", r"(yes|no|perhaps), [a-z]{3,9}( and [a-z]{1,5}){2}"),
    "lark": GrammarText("lark", 'start: line{2,4}\nline: "value = " NUMBER ";\\n"\nNUMBER: /[0-9]{1,4}/'),
    "gbnf": GrammarText("gbnf", 'root ::= item+ "end"\nitem ::= "- " [a-z]{2,8} "\\n"'),
}
SPECULATIONS = {
    **{f"mtp-{depth}": Speculation(mode="mtp", depth=depth, adaptive=False) for depth in (1, 2, 3)},
    "copy": Speculation(mode="copy"),
    "copy-fixed": Speculation(mode="copy", depth=6, adaptive=False),
    "auto": Speculation(),
    "auto-deep": Speculation(depth=15),
}
PLAIN = Speculation(mode="off")
PROMPT = 'def save(person):\n    text = {"identification_number": 1234, "kind_of_person": "customer"}\n'


def params(grammar, temperature: float, seed: int = 7, max_tokens: int = 400) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, grammar=grammar)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", FORMATS)
def test_text_does_not_depend_on_drafts(reader, name: str, temperature: float) -> None:
    drafted = 0
    grammar = reader.factory.for_output(FORMATS[name])
    plain = reader.llm.generate(PROMPT, params(grammar, temperature), PLAIN)
    for speculation in SPECULATIONS.values():
        again = reader.llm.generate(PROMPT, params(grammar, temperature), speculation)
        assert (again.token_ids, again.finish_reason) == (plain.token_ids, plain.finish_reason)
        drafted += again.speculation.num_draft_tokens
    assert drafted > 0


@pytest.mark.parametrize("seed", range(4))
def test_what_is_complete_satisfies_the_schema(reader, seed: int) -> None:
    grammar = reader.factory.for_output(FORMATS["schema"])
    completion = reader.llm.generate(PROMPT, params(grammar, 1.5, seed), Speculation())
    assert completion.finish_reason == "stop"
    assert completion.stop_reason is None  # the grammar ended it, at its last brace
    assert completion.text.endswith("}")
    jsonschema.validate(json.loads(completion.text), PERSON)


def test_several_texts_of_one_grammar_side_by_side(reader) -> None:
    grammar = reader.factory.for_output(FORMATS["schema"])
    prompts = [PROMPT, "x = ", "import json\n", PROMPT[5:]]
    alone = [reader.llm.generate(prompt, params(grammar, 1.0)).token_ids for prompt in prompts]
    together = reader.llm.generate(prompts, params(grammar, 1.0), Speculation(mode="mtp", depth=3, adaptive=False))
    assert [completion.token_ids for completion in together] == alone


def test_forced_tokens_are_what_masked_sampling_gives(reader) -> None:
    """Wherever something is forced, in a text that was sampled token by token, it is what came."""
    for name in ("schema", "lark"):
        grammar = reader.factory.for_output(FORMATS[name])
        ids = reader.llm.generate(PROMPT, params(grammar, 1.0), PLAIN).token_ids
        num_forced, state = 0, reader.factory.for_output(FORMATS[name])
        for at, token_id in enumerate(ids):
            forced = list(state.forced_ids())
            assert forced[: len(ids) - at] == ids[at : at + len(forced)]
            if forced:
                assert reader.allowed(state) == {token_id}
            num_forced += bool(forced)
            state = state.advance(token_id)
        assert num_forced > len(ids) / 6


def test_forced_tokens_are_drafted_and_accepted(reader) -> None:
    """How many are worth a row is a matter of prices; none of them is wrong, but what completes a text is sampled."""
    grammar = reader.factory.for_output(FORMATS["lark"])
    sequence = Sequence(make_request(0, (1,), 50, grammar=grammar), SequenceKV(0, 1))
    assert reader.llm.tokenizer.decode(forced_ids(sequence, 9, reader.vocab_size)) == "value = "
    stats = reader.llm.generate(PROMPT, params(grammar, 1.0), Speculation(depth=8)).speculation
    drafted, accepted = stats.num_draft_tokens_by_source, stats.num_accepted_tokens_by_source
    assert accepted.get("forced", 0) >= drafted.get("forced", 0) - 1


class OnlyAfter:
    """A grammar of the reasoning's length: plain characters before `count` tokens, then </think> alone."""

    def __init__(self, inner, end_id: int, count: int, plain_ids) -> None:
        self.inner, self.end_id, self.count, self.plain_ids = inner, end_id, count, plain_ids

    def mask(self, logits) -> None:
        self.inner.mask(logits)
        if self.count > 0:
            logits[~self.plain_ids] = float("-inf")
        elif self.count == 0:
            kept = logits[self.end_id]
            logits[:] = float("-inf")
            logits[self.end_id] = kept

    def advance(self, token_id: int):
        return OnlyAfter(self.inner.advance(token_id), self.end_id, self.count - 1, self.plain_ids)

    @property
    def is_finished(self) -> bool:
        return self.inner.is_finished

    def forced_ids(self):
        return self.inner.forced_ids() if self.count < 0 else ()

    def num_allowed(self, token_ids) -> int:
        return self.inner.num_allowed(token_ids)


@pytest.mark.parametrize("offset", range(7))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_reasoning_may_end_anywhere_in_a_draft(reader, offset: int, temperature: float) -> None:
    tokenizer = reader.llm.tokenizer
    end_id = tokenizer.id_of("</think>")
    inner = reader.factory.for_output(FORMATS["schema"], end_id)
    spelt = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    plain_ids = np.array(
        [text.isascii() and number not in tokenizer.delimiter_ids for number, text in enumerate(spelt)]
    )
    grammar = OnlyAfter(inner, end_id, offset, plain_ids)
    plain = reader.llm.generate(PROMPT, params(grammar, temperature), PLAIN)
    assert plain.token_ids[offset] == end_id
    reasoning, answer = plain.token_ids[:offset], plain.token_ids[offset + 1 :]
    assert len(reasoning) == offset
    text = tokenizer.decode(answer)
    assert text.startswith("\n{")
    jsonschema.validate(json.loads(text), PERSON)
    for speculation in SPECULATIONS.values():
        assert reader.llm.generate(PROMPT, params(grammar, temperature), speculation).token_ids == plain.token_ids


def test_a_text_may_end_at_any_end_token_where_the_grammar_lets_it(demo) -> None:
    grammar = demo.factory.for_output(GrammarText("regex", "a+"))
    ends = demo.llm.tokenizer.end_ids
    assert len(ends) > 1
    assert not demo.allowed(grammar) & ends
    state = demo.read(grammar, "aa")
    assert demo.allowed(state) >= ends
    assert not state.is_finished
    assert all(state.advance(end).is_finished for end in ends)
    bias = dict.fromkeys(ends, 50.0)
    for ignore_eos in (False, True):
        asked = SamplingParams(grammar=grammar, logit_bias=bias, ignore_eos=ignore_eos, max_tokens=9)
        completion = demo.llm.generate("b", asked)
        assert completion.finish_reason == "stop"
        assert set(completion.text) == {"a"}


def marks_of(reader) -> list[Mark]:
    return [Mark.of(mark.text, reader.llm.tokenizer) for mark in TurnFormat().marks]


@pytest.mark.parametrize("syntax", [CallSyntax.XML, CallSyntax.JSON])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_calls_do_not_depend_on_drafts(reader, syntax: CallSyntax, temperature: float) -> None:
    tool = Tool("save_person", "", {**PERSON, "properties": {**PERSON["properties"], "note": {"const": "none"}}})
    turn_format = TurnFormat(syntax, True, *marks_of(reader))
    grammar = reader.factory.for_tools([tool], ToolChoice("required", is_parallel=False), turn_format)
    plain = reader.llm.generate(PROMPT, params(grammar, temperature), PLAIN)
    assert plain.finish_reason == "stop"
    assert reader.llm.tokenizer.decode(plain.token_ids).endswith("</tool_call>")
    for speculation in SPECULATIONS.values():
        again = reader.llm.generate(PROMPT, params(grammar, temperature), speculation)
        assert again.token_ids == plain.token_ids
