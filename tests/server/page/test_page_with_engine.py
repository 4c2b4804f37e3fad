"""The page before the real server: what the two say to each other is what both believe."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect

KEY = "a-key-of-the-test"


class EngineServer:
    """`stepahead serve` with the demo model and a key, as tabs see a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.model = self
        self.model_id = "stepahead-demo"

    def reset(self) -> None:
        pass


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    command = [sys.executable, "-m", "stepahead.cli", "serve", "--port", "0", "--api-key-file", str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.:]+", line)))
            yield EngineServer(f"{url}/")
        finally:
            process.terminate()


def test_the_page_and_the_engine_understand_each_other(tab):
    page = tab.page
    page.goto(tab.server.url)
    page.locator("#key-field").fill(KEY)
    page.keyboard.press("Enter")
    page.locator(".model-button", has_text="stepahead-demo").wait_for()
    page.keyboard.press("Control+,")
    for name, value in (("Temperature", "0"), ("Most tokens", "40"), ("Top k", "20"), ("Min p", "0.05"), ("Seed", "7")):
        page.get_by_label(name).fill(value)
    page.get_by_role("button", name="Save").click()
    tab.ask("def fibonacci(n):\n")
    expect(page.locator(".document-text")).to_contain_text("def fibonacci(n):\n    ")
    expect(page.locator(".turn-stats")).to_contain_text("40 tokens")
    expect(page.locator(".turn-stats")).to_contain_text("% of drafts accepted")
    page.keyboard.press("Alt+t")
    assert page.evaluate("CSS.highlights.get('accepted').size") > 0
    page.keyboard.press("Control+Shift+O")
    page.get_by_role("button", name="Converse").click()
    tab.ask("Hello")
    expect(page.locator(".answer .note")).to_have_text("Cut off: the limit of tokens was reached.")
    expect(page.locator(".strip")).to_contain_text("tokens/s")
    page.locator(".model-button").click()
    expect(page.get_by_role("dialog", name="Model")).to_contain_text("4,096 tokens")
