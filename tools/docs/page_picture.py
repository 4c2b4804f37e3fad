"""Takes the picture of the chat page, docs/images/page.png: the demo model continues a class, drafted text is marked.

    python tools/docs/page_picture.py

Uses the installed package, Playwright for Python and Debian's chromium. The text is the same each time; the figures in
the strip are this machine's.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "page.png"
MAX_BYTES = 200_000
SIZE = {"width": 1180, "height": 760}
SETTINGS = {"Seed": "7", "Most tokens": "112"}
EARLIER = ("def read_config(path):\n", "class Matrix:\n    def __init__(self, rows):\n")
TEXT = '''class Counter:
    """Counts how often each word occurs."""

    def __init__(self):
        self.counts = {}

    def add(self, word):
'''


def take(page: Any, url: str) -> None:
    page.goto(url)
    page.locator(".model-button", has_text="stepahead-demo").wait_for()
    page.keyboard.press("Control+,")
    for name, value in SETTINGS.items():
        page.get_by_label(name).fill(value)
    page.get_by_role("button", name="Save").click()
    for text in (*EARLIER, TEXT):
        page.keyboard.press("Control+Shift+O")
        page.fill("#message", text)
        page.press("#message", "Enter")
        page.locator(".turn-stats").wait_for()
    page.keyboard.press("Alt+t")
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)  # the bars of the strip grow
    page.screenshot(path=PICTURE)


def main() -> None:
    command = [sys.executable, "-m", "stepahead.cli", "serve", "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server,
        sync_playwright() as playwright,
    ):
        try:
            assert server.stdout is not None
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+", line)))
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            take(browser.new_page(viewport=SIZE, color_scheme="light"), f"{url}/")
            browser.close()
        finally:
            server.terminate()
    size = PICTURE.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{PICTURE} has {size:,} bytes, the limit is {MAX_BYTES:,}")
    print(f"{PICTURE}: {size:,} bytes")


if __name__ == "__main__":
    main()
