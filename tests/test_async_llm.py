"""AsyncLLM: what comes back is what a lone caller gets, whatever happens beside it; nothing is left behind."""

import asyncio
import time

import pytest

from stepahead import LLM, ConfigError, RequestError, SamplingParams, Speculation
from stepahead.async_llm import (
    AsyncLLM,
    PromptProgress,
    QueueFullError,
    QueueLimits,
    UnavailableError,
    engine_thread,
)
from stepahead.engine.request import FinishReason

PROMPTS = [f"def f{number}(x):" for number in range(5)]
PARAMS = SamplingParams(max_tokens=24, temperature=0.8, seed=3)


@pytest.fixture(scope="module")
def path(model_path):
    return model_path("f32")


@pytest.fixture(scope="module")
def solo(path):
    """Texts of each prompt alone."""
    with LLM(path, threads=1) as llm:
        return [llm.generate(prompt, PARAMS).text for prompt in PROMPTS]


def opened(path, test, limits=None, **load):
    """Run `await test(llm)` with a ready AsyncLLM, which is closed afterwards."""

    async def main():
        llm = AsyncLLM(lambda: LLM(path, threads=1, **load), limits)
        llm.start()
        await llm.ready()
        try:
            return await test(llm)
        finally:
            await llm.close()
            assert llm.state in ("closed", "failed")

    return asyncio.run(main())


def request(llm, prompt=PROMPTS[0], params=PARAMS):
    return llm.requests.build(prompt, params, Speculation())


def submit(llm, *requests):
    return llm.submit([(one, lambda output, _: output) for one in requests])


async def text_of(delivery):
    """{request_id: text}, of what was not ended by an error."""
    texts = {}
    async for ticket, item, _ in delivery:
        if not isinstance(item, PromptProgress) and ticket.error is None:
            texts[item.request_id] = texts.get(item.request_id, "") + item.text_delta
    return texts


def used_blocks(llm):
    llm.engine.scheduler.prefix_cache.clear()
    cache = llm.engine.runner.kv_cache
    return sum(count - cache.num_free(group) for group, count in enumerate(cache.num_blocks))


def test_texts_are_those_of_a_lone_caller(path, solo):
    async def test(llm):
        deliveries = [submit(llm, request(llm, prompt)) for prompt in PROMPTS]
        return [next(iter((await text_of(one)).values())) for one in deliveries]

    assert opened(path, test) == solo


def test_requests_submitted_together_come_back_together(path, solo):
    async def test(llm):
        requests = [request(llm, prompt) for prompt in PROMPTS]
        texts = await text_of(submit(llm, *requests))
        return [texts[one.request_id] for one in requests]

    assert opened(path, test) == solo


@pytest.mark.parametrize(("seconds", "num_wakes"), [(0.0, PARAMS.max_tokens), (1e9, 2)])
def test_short_steps_are_delivered_together(path, solo, monkeypatch, seconds, num_wakes):
    """All but the first and the last, which come at once."""
    monkeypatch.setattr(engine_thread, "HOLD_SECONDS", seconds)

    async def test(llm):
        wakes, deliver = [], llm._deliver
        llm._deliver = lambda items: wakes.append(len(items)) or deliver(items)
        one = llm.requests.build(PROMPTS[0], PARAMS, Speculation("off"))
        return await text_of(submit(llm, one)), wakes

    texts, wakes = opened(path, test)
    assert list(texts.values()) == solo[:1]
    # The prompt's progress may be told before the first token.
    assert num_wakes <= len(wakes) <= num_wakes + 1 and sum(wakes) >= PARAMS.max_tokens


def test_what_is_held_goes_out_before_another_prompt_is_read(path, monkeypatch):
    monkeypatch.setattr(engine_thread, "HOLD_SECONDS", 1e9)

    async def test(llm):
        first = submit(llm, request(llm, params=SamplingParams(max_tokens=400, ignore_eos=True)))
        items = aiter(first)
        count = 0
        while count == 0:
            ticket, item, _ = await anext(items)
            count += not isinstance(item, PromptProgress)
        while ticket.sequence.num_output_tokens < 100:
            await asyncio.sleep(0.001)
        assert first.take_ready(ticket) is None, "held"
        await text_of(submit(llm, request(llm, PROMPTS[1])))
        ready = 0
        while first.take_ready(ticket) is not None:
            ready += 1
        first.abort()
        return ready

    assert opened(path, test) > 50


def test_an_abort_frees_what_was_held(path):
    async def test(llm):
        delivery = submit(llm, *(request(llm, prompt, SamplingParams(max_tokens=3000)) for prompt in PROMPTS))
        await anext(delivery)
        delivery.abort()
        with pytest.raises(StopAsyncIteration):
            await anext(delivery)
        await asyncio.wait_for(llm._idle.wait(), 5)
        await asyncio.sleep(0.02)
        return used_blocks(llm)

    assert opened(path, test) == 0


def test_an_abort_before_the_engine_knows_the_request(path, solo):
    async def test(llm):
        submit(llm, request(llm, params=SamplingParams(max_tokens=3000))).abort()
        return list((await text_of(submit(llm, request(llm)))).values())

    assert opened(path, test) == solo[:1]


def test_the_queue_has_limits(path):
    async def test(llm):
        llm.check_room(3, 10_000)
        with pytest.raises(QueueFullError) as error:
            llm.check_room(4, 10)
        assert error.value.retry_after >= 1
        running = submit(llm, *(request(llm, params=SamplingParams(max_tokens=3000)) for _ in range(2)))
        with pytest.raises(QueueFullError):
            llm.check_room(1, 1000)
        assert llm.num_rejected == 2
        running.abort()

    opened(path, test, QueueLimits(requests=2, tokens=100), max_num_seqs=1)


def test_a_long_prompt_tells_its_progress(path):
    async def test(llm):
        runner = llm.engine.runner
        forward = runner.forward
        runner.forward = lambda batch: time.sleep(0.12) or forward(batch)
        items = [item async for _, item, _ in submit(llm, request(llm, "a" * 300, SamplingParams(max_tokens=1)))]
        return [item.num_computed_tokens for item in items if isinstance(item, PromptProgress)]

    computed = opened(path, test, chunk_tokens=64)
    assert len(computed) >= 3 and computed == sorted(computed)


class BrokenGrammar:
    """Allows everything, until it breaks."""

    is_finished = False

    def __init__(self, left):
        self.left = left

    def mask(self, logits):
        if self.left == 0:
            raise ValueError("broken")

    def advance(self, token_id):
        return BrokenGrammar(self.left - 1)


def test_a_broken_grammar_ends_its_own_request_alone(path, solo):
    async def test(llm):
        params = SamplingParams(max_tokens=20, grammar=BrokenGrammar(5))
        requests = [request(llm, prompt) for prompt in PROMPTS] + [request(llm, params=params)]
        delivery = submit(llm, *requests)
        texts = await text_of(delivery)
        assert isinstance(delivery.tickets[-1].error, ValueError)
        assert [ticket.error for ticket in delivery.tickets[:-1]] == [None] * len(PROMPTS)
        return [texts[one.request_id] for one in requests[:-1]]

    assert opened(path, test) == solo


def test_a_step_that_fails_ends_what_ran_and_nothing_else(path, solo):
    async def test(llm):
        runner = llm.engine.runner
        forward = runner.forward

        def fails(batch):
            runner.forward = forward
            raise MemoryError("none left")

        runner.forward = fails
        delivery = submit(llm, request(llm))
        outputs = [(ticket, item) async for ticket, item, _ in delivery]
        assert isinstance(delivery.tickets[0].error, MemoryError)
        assert outputs[-1][1].finish_reason is FinishReason.ABORT
        assert llm.state == "ready"
        return list((await text_of(submit(llm, request(llm)))).values())

    assert opened(path, test) == solo[:1]


def test_an_engine_that_always_fails_says_so(path):
    async def test(llm):
        def fails(_):
            raise MemoryError("none left")

        llm.engine.scheduler.schedule = lambda: fails(None)
        llm.engine.scheduler.drop_aborted = list
        delivery = submit(llm, request(llm))
        assert [is_last async for _, _, is_last in delivery][-1]
        assert llm.state == "failed"
        with pytest.raises(UnavailableError):
            submit(llm, request(llm))

    opened(path, test)


def test_a_fault_of_whoever_collects_ends_that_request(path, solo):
    async def test(llm):
        def broken(output, sequence):
            raise KeyError("no")

        delivery = llm.submit([(request(llm), broken), (request(llm), lambda output, _: output)])
        texts = await text_of(delivery)
        assert isinstance(delivery.tickets[0].error, KeyError)
        return list(texts.values())

    assert opened(path, test) == solo[:1]


def test_what_cannot_be_loaded(tmp_path):
    async def main():
        llm = AsyncLLM(lambda: LLM(tmp_path / "none.gguf"))
        llm.start()
        with pytest.raises(ConfigError):
            await llm.ready()
        assert llm.state == "failed"
        with pytest.raises(UnavailableError):
            llm.check_room(1, 1)
        await llm.close()

    asyncio.run(main())


def test_nothing_is_taken_while_it_loads(path):
    async def main():
        llm = AsyncLLM(lambda: LLM(path, threads=1))
        with pytest.raises(UnavailableError):
            llm.llm  # noqa: B018
        llm.start()
        await llm.ready()
        await llm.close()

    asyncio.run(main())


def test_draining_lets_answers_finish(path, solo):
    async def test(llm):
        delivery = submit(llm, request(llm))
        await llm.drain(20)
        with pytest.raises(UnavailableError):
            submit(llm, request(llm))
        return list((await text_of(delivery)).values())

    assert opened(path, test) == solo[:1]


def test_draining_ends_what_takes_too_long(path):
    async def test(llm):
        delivery = submit(llm, request(llm, params=SamplingParams(max_tokens=3000)))
        await llm.drain(0.02)
        items = [item async for _, item, _ in delivery]
        assert isinstance(delivery.tickets[0].error, UnavailableError)
        assert items[-1].finish_reason is FinishReason.ABORT

    opened(path, test)


def test_a_request_that_can_never_run_is_answered(path):
    async def test(llm):
        one = request(llm)
        delivery = submit(llm, one, one)  # the same twice
        items = [(ticket, is_last) async for ticket, _, is_last in delivery]
        assert sum(is_last for _, is_last in items) == 2
        assert sorted(isinstance(ticket.error, RequestError) for ticket in delivery.tickets) == [False, True]

    opened(path, test)
