"""Contract I11: acceptance per head on the demo model stays within a point of what was recorded.

Teacher-forced on held-out code, which is deterministic and needs no sampling: windows of 512 tokens, each a sequence
of its own. Head k reads true tokens and the exact chain's hidden rows; a row agrees if its best token is the best of
the trunk's row at the same position. A wrong shift, or heads with an empty cache, show here.

After a new demo model: python tests/invariants/test_demo_acceptance.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM
from stepahead.demo import demo_path
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.models.model import ForwardBatch

DATA = Path(__file__).parents[1] / "data"
RECORD = DATA / "demo_acceptance.json"
WINDOW, NUM_WINDOWS = 512, 20
POINT = 0.01


class Stage:
    """The demo model with a cache for one window."""

    def __init__(self, llm: LLM) -> None:
        self.model, self.backend = llm.model, llm.backend
        blocks = WINDOW // 64
        self.table = list(range(blocks))
        self.kv = [self.backend.new_kv(blocks, spec.num_kv_heads, spec.head_dim, "f16") for spec in self.model.layers]

    def agreement(self, ids: list[int]) -> list[int]:
        """How many rows of each head agree with the trunk."""
        trunk = self.model.forward(self._batch(ids, 0, is_draft=False), self.kv, lambda: None)
        best = self.backend.argmax(trunk.logits)
        hidden, agreeing = trunk.hidden, []
        for head in range(self.model.draft.num_heads):
            first = head + 1  # rows p <= k do not exist for head k
            before = self.backend.gather_rows(hidden, np.arange(WINDOW - first, dtype=np.int32))
            out = self.model.draft_forward(head, self._batch(ids, first, is_draft=True), before, self.kv, lambda: None)
            agreeing.append(int((self.backend.argmax(out.logits) == best[first:]).sum()))
            hidden = out.hidden
        return agreeing

    def _batch(self, ids: list[int], first: int, is_draft: bool) -> ForwardBatch:
        rows = tuple(
            attention_rows([RowSpan(first, WINDOW, self.table, first_valid=first)], spec.window)
            if spec.is_draft == is_draft
            else None
            for spec in self.model.kv_specs
        )
        positions = np.arange(first, WINDOW, dtype=np.int32)
        return ForwardBatch(np.array(ids[first:], np.int32), positions, rows, positions - np.int32(first))


def measure() -> list[float]:
    with LLM.demo() as llm:
        ids = llm.tokenizer.encode((DATA / "heldout.txt").read_text(encoding="utf-8"), add_bos=False)
        assert len(ids) >= NUM_WINDOWS * WINDOW
        stage = Stage(llm)
        counts = [stage.agreement(ids[start * WINDOW : (start + 1) * WINDOW]) for start in range(NUM_WINDOWS)]
    rows = [NUM_WINDOWS * (WINDOW - head - 1) for head in range(len(counts[0]))]
    return [sum(column) / total for column, total in zip(zip(*counts, strict=True), rows, strict=True)]


def demo_hash() -> str:
    return hashlib.sha256(demo_path().read_bytes()).hexdigest()


def test_heads_agree_with_the_trunk_as_recorded() -> None:
    record = json.loads(RECORD.read_text())
    assert record["sha256"] == demo_hash(), "the demo model is another one: record it anew"
    found = measure()
    assert found == pytest.approx(record["agreement"], abs=POINT)
    assert min(found) > 0.4  # heads that learnt something; chance is 0.05


if __name__ == "__main__":
    RECORD.write_text(json.dumps({"sha256": demo_hash(), "agreement": [round(x, 4) for x in measure()]}) + "\n")
