"""What becomes of a turn's text, rule by rule: reasoning, content, calls, and calls that are none."""

import pytest
from turn_samples import (
    CONTROLS,
    DEFINED,
    HERMES,
    QWEN,
    STEP,
    TOOLS_BY_NAME,
    XML_CALLS,
    Call,
    Turn,
    hermes,
    parser_of,
    turn_of,
    with_tokens,
    xml,
)  # fmt: skip

from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, ReasoningText


def calls_of(text, turn_format=STEP, **options):
    return [call.arguments for call in turn_of(text, turn_format, **options).calls if call.is_complete]


def arguments_of(name):
    (arguments,) = calls_of(XML_CALLS[name])
    return arguments


class TestReasoning:
    @pytest.mark.parametrize(
        ("text", "reasoning", "content"),
        [
            ("because\n</think>\nso", "because", "so"),
            ("because\n\n</think>\n\n so", "because\n", "\n so"),
            ("<think>\nbecause\n</think>\nso", "because", "so"),
            ("because</think>so", "because", "so"),
            ("</think>", "", ""),
            ("\n</think>\n", "", ""),
            ("never ends\n", "never ends\n", ""),
            ("a < b </thin\n", "a < b </thin\n", ""),
        ],
    )
    def test_one_newline_on_either_side_belongs_to_its_end(self, text, reasoning, content):
        assert turn_of(text, in_reasoning=True) == Turn(reasoning, content, ())

    def test_hermes_templates_write_two_newlines_after_it(self):
        assert turn_of("<think>\na\n</think>\n\n\nb", HERMES) == Turn("a", "\nb", ())

    def test_the_model_may_open_it_itself_at_the_beginning_alone(self):
        assert turn_of(" \n<think>\na\n</think>\nb") == Turn("a", "b", ())
        assert turn_of("a<think>b</think>c") == Turn("", "a<think>b</think>c", ())

    def test_a_second_beginning_discards_nothing(self):
        assert turn_of("a\n</think>\nlong answer<think>", in_reasoning=True).content == "long answer<think>"

    def test_a_call_within_is_reasoning_and_counted(self):
        parser = parser_of(with_tokens(STEP), in_reasoning=True)
        symbol = with_tokens(STEP).call_open.symbol
        assert parser.push(f"{symbol}\n<function=now>") == [ReasoningText("<tool_call>\n<function=now>")]
        assert parser.num_reasoning_calls == 1 and parser.is_reasoning

    def test_only_the_token_ends_it_where_there_is_one(self):
        form = with_tokens(STEP)
        text = f"say `</think>`, then stop\n{form.think_close.symbol}\nso"
        assert turn_of(text, form, in_reasoning=True) == Turn("say `</think>`, then stop", "so", ())

    def test_a_format_without_it_has_none(self):
        assert turn_of("<think>a</think>", QWEN, in_reasoning=True) == Turn("", "<think>a</think>", ())

    @pytest.mark.parametrize(("tokenizer", "shown"), [(CONTROLS, "ab"), (DEFINED, "a<think>b")])
    def test_control_tokens_without_a_meaning_are_hidden(self, tokenizer, shown):
        form = with_tokens(STEP, tokenizer)
        assert turn_of(f"a{form.think_open.symbol}b", form).content == shown


class TestWellFormedCalls:
    def test_pieces_arrive_as_json_in_order(self):
        parser = parser_of()
        assert parser.push("<tool_call>\n<function=write>") == [CallStarted(0, "call_0", "write")]
        assert parser.push('\n<parameter=text>\na"b') == [CallArguments(0, '{"text":"'), CallArguments(0, 'a\\"b')]
        assert parser.push("\nc\n</para") == [CallArguments(0, "\\nc")]
        assert parser.push("meter>\n") == [CallArguments(0, '"')]
        assert parser.push("<parameter=line>\n1") == []
        assert parser.push("2\n</parameter>\n") == [CallArguments(0, ',"line":12')]
        assert parser.push("</function>") == [CallArguments(0, "}"), CallEnded(0)]
        assert parser.push("\n</tool_call>") == parser.finish() == []

    def test_no_parameters(self):
        assert turn_of(XML_CALLS["no parameters"]).calls == (Call("now", "{}", True),)

    def test_values_by_schema(self):
        assert arguments_of("all types") == {
            "path": "a", "line": 3, "ratio": 0.5, "force": True, "tags": ["x", "y"],
            "options": {"a": {"b": [1, None]}}, "either": 7, "maybe": None, "untyped": "[1]",
        }  # fmt: skip

    def test_values_of_another_type_are_strings(self):
        assert arguments_of("wrong types") == {"line": "three", "ratio": "", "force": "maybe", "tags": "x, y"}
        assert arguments_of("unknown parameter") == {"colour": "3"}
        assert arguments_of("nan") == {"ratio": "NaN"}

    @pytest.mark.parametrize(
        "value", ["", " x ", "\n\n", "a\n</function>\nb", "a</parameter>", "<b>&amp;", "日本\u2028"]
    )
    def test_strings_are_exact(self, value):
        assert calls_of(xml("write", ("text", value))) == [{"text": value}]

    def test_no_digit_is_lost(self):
        assert turn_of(XML_CALLS["huge number"]).calls[0].json_text == '{"line":' + "9" * 30 + ',"ratio":"1e999"}'

    def test_several_and_white_space_between_them(self):
        turn = turn_of(XML_CALLS["three, with newlines"])
        assert [call.name for call in turn.calls] == ["now", "write", "now"] and turn.content == ""

    def test_text_between_and_after_is_content(self):
        assert turn_of(XML_CALLS["text between"]).content == "\nand then\n"
        assert turn_of(XML_CALLS["text after"]).content == "\n\nDone.\n"

    def test_white_space_before_the_first_call_is_none(self):
        assert turn_of(f"\n \n{xml('now')}").content == ""
        assert turn_of(f"So:\n\n{xml('now')}").content == "So:\n\n"
        assert turn_of(f"So:\n\n{xml('now')}", QWEN).content == "So:\n"

    def test_white_space_alone_is_content(self):
        assert turn_of(" \n").content == " \n"

    def test_after_reasoning_at_once(self):
        turn = turn_of(f"a\n</think>\n{xml('now')}", in_reasoning=True)
        assert turn == Turn("a", "", (Call("now", "{}", True),))


class TestSlips:
    def test_function_end_in_a_value_is_data(self):
        assert arguments_of("</function> in a value") == {"text": "a\n</function>\nb </function>"}

    def test_parameter_end_within_a_line_is_data(self):
        assert arguments_of("</parameter> within a line") == {"text": "a </parameter> b</parameter>"}

    def test_forgotten_parameter_end(self):
        assert arguments_of("no </parameter>") == arguments_of("no </parameter>, inline") == {"text": "abc"}
        assert arguments_of("no value and no </parameter>") == {"line": ""}

    def test_the_end_of_a_call_is_read_once(self):
        parser = parser_of()
        parser.push(XML_CALLS["no </parameter>"])
        assert parser.push("</tool_call>") == [ContentText("</tool_call>")]
        parser = parser_of(HERMES)
        parser.push(hermes('{"name": "now"}'))
        assert parser.push("</tool_call>") == [ContentText("</tool_call>")]

    def test_forgotten_function_end(self):
        assert arguments_of("no </function>") == {"line": 1}

    def test_forgotten_call_end(self):
        assert arguments_of("no </tool_call>") == {"line": 1}
        assert turn_of(XML_CALLS["no </tool_call> but text"]).content == "\nDone."

    def test_parameter_end_twice(self):
        assert arguments_of("two </parameter>") == {"path": "a"}

    def test_the_first_of_duplicate_parameters_counts(self):
        assert arguments_of("duplicate") == {"path": "first", "line": 1}
        assert arguments_of("duplicate of a number") == {"line": 1}

    def test_values_beside_their_tags(self):
        assert arguments_of("inline values") == {"path": "a", "line": 3}
        assert arguments_of("inline with newline") == {"text": "a\nb"}
        assert arguments_of("empty on one line") == arguments_of("inline empty") == {"path": ""}


class TestFates:
    @pytest.mark.parametrize(
        "name",
        ["unknown name", "beginning of a name", "longer than a name", "no name", "name with a space", "json within",
         "not even a function", "cut in the mark", "cut before the name", "cut in the name"],
    )  # fmt: skip
    def test_text_verbatim_before_the_name_is_known(self, name):
        for space in ("", "\n", "so "):
            assert turn_of(space + XML_CALLS[name]) == Turn("", space + XML_CALLS[name], ())

    def test_after_an_unknown_name_calls_go_on(self):
        turn = turn_of(XML_CALLS["unknown, then good"])
        assert turn.content == xml("nobody") and [call.name for call in turn.calls] == ["now"]

    def test_a_call_that_begins_twice(self):
        turn = turn_of(XML_CALLS["call in a call"])
        assert turn.content == "<tool_call>\n" and turn.calls == (Call("write", '{"path":"a"}', True),)

    def test_broken_after_the_name_is_finished_and_the_rest_is_content(self):
        turn = turn_of(XML_CALLS["garbage between parameters"])
        assert turn == Turn("", "oops\n</function>\n</tool_call>", (Call("write", '{"path":"a"}', True),))
        turn = turn_of(XML_CALLS["garbage, then a call"])
        assert turn == Turn("", "?", (Call("write", "{}", True), Call("now", "{}", True)))

    @pytest.mark.parametrize("name", ["newline in a parameter's name", "endless parameter's name"])
    def test_broken_within_a_parameters_name(self, name):
        turn = turn_of(XML_CALLS[name])
        assert turn.calls == (Call("write", "{}", True),)
        assert turn.content.endswith("a\n</parameter>\n</function>\n</tool_call>")

    def test_broken_is_counted(self):
        parser = parser_of()
        parser.push(XML_CALLS["garbage after the name"])
        assert parser.num_broken_calls == 1

    @pytest.mark.parametrize(
        ("name", "sent"),
        [
            ("cut after the name", ""),
            ("cut in a string", '{"text":"abc'),
            ("cut in a number", ""),
            ("cut in </parameter>", '{"text":"abc'),
            ("cut after a parameter", '{"path":"a"'),
            ("cut in </function>", '{"path":"a"'),
        ],
    )
    def test_cut_off_after_the_name_closes_nothing(self, name, sent):
        parser = parser_of()
        events = [*parser.push(XML_CALLS[name]), *parser.finish()]
        assert "".join(event.json_text for event in events if isinstance(event, CallArguments)) == sent
        assert CallEnded(0) not in events and not any(isinstance(event, ContentText) for event in events)
        assert parser.unfinished_call == XML_CALLS[name]

    def test_complete_calls_before_a_cut_stay_complete(self):
        assert [call.is_complete for call in turn_of(XML_CALLS["good, then cut"]).calls] == [True, False]

    @pytest.mark.parametrize("call", XML_CALLS.values(), ids=XML_CALLS)
    def test_without_tools_all_is_text(self, call):
        assert turn_of(call, tools={}) == Turn("", call, ())

    def test_only_the_token_begins_a_call_where_there_is_one(self):
        form = with_tokens(STEP)
        assert turn_of(xml("now"), form) == Turn("", xml("now"), ())
        tokens = xml("now").replace("<tool_call>", form.call_open.symbol)
        assert turn_of(tokens, form).calls == (Call("now", "{}", True),)

    def test_marks_in_values_are_text_whatever_they_are(self):
        form = with_tokens(STEP)
        value = "".join(mark.symbol for mark in form.marks)
        call = f"{form.call_open.symbol}\n<function=write>\n<parameter=text>\n{value}\n</parameter>\n</function>"
        assert calls_of(call, form) == [{"text": "<think></think><tool_call></tool_call>"}]


class TestBufferedCalls:
    def test_events_come_with_the_end(self):
        parser = parser_of(buffers=True)
        assert parser.push("<tool_call>\n<function=now>\n") == []
        events = parser.push("</function>")
        assert events == [CallStarted(0, "call_0", "now"), CallArguments(0, "{}"), CallEnded(0)]

    @pytest.mark.parametrize("name", ["garbage between parameters", "cut in a string", "cut after a parameter"])
    def test_broken_and_cut_calls_are_text(self, name):
        for space in ("", "\n\n"):
            assert turn_of(space + XML_CALLS[name], buffers=True) == Turn("", space + XML_CALLS[name], ())

    def test_calls_after_a_broken_one_are_numbered_without_it(self):
        turn = turn_of(XML_CALLS["garbage, then a call"], buffers=True)
        assert turn.content == "<tool_call>\n<function=write>\n?" and turn.calls == (Call("now", "{}", True),)

    def test_a_cut_is_known(self):
        parser = parser_of(buffers=True)
        parser.push(XML_CALLS["cut in a string"])
        parser.finish()
        assert parser.unfinished_call == XML_CALLS["cut in a string"]


class TestHermes:
    def arguments(self, json_text):
        return calls_of(hermes(json_text), HERMES)

    def test_arguments_arrive_as_they_come(self):
        parser = parser_of(HERMES)
        assert parser.push('<tool_call>\n{"name": "write", "arguments": {') == [
            CallStarted(0, "call_0", "write"), CallArguments(0, "{")
        ]  # fmt: skip
        assert parser.push('"text": "ab') == [CallArguments(0, '"text":"'), CallArguments(0, "ab")]
        assert parser.push('c", "line"') == [CallArguments(0, "c"), CallArguments(0, '"')]
        assert parser.push(": 1") == []
        assert parser.push("2}") == [CallArguments(0, ',"line":12'), CallArguments(0, "}"), CallEnded(0)]
        assert parser.push("}\n</tool_call>") == parser.finish() == []

    @pytest.mark.parametrize(
        "text",
        ['{"arguments": {"path": "a"}, "name": "write"}', '{"name": "write", "parameters": {"path": "a"}}',
         '{"id": 1, "name": "write", "arguments": {"path": "a"}}', '{"name":"write","arguments":{"path":"a"}}',
         '{"name": "write", "arguments": "{\\"path\\": \\"a\\"}"}',
         '{"name": "write", "arguments": {"path": "a"}, "id": 1}'],
    )  # fmt: skip
    def test_ways_to_write_it(self, text):
        assert self.arguments(text) == [{"path": "a"}]

    @pytest.mark.parametrize("text", ['{"name": "now"}', '{"name": "now", "arguments": null}'])
    def test_no_arguments(self, text):
        assert self.arguments(text) == [{}]

    def test_slips_in_strings_are_mended(self):
        text = '{"name": "write", "arguments": {"text": "\\d+ \\u12 a\nb"}}'
        assert self.arguments(text) == [{"text": "\\d+ \\u12 a\nb"}]

    def test_slips_between_values_are_mended(self):
        text = '{"name": "write", "arguments": {"tags": ["a",], "force": True, "maybe": None,}}'
        assert self.arguments(text) == [{"tags": ["a"], "force": True, "maybe": None}]

    def test_broken_arguments_are_finished_and_the_rest_is_content(self):
        turn = turn_of(hermes('{"name": "write", "arguments": {"options": {"a": [1, 2 3]}}}'), HERMES)
        assert turn == Turn("", "3]}}}\n</tool_call>", (Call("write", '{"options":{"a":[1,2]}}', True),))

    def test_endless_nesting_is_broken(self):
        turn = turn_of(hermes('{"name": "write", "arguments": {"options": ' + "[" * 120 + "]" * 120 + "}}"), HERMES)
        assert turn.calls == (Call("write", '{"options":' + "[" * 99 + "]" * 99 + "}", True),)

    @pytest.mark.parametrize(
        "text", ['{"name": "delete", "arguments": {}}', '{"arguments": {}, "name": "delete"}', "now()", "{'name': ''}"]
    )
    def test_others_are_text(self, text):
        assert turn_of(hermes(text), HERMES) == Turn("", hermes(text), ())

    def test_the_newline_before_a_call_belongs_to_it(self):
        call = hermes('{"name": "now", "arguments": {}}')
        assert turn_of(f"So.\n{call}\n{call}", HERMES).content == "So."

    @pytest.mark.parametrize(
        ("escaped", "text"),
        [
            (r"\ud83d\ude00", "😀"),
            (r"\ud83d", "\ufffd"),
            (r"\ude00", "\ufffd"),
            (r"\ud83d\ud83d\ude00x", "\ufffd😀x"),
            (r"\ud83d\u00e9", "\ufffdé"),
            (r"\ud83d\n", "\ufffd\n"),
            (r"\ud83d\ude0x", "\ufffd\\ude0x"),
        ],
    )
    def test_half_a_character_is_replaced(self, escaped, text):
        assert self.arguments(f'{{"name": "write", "arguments": {{"text": "{escaped}"}}}}') == [{"text": text}]
        if "x" not in text:
            assert self.arguments(f'{{"arguments": {{"text": "{escaped}"}}, "name": "write"}}') == [{"text": text}]

    def test_numbers_beyond_a_double_are_strings(self):
        assert self.arguments('{"name": "write", "arguments": {"ratio": [-1e999, 1e9]}}') == [
            {"ratio": ["-1e999", 1e9]}
        ]


def test_held_back_text_is_bounded():
    """Beside a value that has to be complete, nothing longer than a delimiter or a name waits."""
    texts = ["<tool_call>" + " " * 10_000, "<" * 10_000, "\n" * 10_000, xml("write", ("text", "\n</function>" * 900))]
    for text in texts:
        for turn_format in (STEP, QWEN, HERMES):
            parser, shown, longest = parser_of(turn_format), 0, 0
            for number, char in enumerate(text, 1):
                events = parser.push(char)
                shown += sum(len(getattr(event, "text", "") + getattr(event, "json_text", "")) for event in events)
                if "parameter" not in text:
                    longest = max(longest, number - shown)
                held = len(parser._window.peek(10**6))
                longest = max(longest, held)
            assert longest < 64 + 11 + 64 + 64 + max(map(len, TOOLS_BY_NAME)), (text[:30], longest)
