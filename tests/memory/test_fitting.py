"""What is decided before loading, with made-up amounts of free memory: contexts, refusals, warnings, ways out."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepahead import LLM, CapacityError
from stepahead.config import GB, EngineConfig
from stepahead.gguf import GGUFFile
from stepahead.memory.fitting import MARGIN, fit
from stepahead.memory.planner import Planner
from stepahead.memory.ways import largest, needed, ways_out
from stepahead.opening import make_backend

ASKED = EngineConfig(threads=1, context_length=4096, max_num_seqs=4, chunk_tokens=64)
MB = 1_000_000


@pytest.fixture(scope="module")
def planner(model_path) -> Iterator[Planner]:
    with GGUFFile.open(model_path("f32")) as file:
        yield Planner(file, None, make_backend(ASKED))


def need(planner: Planner, config: EngineConfig = ASKED) -> int:
    return needed(planner)(config)


# --- what fits ---
def test_enough_memory_changes_nothing(planner):
    fitted = fit(planner, ASKED, 10 * GB)
    assert fitted.config == ASKED
    assert fitted.max_cache_nbytes is None
    assert fitted.plan == planner.plan(ASKED)
    assert fitted.plan.choices == fitted.warnings == ()


def test_where_memory_is_plenty_the_plan_is_made_when_it_is_asked_for(planner):
    plenty, tight = (fit(planner, ASKED, planner.most_nbytes(ASKED) * share // 100) for share in (106, 105))
    assert "plan" not in vars(plenty)
    assert plenty.plan == planner.plan(ASKED) == tight.plan


def test_unknown_memory_refuses_nothing(planner):
    fitted = fit(planner, replace(ASKED, context_length="auto", cache_gb=1e6), None)
    assert fitted.config.context_length == 4096
    assert "unknown" in fitted.plan.choices[0]


def test_a_prefix_cache_that_nobody_asked_for_gives_way(planner):
    free = need(planner) + planner.plan(ASKED).cache_nbytes // 3
    fitted = fit(planner, ASKED, free)
    assert 0 < fitted.plan.cache_nbytes < planner.plan(ASKED).cache_nbytes
    assert planner.plan(ASKED, fitted.max_cache_nbytes) == fitted.plan
    assert fitted.plan.anonymous_nbytes <= free
    assert any("prefix cache" in line for line in fitted.warnings)


def test_a_prefix_cache_that_was_asked_for_is_refused_if_it_does_not_fit(planner):
    with pytest.raises(CapacityError, match=r"prefix cache 1\.0 GB.*--cache-gb 0\.\d+ saves .*, enough"):
        fit(planner, replace(ASKED, cache_gb=1.0), need(planner) + 100 * MB)


# --- weights that do not fit ---
def test_weights_that_do_not_fit_are_a_warning_with_figures(planner):
    asked = replace(ASKED, cache_gb=0)
    plan = planner.plan(asked)
    free = plan.anonymous_nbytes + plan.weight_nbytes // 2
    (line,) = fit(planner, asked, free).warnings
    left, needs = plan.weight_nbytes // 2, plan.step_nbytes
    assert f"{left / 1e6:.1f} MB fit" in line
    assert f"{needs / 2e6:.1f} MB or more" in line
    assert f"{needs / 4e9:.2g} s" in line


# --- auto ---
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_auto_is_the_largest_step_that_leaves_a_margin(planner, share):
    auto = replace(ASKED, context_length="auto", cache_gb=0)
    low, high = (planner.plan(replace(auto, context_length=tokens)).nbytes for tokens in (1024, 4096))
    free = int((low + share * (high - low)) / (1 - MARGIN))
    chosen = fit(planner, auto, free).config.context_length
    assert chosen % 1024 == 0
    assert 1024 <= chosen < 4096
    assert planner.plan(replace(auto, context_length=chosen)).nbytes <= free * (1 - MARGIN)
    assert planner.plan(replace(auto, context_length=chosen + 1024)).nbytes > free * (1 - MARGIN)


def test_auto_is_told_in_a_line(planner):
    (line,) = fit(planner, replace(ASKED, context_length="auto"), 10 * GB).plan.choices
    assert line == "context_length=auto: 4,096 tokens of the model's 4,096; 10.0 GB are free"


def test_auto_is_modest_where_the_weights_do_not_fit(planner):
    free = int(need(planner, replace(ASKED, context_length=1024)) / (1 - MARGIN)) + 1000
    fitted = fit(planner, replace(ASKED, context_length="auto"), free)
    assert fitted.config.context_length == 1024
    assert any("disk" in line for line in fitted.warnings)


def test_auto_is_refused_where_nothing_works(planner):
    with pytest.raises(CapacityError):
        fit(planner, replace(ASKED, context_length="auto"), 10 * MB)


# --- refusals ---
def refusal(planner: Planner, config: EngineConfig, free: int) -> str:
    with pytest.raises(CapacityError) as caught:
        fit(planner, config, free)
    return str(caught.value)


def test_a_refusal_is_one_line_with_what_is_needed_and_what_there_is(planner):
    free = need(planner) - 1 * MB
    text = refusal(planner, ASKED, free)
    assert "\n" not in text
    assert str(planner.file.path) in text
    assert f"needs {need(planner) / 1e6:.0f} MB" in text
    assert f"1.0 MB more than the {free / 1e6:.0f} MB that are free" in text
    assert text.count(" saves ") == 3
    assert text.count(", enough") == 3
    # In the order of what they cost.
    assert re.search(r"--parallel 3 .*--kv-type q8_0 .*--context-length \d+ ", text)


def test_ways_that_are_only_part_are_said_to_be(planner):
    asked = replace(ASKED, mtp="off")
    text = refusal(planner, asked, need(planner, replace(asked, max_num_seqs=1, kv_type="q8_0", context_length=2048)))
    assert text.count(", not enough") == 3
    assert ", enough" not in text
    assert text.endswith(" together: fits")


def test_where_the_named_ways_are_too_little_others_join_them(planner):
    least = replace(ASKED, max_num_seqs=1, kv_type="q8_0", context_length=1024, mtp="off")
    text = refusal(planner, ASKED, need(planner, least))
    assert text.count(" saves ") == 3
    assert text.endswith("; --parallel 1 --kv-type q8_0 --mtp off --context-length 1024 together: fits")


def test_where_no_setting_helps_it_says_how_much_is_lacking(planner):
    assert " together: still needs " in refusal(planner, ASKED, 1 * MB)


def test_no_way_is_named_that_is_taken_already(planner):
    asked = replace(ASKED, max_num_seqs=1, kv_type="q8_0", mtp="off", context_length=64, repack="never")
    text = refusal(planner, asked, 1 * MB)
    assert text.endswith("no setting helps, take a smaller model")


configs = st.builds(
    EngineConfig,
    threads=st.just(1),
    context_length=st.integers(64, 4096),
    max_num_seqs=st.integers(1, 8),
    chunk_tokens=st.just(64),
    kv_type=st.sampled_from(["f16", "f32", "q8_0"]),
    mtp=st.sampled_from(["auto", "off"]),
    cache_gb=st.sampled_from([None, 0.05, 0.5]),
)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(asked=configs, share=st.floats(0.2, 0.999))
def test_the_ways_that_are_enough_are_enough(planner, asked, share):
    free = int(share * need(planner, asked))
    ways, together = ways_out(planner, asked, free)
    assert len(ways) <= 3
    for way in [*ways, *([together] if together is not None else [])]:
        assert way.config != asked
        assert way.saved == need(planner, asked) - need(planner, way.config) > 0
        if way.is_enough:
            assert fit(planner, way.config, free).plan.anonymous_nbytes <= free
        else:
            with pytest.raises(CapacityError):
                fit(planner, way.config, free)


@relaxed
@given(asked=configs, data=st.data())
def test_more_of_anything_never_takes_less(planner, asked, data):
    more = replace(
        asked,
        context_length=data.draw(st.integers(asked.context_length, 4096)),
        max_num_seqs=data.draw(st.integers(asked.max_num_seqs, 8)),
        cache_gb=None if asked.cache_gb is None else asked.cache_gb * data.draw(st.floats(1, 10)),
    )
    assert planner.plan(more, 0).nbytes >= planner.plan(asked, 0).nbytes
    # A cache of so many bytes has more blocks of a smaller type, each with a few bytes of its own.
    plain = replace(asked, cache_gb=None)
    wide, narrow = (planner.plan(replace(plain, kv_type=kv_type), 0).nbytes for kv_type in ("f32", "q8_0"))
    assert wide >= narrow
    assert planner.plan(replace(asked, mtp="auto"), 0).nbytes >= planner.plan(replace(asked, mtp="off"), 0).nbytes


@relaxed
@given(asked=configs, chunk_tokens=st.integers(8, 2048))
def test_no_plan_is_beyond_what_it_is_held_against(planner, asked, chunk_tokens):
    asked = replace(asked, chunk_tokens=chunk_tokens)
    assert planner.plan(asked).nbytes <= planner.most_nbytes(asked)


@relaxed
@given(asked=configs, share=st.floats(1.0, 3.0))
def test_what_fits_is_planned_within_what_is_free(planner, asked, share):
    free = int(share * need(planner, asked)) + 1
    assert fit(planner, asked, free).plan.anonymous_nbytes <= free


@given(st.integers(1, 50), st.integers(1, 1000), st.integers(1, 100), st.integers(0, 1200))
def test_the_largest_multiple_is_found(low, span, step, limit):
    high = low + span
    found = largest(low, high, step, lambda value: value <= limit)
    wanted = [value for value in range(low, high + 1) if value % step == 0 and value <= limit]
    assert found == (wanted[-1] if wanted else None)


# --- through the front door ---
def test_an_llm_is_refused_before_anything_is_loaded(model_path):
    with pytest.raises(CapacityError, match="--context-length"):
        LLM(model_path("f32"), threads=1, memory_gb=0.05, context_length=4096)


def test_an_llm_chooses_its_context_and_tells(model_path):
    with LLM(model_path("f32"), threads=1, context_length="auto", memory_gb=8) as llm:
        assert llm.config.context_length == 4096
        assert "context_length=auto" in llm.memory.choices[0]
        assert len(llm.generate([1, 2, 3]).token_ids) > 0


def test_memory_that_does_not_matter_is_not_looked_at(model_path):
    with LLM(model_path("f32"), threads=1, memory_gb=float("inf")) as llm:
        assert llm.memory.nbytes > 0


def test_a_plan_can_be_asked_for_at_any_time(model_path):
    with LLM(model_path("f32"), threads=1, memory_gb=float("inf")) as llm:
        pass
    assert llm.memory.nbytes > 0


def test_a_cache_that_gave_way_is_what_the_runner_has(model_path):
    with LLM(model_path("f32"), threads=1, memory_gb=float("inf"), chunk_tokens=64) as llm:
        wanted = llm.memory
    limit = (wanted.anonymous_nbytes - wanted.cache_nbytes // 2) / GB
    with LLM(model_path("f32"), threads=1, memory_gb=limit, chunk_tokens=64) as llm:
        assert 0 < llm.memory.cache_nbytes < wanted.cache_nbytes
        assert llm._runner.cache_nbytes == llm._fitted.max_cache_nbytes
