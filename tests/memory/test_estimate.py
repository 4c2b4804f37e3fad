"""The estimate is within 5 % of what a process then takes, its contexts full; and it is made in no time."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepahead.config import EngineConfig
from stepahead.demo import demo_path
from stepahead.gguf import GGUFFile, QuantType
from stepahead.memory.planner import Planner
from stepahead.opening import make_backend
from support.random_step35 import Shape

CHILD = Path(__file__).with_name("full_context.py")
WITHIN = 0.05
SHAPE = Shape(
    hidden=512, head_dim=64, num_trunk=4, full_period=2, heads_full=8, heads_sliding=8, num_kv_heads=4, window=128,
    context=8192, width=1024, num_experts=8, expert_width=512, shared_width=512, vocab=4096, type=QuantType.Q8_0,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks the system of Linux")


def measure(model: Path, num_short: int = 0, **settings: Any) -> tuple[dict[str, Any], str]:
    """What the child printed, and what a failing test shows of it."""
    args = [sys.executable, str(CHILD), str(model), json.dumps({"threads": 1, **settings}), str(num_short)]
    found = subprocess.run(args, capture_output=True, text=True, check=True, timeout=300)
    result: dict[str, Any] = json.loads(found.stdout)
    return result, json.dumps(result, indent=1)


def check(result: dict[str, Any], shown: str) -> None:
    for what, planned in result["planned"].items():
        taken = result["resident"][what]
        assert abs(planned - taken) <= WITHIN * result["resident"]["bytes"], f"{what}: {planned / taken:.3f}\n{shown}"


@pytest.fixture(scope="module")
def wide(model_path: Callable[..., Path]) -> dict[QuantType, Path]:
    return {type: model_path(SHAPE, type=type) for type in (QuantType.Q8_0, QuantType.Q4_K)}


SETTINGS = {
    "plain": {},
    "f32": {"kv_type": "f32"},
    "q8_0": {"kv_type": "q8_0", "context_length": 8192},
    "short": {"context_length": 1024},
    "no heads": {"mtp": "off"},
    "many": {"max_num_seqs": 4, "context_length": 2048},
    "shortlist": {"draft_vocab": 1024},
    "small chunks": {"chunk_tokens": 64},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_estimate_is_close(wide, name):
    settings = {"max_num_seqs": 1, "context_length": 4096, "cache_gb": 0, **SETTINGS[name]}
    check(*measure(wide[QuantType.Q8_0], **settings))


@pytest.mark.parametrize("repack", ["auto", "never"])
def test_weights_that_are_repacked_in_memory(wide, repack):
    check(*measure(wide[QuantType.Q4_K], max_num_seqs=1, context_length=4096, cache_gb=0, repack=repack))


def test_heads_in_a_smaller_type(wide):
    check(*measure(wide[QuantType.Q8_0], max_num_seqs=1, context_length=4096, cache_gb=0, draft_type="Q4_K"))


def test_the_demo_model():
    check(*measure(demo_path(), max_num_seqs=2, context_length=2048, cache_gb=0))


def test_a_prefix_cache_that_fills(wide):
    """It takes what it may and no more: the plan counts it whole."""
    result, shown = measure(wide[QuantType.Q8_0], 100, max_num_seqs=1, context_length=4096)
    check(result, shown)


# --- fast ---
def test_a_plan_takes_no_time(model_path):
    with GGUFFile.open(model_path("q4_k", num_trunk=45)) as file:
        asked = EngineConfig(threads=1)
        backend = make_backend(asked)
        times = []
        for _ in range(3):
            started = time.thread_time()
            Planner(file, None, backend).plan(asked)
            times.append(time.thread_time() - started)
    assert min(times) < 0.1, f"{min(times):.3f} s of CPU"
