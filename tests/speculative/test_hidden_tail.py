"""The ring of hidden rows against a dict."""

import numpy as np
import pytest

from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.speculative.hidden_tail import HiddenTail


def rows_of(first: int, last: int, version: int = 0) -> np.ndarray:
    return np.array([[position, version] for position in range(first, last)], np.float32).reshape(-1, 2)


def stored(tail: HiddenTail) -> list[list[float]]:
    target = np.full((3 + tail.end - tail.start, 2), np.nan, np.float32)
    if tail.end > tail.start:
        tail.copy(tail.start, tail.end, target, 3)
    assert np.isnan(target[:3]).all()
    return target[3:].tolist()


@pytest.mark.parametrize("capacity", [1, 5, 64, 100, 300, None])
@pytest.mark.parametrize("seed", range(5))
def test_it_holds_the_newest_rows(capacity: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tail, expected, end = HiddenTail(ReferenceBackend(), 2, capacity), {}, -1
    tail.restart(-1)
    for version in range(60):
        start = max(-1, end - int(rng.integers(0, 4)))
        if rng.random() < 0.1:
            start = end + 3  # a gap: nothing before it is any use
        if not tail.start <= start <= tail.end:
            expected.clear()
        end = start + int(rng.integers(0, 40))
        expected = {p: v for p, v in expected.items() if p < start} | dict.fromkeys(range(start, end), version)
        tail.store(start, np.concatenate([rows_of(0, 2, -1), rows_of(start, end, version)]), 2, end - start)
        newest = sorted(expected)[-(capacity or len(expected)) :] if expected else []
        kept = stored(tail)
        assert kept == [[position, expected[position]] for position in newest][len(newest) - len(kept) :]
        # A roll back shortens what is kept at the new end only.
        assert len(kept) >= min(len(newest), (capacity or 10**9) - 4)


def test_truncating_below_everything_leaves_nothing() -> None:
    tail = HiddenTail(ReferenceBackend(), 2, 4)
    tail.store(0, rows_of(0, 9), 0, 9)
    assert (tail.start, tail.end) == (5, 9)
    tail.truncate(3)
    assert (tail.start, tail.end) == (3, 3)
    tail.store(3, rows_of(3, 5, 1), 0, 2)
    assert stored(tail) == [[3, 1], [4, 1]]
    with pytest.raises(AssertionError, match="gone"):
        tail.copy(2, 4, np.zeros((2, 2), np.float32), 0)
