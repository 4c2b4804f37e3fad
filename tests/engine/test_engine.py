"""Engine: the text of every request is what it would be alone and without drafts, whatever happens around it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.engine.request import FinishReason
from stepahead.errors import RequestError
from support.toy_engine import (
    VOCAB,
    Countdown,
    Letters,
    ToyProposer,
    assert_all_free,
    continuation,
    letter,
    make_engine,
    make_request,
    prompt_of,
    run,
)

PROPOSERS = {
    "perfect": lambda position: True,
    "garbage": lambda position: False,
    "mixed": lambda position: position % 3 != 0,
}


@pytest.fixture(params=PROPOSERS)
def is_right(request):
    return PROPOSERS[request.param]


def test_one_sequence_equals_the_oracle(is_right):
    engine = make_engine(ToyProposer(is_right))
    prompt = prompt_of(200)
    engine.add(make_request(0, prompt, 90))
    assert run(engine) == {0: (tuple(continuation(prompt, 90)), "", FinishReason.LENGTH)}
    assert_all_free(engine)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 7, 16])
def test_any_depth_gives_the_same_text(depth):
    engine = make_engine(ToyProposer(PROPOSERS["mixed"]))
    prompt = prompt_of(70)
    engine.add(make_request(0, prompt, 150, depth=depth))
    assert run(engine)[0][0] == tuple(continuation(prompt, 150))


def test_random_sampling_does_not_depend_on_drafts():
    texts = []
    for depth in (0, 3):
        engine = make_engine(ToyProposer(PROPOSERS["mixed"]))
        engine.add(make_request(0, prompt_of(50), 100, depth=depth, temperature=1.5, seed=7))
        texts.append(run(engine)[0][0])
    assert texts[0] == texts[1] != tuple(continuation(prompt_of(50), 100))


@pytest.mark.parametrize("chunk_tokens", [4, 5, 16, 64, 512])
def test_unequal_sequences_share_batches(is_right, chunk_tokens):
    engine = make_engine(ToyProposer(is_right), chunk_tokens=chunk_tokens)
    lengths = [1, 3, 64, 65, 200, 31, 128]
    for number, length in enumerate(lengths):
        engine.add(make_request(number, prompt_of(length, number), 10 + number, depth=number % 4))
    results = run(engine)
    for number, length in enumerate(lengths):
        assert results[number][0] == tuple(continuation(prompt_of(length, number), 10 + number))
    assert max(batch.token_ids.size for batch in engine.runner.model.batches) <= chunk_tokens
    assert_all_free(engine)


def test_four_sequences_share_passes():
    engine = make_engine(ToyProposer(PROPOSERS["garbage"]), chunk_tokens=512)
    for number in range(4):
        engine.add(make_request(number, prompt_of(20 + number, number), 40))
    run(engine)
    assert engine.metrics.num_trunk_passes <= 60
    assert engine.metrics.num_generated_tokens == 160


def test_perfect_drafts_save_passes():
    engine = make_engine()
    sequence = engine.add(make_request(0, prompt_of(20), 41, depth=3))
    run(engine)
    # One pass for the prompt, ten of four tokens.
    assert engine.metrics.num_trunk_passes == sequence.num_passes == 11
    assert sequence.stats.num_drafts == 10
    assert sequence.stats.num_accepted_tokens == sequence.stats.num_draft_tokens == 30
    assert engine.metrics.num_by_drafted == [1, 0, 0, 10]
    assert engine.metrics.num_by_accepted == [1, 0, 0, 10]
    assert engine.metrics.num_accepted_tokens == 30
    assert all(seconds > 0 for seconds in engine.metrics.seconds.values())


def test_drafts_beyond_the_wanted_tokens_are_clipped():
    engine = make_engine(ToyProposer(excess=5))
    sequence = engine.add(make_request(0, prompt_of(20), 6, depth=3))
    assert run(engine)[0][0] == tuple(continuation(prompt_of(20), 6))
    assert sequence.stats.num_draft_tokens == 4  # one token from the prompt, five from 1 + 4 rows
    assert_all_free(engine)


def test_drafts_are_clipped_before_any_sequence_starves():
    engine = make_engine(chunk_tokens=4, max_num_seqs=4)
    for number in range(4):
        engine.add(make_request(number, prompt_of(2, number), 8, depth=3))
    results = run(engine)
    assert all(results[number][0] == tuple(continuation(prompt_of(2, number), 8)) for number in range(4))
    assert engine.metrics.num_by_drafted[0] > 0


# --- prompts beside those who decode ---
def widest_steps(engine, request_id):
    """Rows of each step that brought the request tokens."""
    rows = []
    while engine.has_unfinished:
        before = engine.metrics.num_trunk_rows
        if any(output.request_id == request_id for output in engine.step()):
            rows.append(engine.metrics.num_trunk_rows - before)
    return rows


def test_who_decodes_does_not_wait_for_a_long_prompt():
    engine = make_engine(chunk_tokens=512, max_step_ms=50.0, row_ms=1.0)
    engine.add(make_request(0, prompt_of(20), 100, depth=0))
    engine.step()
    engine.add(make_request(1, prompt_of(800, 1), 10, depth=0))
    widths = widest_steps(engine, 0)
    assert max(widths) <= 50 and sorted(widths)[-10] >= 43  # nine tenths
    unlimited = make_engine(chunk_tokens=512, max_step_ms=None, row_ms=1.0)
    unlimited.add(make_request(0, prompt_of(20), 100, depth=0))
    unlimited.step()
    unlimited.add(make_request(1, prompt_of(800, 1), 10, depth=0))
    assert max(widest_steps(unlimited, 0)) == 512


def test_a_short_prompt_overtakes_long_ones_and_all_texts_are_the_same():
    engine = make_engine(chunk_tokens=128, max_step_ms=40.0, row_ms=1.0)
    lengths = [10, 700, 650, 12]
    for number, length in enumerate(lengths):
        engine.add(make_request(number, prompt_of(length, number), 60))
    ends, results = [], {}
    while engine.has_unfinished:
        for output in engine.step():
            tokens = results.get(output.request_id, ()) + output.token_ids_delta
            results[output.request_id] = tokens
            ends += [output.request_id] if output.finish_reason else []
    assert sorted(ends[:2]) == [0, 3]
    for number, length in enumerate(lengths):
        assert results[number] == tuple(continuation(prompt_of(length, number), 60))
    assert_all_free(engine)


# --- ends ---
END_COUNTS = range(1, 11)  # with depth 3: every offset of a step


@pytest.mark.parametrize("count", END_COUNTS)
def test_max_tokens_ends_at_each_offset(is_right, count):
    engine = make_engine(ToyProposer(is_right))
    sequence = engine.add(make_request(0, prompt_of(33), count, text=Letters()))
    tokens = tuple(continuation(prompt_of(33), count))
    assert run(engine) == {0: (tokens, "".join(map(letter, tokens)), FinishReason.LENGTH)}
    assert tuple(sequence.output_ids) == tokens


def first_end(prompt, count):
    """A prompt like `prompt` whose count-th token is new in its continuation, so that it can serve as an end."""
    for seed in range(1000):
        candidate = (*prompt, seed % VOCAB, seed // VOCAB)
        tokens = continuation(candidate, count + 4)
        if tokens[count - 1] not in tokens[: count - 1]:
            return candidate, tokens
    raise AssertionError("no such prompt")


@pytest.mark.parametrize("count", END_COUNTS)
def test_end_token_ends_at_each_offset(is_right, count):
    prompt, tokens = first_end(prompt_of(30), count)
    engine = make_engine(ToyProposer(is_right))
    sequence = engine.add(make_request(0, prompt, 100, end_ids={tokens[count - 1]}, text=Letters("zz")))
    text = "".join(map(letter, tokens[: count - 1]))
    assert run(engine) == {0: (tuple(tokens[:count]), text, FinishReason.STOP)}
    assert sequence.stop_reason == tokens[count - 1]
    assert sequence.stats.num_accepted_tokens <= count
    assert_all_free(engine)


@pytest.mark.parametrize("count", range(2, 11))
def test_stop_string_ends_at_each_offset(is_right, count):
    prompt, tokens = first_end(prompt_of(30), count)
    engine = make_engine(ToyProposer(is_right))
    stop = letter(tokens[count - 2]) + letter(tokens[count - 1])
    sequence = engine.add(make_request(0, prompt, 100, text=Letters(stop)))
    text = "".join(map(letter, tokens[: count - 2]))
    assert run(engine) == {0: (tuple(tokens[:count]), text, FinishReason.STOP)}
    assert sequence.stop_reason == stop
    assert sequence.text == text


@pytest.mark.parametrize("count", END_COUNTS)
def test_grammar_ends_at_each_offset(is_right, count):
    engine = make_engine(ToyProposer(is_right))
    engine.add(make_request(0, prompt_of(30), 100, grammar=Countdown(count)))
    assert run(engine) == {0: (tuple(continuation(prompt_of(30), count)), "", FinishReason.STOP)}
    assert_all_free(engine)


def test_what_follows_the_end_is_not_counted():
    prompt, tokens = first_end(prompt_of(30), 3)
    engine = make_engine()
    sequence = engine.add(make_request(0, prompt, 100, end_ids={tokens[2]}, depth=3, logprobs=2))
    run(engine)
    # The prompt gave one token; of three right drafts two were kept.
    assert sequence.stats.num_draft_tokens == 3
    assert sequence.stats.num_accepted_tokens == engine.metrics.num_accepted_tokens == 2
    assert engine.metrics.num_generated_tokens == len(sequence.logprobs) == 3
    assert sequence.num_computed_tokens == len(sequence.token_ids) - 1


def test_context_limit_ends_with_length(is_right):
    engine = make_engine(ToyProposer(is_right), context_length=128, max_num_seqs=1)
    engine.add(make_request(0, prompt_of(100), 28))
    assert run(engine)[0] == (tuple(continuation(prompt_of(100), 28)), "", FinishReason.LENGTH)


def test_an_error_in_a_text_stream_ends_its_request_alone(caplog):
    class Broken(Letters):
        def push(self, token_id):
            if token_id == bad:
                raise ValueError("no such token")
            return super().push(token_id)

    prompt, tokens = first_end(prompt_of(30), 4)
    bad = tokens[3]
    engine = make_engine()
    broken = engine.add(make_request(0, prompt, 50, text=Broken()))
    engine.add(make_request(1, prompt, 50, text=Letters()))
    results = run(engine)
    assert results[0][0] == tuple(tokens[:4])
    assert results[0][2] is FinishReason.ABORT
    assert broken.stop_reason == "ValueError: no such token"
    assert "request 0 ended by an error" in caplog.text
    assert results[1][0] == tuple(continuation(prompt, 50))
    assert_all_free(engine)


def test_a_request_id_that_is_running_is_refused():
    engine = make_engine()
    engine.add(make_request(5, prompt_of(3), 4))
    with pytest.raises(RequestError, match="request_id=5"):
        engine.add(make_request(5, prompt_of(3), 4))
    run(engine)
    engine.add(make_request(5, prompt_of(3), 4))
    assert run(engine)[5][0] == tuple(continuation(prompt_of(3), 4))


def test_a_step_without_work_does_nothing():
    engine = make_engine()
    assert engine.step() == []
    assert engine.metrics.num_trunk_passes == 0


# --- everything at once ---
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_traffic(seed):
    """Requests come, go, extend their own turns and are aborted at random; every finished text is the oracle's."""
    rng = random.Random(seed)
    accuracy = rng.choice([0.0, 0.5, 0.9, 1.0])
    engine = make_engine(
        ToyProposer(lambda position: rng.random() < accuracy),
        max_num_seqs=rng.randint(1, 4),
        chunk_tokens=rng.choice([4, 7, 64, 200]),
        context_length=320,
        max_step_ms=rng.choice([None, 5.0, 30.0]),
        row_ms=1.0,
    )
    results, sequences = {}, {}
    for _ in range(60):
        if rng.random() < 0.3 and len(sequences) < 12:
            number = len(sequences)
            earlier = rng.choice(list(sequences.values())).token_ids if sequences and rng.random() < 0.7 else []
            keep = len(earlier) - rng.choice([0, 0, 1, 5, 40]) if earlier else 0
            prompt = [*earlier[: max(keep, 0)], *prompt_of(rng.randint(1, 60), rng.randint(0, 3))][:250]
            request = make_request(number, prompt, rng.randint(1, 60), depth=rng.randint(0, 5))
            sequences[number] = engine.add(request)
        if sequences and rng.random() < 0.05:
            engine.abort(rng.choice(list(sequences)))
        for output in engine.step():
            if output.finish_reason is not None:
                results[output.request_id] = output.finish_reason
    for request_id in run(engine):
        results[request_id] = sequences[request_id].finish_reason
    assert results.keys() == sequences.keys()
    for number, sequence in sequences.items():
        assert sequence.output_ids == continuation(sequence.request.prompt_ids, sequence.num_output_tokens)
        if results[number] is not FinishReason.ABORT:
            assert sequence.num_output_tokens == sequence.request.max_new_tokens
    assert_all_free(engine)
