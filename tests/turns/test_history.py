"""Turns that clients send back, rendered again as they were said; reasoning for clients that drop it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turn_samples import turn_of, xml

from stepahead.tokenizer import ChatTemplate
from stepahead.turns.history import arguments_object, normalised_turn
from stepahead.turns.reasoning_memory import ReasoningMemory

STEP = ChatTemplate((Path(__file__).parents[1] / "tokenizer/data/step_like.jinja").read_text())


def call(arguments, name="write", call_id="call_1"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(content="", **keys):
    return {"role": "assistant", "content": content, **keys}


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ('{"a": [1, null]}', {"a": [1, None]}),
            ({"a": 1}, {"a": 1}),
            ("", {}),
            (" ", {}),
            (None, {}),
            ('{"a": ', {"arguments": '{"a": '}),
            ("[1]", {"arguments": "[1]"}),
            ('{"a": NaN}', {"arguments": '{"a": NaN}'}),
            ("[" * 100_000, {"arguments": "[" * 100_000}),
            ('{"a": "\\ud83d\\ude00 \\ud83d"}', {"a": "😀 \ufffd"}),
            ('{"\\uDC00": ["\\uD800"]}', {"\ufffd": ["\ufffd"]}),
            ([1], {"arguments": [1]}),
        ],
    )
    def test_objects(self, arguments, expected):
        assert arguments_object(arguments) == expected

    @given(st.text(max_size=20))
    def test_never_raises(self, text):
        assert isinstance(arguments_object(text), dict)


class TestTurns:
    def test_reasoning_under_any_name_is_exact(self):
        for key in ("reasoning_content", "reasoning", "thinking"):
            assert normalised_turn(assistant("a", **{key: " b\n\n"})) == assistant("a", reasoning_content=" b\n\n")
        both = assistant("a", reasoning="wrong", reasoning_content="right")
        assert normalised_turn(both) == assistant("a", reasoning_content="right")

    @pytest.mark.parametrize("empty", [{}, {"reasoning_content": ""}, {"reasoning": None}])
    def test_empty_reasoning_is_left_out(self, empty):
        assert normalised_turn(assistant("a", **empty)) == assistant("a")

    @pytest.mark.parametrize("content", [None, " ", "", "\n"])
    def test_no_content_beside_calls_is_empty(self, content):
        assert normalised_turn(assistant(content, tool_calls=[call("{}")]))["content"] == ""

    def test_white_space_alone_stays(self):
        assert normalised_turn(assistant(" \n"))["content"] == " \n"
        assert normalised_turn({"role": "assistant"}) == assistant()

    def test_calls(self):
        turn = normalised_turn(assistant("a", tool_calls=[call('{"a": 1}'), call("no")]))
        assert turn["tool_calls"] == [call({"a": 1}), call({"arguments": "no"})]
        assert normalised_turn(assistant(tool_calls=["odd", {"function": 1}]))["tool_calls"] == ["odd", {"function": 1}]
        turn = normalised_turn(assistant(tool_calls=[call('{"a":"é"}'), call({})]), wants_argument_text=True)
        assert turn["tool_calls"] == [call('{"a": "é"}'), call("{}")]
        assert "tool_calls" not in normalised_turn(assistant("a", tool_calls=[]))

    def test_other_roles_and_the_message_itself_are_left_alone(self):
        user = {"role": "user", "content": None, "reasoning": "x"}
        assert normalised_turn(user) == user
        message = assistant(None, tool_calls=[call("{}")])
        normalised_turn(message)
        assert message == assistant(None, tool_calls=[call("{}")])

    def test_text_that_is_no_json_renders(self):
        """A template that parses arguments itself would refuse the conversation."""
        messages = [{"role": "user", "content": "?"}, normalised_turn(assistant(tool_calls=[call('{"path": "a')]))]
        text = STEP.render(messages)
        assert '<parameter=arguments>\n{"path": "a\n</parameter>' in text

    @pytest.mark.parametrize(
        "said",
        [
            "look\n\n\n</think>\n" + xml("write", ("text", "  a\n\n"), ("line", "3")),
            "é\n</think>\nSo:\n\n" + xml("now") + xml("write", ("tags", '["a", 1.5]'), ("force", "true")),
            "a\n</think>\n\n\nLast.\n",
        ],
    )
    def test_what_was_said_is_rendered_again_exactly(self, said):
        """Through a client: events to JSON text, JSON text to a message, a message to the prompt."""
        turn = turn_of(said, in_reasoning=True)
        calls = [call(json.dumps(json.loads(one.json_text)), one.name) for one in turn.calls]
        message = {**assistant(turn.content or None, tool_calls=calls), "reasoning": turn.reasoning}
        question = [{"role": "user", "content": "?"}]
        prompt = STEP.render(question)
        assert (
            STEP.render([*question, normalised_turn(message)], add_generation_prompt=False)
            == f"{prompt}{said}<|im_end|>\n"
        )


class TestReasoningMemory:
    def test_it_comes_back_with_its_call(self):
        memory = ReasoningMemory()
        memory.remember("why\n", [call('{"a": 1, "b": "é"}'), call("{}", "now", "call_2")])
        back = assistant("x", tool_calls=[call({"b": "é", "a": 1})])
        assert memory.restored(back) == {**back, "reasoning_content": "why\n"}
        assert memory.recall(assistant(tool_calls=[call("{}", "now", "call_2")])) == "why\n"

    @pytest.mark.parametrize(
        "message",
        [
            assistant(tool_calls=[call('{"a": 2}')]),
            assistant(tool_calls=[call('{"a": 1}', "other")]),
            assistant(tool_calls=[call('{"a": 1}', call_id="call_9")]),
            assistant("no calls"),
            {"role": "user", "tool_calls": [call('{"a": 1}')]},
            assistant(tool_calls=["odd", {"id": 1, "function": {}}, {"id": "x"}]),
        ],
    )
    def test_other_turns_get_nothing(self, message):
        memory = ReasoningMemory()
        memory.remember("why", [call('{"a": 1}')])
        assert memory.recall(message) is None and memory.restored(message) == message

    def test_what_the_client_sent_stays(self):
        memory = ReasoningMemory()
        memory.remember("why", [call("{}")])
        assert memory.recall(assistant(reasoning_content="mine", tool_calls=[call("{}")])) is None

    def test_others_do_not_get_it(self):
        memory = ReasoningMemory()
        memory.remember("why", [call("{}")], salt="alice")
        turn = assistant(tool_calls=[call("{}")])
        assert (memory.recall(turn), memory.recall(turn, "bob"), memory.recall(turn, "alice")) == (None, None, "why")

    def test_the_least_recently_used_goes_first(self):
        memory = ReasoningMemory(max_bytes=2000)
        turns = [assistant(tool_calls=[call("{}", call_id=f"call_{number}")]) for number in range(20)]
        for number, turn in enumerate(turns):
            memory.remember("é" * 100, turn["tool_calls"])
            assert memory.recall(turns[0]) is not None, number
            assert memory.num_bytes <= 2000
        known = [number for number, turn in enumerate(turns) if memory.recall(turn)]
        assert known == [0, 16, 17, 18, 19]

    def test_bytes_are_those_of_what_is_there(self):
        memory = ReasoningMemory()
        for _ in range(3):
            memory.remember("why", [call("{}")])
        once = memory.num_bytes
        memory.remember("why", [call("{}", call_id="call_2")])
        assert memory.num_bytes == 2 * once

    def test_nothing_fits_into_nothing(self):
        memory = ReasoningMemory(max_bytes=0)
        memory.remember("why", [call("{}")])
        assert memory.num_bytes == 0 and memory.recall(assistant(tool_calls=[call("{}")])) is None

    def test_threads(self):
        memory = ReasoningMemory(max_bytes=5000)

        def work(worker):
            for number in range(100):
                calls = [call("{}", call_id=f"call_{worker}_{number % 9}")]
                memory.remember("x" * 50, calls)
                memory.recall(assistant(tool_calls=calls))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert 0 < memory.num_bytes <= 5000
