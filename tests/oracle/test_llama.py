"""llama.cpp as oracle for what the types of weights mean: the same logits, up to how either side quantises x.

llama.cpp multiplies with other kernels for other machines and batches, and differs from itself by as much.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import llama
from stepahead import LLM
from stepahead.gguf import QuantType, TensorData, write_gguf
from support.random_codes import random_codes
from support.random_step35 import Shape, metadata, model_tensors, quantised

pytestmark = pytest.mark.skipif(llama.why_missing() is not None, reason=f"{llama.why_missing()}")

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
TYPES += ["IQ4_XS", "IQ3_XXS"]
SHAPE = quantised(Shape(num_trunk=3), QuantType.F32)
IDS = list(range(3, 43))  # two windows and a half


def write_model(path: Path, type_of: Callable[[str], QuantType]) -> Path:
    """The trunk of SHAPE; each matrix but the router's in its type, of random codes as large as its values were."""
    tensors = {}
    for index, (name, data) in enumerate(model_tensors(SHAPE)):
        if name.startswith("blk.") and int(name.split(".")[1]) >= SHAPE.num_trunk:
            continue
        tensors[name] = data
        if len(data.shape) > 1 and "ffn_gate_inp" not in name:
            size = float(np.sqrt(np.square(data.data.view(np.float32)).mean()))
            type = type_of(name)
            codes = random_codes(np.random.default_rng(index), type, data.shape, size)
            tensors[name] = TensorData(type, data.shape, codes)
    write_gguf(path, metadata(SHAPE, has_heads=False), tensors)
    return path


def llama_logits(path: Path) -> np.ndarray:
    model = llama.Model(str(path), repack=False)
    context = llama.Context(model, 256, threads=1)
    context.run(IDS, 0, "all")
    logits = np.stack([context.logits(row).copy() for row in range(len(IDS))])
    context.close()
    model.close()
    return logits


def compare(path: Path) -> None:
    expected, actual = llama_logits(path), LLM(path, device="cpu", threads=1, kv_type="f16").logits(IDS)
    assert expected.std() > 0.5
    assert np.abs(actual - expected).mean() <= 0.08
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 0.5
    assert clear.any()
    assert (actual.argmax(1) == expected.argmax(1))[clear].all()


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_weights(name: str, tmp_path: Path) -> None:
    compare(write_model(tmp_path / "model.gguf", lambda _: QuantType[name]))


def test_types_mixed_as_published_files_mix_them(tmp_path: Path) -> None:
    types = {"token_embd": "Q8_0", "attn_gate": "Q3_K", "ffn_down": "Q5_K", "output.": "Q6_K", "_exps": "IQ3_XXS"}
    found = lambda name: next((type for key, type in types.items() if key in name), "IQ4_XS")  # noqa: E731
    compare(write_model(tmp_path / "model.gguf", lambda name: QuantType[found(name)]))
