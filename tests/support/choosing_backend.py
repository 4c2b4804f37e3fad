"""A CPU that chooses tokens as a GPU does: greedily, in memory of its own, at the positions that it is told."""

from collections.abc import Callable

import numpy as np

from stepahead.backends.base import Ints, SampleRows
from stepahead.backends.cpu.ops import CpuBackend


class Chosen:
    def __init__(self, backend: "Choosing", token_ids: Ints, leads: Ints) -> None:
        self.backend, self.token_ids, self.leads = backend, token_ids, leads

    def fetch(self) -> None:
        pass

    def ids(self) -> Ints:
        self.backend.events.append("heard")
        return self.token_ids

    def margins(self) -> Ints:
        return self.leads


class Choosing(CpuBackend):
    """events: "heard" when the host asks for tokens, "passed on" when later passes may have them."""

    can_sample = True

    def __init__(self, decides: Callable[[int], bool] = lambda position: True) -> None:
        super().__init__(threads=1)
        self.decides = decides
        self.remembered = np.full(256, -1, np.int32)
        self.events: list[str] = []

    def sample(self, logits, rows: SampleRows, ids: Ints | None) -> Chosen:
        assert ids is None
        values = self.download(logits)
        second, best = np.sort(values, axis=1)[:, -2:].T
        is_decided = np.array([self.decides(int(position)) for position in rows.positions])
        is_decided &= rows.is_plain & (rows.temperatures == 0)
        return Chosen(self, np.where(is_decided, values.argmax(axis=1), -1).astype(np.int32), best - second)

    def remember(self, sampled: Chosen, first: int) -> None:
        self.events.append("passed on")
        self.remembered[first : first + len(sampled.token_ids)] = sampled.token_ids

    def embed(self, table, ids: Ints):
        known = ids.copy()
        known[ids < 0] = np.maximum(self.remembered[-1 - ids[ids < 0]], 0)
        return super().embed(table, known)
