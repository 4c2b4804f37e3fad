"""Records as they come: a line of JSON each, written at once, since a run may be ended at its limit."""

import json
import time
from pathlib import Path
from typing import Any, TextIO

from benchmarks.cuda.targets import Record, heading, table


class Report:
    def __init__(self, path: Path | None, is_toy: bool) -> None:
        """path None: nothing is written. Of a toy run no value counts."""
        self.records: list[dict[str, Any]] = []
        self._is_toy = is_toy
        self._started = time.perf_counter()
        self._file: TextIO | None = None if path is None else path.open("w", encoding="utf-8")

    def __call__(self, part: str, case: str, **facts: Any) -> None:
        """A target's value: target=key, value=number."""
        if self._is_toy and "value" in facts:
            facts["toy_value"] = facts.pop("value")
            del facts["target"]
        record = {"part": part, "case": case, **facts, "at_s": round(time.perf_counter() - self._started, 2)}
        self.records.append(record)
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        told = ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
        print(f"{record['at_s']:7.1f} s  {part} {case}: {told}", flush=True)

    def summary(self) -> str:
        return f"{heading(self.records)}\n\n{table(self.records)}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[Record]:
    """What a run has written; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
