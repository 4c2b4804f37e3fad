"""How far a writer of a model file has come, in bytes."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""

OnBytes = Callable[[int], None]
"""Told of the bytes of each piece."""


def counting(total: int, on_progress: Progress | None) -> OnBytes:
    """Adds the pieces up for on_progress."""
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if on_progress is not None:
            on_progress(done, total)

    return count
