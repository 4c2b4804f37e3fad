"""What is said to whom: every line of advice has its cause, and a machine without causes gets none."""

from dataclasses import replace

import pytest

from stepahead.backends.cpu.ops import CpuBackend
from stepahead.diagnosis.advice import advise, auto_plan
from stepahead.diagnosis.diagnosis import Diagnosis
from stepahead.diagnosis.gain import Expectation, Overhead
from stepahead.diagnosis.machine_report import MachineReport
from stepahead.diagnosis.text_report import TextReport
from stepahead.model_info import ModelInfo
from stepahead.speculative.cost import CostSeed

BACKEND = CpuBackend(1)
MACHINE = MachineReport("a CPU", "Linux", "cpu", "avx2", "avx2", 4, 4, "", 40e9, 0.1)
INFO = ModelInfo(
    path="m.gguf", name="m", arch="step35", num_trunk_layers=4, num_heads_declared=3, num_heads_found=3,
    num_head_outputs=3, hidden_size=64, vocab_size=300, context_length=4096, window=16, num_experts=8,
    num_experts_used=2, bytes_by_part={"attention": 10**9, "experts": 4 * 10**9}, bytes_by_type={"F32": 5 * 10**9},
    has_chat_template=False, is_heads_only=False,
)  # fmt: skip
COST = CostSeed((1, 2), (60.0, 70.0), (8.0, 14.0), 0.0, (3.0, 3.0, 3.0), 0.1, 0.1)
CODE = TextReport("code", 60, (0.9, 0.8), {}, (Expectation(1, 1.9, 70.0, 1.5), Expectation(2, 2.7, 80.0, 1.7)))
PROSE = TextReport("prose", 60, (0.4, 0.1), {}, (Expectation(1, 1.4, 70.0, 1.1), Expectation(2, 1.5, 80.0, 0.9)))
NOISE = TextReport("chat", 60, (0.02, 0.0), {}, (Expectation(1, 1.0, 70.0, 0.86), Expectation(2, 1.0, 80.0, 0.7)))
GOOD = Diagnosis(20.0, MACHINE, INFO, 3, "auto", "f16", (), COST, Overhead(), 500.0, (CODE,), ())


def test_nothing_is_said_where_all_is_well():
    assert advise(GOOD, BACKEND) == ()


def test_a_gpu_is_not_held_to_what_the_processor_has():
    gpu = with_machine(backend="cuda", isa="sm_90", best_isa="", device="a GPU", threads=1, bytes_per_second=None)
    assert advise(gpu, BACKEND) == ()


def with_info(**changes):
    return replace(GOOD, info=replace(INFO, **changes))


def with_machine(**changes):
    return replace(GOOD, machine=replace(MACHINE, **changes))


CASES = {
    "1 of 3 heads missing in this file: the published": with_info(num_heads_found=2),
    "2 of 3 heads missing in this file: the one head is reused": with_info(num_heads_found=1),
    "no MTP heads although 3 are declared": replace(with_info(num_heads_found=0), num_heads_usable=0),
    "not loaded (mtp='off')": replace(GOOD, num_heads_usable=0, mtp="off", texts=()),
    "slower, down to 0.90x, on prose (2)": replace(GOOD, texts=(CODE, PROSE)),
    "hardly ever right": replace(GOOD, texts=(NOISE,)),
    "8 threads on 4 cores": with_machine(threads=8),
    "other programs used 1.5 CPUs": with_machine(cpus_of_others=1.5),
    "40.0: it waits for something else": replace(GOOD, cost=replace(COST, pass_ms=(600.0, 700.0))),
    "scalar is used where avx2 could be": with_machine(isa="scalar"),
    "no kernels for IQ2_XXS": with_info(bytes_by_type={"F32": 10**9, "IQ2_XXS": 10**9}),
    "the reference backend": with_machine(backend="reference", isa="", best_isa=""),
}


@pytest.mark.parametrize("words", CASES)
def test_each_cause_has_its_advice(words):
    lines = advise(CASES[words], BACKEND)
    assert any(words in line for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_idle_cores_may_be_used_by_others():
    assert advise(with_machine(threads=2, cpus_of_others=1.5), BACKEND) == ()


def test_weights_that_wait_to_be_repacked_are_named():
    isa = next((name for name in ("avx512", "avx2") if name in BACKEND.describe()["available_isas"]), None)
    if isa is None:
        pytest.skip("nothing is repacked here")
    found = with_info(bytes_by_type={"Q4_K": 5 * 10**9})
    assert "Q4_K" in advise(found, CpuBackend(1, isa))[0]
    assert advise(replace(found, repacked=("5 GB",)), CpuBackend(1, isa)) == ()


def test_the_plan_takes_the_depth_that_wins_or_none():
    assert auto_plan(replace(GOOD, texts=(CODE, PROSE, NOISE))) == (
        "code: up to 2 draft tokens a step, 1.70x the plain speed expected",
        "prose: up to 1 draft token a step, 1.10x the plain speed expected",
        "chat: no drafts from the heads: depth 1 would give 0.86x",
    )
    assert "plainly" in auto_plan(replace(GOOD, num_heads_usable=0))[0]
