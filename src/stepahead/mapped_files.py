"""Files that are mapped into memory, made known to the program that runs us, if it asks.

A file that is cut short while it is mapped ends the process by a signal, and so does one whose disk fails. Signals are
a program's affair and not a library's, so nothing is done about it here: see backends/cpu/file_guard.py.
"""

import mmap
import weakref
from collections.abc import Callable
from pathlib import Path

Watch = Callable[[mmap.mmap, Path], Callable[[], None]]
"""Told of a mapped file; what it returns is called when the mapping has ended, and must not keep it alive."""

_watch: Watch | None = None


def watch_mapped_files(watch: Watch | None) -> None:
    """Of all files that are mapped from now on. None: nobody is told any more."""
    global _watch  # noqa: PLW0603 (one process, one table of signals)
    _watch = watch


def note_mapped(mapping: mmap.mmap, path: Path) -> None:
    """To be called as soon as a file is mapped, before its first byte is read."""
    if _watch is not None:
        weakref.finalize(mapping, _watch(mapping, path)).atexit = False
