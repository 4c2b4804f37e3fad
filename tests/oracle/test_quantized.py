"""llama.cpp's encoders as oracle: errors of whole models no larger; and it runs what we write.

data/llama_mixes.json has the types that llama_model_quantize of b11549 gave to the tensors of TRUNK, for each mix.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import llama, llama_quantize
from stepahead import LLM
from stepahead.gguf import GGUFFile, QuantType
from stepahead.quantize import stream
from stepahead.quantize.collect import Calibration, collect_importance
from stepahead.quantize.importance import ImportanceMatrix
from stepahead.quantize.mix import MIXES, find_mix
from stepahead.quantize.plan import Plan, Request, make_plan
from stepahead.quantize.quantization import quantize_file
from support.random_step35 import Shape, quantised, write_model

needs_llama = pytest.mark.skipif(llama.why_missing() is not None, reason=f"{llama.why_missing()}")

IDS = list(range(3, 43))
# Nine layers, so that an eighth of them is one; four query heads a KV head; rows of 128, too.
TRUNK = replace(quantised(Shape(num_trunk=9), QuantType.F32), heads_full=8, expert_width=128, shared_width=128)
QUANTISED = [name for name in MIXES if name not in ("F32", "F16", "BF16")]
LLAMA_MIXES = json.loads((Path(__file__).parents[1] / "data" / "llama_mixes.json").read_text())
MOST_ERROR = 1.02  # times that of ggml's blocks


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("oracle") / "trunk.gguf", TRUNK, "trunk")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("oracle") / "full.gguf", quantised(Shape(num_trunk=3), QuantType.F32))


@pytest.fixture(scope="module")
def importance(trunk: Path) -> ImportanceMatrix:
    with GGUFFile.open(trunk) as file:
        return collect_importance(file, None, [Calibration("ids", [*range(3, 378)] * 2)], threads=1)


@pytest.mark.parametrize("entry", LLAMA_MIXES)
def test_types_are_llama_cpps(trunk: Path, importance: ImportanceMatrix, entry: str) -> None:
    mix, _, suffix = entry.partition(" ")
    with GGUFFile.open(trunk) as file:
        plan = make_plan(file, Request(find_mix(mix), importance=importance if suffix else None))
    expected = {name: type for type, names in LLAMA_MIXES[entry].items() if type != "most" for name in names}
    changed = {t.info.name.removesuffix(".weight"): t.type.name for t in plan.tensors if not t.is_copied}
    assert changed == {name: expected.get(name, LLAMA_MIXES[entry]["most"]) for name in changed}
    assert expected.keys() <= changed.keys()
    assert Counter(changed.values()).most_common(1)[0][0] == LLAMA_MIXES[entry]["most"]


def made_by_both(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[GGUFFile, GGUFFile]:
    """(ours, theirs)"""
    ours = quantize_file(plan, folder / "ours.gguf", threads=1).files[0]
    monkeypatch.setattr(stream, "encode", llama_quantize.encode)
    return GGUFFile.open(ours), GGUFFile.open(quantize_file(plan, folder / "theirs.gguf", threads=1).files[0])


@needs_llama
@pytest.mark.parametrize("mix", QUANTISED)
def test_errors_of_a_trunk(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str) -> None:
    plan = make_plan(GGUFFile.open(trunk), Request(find_mix(mix)))
    errors = [
        sum(
            float(np.square(made.array(t.info.name) - plan.file.array(t.info.name), dtype=np.float64).sum())
            for t in plan.tensors
        )
        for made in made_by_both(plan, tmp_path, monkeypatch)
    ]
    assert 0 < errors[0] <= MOST_ERROR * errors[1]


@needs_llama
@pytest.mark.parametrize("mix", ["Q2_K_S", "Q4_0", "Q5_0", "IQ4_XS", "Q4_K_M"])
def test_weighted_errors(
    trunk: Path, importance: ImportanceMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str
) -> None:
    plan = make_plan(GGUFFile.open(trunk), Request(find_mix(mix), importance=importance))
    errors = [0.0, 0.0]
    for side, made in enumerate(made_by_both(plan, tmp_path, monkeypatch)):
        for tensor in plan.tensors:
            name, squares = tensor.info.name, tensor.squares
            if squares is not None and not tensor.is_copied:
                weights = squares.means()[:, None, :]
                difference = (made.array(name) - plan.file.array(name)).reshape(len(weights), -1, weights.shape[-1])
                errors[side] += float((np.square(difference, dtype=np.float64) * weights).sum())
    assert 0 < errors[0] <= MOST_ERROR * errors[1]


@needs_llama
@pytest.mark.parametrize("mix", QUANTISED)
def test_llama_runs_what_we_write(full: Path, tmp_path: Path, mix: str) -> None:
    with GGUFFile.open(full) as file:
        path = quantize_file(make_plan(file, Request(find_mix(mix))), tmp_path / "model.gguf", threads=1).files[0]
    model = llama.Model(str(path), repack=False)
    assert model.num_heads == 3
    context = llama.Context(model, 256, threads=1)
    context.run(IDS, 0, "all")
    expected = np.stack([context.logits(row).copy() for row in range(len(IDS))])
    context.close()
    model.close()
    with LLM(path, threads=1, kv_type="f16") as llm:
        actual = llm.logits(IDS)
    assert expected.std() > 0.5
    assert np.abs(actual - expected).mean() <= 0.08
