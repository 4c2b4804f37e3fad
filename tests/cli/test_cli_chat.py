"""`chat`: turns are remembered, commands obeyed, Ctrl-C stops an answer and keeps the session."""

import pytest

from stepahead import LLM, SamplingParams, Speculation
from stepahead.cli import chat_session
from stepahead.cli.chat import converse
from stepahead.cli.chat_session import ChatSession

REF = ("--device", "reference")

DRAFTING = Speculation(mode="mtp", depth=1, adaptive=False)
"""Whether `auto` drafts within eight tokens depends on the machine; a fixed depth always does."""


@pytest.fixture
def session(chat_model):
    with LLM(chat_model, device="reference", context_length=256) as llm:
        yield ChatSession(llm, SamplingParams(max_tokens=8, ignore_eos=True), DRAFTING, None)


def talk(session: ChatSession, *lines: str) -> None:
    rest = iter([*lines, None])
    converse(session, lambda: next(rest), is_lenient=True)


def test_the_conversation_is_what_the_template_gets(session, capsys):
    talk(session, "hello", "", "again")
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user", "assistant"]
    assert session.messages[0]["content"] == "hello"
    answers = [message["content"] for message in session.messages[1::2]]
    assert capsys.readouterr().out.replace("\n", "") == "".join(answers).replace("\n", "")


def test_system_and_reset_begin_anew(session, capsys):
    talk(session, "hello", "/system Be brief.", "hello")
    assert session.system == "Be brief."
    assert len(session.messages) == 2
    talk(session, "/reset")
    assert session.messages == []
    assert session.system == "Be brief."
    talk(session, "/system")
    assert session.system is None
    assert "no system message" in capsys.readouterr().err


def test_stats_help_and_unknown_commands(session, capsys):
    talk(session, "/stats", "hello", "/stats", "/help", "/frobnicate")
    shown = capsys.readouterr().err
    assert "0 answers" in shown
    assert "1 answers, 8 tokens" in shown
    assert "accepted by position" in shown
    assert "/reset" in shown
    assert "/frobnicate is no command" in shown
    assert len(session.messages) == 2


def test_exit_leaves(session):
    talk(session, "/exit", "never read")
    assert session.messages == []


def test_ctrl_c_keeps_what_was_said_and_the_session(session, monkeypatch, capsys):
    pushed = []

    class Interrupted(chat_session.TokenPrinter):
        def push(self, chunk):
            super().push(chunk)
            pushed.append(chunk)
            if len(pushed) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(chat_session, "TokenPrinter", Interrupted)
    talk(session, "hello")
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    assert session.messages[1]["content"] == pushed[0].text_delta
    assert "(stopped)" in capsys.readouterr().err
    talk(session, "again")
    assert len(session.messages) == 4


def test_a_full_context_is_a_line_and_the_session_goes_on(session, capsys):
    talk(session, "hello", "x" * 400)
    shown = capsys.readouterr().err
    assert "256" in shown
    assert "/reset" in shown
    assert len(session.messages) == 2


def test_reasoning_goes_back_apart_from_the_answer(chat_model):
    with LLM(chat_model, device="reference") as llm:
        session = chat_session.ChatSession(llm, SamplingParams(), Speculation(), None)
        assert session._message(llm.tokenize("hm\n</think>\nyes")) == {
            "role": "assistant",
            "reasoning_content": "hm",
            "content": "yes",
        }


def test_chat_over_a_pipe_answers_each_line(process, chat_model):
    result = process("chat", chat_model, *REF, "--max-tokens", 4, input=b"hello\nagain\n")
    assert result.code == 0, result.err
    assert "> " not in result.err
    assert "\x1b" not in result.out + result.err
    assert result.out.endswith("\n")


def test_the_demo_model_is_called_what_it_is(process):
    result = process("chat")
    assert result.code == 0, result.err
    assert "no assistant" in result.err


def test_bytes_that_are_no_text_are_the_callers_mistake(process, chat_model):
    result = process("chat", chat_model, *REF, input=b"\xff\n")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "U+DCFF" in result.err


def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(terminal, chat_model):
    # A slow answer: the reference backend, no drafts, thousands of tokens.
    shown = terminal("chat", chat_model, *REF, "--depth", 0, "--max-tokens", 3000)
    at = shown.wait_for("> ")
    shown.type("hello\r")
    at = shown.wait_for("hello\n", at)
    while len(shown.shown) < at + 20:
        shown._read()
    at = shown.wait_for("> ", shown.press("\x03", "(stopped)", at))
    shown.type("/stats\r")
    at = shown.wait_for("> ", shown.wait_for("0 answers", at))
    shown.wait_for("> ", shown.press("\x03", "/exit leaves", at))
    assert shown.leave() == 0
