"""Benchmarks are no package that is installed: tests find them at the root of the checkout."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers.models import Shape, make_model


@pytest.fixture(scope="session")
def tiny_shape() -> Shape:
    """Rows of whole blocks, and as small as that allows."""
    return Shape(
        name="tiny", hidden=256, head_dim=64, num_trunk=3, heads_full=4, heads_sliding=8, num_kv_heads=2, window=16,
        context=1024, width=256, num_experts=4, top_k=2, expert_width=256, vocab=512, full_period=2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_model(tiny_shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tiny_shape, tmp_path_factory.mktemp("peers"))
