"""What is kept of prompts on disk names the arithmetic that made it: other bits are another version."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM
from stepahead.backends.base import NUMERICS_VERSION

RECORDED = {2: "0246a0556a54dc8bcc62aee11369364545604b04957d3e25cf7d12f9e8c6b083"}


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_change_with_their_version_alone(model_path, threads: int) -> None:
    path = model_path("golden-q4_k")
    record = json.loads((Path(__file__).parents[1] / "golden" / "q4_k.json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"], "the model is not the recorded one"
    digest = hashlib.sha256()
    for kv_type in ("f16", "f32", "q8_0"):
        with LLM(path, threads=threads, kv_type=kv_type, mtp="off") as llm:
            digest.update(np.ascontiguousarray(llm.logits(list(range(90)))).tobytes())
    advice = "results have other bits: raise NUMERICS_VERSION, and record this"
    assert {NUMERICS_VERSION: digest.hexdigest()} == RECORDED, advice
