"""Formats found out from templates, and turns that are parsed to what a template rendered."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_samples import (
    CONTROLS,
    DEFINED,
    HERMES,
    MARKS,
    PLAIN,
    QWEN,
    STEP,
    make_tokenizer,
    turn_of,
    with_tokens,
)  # fmt: skip

from stepahead.tokenizer import ChatTemplate
from stepahead.turns.turn_format import CallSyntax, TurnFormat, detect_format

STEP_TEMPLATE = (Path(__file__).parents[1] / "tokenizer/data/step_like.jinja").read_text()
# Like the templates of Qwen3-Coder, Qwen3 and a model without tools, in few words.
QWEN_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' -}}
{%- for name, value in call.function.arguments | items -%}
{{- '<parameter=' + name + '>\\n' + (value if value is string else value | tojson) + '\\n</parameter>\\n' -}}
{%- endfor -%}
{{- '</function>\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
HERMES_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.reasoning_content -%}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- (call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
TEMPLATES = [(STEP_TEMPLATE, STEP, True), (QWEN_TEMPLATE, QWEN, False), (HERMES_TEMPLATE, HERMES, False)]


@pytest.mark.parametrize("tokenizer", [PLAIN, CONTROLS, DEFINED], ids=["characters", "control", "user-defined"])
@pytest.mark.parametrize(("source", "turn_format"), [case[:2] for case in TEMPLATES], ids=["step", "qwen", "hermes"])
def test_formats_of_templates(source, turn_format, tokenizer):
    assert detect_format(source, tokenizer) == with_tokens(turn_format, tokenizer)
    assert detect_format(ChatTemplate(source), tokenizer) == with_tokens(turn_format, tokenizer)


def test_marks_know_their_tokens():
    form = detect_format(STEP_TEMPLATE, CONTROLS)
    assert [mark.token_id for mark in form.marks] == [CONTROLS.id_of(text) for text in MARKS] == [257, 258, 259, 260]
    assert all(mark.is_hidden for mark in form.marks)
    assert not any(mark.is_hidden for mark in detect_format(STEP_TEMPLATE, DEFINED).marks)
    assert [mark.token_id for mark in detect_format(STEP_TEMPLATE, PLAIN).marks] == [None] * 4


def test_templates_without_calls():
    form = detect_format(PLAIN_TEMPLATE, CONTROLS)
    assert form.calls is CallSyntax.NONE and not form.has_reasoning
    form = detect_format(None, CONTROLS)
    assert form.calls is CallSyntax.NONE and form.has_reasoning
    assert not detect_format(None, PLAIN).has_reasoning


@pytest.mark.parametrize(
    ("example", "calls"),
    [
        ("<tool_call><function=f><parameter=a>", CallSyntax.XML),
        ('<tool_call>{"name"', CallSyntax.JSON),
        ("", CallSyntax.NONE),
    ],
)
def test_templates_that_refuse_the_probe_are_read(example, calls):
    source = "{%- for message in messages if message.role != 'user' -%}{{- raise_exception('no') -}}{%- endfor -%}"
    assert detect_format(source + "{# " + example + " #}", PLAIN).calls is calls


@pytest.mark.parametrize("way", ["{{- call.function.arguments -}}", "{{- '' + call.function.arguments -}}"])
def test_templates_that_want_the_text_of_arguments(way):
    before, rest = HERMES_TEMPLATE.split("{{- (call.function.arguments if")
    source = before + way + rest.split("-}}", 1)[1]
    assert detect_format(source, PLAIN) == replace(HERMES, wants_argument_text=True)


def test_other_calls_between_the_marks_are_none():
    source = HERMES_TEMPLATE.replace('{"name": "', "call ").replace('", "arguments": ', " ").replace("'}\\n<", "'\\n<")
    assert detect_format(source, PLAIN).calls is CallSyntax.NONE


def test_a_template_that_wants_no_result_at_the_end():
    refuses = "{%- for message in messages if message.role == 'tool' -%}{{- raise_exception('no') -}}{%- endfor -%}"
    assert detect_format(refuses + QWEN_TEMPLATE, PLAIN) == QWEN


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>", True),
        ("<think>\n\n</think>\n\n", False),
        ("assistant\n", False),
    ],
)
def test_prompts_that_open_the_reasoning(prompt, expected):
    assert TurnFormat().starts_in_reasoning(prompt) is expected
    assert not QWEN.starts_in_reasoning(prompt)


def test_a_mark_that_the_tokenizer_does_not_make_is_characters():
    tokenizer = make_tokenizer(5)  # fillers, which no text becomes
    assert detect_format(STEP_TEMPLATE, tokenizer).think_close.token_id is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["\n", " \n x", "</function>", "</parameter>", "a\n</parameter", "<think>", "{}", "\\n", '"', "<", "日本"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner | TEXT, max_size=3) | st.dictionaries(TEXT, inner | TEXT, max_size=3),
    max_leaves=5,
)
# A value that begins with </parameter> reads as an empty one whose two newlines became one, a slip of models.
VALUE = TEXT.filter(lambda text: not text.startswith("</parameter>"))
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "path": VALUE, "text": VALUE, "line": st.integers(), "force": st.booleans(), "tags": st.lists(TEXT, max_size=3),
        "options": st.dictionaries(TEXT, JSON, max_size=3), "ratio": st.floats(allow_nan=False, allow_infinity=False),
    },
)  # fmt: skip
CONTENT = TEXT.filter(lambda text: text == "" or not text.isspace()).filter(lambda text: "<think>" not in text)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(TEMPLATES),
    TEXT,
    CONTENT,
    st.lists(st.tuples(st.sampled_from(["write", "write_all"]), ARGUMENTS), max_size=3),
)
def test_what_a_template_renders_is_what_was_said(case, reasoning, content, calls):
    """The turn of an answer, rendered from its parts, is parsed into these parts: so the next prompt is exact too."""
    source, turn_format, opens_reasoning = case
    if not turn_format.has_reasoning or "think>" in reasoning:
        reasoning = ""
    said = [{"type": "function", "function": {"name": name, "arguments": value}} for name, value in calls]
    turn = {"role": "assistant", "reasoning_content": reasoning, "content": content, "tool_calls": said}
    question = [{"role": "user", "content": "?"}]
    template = ChatTemplate(source)
    prompt = template.render(question)
    text = template.render([*question, turn], add_generation_prompt=False)
    text = text.removesuffix("\n").removesuffix("<|im_end|>")
    if opens_reasoning and not reasoning:
        prompt = prompt.removesuffix("<think>\n")  # as if the model had said so: the template leaves it out
    assert text.startswith(prompt)
    parsed = turn_of(text.removeprefix(prompt), turn_format, in_reasoning=turn_format.starts_in_reasoning(prompt))
    assert (parsed.reasoning, parsed.content) == (reasoning, content)
    assert all(call.is_complete for call in parsed.calls)
    assert [(call.name, call.arguments) for call in parsed.calls] == calls
