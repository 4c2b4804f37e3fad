"""The chat page in a real browser, before a server that says what a test scripts."""

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect

from support.page_server import GATE, MARKED, Script, accepted_text, call, content, reasoning

ANSWER = """## A heading

Some **bold** and *slanted* words, `code`, and [a link](https://example.org/x).

```python
def twice(n):  # doubles
    return "n" * 2
```

| a | b |
|---|--:|
| 1 | 2 |

1. first
2. second
   - inner
"""


def test_an_answer_streams_and_becomes_elements(tab):
    page = tab.open()
    tab.model.says(Script([*content(ANSWER[:60]), GATE, *content(ANSWER[60:])]))
    tab.send("Hello")
    answer = page.locator(".answer")
    expect(answer.locator("h3, h4", has_text="A heading")).to_be_visible()
    assert answer.get_attribute("aria-busy") == "true"
    tab.model.is_open = True
    tab.wait_idle()
    assert answer.get_attribute("aria-busy") == "false"
    assert answer.locator("strong").inner_text() == "bold"
    assert answer.locator("em").inner_text() == "slanted"
    link = answer.locator("a")
    assert link.get_attribute("href") == "https://example.org/x"
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert answer.locator("pre .t-k").all_inner_texts() == ["def", "return"]
    assert answer.locator("pre .t-c").inner_text() == "# doubles"
    assert answer.locator("pre .t-s").inner_text() == '"n"'
    assert answer.locator("td.align-right").inner_text() == "2"
    assert answer.locator("ol > li > ul > li").inner_text() == "inner"
    request = tab.model.requests[0]
    assert request["messages"] == [{"role": "user", "content": "Hello"}]
    assert request["stream_options"] == {"include_usage": True}
    assert request["stepahead"] == {"steps": True}


def test_the_end_of_an_answer_is_announced_once_and_not_while_it_streams(tab):
    page = tab.open()
    tab.model.says(Script([*content("Some words. "), GATE, *content("More.")]))
    tab.send("Hello")
    expect(page.locator(".answer > .markdown")).to_contain_text("Some words.")
    assert page.locator("#announcer").inner_text() == ""
    assert page.locator('[role="log"]').get_attribute("aria-live") == "off"
    tab.model.is_open = True
    tab.wait_idle()
    expect(page.locator("#announcer")).to_have_text("Answer: Some words. More.")
    assert page.evaluate("document.activeElement.id") == "message"


def test_reasoning_is_folded_and_goes_back_with_the_next_request(tab):
    page = tab.open()
    tab.model.says(Script([*reasoning("Let me think about it", pause=0.05), GATE, *content("Done.")]))
    tab.send("Why?")
    expect(page.locator(".reasoning-label")).to_contain_text("Thinking")
    tab.model.is_open = True
    expect(page.locator(".reasoning-label")).to_contain_text("Thought for")
    tab.wait_idle()
    body = page.locator(".reasoning-body")
    expect(body).to_be_hidden()
    page.locator(".reasoning summary").click()
    expect(body).to_have_text("Let me think about it")
    tab.ask("And then?")
    assert tab.model.requests[1]["messages"][1] == {
        "role": "assistant", "content": "Done.", "reasoning_content": "Let me think about it ",
    }  # fmt: skip


def test_calls_of_tools_are_shown_and_their_results_go_back(tab):
    page = tab.open()
    calls = [*call(0, "get_weather", '{"city": "Berlin"}'), *call(1, "get_time", '{"zone": "UTC"}')]
    tab.model.says(Script([*content("I look."), *calls], finish="tool_calls"), Script(content("Sunny.")))
    tab.ask("Weather?")
    assert page.locator(".call-name").all_inner_texts() == ["get_weather", "get_time"]
    assert '"city": "Berlin"' in page.locator(".call pre").first.inner_text()
    page.get_by_label("Result of get_weather").fill("21 degrees")
    page.get_by_label("Result of get_time").fill("noon")
    page.get_by_role("button", name="Send results").click()
    expect(page.locator(".answer").last).to_contain_text("Sunny.")
    sent = tab.model.requests[1]["messages"]
    assert sent[1]["tool_calls"][0] == {
        "id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Berlin"}'},
    }  # fmt: skip
    assert sent[2:] == [
        {"role": "tool", "tool_call_id": "call_0", "content": "21 degrees"},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]


def test_stop_ends_the_request_and_keeps_what_was_said(tab):
    page = tab.open()
    tab.model.says(Script(content("word " * 2000, pause=0.02)))
    tab.send("Go on")
    expect(page.locator(".answer > .markdown")).to_contain_text("word")
    page.keyboard.press("Escape")
    tab.wait_idle()
    expect(page.locator(".answer .note")).to_have_text("Stopped.")
    said = page.locator(".answer > .markdown").inner_text()
    assert said.startswith("word")
    page.wait_for_timeout(150)
    assert page.locator(".answer > .markdown").inner_text() == said
    assert tab.model.num_aborted == 1


def test_answering_again_makes_versions_to_choose_from(tab):
    page = tab.open()
    tab.model.says(Script(content("First.")), Script(content("Second.")))
    tab.ask("Say")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".answer > .markdown")).to_have_text("Second.")
    tab.wait_idle()
    assert page.locator(".branch-count").inner_text() == "2 / 2"
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator(".answer > .markdown")).to_have_text("First.")
    tab.ask("Next")
    assert [m["content"] for m in tab.model.requests[-1]["messages"]] == ["Say", "First.", "Next"]


def test_an_edited_message_begins_a_branch(tab):
    page = tab.open()
    tab.model.says(Script(content("About cats.")), Script(content("About dogs.")))
    tab.ask("Cats?")
    page.keyboard.press("ArrowUp")
    area = page.get_by_role("textbox", name="Edit the message")
    expect(area).to_be_focused()
    area.fill("Dogs?")
    area.press("Enter")
    expect(page.locator(".answer > .markdown")).to_have_text("About dogs.")
    tab.wait_idle()
    assert tab.model.requests[1]["messages"] == [{"role": "user", "content": "Dogs?"}]
    page.locator(".question").get_by_role("button", name="Previous version").click()
    expect(page.locator(".answer > .markdown")).to_have_text("About cats.")


def test_a_reload_keeps_conversations_versions_and_settings(tab):
    page = tab.open()
    page.keyboard.press("Control+,")
    page.get_by_label("System prompt", exact=True).fill("Be short.")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_role("button", name="Save").click()
    tab.model.says(Script(content("One.")), Script(content("Two.")))
    tab.ask("First question")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".answer > .markdown")).to_have_text("Two.")
    tab.wait_idle()
    page.reload()
    expect(page.locator(".answer > .markdown")).to_have_text("Two.")
    expect(page.locator(".branch-count")).to_have_text("2 / 2")
    expect(page.locator(".conversation-open")).to_have_text("First question")
    page.locator(".model-button", has_text="step-tiny").wait_for()
    tab.ask("More")
    request = tab.model.requests[-1]
    assert request["temperature"] == 0.7
    assert request["messages"][0] == {"role": "system", "content": "Be short."}


def test_what_was_streaming_when_the_page_was_closed_is_kept_as_stopped(tab):
    page = tab.open()
    tab.model.says(Script(content("word " * 4000, pause=0.02)))
    tab.send("Go on")
    expect(page.locator(".answer > .markdown")).to_contain_text("word word word")
    page.wait_for_timeout(2300)  # it is saved every two seconds
    page.reload()
    expect(page.locator(".answer .note")).to_have_text("Stopped.")
    expect(page.locator(".answer > .markdown")).to_contain_text("word word word")


def test_errors_say_what_happened_and_offer_another_try(tab):
    page = tab.open()
    error = {"message": "The queue is full.", "type": "server_error", "param": None, "code": "overloaded"}
    tab.model.says(
        Script([], status=503, error=error),
        Script(content("Half an"), error={"message": "The engine stopped.", "type": "server_error"}),
        Script(content("Half of"), breaks_off=True),
        Script(content("At last.")),
    )
    tab.ask("Hello")
    problem = page.locator(".problem")
    expect(problem).to_contain_text("The queue is full. The server suggests waiting 7 s.")
    for message in ("The engine stopped.", "The answer broke off"):
        problem.get_by_role("button", name="Try again").click()
        expect(problem).to_contain_text(message)
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer > .markdown")).to_have_text("At last.")
    tab.wait_idle()
    assert page.locator(".branch-count").inner_text() == "3 / 3"  # the first said nothing: no version


def test_the_live_strip_shows_speed_depth_and_acceptance_by_position(tab):
    page = tab.open()
    tab.model.says(Script([*content("drafting " * 72, depth=2, pause=0.005), GATE]))
    tab.send("Hello")
    strip = page.locator(".strip")
    expect(strip).to_contain_text("2depth")
    expect(strip.locator(".bars")).to_have_attribute(
        "aria-label", "Accepted drafts, position 1: 67 %, position 2: 33 %"
    )
    tab.model.is_open = True
    tab.wait_idle()
    expect(strip).to_contain_text("87.3tokens/s")  # the server's own figure, at the end
    expect(strip).to_contain_text("160 / 4,096")


def test_drafted_text_is_marked_on_request_and_changes_no_element(tab):
    page = tab.open()
    plain = "no sign of any kind stands in this text, so that all of it is shown"
    tab.model.says(Script(content(plain, depth=2)), Script(content(ANSWER, depth=2)))
    tab.ask("Hello")
    before = page.locator(".answer > .markdown").evaluate("node => node.innerHTML")
    assert page.evaluate("CSS.highlights.has('accepted')") is False
    page.keyboard.press("Alt+t")
    assert page.locator(".tint-button").get_attribute("aria-pressed") == "true"
    assert page.evaluate(MARKED) == accepted_text(plain, depth=2)
    assert page.locator(".answer > .markdown").evaluate("node => node.innerHTML") == before
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".answer table")).to_be_visible()
    tab.wait_idle()
    # Less the signs of Markdown and line ends, which are not shown.
    remaining = iter(accepted_text(ANSWER, depth=2))
    marked = page.evaluate(MARKED)
    assert all(char in remaining for char in marked)
    assert all(part in marked for part in ("# do", "  return", "co"))
    page.keyboard.press("Alt+t")
    assert page.evaluate("CSS.highlights.has('accepted')") is False


def test_the_key_is_asked_for_and_kept_by_the_tab_alone(tab):
    tab.model.key = "secret"
    page = tab.page
    page.goto(tab.server.url)
    field = page.locator("#key-field")
    expect(field).to_be_focused()
    field.fill("wrong")
    field.press("Enter")
    expect(page.locator(".key-problem")).to_have_text("The server did not take this key.")
    field.fill("secret")
    field.press("Enter")
    page.locator(".model-button", has_text="step-tiny").wait_for()
    tab.ask("Hello")
    expect(page.locator(".answer > .markdown")).to_have_text("Hello.")
    page.reload()
    page.locator(".model-button", has_text="step-tiny").wait_for()
    assert page.evaluate("[sessionStorage.getItem('stepahead-key'), JSON.stringify(localStorage)]") == ["secret", "{}"]


def test_conversations_are_searched_renamed_exported_deleted_and_imported(tab, tmp_path: Path):
    page = tab.open()
    for text in ("About apples", "About pears"):
        tab.ask(text)
        page.keyboard.press("Control+Shift+O")
    page.keyboard.press("Control+k")
    page.keyboard.type("apples")
    expect(page.locator(".conversation-open")).to_have_text(["About apples"])
    page.keyboard.press("Enter")
    expect(page.locator(".title")).to_have_text("About apples")
    page.fill(".search", "")
    page.locator(".conversation", has_text="apples").hover()
    page.get_by_role("button", name="Rename: About apples").click()
    page.keyboard.type("Fruit <b>")
    page.keyboard.press("Enter")
    expect(page.locator(".title")).to_have_text("Fruit <b>")
    with page.expect_download() as download:
        page.locator(".conversation", has_text="Fruit").hover()
        page.get_by_role("button", name="Export: Fruit").click()
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    assert json.loads(saved.read_text())["conversations"][0]["title"] == "Fruit <b>"
    page.locator(".conversation", has_text="Fruit").hover()
    page.get_by_role("button", name="Delete: Fruit").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".conversation-open")).to_have_text(["About pears"])
    page.keyboard.press("Control+,")
    page.set_input_files("#import-file", saved)
    expect(page.locator(".conversation-open")).to_have_count(2)
    page.locator(".conversation-open", has_text="Fruit").click()
    expect(page.locator(".answer > .markdown")).to_have_text("Hello.")


def test_an_import_that_is_not_ours_changes_nothing(tab, tmp_path: Path):
    page = tab.open()
    circle = {"root": {"children": ["a"]}, "a": {"role": "user", "content": "x", "children": ["root", "a"]}}
    for text, message in (
        ("{", "This file is not JSON."),
        ('{"format": "x"}', "This file holds no conversations of this page."),
        ('{"format": "stepahead-conversations", "version": 1, "conversations": [1]}', "has no turns"),
        (json.dumps({"format": "stepahead-conversations", "version": 1, "conversations": [{"nodes": circle}]}), "Imp"),
    ):
        path = tmp_path / "file.json"
        path.write_text(text)
        page.keyboard.press("Control+,")
        page.set_input_files("#import-file", path)
        expect(page.locator(".notice")).to_contain_text(message)
    expect(page.locator(".conversation-open")).to_have_text(["x"])


def test_a_step_that_thinks_and_speaks_counts_once(tab):
    page = tab.open()
    counts = {"num_tokens": 4, "num_accepted": 3, "num_drafted": 3}
    tab.model.says(
        Script([("reasoning", "so.", counts), ("content", "Yes, and", {"pieces": ["", "Yes", ", ", "and"]}), GATE])
    )
    tab.send("Hello")
    expect(page.locator(".strip")).to_contain_text("3depth")
    expect(page.locator(".bars")).to_have_attribute("aria-label", "Accepted drafts, " + ", ".join(
        f"position {i}: 100 %" for i in (1, 2, 3)))  # fmt: skip
    tab.model.is_open = True
    tab.wait_idle()
    page.keyboard.press("Alt+t")
    assert page.evaluate(MARKED) == "Yes, "


def test_an_edit_while_an_answer_streams_takes_its_place(tab):
    page = tab.open()
    tab.model.says(Script(content("word " * 4000, pause=0.02)), Script(content("Better.")))
    tab.send("Wrong")
    expect(page.locator(".answer > .markdown")).to_contain_text("word")
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit the message").click()
    page.get_by_role("textbox", name="Edit the message").fill("Right")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .markdown")).to_have_text("Better.")
    tab.wait_idle()
    assert tab.model.num_aborted == 1
    assert tab.model.requests[1]["messages"] == [{"role": "user", "content": "Right"}]


@pytest.mark.parametrize("has_template", [True, False])
def test_before_its_first_word_an_answer_says_what_it_waits_for(tab, has_template: bool):
    tab.model.has_template = has_template
    page = tab.open()
    waiting = {"total": 3000, "cache": 0, "processed": 0, "queued": True}
    reading = {"total": 3000, "cache": 512, "processed": 1024, "queued": False}
    said = content("Done.") if has_template else [("text", "Done.")]
    tab.model.says(Script([("progress", waiting), GATE, ("progress", reading), GATE, *said]))
    tab.send("Much text")
    words = page.locator(".waiting:visible .waiting-text")
    expect(words).to_have_text("Waiting for a free place")
    expect(page.locator("#announcer")).to_have_text("Waiting for a free place.")
    expect(page.locator(".waiting progress:visible")).to_have_count(0)
    tab.model.open_gate()
    expect(words).to_have_text("Reading: 1,024 of 3,000 tokens, 512 of them known already")
    assert page.locator(".waiting progress:visible").evaluate("node => node.value") == 1024 / 3000
    tab.model.open_gate()
    tab.wait_idle()
    expect(page.locator(".waiting:visible")).to_have_count(0)
    assert tab.model.requests[0]["return_progress"] is True


def test_text_files_become_part_of_the_message(tab, tmp_path: Path):
    page = tab.open()
    code, picture = tmp_path / "a.py", tmp_path / "b.png"
    code.write_text('x = """```"""\n')
    picture.write_bytes(b"\x89PNG\x00\xff")
    page.set_input_files("#attachment", [code, picture])
    expect(page.locator(".notice")).to_contain_text("b.png is no text")
    assert page.input_value("#message") == 'a.py:\n````py\nx = """```"""\n````\n'
    page.press("#message", "Enter")
    tab.wait_idle()
    assert tab.model.requests[0]["messages"][0]["content"].startswith("a.py:\n````py")
