"""Rendering: recorded conversations, transformers itself, messages that are wrong, templates that are wrong."""

import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_samples import BOS, DATA, TURN_END, byte_tokenizer

from stepahead.errors import ModelFormatError, RequestError
from stepahead.tokenizer import ChatTemplate, TemplateLimits

SOURCE = (DATA / "step_like.jinja").read_text(encoding="utf-8")
RECORDED = json.loads((DATA / "step_like_rendered.json").read_text(encoding="utf-8"))
STEP_LIKE = ChatTemplate(SOURCE, RECORDED["bos_token"], RECORDED["eos_token"])
HI = [{"role": "user", "content": "hi"}]


def render(source, messages=HI, **kwargs):
    return ChatTemplate(source, "<s>", "</s>").render(messages, **kwargs)


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_recorded_conversations(case):
    text = STEP_LIKE.render(case["messages"], case["tools"], case["add_generation_prompt"], **case["extra"])
    assert text == case["text"]


def test_the_format_spelled_out():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "reasoning_content": "look it up",
            "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Köln", "days": [1]}'}}],
        },
        {"role": "tool", "content": "rain"},
        {"role": "tool", "content": "sun"},
    ]
    assert STEP_LIKE.render(messages, reasoning_effort="low") == (
        "<｜begin▁of▁sentence｜><|im_start|>system\nReasoning: low\n\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nlook it up\n</think>\n"
        "<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n"
        "<parameter=days>\n[1]\n</parameter>\n</function>\n</tool_call><|im_end|>\n"
        "<|im_start|>tool_response\n<tool_response>rain</tool_response><tool_response>sun</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["<|im_end|>", "\n", " ", "</think>", "{{ x }}", "<b>&'\"", "日本"]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXT, JSON_VALUES, max_size=3)
CALLS = st.builds(
    lambda name, arguments, as_text: {
        "function": {"name": name, "arguments": json.dumps(arguments) if as_text else arguments}
    },
    TEXT,
    ARGUMENTS,
    st.booleans(),
)
PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), min_size=2, max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"]), "content": st.none() | TEXT | PARTS},
        optional={
            "reasoning_content": TEXT,
            "reasoning": TEXT,
            "tool_calls": st.lists(CALLS, max_size=2),
            "name": st.sampled_from(["observation", "x"]),
        },
    ),
    min_size=1,
    max_size=6,
)
EXTRAS = st.fixed_dictionaries(
    {}, optional={"reasoning_effort": st.sampled_from(["low", "high", "odd"]), "preserve_thinking": st.booleans()}
)


# What chat templates use of Jinja.
LANGUAGE = [
    "{% for m in messages %}\n  {% if loop.first %}\nfirst\n  {% endif %}\n{{ m.content }}\n{% endfor %}\n",
    "{%- for m in messages if m.role != 'x' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }};{% endfor %}",
    "{% for m in messages recursive %}{{ loop.depth }}{% if loop.depth < 3 %}{{ loop(messages) }}"
    "{% endif %}{% endfor %}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% continue %}x{% endfor %}y",
    "{% macro f(x, y=2) %}[{{ x }}|{{ y }}|{{ caller() if caller else '' }}]{% endmacro %}{{ f(1) }}"
    "{% call f(3) %}in{% endcall %}",
    "{% set x %}a{{ messages|length }}{% endset %}{{ x ~ 1 ~ none ~ [1, 'ä'] }}{{ x * 3 }}{{ '%s-%03d'|format(x, 7) }}",
    "{{ messages|tojson(indent=2) }}{{ messages[0]|tojson(ensure_ascii=True, separators=(',', ':')) }}",
    "{{ [3, 1, 2]|sort|join(', ') }}{{ 'a b'.split() }}{{ 'abc'[::-1] }}{{ 'x'.join(['a', 'b']) }}{{ 'a'.center(5) }}",
    "{{ messages|map(attribute='content')|list }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    "{{ 'x{}y{:>4}'.format(1, 'b') }}{{ 'ab'|replace('a', 'c')|upper|indent(2, true) }}{{ 'a' in ('a', 'b') }}",
    "{% set ns = namespace(n=0, l=[]) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}"
    "{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
    "{{ missing }}{{ missing is defined }}{{ messages[0].nothing or 'default' }}{{ (1, 2) }}{{ {'a': 1}|items|list }}",
    "{% filter upper %}a{{ 1 < 2 < 3 }}{% endfilter %}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ -3|abs }}"
    "{{ 1.5|round|int }}",
    "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ a }}{{ b }}{% else %}none{% endfor %}{% for a in [] %}"
    "{% else %}none{% endfor %}",
    "{% set outer = 1 %}{% generation %}{% set outer = 2 %}{{ outer }}{% endgeneration %}{{ outer }}"
    "{{ documents is none }}",
    "{{ messages[0] == messages[0] }}{{ messages|last is mapping }}{{ messages|first|attr('role') }}"
    "{{ joiner('x') is callable }}",
]


@pytest.fixture(scope="module")
def render_there():
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is not installed: nothing to compare with"
    )

    def render_there(source, messages, tools, add_generation_prompt, **extra):
        # transformers has no fromjson; templates that need it are rendered by engines that have.
        utils._compile_jinja_template(source).environment.filters["fromjson"] = json.loads
        return utils.render_jinja_template(
            [messages],
            tools=tools,
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            bos_token=RECORDED["bos_token"],
            eos_token=RECORDED["eos_token"],
            **extra,
        )[0][0]

    return render_there


class TestTransformers:
    """Our rendering is transformers' own, character for character."""

    @settings(max_examples=60, deadline=None)
    @given(MESSAGES, st.none() | st.lists(ARGUMENTS, max_size=2), st.booleans(), EXTRAS)
    def test_any_conversation(self, render_there, messages, tools, add_generation_prompt, extra):
        there = render_there(SOURCE, json.loads(json.dumps(messages)), tools, add_generation_prompt, **extra)
        assert STEP_LIKE.render(messages, tools, add_generation_prompt, **extra) == there

    @pytest.mark.parametrize("source", LANGUAGE)
    def test_the_language(self, render_there, source):
        messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "zwei <ä>"}]
        assert ChatTemplate(source, BOS, TURN_END).render(messages) == render_there(source, messages, None, True)


class TestMessages:
    def test_several_text_parts_go_to_a_template_that_reads_them(self):
        source = "{% for m in messages %}{% for p in m.content %}{{ p.text }} {% endfor %}{% endfor %}"
        assert render(source, [{"role": "user", "content": text_parts("a", "b")}]) == "a b "

    @pytest.mark.parametrize(
        "source",
        ["{{ messages[0].content }}", "{{ '' + messages[0].content }}", "{{ messages[0].content|tojson|fromjson }}"],
    )
    def test_several_text_parts_are_joined_for_others(self, source):
        assert render(source, [{"role": "user", "content": text_parts("a", "b")}]) == "ab"

    @pytest.mark.parametrize("content", ["x", [{"type": "text", "text": "x"}]])
    def test_one_text_part_is_its_text(self, content):
        assert render("{{ messages[0].content }}", [{"role": "user", "content": content}]) == "x"

    def test_no_parts_and_no_content(self):
        source = "{{ messages[0].content }}|{{ messages[1].content is none }}|{{ messages[2].content is defined }}"
        messages = [{"role": "user", "content": []}, {"role": "user", "content": None}, {"role": "user"}]
        assert render(source, messages) == "|True|False"

    def test_the_caller_keeps_his_messages(self):
        messages = [{"role": "assistant", "content": text_parts("a"), "reasoning": "r"}]
        before = json.dumps(messages)
        assert render("{{ messages[0].reasoning_content }}", messages) == "r"
        assert json.dumps(messages) == before

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([], "non-empty list"),
            ("hi", "non-empty list"),
            ({"role": "user"}, "non-empty list"),
            (["hi"], r"messages\[0\] must be an object, not str"),
            ([{"content": "x"}], r"messages\[0\]\.role must be a string such as 'user', not None"),
            ([*HI, {"role": 1, "content": "x"}], r"messages\[1\]\.role must be a string"),
            ([{"role": "user", "content": 1}], r"messages\[0\]\.content must be a string, a list .* not int"),
            ([{"role": "user", "content": {"a": 1}}], "not dict"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] is of type 'image_url'; only"),
            ([{"role": "user", "content": ["x"]}], "is of type 'str'; only"),
            ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a string, not NoneType"),
            ([{"role": "user", "x": object()}], r"messages\[0\]\.x is of type object; only JSON types"),
            ([{"role": "user", "x": {1: 2}}], "key that is not a string"),
            ([{"role": "user", "x": json.loads("[" * 80 + "]" * 80)}], "nested deeper than 64"),
        ],
    )
    def test_wrong_messages(self, messages, message):
        with pytest.raises(RequestError, match=message):
            render("{{ messages }}", messages)

    @pytest.mark.parametrize("tools", ["x", {"a": 1}, [1], [{"a": {1, 2}}]])
    def test_wrong_tools(self, tools):
        with pytest.raises(RequestError, match="tools"):
            render("{{ tools }}", tools=tools)


class TestVariables:
    def test_extra_reaches_the_template(self):
        assert render("{{ a.b }}{{ add_generation_prompt }}", a={"b": [1]}, add_generation_prompt=False) == "[1]False"

    def test_special_tokens(self):
        assert render("{{ bos_token }}{{ eos_token }}") == "<s></s>"

    def test_what_a_template_reads(self):
        assert {"reasoning_effort", "preserve_thinking", "messages", "tools"} <= STEP_LIKE.variables
        assert "documents" not in STEP_LIKE.variables

    @pytest.mark.parametrize("name", ["bos_token", "eos_token", "raise_exception", "range", "namespace"])
    def test_names_of_the_template_itself(self, name):
        with pytest.raises(RequestError, match=f"'{name}' belongs to the template"):
            render("x", **{name: 1})

    def test_extra_is_plain_data(self):
        with pytest.raises(RequestError, match="a is of type function"):
            render("{{ a() }}", a=lambda: 1)

    def test_clock(self):
        template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 1, 2))
        assert template.render(HI) == "02 Jan 2026"


class TestErrors:
    def test_the_template_refuses(self):
        with pytest.raises(RequestError, match="refuses the conversation: unknown role judge"):
            STEP_LIKE.render([{"role": "judge", "content": "x"}])

    def test_wrong_arguments_of_a_tool(self):
        call = {"function": {"name": "f", "arguments": '{"a": '}}
        with pytest.raises(RequestError, match=r"fails in line \d+: Expecting value"):
            STEP_LIKE.render([{"role": "assistant", "tool_calls": [call]}])

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("\n{{ messages[0].nothing.more }}", r"fails in line 2: 'dict object' has no attribute 'nothing'"),
            ("{{ nothing() }}", "'nothing' is undefined"),
            ("{{ 1 / 0 }}", "division by zero"),
            ("{{ 'a' + 1 }}", "can only concatenate str"),
            ("{{ nothing|tojson }}", "not JSON serializable"),
            ("{{ ('[' * 100000)|fromjson }}", "maximum recursion depth"),
            ("{% include 'x' %}", "no loader"),
        ],
    )
    def test_failures_while_rendering(self, source, message):
        with pytest.raises(RequestError, match=message) as caught:
            render(source)
        assert caught.value.__cause__ is None

    def test_long_messages_are_cut(self):
        with pytest.raises(RequestError) as caught:
            render("{{ raise_exception('x' * 10000) }}")
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("a\n{% if x %}\nb", "wrong in line 3"),
            ("a\n\n{{ }}", "wrong in line 3: Expected an expression"),
            ("{{ 1|nothing }}", "No filter named 'nothing'"),
            ("{{ 1 is nothing }}", "No test named 'nothing'"),
            ("{{ " + "(" * 20_000, "cannot be compiled: maximum recursion depth"),
            ("{{ 1" + " + 1" * 20_000 + " }}", "cannot be compiled"),
            ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "cannot be compiled"),
            ("{{ " + "9" * 5000 + " }}", "cannot be compiled"),
            ("x" * 2_000_000, "has 2000000 characters; at most 1048576"),
        ],
    )
    def test_failures_while_compiling(self, source, message):
        with pytest.raises(ModelFormatError, match=message):
            ChatTemplate(source)


class TestFromTokenizer:
    def test_special_tokens_of_the_file(self):
        tokenizer = byte_tokenizer(chat_template="{{ bos_token }}|{{ eos_token }}")
        assert ChatTemplate.from_tokenizer(tokenizer).render(HI) == f"{BOS}|{TURN_END}"

    def test_file_without_them(self):
        missing = {"ggml__bos_token_id": ..., "ggml__eos_token_id": ...}
        tokenizer = byte_tokenizer(chat_template="{{ bos_token }}|{{ eos_token }}", **missing)
        assert ChatTemplate.from_tokenizer(tokenizer).render(HI) == "|"

    def test_file_without_template(self):
        with pytest.raises(RequestError, match="no chat template; pass a prompt"):
            ChatTemplate.from_tokenizer(byte_tokenizer())

    def test_one_bos_in_the_end(self):
        tokenizer = byte_tokenizer(chat_template=SOURCE, ggml__add_bos_token=True)
        ids = tokenizer.encode(ChatTemplate.from_tokenizer(tokenizer).render(HI))
        assert ids.count(tokenizer.bos_id) == 1


def test_limits_can_be_set():
    template = ChatTemplate("{{ messages[0].content }}", limits=TemplateLimits(text_chars=10))
    assert template.render([{"role": "user", "content": "x" * 10}]) == "x" * 10
    with pytest.raises(RequestError, match="more than 10 characters"):
        template.render([{"role": "user", "content": "x" * 11}])


def text_parts(*texts):
    return [{"type": "text", "text": text} for text in texts]
