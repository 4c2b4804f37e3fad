"""Text that any machine has: the standard library of the Python that runs this.

CPython's library and documentation are under the PSF licence (https://docs.python.org/3/license.html).
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_PERCENT = 3
TEST_PERCENT = 60  # share of the (large) test suite that is used
LARGEST = 320_000  # bytes; larger files are tables
SKIP_PARTS = {"site-packages", "dist-packages", "__pycache__", "encodings", "cjkencodings", "lib2to3_data"}


def bucket(name: str) -> int:
    """0 … 99, stable across machines."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % 100


def is_held_out(name: str) -> bool:
    return bucket("held-out:" + name) < HELD_OUT_PERCENT


def is_table(text: str) -> bool:
    """Data rather than code: very long lines or hardly any letters."""
    letters = sum(map(str.isalpha, text[:20_000]))
    return len(text) > 200 and (letters < 0.35 * len(text[:20_000]) or len(text) / (text.count("\n") + 1) > 90)


def documents(held_out: bool) -> Iterator[tuple[str, str]]:
    """(name, text) of each document on one side of the split, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if SKIP_PARTS & set(path.parts) or path.stat().st_size > LARGEST or is_held_out(name) != held_out:
            continue
        if name.startswith(("test/", "idlelib/idle_test/")) and bucket(name) >= TEST_PERCENT and not held_out:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip() and not is_table(text):
            yield name, text.expandtabs(8)
    yield from topics(root, held_out)


def topics(root: Path, held_out: bool) -> Iterator[tuple[str, str]]:
    """The language reference as plain text, one document a topic."""
    path = root / "pydoc_data" / "topics.py"
    if not path.exists():
        return
    table = ast.literal_eval(path.read_text(encoding="utf-8").split("topics =", 1)[1].strip())
    for key, text in sorted(table.items()):
        if is_held_out("topic/" + key) == held_out:
            yield "topic/" + key, text
