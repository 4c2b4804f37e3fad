"""The published models by their sizes alone: a checkpoint of holes, of which only the headers are read."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stepahead.convert.checkpoint import Checkpoint
from stepahead.convert.hub_config import HubConfig
from stepahead.convert.plan import Part, make_plan
from stepahead.convert.rope_factors import rope_factors
from stepahead.gguf import QuantType
from support.hub_checkpoint import hub_config
from support.random_step35 import Shape

SHAPE = Shape(
    hidden=4096, head_dim=128, num_trunk=45, heads_full=64, heads_sliding=96, num_kv_heads=8, window=512,
    context=262144, width=11264, dense_lead=3, num_experts=288, top_k=8, expert_width=1280, shared_width=1280,
    vocab=128896,
)  # fmt: skip
SCALING = {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 131072}


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of Step-3.5-Flash, as its index lists them."""
    yield "model.embed_tokens.weight", (128896, 4096)
    yield "model.norm.weight", (4096,)
    yield "lm_head.weight", (128896, 4096)
    for layer in range(48):
        heads = 64 if layer % 4 == 0 and layer < 45 else 96
        attention = {"q_proj": (heads * 128, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096)}
        attention |= {"o_proj": (4096, heads * 128), "g_proj": (heads, 4096), "q_norm": (128,), "k_norm": (128,)}
        dense = {"gate_proj": (11264, 4096), "up_proj": (11264, 4096), "down_proj": (4096, 11264)}
        experts = {"gate": (288, 4096), "gate_proj": (288, 1280, 4096), "up_proj": (288, 1280, 4096)}
        experts |= {"down_proj": (288, 4096, 1280)}
        shared = {"gate_proj": (1280, 4096), "up_proj": (1280, 4096), "down_proj": (4096, 1280)}
        head = {"enorm": (4096,), "hnorm": (4096,), "eh_proj": (4096, 8192)}
        head |= {"transformer.shared_head.norm": (4096,), "transformer.shared_head.output": (128896, 4096)}
        is_moe = 3 <= layer < 45
        parts = {"": {"input_layernorm": (4096,), "post_attention_layernorm": (4096,)}, "self_attn.": attention}
        parts |= {"moe.": experts, "share_expert.": shared} if is_moe else {"mlp.": dense}
        parts |= {"": parts[""] | head} if layer >= 45 else {}
        for prefix, group in parts.items():
            yield from ((f"model.layers.{layer}.{prefix}{name}.weight", shape) for name, shape in group.items())
        if is_moe:
            yield f"model.layers.{layer}.moe.router_bias", (288,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    config = {**hub_config(SHAPE), **hub_config(SHAPE, nested=False)}
    scaling = {**SCALING, "low_freq_factor": 1.0, "high_freq_factor": 32.0}
    (path / "config.json").write_text(json.dumps({**config, "text_config": None, "rope_scaling": scaling}))
    header, offset = {}, 0
    for name, shape in shapes():
        kind = "F32" if name.endswith("bias") else "BF16"
        end = offset + int(np.prod(shape)) * (4 if kind == "F32" else 2)
        header[name], offset = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}, end
    raw = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    try:
        os.truncate(path / "model.safetensors", 8 + len(raw) + offset)
    except OSError as error:
        pytest.skip(f"no file of 400 GB of holes here: {error}")
    return path


# Tensors and bytes: what is known of the published files, which have one more tensor, rope_freqs.
PARTS: list[tuple[Part, str, int, float]] = [
    ("trunk", "BF16", 754, 394.0),
    ("heads", "BF16", 55, 6.97),
    ("heads", "Q8_0", 55, 3.70),
    ("trunk", "Q8_0", 754, 209.4),
    ("all", "BF16", 805, 398.8),
]


@pytest.mark.parametrize(("part", "name", "num_tensors", "gigabytes"), PARTS)
def test_counts_and_bytes(folder: Path, part: Part, name: str, num_tensors: int, gigabytes: float) -> None:
    with Checkpoint.open(folder) as checkpoint:
        assert len(list(checkpoint.names)) == 804
        config = HubConfig.from_folder(folder)
        plan = make_plan(checkpoint, config, QuantType[name], part)
    assert rope_factors(config) is not None
    assert len(plan.tensors) + 1 == num_tensors
    assert plan.nbytes / 1e9 == pytest.approx(gigabytes, rel=2e-3)
    assert plan.fallbacks == ()
