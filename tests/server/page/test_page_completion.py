"""Texts that a model continues, in a real browser: models without a chat template, and the demo model."""

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect

from support.page_server import MARKED, Script, accepted_text, content


def test_a_model_without_template_completes_one_text(tab):
    tab.model.has_template = False
    page = tab.open()
    tab.model.says(Script([("text", "    return 1\n")]), Script([("text", "print(f())\n")], finish="length"))
    page.locator(".welcome", has_text="no chat template").wait_for()
    tab.ask("def f():\n")
    expect(page.locator(".document-text")).to_have_text("def f():\n    return 1\n")
    page.press("#message", "Enter")  # nothing to add: go on
    expect(page.locator(".document-text")).to_have_text("def f():\n    return 1\nprint(f())\n")
    tab.wait_idle()
    assert [request["prompt"] for request in tab.model.requests] == ["def f():\n", "def f():\n    return 1\n"]
    assert "messages" not in tab.model.requests[0]
    page.get_by_role("button", name="Edit the text").click()
    page.get_by_role("textbox", name="Edit the text").fill("def g():\n")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".document-text")).to_have_text("def g():\n")


def test_the_demo_model_completes_unless_asked_to_converse(tab):
    tab.model.is_demo = True
    page = tab.open()
    page.locator(".welcome", has_text="Begin a text").wait_for()
    expect(page.locator("#message")).to_have_attribute("aria-label", "Text to be continued")
    page.get_by_role("button", name="Converse").click()
    tab.ask("Hello")
    assert tab.model.requests[0]["messages"] == [{"role": "user", "content": "Hello"}]


def test_a_completed_text_is_highlighted_and_tells_who_wrote_what(tab):
    tab.model.has_template = False
    page = tab.open()
    text = "    return 'x'  # done\n"
    tab.model.says(Script([("text", part, step) for _, part, step in content(text, depth=2)]))
    tab.ask("def f():\n")
    assert page.locator(".document-text .t-k").all_inner_texts() == ["def", "return"]
    own = "[...CSS.highlights.get('own')].map((range) => range.startContainer.data).join('')"
    assert page.evaluate(own) == "def f():"
    page.keyboard.press("Alt+t")
    assert page.evaluate(MARKED) == accepted_text(text, depth=2).replace("\n", "")


def test_a_text_goes_on_by_a_button_and_says_when_the_model_ends_it(tab):
    tab.model.has_template = False
    page = tab.open()
    tab.model.says(Script([("text", "one ")], finish="length"), Script([("text", "two")]))
    tab.ask("zero ")
    assert page.locator(".document .note").count() == 0
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".document .note")).to_have_text("The model ends the text here.")
    expect(page.locator(".document-text")).to_have_text("zero one two")
    assert tab.model.requests[1]["prompt"] == "zero one "


def test_the_demo_model_is_asked_with_settings_that_suit_it_until_the_user_sets_others(tab):
    tab.model.is_demo = True
    page = tab.open()
    expect(page.locator(".welcome-note")).to_contain_text("demo model")
    tab.ask("def f():")
    page.keyboard.press("Control+,")
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.8")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Go on").click()
    tab.wait_idle()
    assert [(request["temperature"], request["min_p"]) for request in tab.model.requests] == [(0.8, 0.05), (0, 0.05)]


def test_tab_indents_and_escape_lets_it_leave(tab):
    tab.model.has_template = False
    page = tab.open()
    page.locator(".welcome", has_text="no chat template").wait_for()
    page.keyboard.type("if x:")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Tab")
    assert page.input_value("#message") == "if x:\n    "
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(page.locator(".send")).to_be_focused()
