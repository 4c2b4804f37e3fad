"""Each part of a plan is what the loaded model has: compared object by object, to the byte where that is possible."""

import pytest

from stepahead import LLM, ConfigError, ModelFormatError
from stepahead.config import EngineConfig
from stepahead.gguf import GGUFFile
from stepahead.memory.plan import CACHE, MemoryPlan, Part
from stepahead.memory.planner import Planner
from stepahead.opening import make_backend
from stepahead.repack.cache_file import PAGE

SMALL = {"threads": 1, "context_length": 1024, "max_num_seqs": 3, "chunk_tokens": 64, "memory_gb": float("inf")}


def of(plan: MemoryPlan, kind: str, *names: str) -> int:
    return sum(part.nbytes for part in plan.parts if part.kind == kind and part.name in names)


@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("mtp", ["auto", "off"])
def test_blocks_are_those_of_the_runner(model_path, kv_type, mtp):
    with LLM(model_path("f32"), mtp=mtp, kv_type=kv_type, cache_gb=0, **SMALL) as llm:
        runner = llm._runner
        for spec in llm.model.kv_specs:
            has, planned = sum(runner.kv[layer].nbytes for layer in spec.layers), llm.memory.of_name(f"KV {spec.name}")
            # Rows of a step are shared by all sequences, which sliding groups gain by.
            assert planned == has if spec.window is None else 0 < planned <= has
        assert llm.memory.of_name(CACHE) == 0


def test_a_prefix_cache_is_part_of_what_it_may_hold(model_path):
    with LLM(model_path("f32"), **SMALL) as llm:
        assert 0 < llm.memory.cache_nbytes < llm._runner.cache_nbytes
    with LLM(model_path("f32"), cache_gb=0.5, **SMALL) as llm:
        assert llm.memory.cache_nbytes == llm._runner.cache_nbytes == 500_000_000


def test_weights_stay_in_the_file(model_path):
    with LLM(model_path("f32"), **SMALL) as llm:
        assert of(llm.memory, "file", "weights", "heads") == llm.memory.weight_nbytes == llm.info.nbytes
        assert of(llm.memory, "file", "heads") == llm.info.bytes_by_part["heads"]
    with LLM(model_path("f32"), mtp="off", **SMALL) as llm:
        assert llm.memory.weight_nbytes == llm.info.nbytes - llm.info.bytes_by_part["heads"]
        assert not llm.memory.of_name("heads")


def test_heads_of_a_companion(model_path):
    trunk, heads = model_path("f32", "trunk"), model_path("f32", "heads")
    with LLM(trunk, mtp=heads, **SMALL) as llm, LLM(model_path("f32"), **SMALL) as full:
        assert llm.memory.parts == full.memory.parts


def test_heads_that_are_not_there_take_nothing(model_path):
    with LLM(model_path("f32", "trunk"), **SMALL) as llm:
        assert {part.name for part in llm.memory.parts}.isdisjoint({"heads", "hidden rows for heads", "KV mtp-sliding"})


@pytest.mark.parametrize("mtp", ["auto", "off"])
def test_weights_repacked_in_memory(model_path, mtp):
    with LLM(model_path("q4_k"), mtp=mtp, **SMALL) as llm:
        if not llm.repacked:
            pytest.skip("nothing is repacked for this instruction set")
        (repacked,) = llm.repacked
        planned = of(llm.memory, "memory", "weights repacked in memory")
        assert 0 <= planned - repacked.nbytes < PAGE * len(repacked.matrices)
        assert llm.memory.weight_nbytes < llm.info.nbytes - repacked.nbytes + llm.info.bytes_by_part["heads"] + PAGE
    with LLM(model_path("q4_k"), mtp=mtp, repack="never", **SMALL) as llm:
        assert not of(llm.memory, "memory", "weights repacked in memory")


def test_a_shortlist_and_its_room(model_path):
    with LLM(model_path("f32"), draft_vocab=128, **SMALL) as llm:
        vocab = llm.model.draft_vocab
        assert vocab is not None
        frequent = sum(output.frequent.nbytes for output in vocab._outputs)
        assert 0 <= of(llm.memory, "memory", "draft shortlist") - frequent < PAGE * len(vocab._outputs)
        assert of(llm.memory, "touched", "draft shortlist") == vocab.seen_nbytes
    with LLM(model_path("f32"), draft_vocab="full", **SMALL) as llm:
        assert not llm.memory.of_name("draft shortlist")


def test_heads_in_another_type(model_path):
    with LLM(model_path("q8_0"), draft_type="Q4_K", **SMALL) as llm:
        assert of(llm.memory, "memory", "heads in Q4_K") > 0
        assert of(llm.memory, "file", "heads") < llm.info.bytes_by_part["heads"]


def test_the_reference_decodes_what_it_multiplies(model_path):
    with LLM(model_path("q8_0"), device="reference", **SMALL) as llm:
        assert llm.memory.of_name("weights decoded") > 3 * llm.memory.of_name("weights")


def test_a_plan_for_programs_has_every_byte():
    plan = MemoryPlan((Part("a", 1, "file"), Part("b", 2, "touched"), Part("b", 3, "touched")), 64, 1, "f16", 7)
    found = plan.as_object()
    assert found["parts"] == [
        {"name": "a", "kind": "file", "bytes": 1},
        {"name": "b", "kind": "touched", "bytes": 5},
    ]
    assert (found["bytes"], found["file_bytes"], found["memory_bytes"], found["touched_bytes"]) == (6, 1, 0, 5)


# --- faults are those of loading ---
def test_a_wrong_context_is_refused_as_before(model_path):
    with GGUFFile.open(model_path("f32")) as file:
        asked = EngineConfig(context_length=5000)
        with pytest.raises(ConfigError, match=r"context_length=5000 is more than the model's 4096"):
            Planner(file, None, make_backend(asked)).plan(asked)


def test_files_that_cannot_be_run_are_refused_as_before(model_path):
    asked = EngineConfig()
    with GGUFFile.open(model_path("f32", "heads")) as file, pytest.raises(ModelFormatError, match="heads only"):
        Planner(file, None, make_backend(asked)).plan(asked)
