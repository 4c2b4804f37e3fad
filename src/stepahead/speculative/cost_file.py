"""Keeps a measured cost from one start to the next: a small JSON file a model and machine, in the user's cache folder.

Whatever is wrong with such a file, the answer is another measurement. Must not know: how costs are measured.
"""

import hashlib
import itertools
import json
import logging
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepahead.errors import ConfigError
from stepahead.repack.folders import is_writable, user_folder
from stepahead.repack.temporary import replacing
from stepahead.speculative.cost import CostSeed

log = logging.getLogger("stepahead")

FOLDER = "costs"
FORMAT = 1
MAX_BYTES = 1 << 16
MAX_VALUES = 64  # of a list in a file
MAX_VALUE = 1e9
Facts = Mapping[str, object]
"""Whatever another cost would come with: the file is named after them, and believed only if it repeats them."""


@dataclass(frozen=True, slots=True)
class CostFile:
    """The place of one model's costs on this machine. `path` is None where there is no folder to keep them."""

    path: Path | None
    facts: dict[str, Any]
    num_heads: int

    @classmethod
    def of(cls, facts: Facts, num_heads: int) -> "CostFile":
        """`facts` are anything that JSON can hold."""
        raw = json.dumps(facts, sort_keys=True)
        digest = hashlib.sha256(raw.encode()).hexdigest()
        return cls(_path(f"{digest[:24]}.json"), json.loads(raw), num_heads)

    def read(self) -> CostSeed | None:
        """None if there is none, or nothing to be believed."""
        if self.path is None:
            return None
        try:
            # Asked before opening: opening a FIFO waits for a writer.
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise ValueError("it is no file of ours")
            with self.path.open("rb") as file:
                found = json.loads(file.read(MAX_BYTES))
            if found["format"] != FORMAT or found["facts"] != self.facts:
                raise ValueError("it is of another model or machine")
            return _seed(found["cost"], self.num_heads)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.info("%s is not used: %s", self.path, error)
            return None

    def write(self, seed: CostSeed) -> None:
        """Complete or not at all; a folder that cannot be written to is no error."""
        if self.path is None:
            return
        try:
            folder = self.path.parent
            if is_writable(folder.parent):
                folder.mkdir(exist_ok=True)
            with replacing(self.path, mode=0o644) as file:
                file.write(json.dumps({"format": FORMAT, "facts": self.facts, "cost": asdict(seed)}).encode())
        except OSError as error:
            log.info("%s is not written, costs are measured at each start: %s", self.path, error)


def _path(name: str) -> Path | None:
    try:
        folder = user_folder()
    except ConfigError as error:
        log.info("%s", error)
        return None
    return None if folder is None else folder / FOLDER / name


def _seed(found: Any, num_heads: int) -> CostSeed:
    """Every value of its type and within reason, or ValueError, TypeError, KeyError."""
    rows = tuple(_count(value) for value in _list(found["rows"]))
    if len(rows) < 2 or rows[0] != 1 or any(after <= before for before, after in itertools.pairwise(rows)):
        raise ValueError("its rows do not ascend from 1")
    pass_ms = _numbers(found["pass_ms"], len(rows))
    if min(pass_ms) <= 0:
        raise ValueError("it has passes that took no time")
    head_ms = _numbers(found["head_ms"], num_heads)
    return CostSeed(
        rows=rows,
        pass_ms=pass_ms,
        num_experts=_numbers(found["num_experts"], len(rows)),
        ms_per_expert=_number(found["ms_per_expert"]),
        head_ms=head_ms,
        head_row_ms=_number(found["head_row_ms"]),
        kv_row_ms=_number(found["kv_row_ms"]),
    )


def _numbers(found: Any, count: int) -> tuple[float, ...]:
    values = tuple(_number(value) for value in _list(found))
    if len(values) != count:
        raise ValueError(f"it has {len(values)} values where {count} should be")
    return values


def _list(found: Any) -> list[Any]:
    if type(found) is not list or len(found) > MAX_VALUES:
        raise TypeError("it holds no list where one should be")
    return found


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= MAX_VALUE:  # which NaN is not, either
        raise TypeError(f"{str(value)[:40]} is no cost")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_VALUE:
        raise TypeError("its rows are no numbers")
    return value
