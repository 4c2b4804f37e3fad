"""Texts that would lead a reader astray, or make the page stand still."""

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect

from support.page_server import GATE, MARKED, Script, content

DRAW = """async (text) => {
    const { MarkdownView } = await import("/ui/markdown.js");
    const view = new MarkdownView();
    view.update(text, true);
    return [view.node.innerHTML, view.node.textContent];
}"""


@pytest.mark.parametrize("code", [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_nothing_turns_the_direction_of_code(workbench, code: int):
    html, text = workbench.evaluate(DRAW, f"```python\na = {chr(code)}'x' # y\n```")
    assert f'<bdi class="turning" data-name="U+{code:X}"' in html
    assert f"a = {chr(code)}'x' # y" in text  # nothing is lost: what is copied is what was said


@pytest.mark.parametrize(
    "text", ["open \u202egpj.exe", "`\u202egpj`", "[bank\u202emoc](https://x.example/)", "# \u202da"]
)
def test_no_text_overrides_the_direction_of_prose(workbench, text: str):
    html, drawn = workbench.evaluate(DRAW, text)
    assert 'class="turning"' in html
    assert any(char in drawn for char in "\u202d\u202e")


def test_isolates_do_their_work_in_prose(workbench):
    assert workbench.evaluate(DRAW, "\u2067שלום\u2069 (1)")[0] == "<p>\u2067שלום\u2069 (1)</p>"


def test_an_override_moves_nothing_around_it(tab):
    page = tab.open()
    tab.model.says(Script(content("x \u202eAB y")))
    tab.ask("Hello")
    left = page.locator(".answer p").evaluate("""node => {
        const at = (offset) => {
            const range = document.createRange();
            range.setStart(node.lastChild, offset);
            range.setEnd(node.lastChild, offset + 1);
            return range.getBoundingClientRect().left;
        };
        return [at(0), at(1), at(3)];
    }""")
    assert left == sorted(left)


def test_each_paragraph_runs_as_its_letters_do(tab):
    page = tab.open()
    tab.model.says(Script(content("שלום, עולם\n\nHello, world", step=40)))
    tab.ask("Hello")
    lefts = page.locator(".answer p").evaluate_all("""nodes => nodes.map((node) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return Math.round(range.getBoundingClientRect().left - node.getBoundingClientRect().left);
    })""")
    assert lefts[0] > 300 and lefts[1] == 0


def test_lists_and_quotes_begin_where_their_letters_do(workbench):
    assert workbench.evaluate(DRAW, "- مرحبا\n- hello")[0] == '<ul dir="rtl"><li>مرحبا</li><li>hello</li></ul>'
    assert workbench.evaluate(DRAW, "> 1) שלום")[0].startswith('<blockquote dir="rtl">')


LONG = {
    "words": "word " * 200_000,
    "letters": "x" * 1_000_000,
    "surrogates": "a" + "\U0001f600" * 300_000,
    "code": "```js\n" + "f(1,'x');" * 110_000,
    "program": "```js\n" + "let x = f(1, 'two'); // three\n" * 34_000,
    "list": "- " + "word " * 200_000,
    "quote": "> " + "word " * 200_000,
    "items": "- an item of **some** words\n" * 36_000,
    "rows": "| a | b |\n|---|---|\n" + "| one | **two** |\n" * 10_000,
    "lines": "a line of words\n" * 62_000,
    "spaces": "a" + " " * 1_000_000,
}
STREAM = """async (text) => {
    const { MarkdownView } = await import("/ui/markdown.js");
    const view = new MarkdownView();
    const frame = document.createElement("div");
    frame.append(view.node);
    document.body.append(frame);
    const took = [];
    for (let part = 1; part <= 100; part += 1) {
        const began = performance.now();
        view.update(text.slice(0, text.length * part / 100), part === 100);
        frame.getBoundingClientRect(); // lays it out
        took.push(performance.now() - began);
    }
    const all = view.node.textContent;
    frame.remove();
    took.sort((a, b) => a - b);
    return [took.at(50), all];
}"""


@pytest.mark.parametrize("name", LONG)
def test_a_megabyte_that_streams_is_drawn_piece_by_piece(workbench, name: str):
    """2 to 22 ms for each of 100 parts; where blocks are not cut, 365 and more."""
    text = LONG[name]
    middle, drawn = workbench.evaluate(STREAM, text)
    signs = {"list": 2, "quote": 2, "code": 6, "program": 6, "items": 0, "lines": 0, "spaces": 1_000_000}.get(name, 0)
    if name not in ("items", "rows", "spaces"):
        assert len(drawn.replace("\n", "")) >= len(text.replace("\n", "")) - signs - 1
    assert "\ufffd" not in drawn
    assert middle < 200


@pytest.mark.parametrize("name", ["letters", "code", "surrogates"])
def test_long_lines_grow_as_they_are_drawn_whole(workbench, name: str):
    text = LONG[name][:30_000]
    grown, whole = workbench.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/ui/markdown.js");
            const grown = new MarkdownView();
            for (let end = 0; end < text.length; end += 1999) grown.update(text.slice(0, end));
            grown.update(text, true);
            const whole = new MarkdownView();
            whole.update(text, true);
            return [grown.node.innerHTML, whole.node.innerHTML];
        }""",
        text,
    )
    assert grown == whole


def test_code_that_is_cut_is_copied_whole(workbench):
    text = "x" * 10_000 + "\ny"
    copied = workbench.evaluate(
        """async (text) => {
            const { CodeView } = await import("/ui/code_view.js");
            const { toLines } = await import("/ui/markdown_blocks.js");
            const view = new CodeView("");
            view.update(toLines(text), true);
            return view.text();
        }""",
        text,
    )
    assert copied == text


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_code_in_parts_is_selected_as_one(workbench, step: int):
    """Its lines stand in parts of 40; empty ones at their edges are seen, and copied."""
    text = "".join("\n" if number % 39 < 2 else f"line {number}\n" for number in range(130)) + "end"
    selected, num_lines = workbench.evaluate(
        """async ([text, step]) => {
            const { CodeView } = await import("/ui/code_view.js");
            const { toLines } = await import("/ui/markdown_blocks.js");
            const view = new CodeView("");
            for (let end = 0; end < text.length; end += step) view.update(toLines(text.slice(0, end)), false);
            view.update(toLines(text), true);
            document.body.append(view.node);
            const selection = getSelection();
            selection.selectAllChildren(view.code);
            const selected = selection.toString();
            const pre = view.node.querySelector("pre");
            const style = getComputedStyle(pre);
            const height = pre.clientHeight - 2 * Number.parseFloat(style.paddingTop);
            const numLines = height / Number.parseFloat(style.lineHeight);
            view.node.remove();
            return [selected, numLines];
        }""",
        [text, step],
    )
    assert selected == text
    assert round(num_lines) == 131


@pytest.mark.parametrize("fence", ["```", "~~~~", "1. ```", "> ```", "   ```"])
def test_a_fence_that_is_not_closed_is_code_all_the_while(tab, fence: str):
    page = tab.open()
    indent = {"1. ```": "   ", "> ```": "> "}.get(fence, "")
    begin, rest = content(f"So:\n\n{fence}python\n{indent}def f", depth=2), content("(): pass\n", depth=2)
    tab.model.says(Script([*begin, GATE, *rest]))
    tab.send("Hello")
    code = page.locator(".answer pre code")
    expect(code).to_have_text("def f")
    expect(code.locator(".t-k")).to_have_text("def")
    page.keyboard.press("Alt+t")
    assert set(page.evaluate(MARKED)) <= set("So:def f")
    tab.model.is_open = True
    tab.wait_idle()
    assert code.inner_text().startswith("def f(): pass")
    page.reload()
    expect(page.locator(".answer pre code")).to_contain_text("def f(): pass")


def test_the_policy_stops_what_would_come_through(tab):
    """If a text ever became markup after all: no picture, no script, no style, no request to anyone."""
    page = tab.open()
    stopped = page.evaluate(
        """async () => {
            const stopped = [];
            document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
            const add = (tag, props) => document.body.append(Object.assign(document.createElement(tag), props));
            add("img", { src: "https://evil.example/pixel.png" });
            add("img", { src: "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" });
            add("iframe", { src: "https://evil.example/" });
            add("link", { rel: "stylesheet", href: "https://evil.example/a.css" });
            await fetch("https://evil.example/").catch(() => {});
            let isParsed = true;
            try {
                document.body.insertAdjacentHTML("beforeend", "<b>x</b>");
            } catch {
                isParsed = false;
            }
            await new Promise((resolve) => setTimeout(resolve, 200));
            return [...new Set(stopped), isParsed];
        }"""
    )
    assert {"img-src", "frame-src", "style-src-elem", "connect-src"} <= set(stopped)
    assert stopped[-1] is False
    tab.complaints.clear()  # the browser says what it stopped
    tab.foreign.clear()


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/x", "blob:x", "//x.y", "#c-1"])
def test_links_lead_to_the_web_and_nowhere_else(workbench, url: str):
    for text in (f"[a]({url})", f"<{url}>", f"![a]({url})", f"[a](<{url}>)", f"[a]( {url} 'title')"):
        assert "<a" not in workbench.evaluate(DRAW, text)[0], text
