"""Whatever a readable file says, checking it ends, without an error or a warning, and its repair can be written."""

from pathlib import Path

import numpy as np
import pytest

from stepahead.filecheck.examine import examine
from stepahead.gguf import GGUFFile, QuantType, TensorData, TypedValue, ValueType, write_gguf
from support.random_step35 import Shape, metadata, model_tensors

SHAPE = Shape(hidden=64, num_experts=4, width=64, vocab=288, num_trunk=2)
VALUES = (
    0, -1, 2**31 - 1, 2**40, 1.5, float("nan"), float("inf"), True, "x", ["a"], np.array([1, 2], np.int32),
    TypedValue(ValueType.I32, np.array([], np.int32)), np.array([1.5] * 5, np.float32), np.array([True] * 5),
    np.zeros(5, np.int32), np.array([2**60] * 5, np.int64),
)  # fmt: skip
BLOCKS = (0, 1, 5, 77, 10**15)
PARTS = ("nextn.eh_proj", "attn_norm", "nextn.enorm", "attn_q")


def distorted(rng: np.random.Generator) -> tuple[dict[str, object], dict[str, TensorData]]:
    pairs, tensors = metadata(SHAPE), dict(model_tensors(SHAPE))
    ours = [key for key in pairs if key.startswith("step35.")]
    for key in rng.choice(ours, rng.integers(1, 4), replace=False):
        pairs[str(key)] = VALUES[rng.integers(len(VALUES))]
    if rng.random() < 0.3:
        pairs.pop(str(rng.choice(ours)))
    for name in map(str, rng.choice(list(tensors), rng.integers(0, 4), replace=False)):
        old, kind = tensors.pop(name), rng.integers(4)
        if kind == 0:
            shape = tuple(map(int, rng.integers(1, 40, 2)))
            tensors[name] = TensorData(QuantType.F32, shape, rng.integers(0, 256, 4 * shape[0] * shape[1], np.uint8))
        elif kind == 1:
            tensors[name] = TensorData(old.type, old.shape, rng.integers(0, 256, old.data.size, np.uint8))
        elif kind == 2:
            tensors[f"blk.{rng.choice(BLOCKS)}.{rng.choice(PARTS)}.weight"] = old
    return pairs, tensors


@pytest.mark.parametrize("seed", range(150))
def test_distorted_files(tmp_path: Path, seed: int) -> None:
    pairs, tensors = distorted(np.random.default_rng(seed))
    write_gguf(tmp_path / "distorted.gguf", pairs, tensors)
    with GGUFFile.open(tmp_path / "distorted.gguf") as file:
        findings, view = examine(file)
        assert all("\n" not in finding.sentence for finding in findings)
        repaired = {name: TensorData(info.type, info.shape, view.data(name)) for name, info in view.tensors.items()}
        write_gguf(tmp_path / "repaired.gguf", view.typed_metadata(), repaired)
        again = [one for one in examine(view)[0] if one.severity == "fault" and one.repair.is_possible]
        assert not [one for one in again if one.kind != "norm-offset"]  # of random numbers
