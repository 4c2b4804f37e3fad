"""The page without a mouse."""

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from support.page_server import Script, call, content, reasoning

ANSWER = "A [link](https://example.org/x).\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
FOCUSED = """() => {
    const node = document.activeElement;
    if (node === document.body) return null;
    const [style, frame] = [getComputedStyle(node), node.closest(".composer")];
    const box = node.getBoundingClientRect();
    return {
        name: node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent ?? node.textContent.trim(),
        isRinged: style.outlineStyle === "solid" || (frame && getComputedStyle(frame).boxShadow.includes("1px")),
        isSeen: node.checkVisibility({ opacityProperty: true }) && box.top >= 0 && box.bottom <= innerHeight,
    };
}"""


@pytest.mark.parametrize("tab", [{"reduced_motion": "reduce"}], indirect=True)
def test_tab_goes_through_everything_and_is_seen_where_it_stands(tab):
    page = tab.open()
    said = [*reasoning("Hm."), *content(ANSWER, depth=2), *call(0, "look", "{}")]
    tab.model.says(Script(said, finish="tool_calls"))
    tab.ask("Hello")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop is None:
            break
        stops.append(stop)
    assert stop is None, "the last Tab leaves the page"
    assert [stop["name"] for stop in stops if not stop["isRinged"] or not stop["isSeen"]] == []
    names = [stop["name"] for stop in stops]
    assert names[0] == "To the message field"
    order = [
        "New conversation", "Search conversations", "Hello", "Delete: Hello", "Settings", "About the model",
        "Edit the message", "link", "Copy code", "Code, python", "Table", "Result of look", "Send results",
        "Copy the answer", "Answer again", "drafted text", "Add text files", "Message",
    ]  # fmt: skip
    assert [name for name in names if name in order and name != "Copy code"] == [n for n in order if n != "Copy code"]


def test_the_first_stop_leads_to_the_message_field(tab):
    page = tab.open()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type("typed")
    assert page.input_value("#message") == "typed"
