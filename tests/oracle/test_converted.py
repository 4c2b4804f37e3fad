"""Converted checkpoints in llama.cpp: it loads them, and its logits of trunk and heads are ours."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import llama
from stepahead import LLM
from stepahead.convert import convert
from support.hub_checkpoint import hub_config, hub_tensors, write_hub
from support.random_step35 import Shape

pytestmark = pytest.mark.skipif(llama.why_missing() is not None, reason=f"{llama.why_missing()}")

SHAPE = Shape(rope_freqs=False, head_dim=64, noise=0.6, residual=0.6)  # so that wrong wiring shows
SCALING = {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 64}
IDS = list(range(3, 43))  # two windows and a half


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scaling = {**SCALING, "low_freq_factor": 1.0, "high_freq_factor": 4.0}  # in effect within IDS
    config = {**hub_config(SHAPE, nested=False), "rope_scaling": scaling}
    return write_hub(
        tmp_path_factory.mktemp("converted") / "hub", SHAPE, hub_tensors(SHAPE, "BF16"), config, num_files=4
    )


def theirs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of all rows but the last, and of the heads in llama.cpp's chain."""
    model = llama.Model(str(path), repack=False)
    trunk = llama.Context(model, 256, threads=1, is_f32=True)
    heads = llama.HeadDriver(trunk, 256, threads=1, is_f32=True)
    drafts: list[np.ndarray] = []
    choice = heads._heads.choice
    heads._heads.choice = lambda row: drafts.append(heads._heads.logits(row).copy()) or choice(row)
    trunk.run(IDS[:-1], 0, "all")
    logits = np.stack([trunk.logits(row).copy() for row in range(len(IDS) - 1)])
    heads.catch_up(IDS[:-1], 0)
    heads.draft(IDS[-1], len(IDS) - 1, model.num_heads)
    heads.close()
    trunk.close()
    model.close()
    return logits, np.stack(drafts)


def test_trunk_and_heads(folder: Path, tmp_path: Path) -> None:
    path = convert(folder, tmp_path / "model.gguf", type="F32").files[0]
    llm = LLM(path, device="reference", kv_type="f32")
    logits, drafts = theirs(path)
    assert drafts.shape == (3, SHAPE.vocab)
    assert logits.std() > 0.5
    assert np.abs(llm.logits(IDS[:-1]) - logits).max() < 1e-5
    assert np.abs(llm.draft_logits(IDS, chain="catchup") - drafts).max() < 1e-5


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0"])
def test_other_types_load(folder: Path, tmp_path: Path, name: str) -> None:
    path = convert(folder, tmp_path / "model.gguf", type=name).files[0]
    expected = theirs(convert(folder, tmp_path / "f32.gguf", type="F32").files[0])[0]
    actual = theirs(path)[0]
    assert np.abs(actual - expected).mean() < 0.1 * expected.std()


def test_parts_and_split_files_load(folder: Path, tmp_path: Path) -> None:
    whole = convert(folder, tmp_path / "whole.gguf", type="F32").files[0]
    split = convert(folder, tmp_path / "split.gguf", type="F32", max_shard_bytes=1_000_000).files[0]
    assert all(np.array_equal(one, other) for one, other in zip(theirs(whole), theirs(split), strict=True))
    for part, num_heads in (("trunk", 0), ("heads", 3)):
        alone = convert(folder, tmp_path / f"{part}.gguf", type="F32", part=part).files[0]
        model = llama.Model(str(alone), repack=False)
        assert model.num_heads == num_heads
        model.close()
