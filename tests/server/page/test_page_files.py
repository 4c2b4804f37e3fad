"""The page's files: found in the package, fenced in by headers, and no way to any other file."""

import re
from collections.abc import Iterator
from importlib import resources

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from stepahead.server import page


def ask(method: str, path: str, **headers: str) -> "Answer":
    import asyncio

    async def go() -> Answer:
        app = FastAPI()
        app.include_router(page.router())
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            answer = await client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            return Answer(answer.status_code, dict(answer.headers), answer.content)

    return asyncio.run(go())


class Answer:
    def __init__(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.status, self.headers, self.content = status, headers, content


def test_the_front_page_comes_with_its_headers():
    answer = ask("GET", "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert not any(word in policy for word in ("unsafe", "data:", "blob:", "http", "*"))
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_probe_of_the_front_page_is_answered():
    assert ask("HEAD", "/").status == 200


def test_a_file_that_is_known_is_not_sent_again():
    first = ask("GET", "/ui/app.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = ask("GET", "/ui/app.js", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert (again.status, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert ask("GET", "/ui/app.js", if_none_match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../page.py", "/ui/..%2fpage.py", "/ui/%2e%2e/page.py", "/ui/....//page.py", "/ui//etc/passwd",
        "/ui/%2fetc%2fpasswd", "/ui/..%5cpage.py", "/ui/app.js%00.html", "/ui/", "/ui/.", "/ui/nothing.js",
    ],
)  # fmt: skip
def test_only_the_pages_own_files_are_served(path: str):
    answer = ask("GET", path)
    assert answer.status == 404
    assert b"import" not in answer.content


def files() -> Iterator[str]:
    for entry in resources.files("stepahead.server").joinpath("web").iterdir():
        yield entry.name


def test_every_file_is_served_and_every_import_exists():
    names = set(files())
    for name in names:
        answer = ask("GET", f"/ui/{name}")
        assert answer.status == 200, name
        text = answer.content.decode()
        if name.endswith(".js"):
            missing = set(re.findall(r'from "\./([^"]+)"', text)) - names
            assert not missing, f"{name} imports {missing}"
        if name == "index.html":
            assert set(re.findall(r'(?:src|href)="/ui/([^"]+)"', text)) <= names


def test_nothing_in_the_page_makes_markup_of_text():
    """innerHTML and its like would undo the care with which text is kept text."""
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\(|"
        r"new Function|setHTML|srcdoc|style=|https?://(?!www\.w3\.org)[a-z]"
    )
    folder = resources.files("stepahead.server").joinpath("web")
    for name in files():
        text = folder.joinpath(name).read_text()
        assert not (found := forbidden.search(text)), f"{name}: {found.group()}"
        if name.endswith((".js", ".css", ".html")):
            assert text.count("\n") <= 400, f"{name} has more than 400 lines"
            assert max(map(len, text.splitlines())) <= 120, f"{name} has a line of more than 120 characters"


GROUNDS = (
    "ground", "side", "raised", "bubble", "hover", "code", "code-head", "tint", "own", "accent-soft", "danger-soft",
)  # fmt: skip


def luminance(colour: str) -> float:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1])
def test_every_letter_has_contrast_on_every_ground(theme: int):
    """Marked text too, whose ground no element has."""
    text = resources.files("stepahead.server").joinpath("web", "theme.css").read_text()
    block = re.findall(r"^:root[^{]*\{(.*?)^\}", text, re.DOTALL | re.MULTILINE)[theme]
    colours = {name: luminance(value) for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)}
    for letters in ("text", "muted", "accent", "danger", "k", "s", "c", "n", "f", "t", "a"):
        for ground in GROUNDS:
            low, high = sorted((colours[letters], colours[ground]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{letters} on {ground}"
