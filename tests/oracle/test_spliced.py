"""Joined and split files in llama.cpp: it loads them, as one file and as target and draft, with the same drafts."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import llama
from stepahead import LLM
from stepahead.gguf import GGUFFile, QuantType
from stepahead.gguf.writer import PADDING_KEY
from stepahead.splice import graft, join, split
from support.random_step35 import Shape
from support.spliced import write

pytestmark = pytest.mark.skipif(llama.why_missing() is not None, reason=f"{llama.why_missing()}")

SHAPE = Shape(noise=0.6, residual=0.6)  # so that wrong wiring shows
CONTEXT = 256
IDS = [int(token) for token in np.random.default_rng(4).integers(3, 300, 40)]  # two windows and a half


def theirs(target: Path, draft: Path | None = None) -> tuple[np.ndarray, list[int]]:
    """llama.cpp's logits of the trunk after all rows, and its drafts; the heads from a file of their own, if given."""
    model = llama.Model(str(target), repack=False)
    heads = model if draft is None else llama.Model(str(draft), repack=False)
    trunk = llama.Context(model, CONTEXT, threads=1)
    trunk.model = heads  # whose heads the driver takes
    driver = llama.HeadDriver(trunk, CONTEXT, threads=1)
    try:
        assert heads.num_heads == 3
        trunk.run(IDS[:-1], 0, "all")
        logits = np.stack([trunk.logits(row).copy() for row in range(len(IDS) - 1)])
        driver.catch_up(IDS[:-1], 0)
        return logits, driver.draft(IDS[-1], len(IDS) - 1, 3)
    finally:
        driver.close()
        trunk.close()
        for one in {id(model): model, id(heads): heads}.values():
            one.close()


def test_the_parts_and_the_whole_draft_alike(tmp_path: Path) -> None:
    full = write(tmp_path / "full.gguf", SHAPE)
    trunk, heads, again = (tmp_path / f"{name}.gguf" for name in ("trunk", "heads", "again"))
    split(full, trunk, heads)
    join(trunk, heads, again)
    expected = theirs(full)
    for files in ((again,), (trunk, heads), (full, heads)):
        logits, drafts = theirs(*files)
        assert np.array_equal(logits, expected[0])
        assert drafts == expected[1]
    assert expected[1] == LLM(again).draft_logits(IDS, chain="catchup").argmax(-1).tolist()
    model = llama.Model(str(trunk), repack=False)
    assert model.num_heads == 0
    model.close()


def test_what_was_joined_with_a_padding_loads(tmp_path: Path) -> None:
    """From shards, with heads of another type and no shared offset: the header holds the key that only we know."""
    trunk = write(tmp_path / "trunk.gguf", SHAPE, "trunk", num_shards=3, first_empty=True)
    other = Shape(noise=0.6, residual=0.6, type=QuantType.Q8_0)
    heads, full = write(tmp_path / "heads.gguf", other, "heads"), tmp_path / "full.gguf"
    join(trunk, heads, full)
    with GGUFFile.open(full) as file:
        assert PADDING_KEY in file.metadata
        assert {file.tensors[name].type for name in file.tensors if name.endswith("eh_proj.weight")} == {QuantType.Q8_0}
    together, apart = theirs(full), theirs(trunk, heads)
    assert np.array_equal(together[0], apart[0])
    assert together[1] == apart[1]
    grafted = tmp_path / "grafted.gguf"
    graft(full, write(tmp_path / "own.gguf", SHAPE), grafted)
    assert theirs(grafted)[1] == together[1]
