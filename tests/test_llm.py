"""The front door: what may be asked, what is refused by name, and what comes back."""

from pathlib import Path

import numpy as np
import pytest

import stepahead
from stepahead import LLM, CapacityError, ConfigError, RequestError, SamplingParams, Speculation
from support.random_step35 import Shape

TINY = Shape(hidden=32, head_dim=16, num_trunk=2, num_experts=4, width=64, vocab=300, full_period=2)
FOUR = SamplingParams(max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.random_step35 import write_model

    return write_model(tmp_path_factory.mktemp("llm") / "tiny-model.gguf", TINY)


@pytest.fixture(scope="module")
def llm(path: Path) -> LLM:
    return LLM(path, threads=1, context_length=128)


def test_text_ids_and_lists_of_either(llm: LLM) -> None:
    ids = llm.tokenize("hello")
    one, same = llm.generate("hello", FOUR), llm.generate(ids, FOUR)
    assert one.token_ids == same.token_ids and len(one.token_ids) == 4
    assert one.text == llm.detokenize(one.token_ids) and one.prompt_token_ids == ids
    assert (one.finish_reason, one.stop_reason) == ("length", None)
    both = llm.generate(["hello", "hello"], FOUR)
    assert [out.token_ids for out in both] == [one.token_ids] * 2
    assert next(out.token_ids for out in llm.generate([ids, [5]], FOUR)) == one.token_ids
    assert llm.generate([], FOUR) == []
    assert llm.generate(np.array(ids), FOUR).token_ids == one.token_ids


def test_statistics_are_zeros_never_none(llm: LLM) -> None:
    off = llm.generate("hello", FOUR, Speculation(mode="off"))
    assert off.speculation == stepahead.SpeculationStats()
    three = Speculation(mode="mtp", depth=3, adaptive=False)
    on = llm.generate("hello", SamplingParams(max_tokens=20, ignore_eos=True), three)
    stats = on.speculation
    assert stats.num_drafts > 0 and len(stats.num_accepted_tokens_per_pos) == 3
    assert stats.num_accepted_tokens == sum(stats.num_accepted_tokens_per_pos)
    assert on.timings.num_steps + stats.num_accepted_tokens == 20


def test_auto_prices_every_source_and_depth_bounds_it(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    plain = llm.generate("hello", params, Speculation(mode="off"))
    for speculation in (Speculation(), Speculation(depth=2), Speculation("mtp"), Speculation("copy")):
        out = llm.generate("hello", params, speculation)
        assert out.token_ids == plain.token_ids
        assert len(out.speculation.num_draft_tokens_per_pos) <= (speculation.depth or 15)
        assert speculation.mode == "auto" or {*out.speculation.num_draft_tokens_by_source} <= {speculation.mode}


def test_every_step_is_traced(llm: LLM) -> None:
    records = []
    llm.on_step = records.append
    try:
        out = llm.generate("hello", SamplingParams(max_tokens=40, ignore_eos=True))
    finally:
        llm.on_step = None
    assert sum(record.num_accepted + 1 for record in records) == 40
    assert sum(record.depth for record in records) == out.speculation.num_draft_tokens
    assert all(record.actual_ms > 0 for record in records)


def test_a_seed_is_drawn_and_returned(llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.0, ignore_eos=True)
    first = llm.generate("hello", params)
    assert llm.generate("hello", params).seed != first.seed
    again = llm.generate("hello", SamplingParams(max_tokens=12, temperature=1.0, ignore_eos=True, seed=first.seed))
    assert again.token_ids == first.token_ids


def test_stream_joins_to_the_whole(llm: LLM) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=4, ignore_eos=True)
    whole = llm.generate("hello", params, Speculation("mtp", adaptive=False))
    seen: list[tuple[int, int]] = []
    chunks = list(
        llm.stream("hello", params, Speculation("mtp", adaptive=False), on_prompt=lambda *args: seen.append(args))
    )
    assert [token for chunk in chunks for token in chunk.token_ids_delta] == whole.token_ids
    assert "".join(chunk.text_delta for chunk in chunks) == whole.text
    assert all("".join(chunk.pieces) == chunk.text_delta for chunk in chunks)
    assert sum(chunk.num_accepted for chunk in chunks) == whole.speculation.num_accepted_tokens
    last = chunks[-1].completion
    assert last is not None and last.token_ids == whole.token_ids and chunks[-1].finish_reason == "length"
    assert all(chunk.completion is None for chunk in chunks[:-1])


def test_closing_a_stream_aborts_it_and_leaves_the_engine_usable(llm: LLM) -> None:
    stream = llm.stream("hello", SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    stream.close()
    assert len(llm.generate("hello", FOUR).token_ids) == 4


def test_a_long_prompt_reports_progress(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with LLM(path, threads=1, chunk_tokens=16) as llm:
        for _ in llm.stream(list(range(50)), FOUR, on_prompt=lambda *args: seen.append(args)):
            pass
    assert seen == [(16, 50), (32, 50), (48, 50)]


def test_threads_may_change_at_any_time(path: Path) -> None:
    with LLM(path, threads=3) as llm:
        expected = llm.generate(list(range(40)), FOUR)
        assert llm.threads == 3
        for number, _ in enumerate(llm.stream(list(range(40)), FOUR)):
            llm.threads = 1 + number % 3
            assert llm.threads == 1 + number % 3
        llm.threads = 2
        assert llm.generate(list(range(40)), FOUR).token_ids == expected.token_ids
        for wrong in (0, 4, -1, 2.0):
            with pytest.raises(ConfigError, match=rf"threads={wrong} .* 1 to 3"):
                llm.threads = wrong  # type: ignore[assignment]
        assert llm.threads == 2


def test_stop_strings_and_stop_tokens(llm: LLM) -> None:
    plain = llm.generate("hello", SamplingParams(max_tokens=20, ignore_eos=True))
    by_token = llm.generate(
        "hello", SamplingParams(max_tokens=20, ignore_eos=True, stop_token_ids=[plain.token_ids[6]])
    )
    cut = plain.token_ids.index(plain.token_ids[6]) + 1
    assert (by_token.finish_reason, by_token.token_ids) == ("stop", plain.token_ids[:cut])
    assert by_token.stop_reason == plain.token_ids[6]
    stop = plain.text[3:6]
    by_text = llm.generate("hello", SamplingParams(max_tokens=20, ignore_eos=True, stop=[stop]))
    assert by_text.finish_reason == "stop" and by_text.text == plain.text[: plain.text.index(stop)]
    assert by_text.stop_reason == stop


def test_logprobs_come_with_every_token(llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=3)
    out = llm.generate("hello", params, Speculation(mode="mtp", depth=2))
    assert len(out.logprobs) == 6
    logits = llm.logits([*out.prompt_token_ids, *out.token_ids])[len(out.prompt_token_ids) - 1 : -1].astype(np.float64)
    for row, token, best in zip(logits, out.token_ids, out.logprobs, strict=True):
        exact = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert token in best and len(best) >= 3
        assert all(value == pytest.approx(exact[number], abs=0.05) for number, value in best.items())  # F16 KV


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda llm: llm.generate(""), RequestError, "no tokens"),
        (lambda llm: llm.generate([[]]), RequestError, "no tokens"),
        (lambda llm: llm.generate([300]), RequestError, "token id 300 is out of range.*0 to 299"),
        (lambda llm: llm.generate([-1]), RequestError, "token id -1"),
        (lambda llm: llm.generate([[1.5]]), RequestError, "float"),
        (lambda llm: llm.generate(5), RequestError, "prompt is a int"),
        (lambda llm: llm.generate([["a"]]), RequestError, "token id 'a'"),
        (lambda llm: llm.generate([None]), RequestError, "NoneType"),
        (lambda llm: llm.generate([1] * 128), RequestError, "128 tokens, the context 128"),
        (lambda llm: llm.generate("\ud800"), RequestError, "surrogate|encod"),
        (lambda llm: llm.generate("a", SamplingParams(max_tokens=0)), RequestError, "max_tokens=0"),
        (lambda llm: llm.generate("a", SamplingParams(temperature=-1)), RequestError, "temperature=-1"),
        (lambda llm: llm.generate("a", SamplingParams(temperature=float("nan"))), RequestError, "temperature=nan"),
        (lambda llm: llm.generate("a", SamplingParams(top_p=0.0)), RequestError, "top_p=0"),
        (lambda llm: llm.generate("a", SamplingParams(top_k=-1)), RequestError, "top_k=-1"),
        (lambda llm: llm.generate("a", SamplingParams(n=2)), RequestError, "n=2"),
        (lambda llm: llm.generate("a", SamplingParams(stop="")), RequestError, "stop"),
        (lambda llm: llm.generate("a", SamplingParams(logprobs=21)), RequestError, "logprobs=21"),
        (lambda llm: llm.generate("a", SamplingParams(logit_bias={300: 1.0})), RequestError, "300"),
        (lambda llm: llm.generate("a", SamplingParams(stop_token_ids=[400])), RequestError, "stop_token_ids 400"),
        (lambda llm: llm.generate("a", SamplingParams(stop_token_ids=5)), RequestError, "stop_token_ids=5"),
        (lambda llm: llm.generate("a", SamplingParams(grammar="json")), RequestError, "grammar='json'"),
        (lambda llm: llm.generate("a", SamplingParams(seed=-1)), RequestError, "seed=-1"),
        (lambda llm: llm.generate("a", None, Speculation(mode="fast")), RequestError, "mode='fast'"),
        (lambda llm: llm.generate("a", None, Speculation(mode="copy", depth=16)), RequestError, "1 to 15"),
        (lambda llm: llm.generate("a", None, Speculation(mode="mtp", depth=4)), RequestError, "depth=4.*1 to 3"),
        (lambda llm: llm.generate("a", None, Speculation(chain="x")), RequestError, "chain='x'"),
        (lambda llm: llm.draft_logits([1]), RequestError, "give 2 tokens"),
        (lambda llm: llm.logits([]), RequestError, "no tokens"),
        (lambda llm: llm.chat([{"role": "user", "content": "hi"}]), RequestError, "no chat template"),
        (lambda llm: llm.detokenize([999]), RequestError, "token id 999"),
    ],
)
def test_mistakes_are_named(llm: LLM, call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call(llm)
    assert "\n" not in str(caught.value)
    assert len(llm.generate("hello", FOUR).token_ids) == 4  # the engine goes on


def test_unknown_settings_are_type_errors() -> None:
    with pytest.raises(TypeError):
        SamplingParams(temprature=1.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kv_type": "f8"}, "kv_type='f8'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"threads": 0}, "threads=0"),
        ({"context_length": 5000}, "context_length=5000.*4096"),
        ({"max_num_seqs": 0}, "max_num_seqs=0"),
        ({"chunk_tokens": 4}, "chunk_tokens=4"),
        ({"mtp": "/nowhere.gguf"}, "no such file"),
    ],
)
def test_settings_of_the_model_are_checked(path: Path, kwargs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLM(path, **kwargs)


def test_a_model_is_a_path() -> None:
    with pytest.raises(ConfigError, match="model=None"):
        LLM(None)


def test_several_prompts_share_passes(path: Path) -> None:
    with LLM(path, threads=1) as llm:
        before = llm.metrics.num_trunk_passes
        params = SamplingParams(max_tokens=40, ignore_eos=True)
        llm.generate([[n] * 5 for n in range(1, 5)], params, Speculation(mode="off"))
        assert llm.metrics.num_trunk_passes - before <= 60


def test_more_prompts_than_places_wait_their_turn(path: Path) -> None:
    with LLM(path, threads=1, max_num_seqs=2) as llm:
        outs = llm.generate([[n, n] for n in range(1, 8)], FOUR)
        assert [out.token_ids for out in outs] == [llm.generate([n, n], FOUR).token_ids for n in range(1, 8)]


def test_heads_run_over_no_more_than_their_windows(path: Path) -> None:
    window, prompt = TINY.window, [n % 250 for n in range(1000)]
    with LLM(path, threads=1) as llm:
        three = Speculation(mode="mtp", depth=3, adaptive=False)
        out = llm.generate(prompt, SamplingParams(max_tokens=2, ignore_eos=True), three)
        assert out.speculation.num_drafts == 0  # one token wanted after the first: nothing to draft
        out = llm.generate(prompt, SamplingParams(max_tokens=5, ignore_eos=True), three)
    for head, rows in enumerate(out.speculation.head_rows):
        assert 0 < rows <= (3 - head) * window + 3 * 4  # the windows, and the rows of at most four rounds


def test_context_limit_ends_a_sequence(path: Path) -> None:
    with LLM(path, threads=1, context_length=24) as llm:
        out = llm.generate([1] * 10, SamplingParams(ignore_eos=True), Speculation(mode="mtp", depth=3))
        assert (out.finish_reason, len(out.token_ids)) == ("length", 14)


def test_heads_off_and_missing(path: Path, model_path) -> None:
    with LLM(path, mtp="off", threads=1) as llm:
        assert llm.generate("a", FOUR).speculation.num_drafts == 0
        with pytest.raises(RequestError, match=r"no MTP heads|none"):
            llm.generate("a", FOUR, Speculation(mode="mtp"))
    with LLM(model_path(TINY, "trunk"), mtp=model_path(TINY, "heads"), threads=1) as llm:
        out = llm.generate("hello", SamplingParams(max_tokens=20, ignore_eos=True), Speculation(mode="mtp"))
        assert out.speculation.num_drafts > 0
        assert llm.info.num_heads_found == 3
    with LLM(path, threads=1) as full:
        assert full.generate("hello", SamplingParams(max_tokens=20, ignore_eos=True)).token_ids == out.token_ids


def test_info(llm: LLM) -> None:
    info = llm.info
    assert (info.arch, info.num_trunk_layers, info.num_heads_found, info.vocab_size) == ("step35", 2, 3, 300)
    assert set(info.bytes_by_type) == {"F32"} and info.nbytes == sum(info.bytes_by_type.values())
    assert info.bytes_by_part["heads"] > 0
    assert info.bytes_by_part["output"] == info.bytes_by_part["embeddings"] == 300 * 32 * 4


def test_kv_exhaustion_is_one_error(path: Path) -> None:
    with LLM(path, threads=1, max_num_seqs=1, context_length=64) as llm:
        with pytest.raises((CapacityError, RequestError), match="context"):
            llm.generate([1] * 80, FOUR)
        assert len(llm.generate([1] * 60, FOUR).token_ids) == 4


def test_conversations_share_their_messages(path: Path) -> None:
    llm = LLM(path, threads=1, context_length=512)
    (end, *_) = sorted(llm.tokenizer.end_ids)
    system, question = [*range(20, 119), end], list(range(30, 280))
    llm.generate([*system, *question], FOUR)
    other = llm.generate([*system, 7, 8, 9], FOUR)
    assert other.timings.cached_tokens == len(system)
    assert other.token_ids == LLM(path, threads=1).generate([*system, 7, 8, 9], FOUR).token_ids
