"""llama.cpp's side of the comparison, with or without its repacked weights."""

import hashlib

from benchmarks.peers.llama import VERSION, Context, HeadDriver, Model
from benchmarks.peers.side import CHUNK, Answer, Clock, repeat


class LlamaSide:
    """One context for trunk passes; that of the heads lives as long as a sample of cycles."""

    def __init__(self, path: str, threads: int, context_length: int, repack: bool) -> None:
        self._model = Model(path, repack)
        self._threads = threads
        self._context_length = context_length
        self._repack = repack
        self._trunk = Context(self._model, context_length, threads)
        self.vocab_size = self._model.vocab_size

    def first_token(self) -> int:
        return self._fill([0])

    def decode(self, prefix: list[int], num_tokens: int) -> Answer:
        ids = [self._fill(prefix)]
        clock = Clock()
        with clock("total"):
            for position in range(len(prefix), len(prefix) + num_tokens - 1):
                self._trunk.run(ids[-1:], position, "last")
                ids.append(self._trunk.choice(0))
        return Answer([clock.seconds], ids)

    def prompt(self, ids: list[int]) -> Answer:
        clock = Clock()
        with clock("total"):
            choice = self._fill(ids)
        return Answer([clock.seconds], [choice])

    def verify(self, prefix: list[int], rows: list[int], seconds: float) -> Answer:
        self._fill(prefix)
        choices: list[int] = []

        def run(clock: Clock) -> None:
            with clock("total"):
                self._trunk.run(rows, len(prefix), "all")
                choices[:] = [self._trunk.choice(row) for row in range(len(rows))]
                self._trunk.truncate(len(prefix))

        return Answer(repeat(run, seconds), choices)

    def cycle(self, prefix: list[int], depth: int, kept: int, seconds: float) -> Answer:
        driver = HeadDriver(self._trunk, self._context_length, self._threads)
        try:
            return self._cycles(driver, prefix, depth, kept, seconds)
        finally:
            driver.close()

    def _cycles(self, driver: HeadDriver, prefix: list[int], depth: int, kept: int, seconds: float) -> Answer:
        self._trunk.truncate(0)
        last_id = 0
        for start in range(0, len(prefix), CHUNK):
            rows = prefix[start : start + CHUNK]
            self._trunk.run(rows, start, "last")
            last_id = self._trunk.choice(len(rows) - 1)
            driver.catch_up(rows, start)
        ids = [*prefix, last_id]

        def run(clock: Clock) -> None:
            position = len(ids) - 1
            with clock("draft"):
                rows = [ids[-1], *driver.draft(ids[-1], position, depth)]
            with clock("verify"):
                self._trunk.run(rows, position, "all")
                choices = [self._trunk.choice(row) for row in range(len(rows))]
            with clock("catch_up"):
                driver.catch_up(rows, position)
                driver.keep(position, 1 + kept)
            ids.extend([*rows[1 : 1 + kept], choices[kept]])

        return Answer(repeat(run, seconds), ids[len(prefix) :])

    def choices(self, ids: list[int]) -> tuple[list[int], str]:
        self._trunk.truncate(0)
        digest, choices = hashlib.sha256(), []
        for start in range(0, len(ids), CHUNK):
            rows = ids[start : start + CHUNK]
            self._trunk.run(rows, start, "all")
            for row in range(len(rows)):
                digest.update(self._trunk.logits(row).tobytes())
                choices.append(self._trunk.choice(row))
        return choices, digest.hexdigest()[:16]

    def facts(self) -> dict[str, object]:
        return {"engine": f"llama.cpp (xllamacpp {VERSION})", "threads": self._threads, "repack": self._repack}

    def _fill(self, ids: list[int]) -> int:
        """Run ids from position 0 on, logits of the last alone; the choice after them."""
        self._trunk.truncate(0)
        rows = ids
        for start in range(0, len(ids), CHUNK):
            rows = ids[start : start + CHUNK]
            self._trunk.run(rows, start, "last" if start + CHUNK >= len(ids) else "none")
        return self._trunk.choice(len(rows) - 1)
