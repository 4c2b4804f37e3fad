"""A browser and a page server for all tests of the page, started once."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_server() -> Iterator[Any]:
    pytest.importorskip("uvicorn", reason="the server's libraries are not installed")
    from support.page_server import PageServer

    with PageServer() as server:
        yield server


class Tab:
    """A page in a profile of its own, and all that went wrong in it."""

    def __init__(self, context: Any, server: Any) -> None:
        self.context, self.server, self.model = context, server, server.model
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.on_console)
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        context.on("request", self.on_request)

    def on_console(self, message: Any) -> None:
        is_expected = "Failed to load resource" in message.text  # a test made the server refuse
        if message.type in ("error", "warning") and not is_expected:
            self.complaints.append(message.text)

    def on_request(self, request: Any) -> None:
        if not request.url.startswith((self.server.url, "blob:", "data:")):
            self.foreign.append(request.url)

    def open(self) -> Any:
        self.page.goto(self.server.url)
        self.page.locator(".model-button", has_text=self.model.model_id).wait_for()
        return self.page

    def send(self, text: str) -> None:
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")

    def ask(self, text: str) -> None:
        """Sends, and waits for the whole answer."""
        self.send(text)
        self.wait_idle()

    def wait_idle(self) -> None:
        self.page.locator('.send[aria-label="Send"]').wait_for()
        self.page.locator('[aria-busy="true"]').wait_for(state="detached")


@pytest.fixture(scope="module")
def workbench(browser: Any, page_server: Any) -> Iterator[Any]:
    """One page for all tests that only call its modules."""
    page = browser.new_page()
    page.goto(page_server.url)
    yield page
    page.close()


@pytest.fixture
def tab(browser: Any, page_server: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """Parameters, by indirect: of the browser's context. Fails if the page complained or asked anyone else."""
    page_server.model.reset()
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **getattr(request, "param", {})})
    context.set_default_timeout(8000)
    opened = Tab(context, page_server)
    yield opened
    context.close()
    assert opened.foreign == []
    assert opened.complaints == []
