"""Models to quantise: random ones that run, and one of many layers that has only names and shapes."""

from pathlib import Path

import numpy as np
import pytest

from stepahead.gguf import QuantType, TensorData, write_gguf
from support.random_step35 import Shape, quantised

NUM_LAYERS, NUM_HEADS = 45, 3  # as the published models have them


@pytest.fixture(scope="session")
def bf16(model_path) -> Path:
    """Three layers, three heads, BF16, rows of 256 and 512."""
    return model_path(quantised(Shape(num_trunk=3), QuantType.BF16))


@pytest.fixture(scope="session")
def f32(model_path) -> Path:
    return model_path(quantised(Shape(num_trunk=3), QuantType.F32))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names and numbers of layers of Step-3.5-Flash, in matrices of a few numbers; 8 query heads a KV head."""
    path = tmp_path_factory.mktemp("published") / "model-BF16.gguf"
    small = TensorData.from_array(np.ones((2, 256), np.float32), QuantType.BF16)
    experts = TensorData.from_array(np.ones((2, 2, 256), np.float32), QuantType.BF16)
    output = TensorData.from_array(np.ones((2, 4096), np.float32), QuantType.BF16)  # 16 heads of 256
    values = TensorData.from_array(np.ones((512, 256), np.float32), QuantType.BF16)  # 2 heads
    vector = TensorData.from_array(np.ones(256, np.float32))
    router = TensorData.from_array(np.ones((2, 256), np.float32))
    tensors = {"token_embd.weight": small, "output_norm.weight": vector, "output.weight": small}
    for layer in range(NUM_LAYERS + NUM_HEADS):
        block = f"blk.{layer}."
        tensors |= {f"{block}attn_{name}.weight": small for name in ("q", "k", "gate")}
        tensors |= {f"{block}attn_v.weight": values, f"{block}attn_output.weight": output}
        tensors |= {f"{block}attn_norm.weight": vector}
        if 3 <= layer < NUM_LAYERS:
            tensors[f"{block}ffn_gate_inp.weight"] = router
            tensors[f"{block}exp_probs_b.bias"] = vector
            tensors |= {f"{block}ffn_{name}_exps.weight": experts for name in ("gate", "up", "down")}
            tensors |= {f"{block}ffn_{name}_shexp.weight": small for name in ("gate", "up", "down")}
        else:
            tensors |= {f"{block}ffn_{name}.weight": small for name in ("gate", "up", "down")}
        if layer >= NUM_LAYERS:
            tensors |= {f"{block}nextn.{name}.weight": small for name in ("eh_proj", "shared_head_head")}
            tensors |= {f"{block}nextn.{name}.weight": vector for name in ("enorm", "hnorm", "shared_head_norm")}
    metadata = {
        "general.architecture": "step35",
        "step35.block_count": NUM_LAYERS + NUM_HEADS,
        "step35.nextn_predict_layers": NUM_HEADS,
    }
    write_gguf(path, metadata, tensors)
    return path
