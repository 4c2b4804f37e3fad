"""How often a head's best token is the trunk's, on given texts: the trunk runs once, heads under any contract after it.

Teacher-forced, the exact chain: head k reads true tokens and the rows of head k - 1. What is compared is what a draft
is accepted by when everything before it was right.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import BLOCK_SIZE, Backend, Floats, Ints, KVBlocks
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.gguf import GGUFFile
from stepahead.models.model import ForwardBatch, Model
from stepahead.models.registry import load_model

KV_TYPE = "f16"
MIN_GAIN = 0.04  # of drafts
MIN_MISSES_SAVED = 0.1  # of the drafts that were wrong
MIN_SIGMAS = 5.0  # of the gain, by the rows that differ: dozens of contracts are tried
EXPECTED_GAIN, EXPECTED_SIGMAS = 0.005, 2.0
Agreeing = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TrunkRows:
    """What the trunk says of one text."""

    ids: list[int]
    best: Ints  # (num_rows,)
    hidden: Floats  # (num_rows, width)


@dataclass(frozen=True, slots=True, eq=False)
class HeadRun:
    """One head under one contract on all texts."""

    agrees: tuple[Agreeing, ...]  # by text: every row that the head has
    hidden: tuple[Floats, ...]  # by text: rows for the next head

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.agrees))

    @property
    def acceptance(self) -> float:
        return float(np.concatenate(self.agrees).mean())

    def is_better(self, other: "HeadRun", is_expected: bool) -> bool:
        """Than another run over the same rows, beyond doubt; is_expected: it was, for other heads of the file.

        Rows of a text resemble each other, so that many rows alone prove little: most texts must say the same.
        """
        pairs = list(zip(self.agrees, other.agrees, strict=True))
        gained = [int(here.sum()) - int(there.sum()) for here, there in pairs]
        differing = sum(int((here != there).sum()) for here, there in pairs)
        gain = sum(gained) / self.num_rows
        if is_expected:
            return gain >= EXPECTED_GAIN and sum(gained) >= EXPECTED_SIGMAS * differing**0.5
        return (
            gain >= max(MIN_GAIN, MIN_MISSES_SAVED * (1.0 - other.acceptance))
            and sum(gained) >= MIN_SIGMAS * differing**0.5
            and sum(one <= 0 for one in gained) <= len(gained) // 4
        )


def run_trunk(model: Model, backend: Backend, ids: list[int]) -> TrunkRows:
    """One pass over a text."""
    backend.begin_step()
    output = model.forward(_batch(model, ids, 0, is_draft=False), _new_kv(model, backend, len(ids)), _go_on)
    assert output.logits is not None
    best = np.array(backend.argmax(output.logits))
    return TrunkRows(ids, best, np.array(backend.download(output.hidden)))


def run_head(
    file: GGUFFile, heads: GGUFFile, backend: Backend, head: int, texts: Iterable[tuple[TrunkRows, Floats]]
) -> HeadRun:
    """Head `head` of the file `heads`; texts: each with the rows that the head reads, one for every token from
    token head - 1 on (0 for head 0)."""
    model = load_model(file, backend, heads)
    agrees, hidden = [], []
    for text, before in texts:
        first, end = head + 1, len(text.ids)  # a head has no rows before its first
        assert len(before) >= end - first
        backend.begin_step()
        rows = backend.upload(np.ascontiguousarray(before[: end - first]))
        batch = _batch(model, text.ids, first, is_draft=True)
        output = model.draft_forward(head, batch, rows, _new_kv(model, backend, end), _go_on)
        assert output.logits is not None
        agrees.append(np.array(backend.argmax(output.logits)) == text.best[first:])
        hidden.append(np.array(backend.download(output.hidden)))
    return HeadRun(tuple(agrees), tuple(hidden))


def _new_kv(model: Model, backend: Backend, num_tokens: int) -> list[KVBlocks]:
    blocks = -(-num_tokens // BLOCK_SIZE)
    return [backend.new_kv(blocks, spec.num_kv_heads, spec.head_dim, KV_TYPE) for spec in model.layers]


def _batch(model: Model, ids: list[int], first: int, is_draft: bool) -> ForwardBatch:
    table = list(range(-(-len(ids) // BLOCK_SIZE)))
    rows = tuple(
        attention_rows([RowSpan(first, len(ids), table, first_valid=first)], spec.window)
        if spec.is_draft == is_draft
        else None
        for spec in model.kv_specs
    )
    positions = np.arange(first, len(ids), dtype=np.int32)
    return ForwardBatch(np.array(ids[first:], np.int32), positions, rows, positions - np.int32(first))


def _go_on() -> None:
    pass
