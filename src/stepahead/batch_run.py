"""Answers the requests of a batch file, as many at a time as the engine runs side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from stepahead.batch_file import BatchAnswer, BatchInput, BatchOutput, BatchRequest

Answer = Callable[[BatchRequest], Awaitable[BatchAnswer]]
"""Raises nothing that is the request's fault: that is an answer, too."""

OnDone = Callable[[int, int], None]
"""Told (answers, requests) after each answer, earlier runs' included."""


async def answer_all(requests: BatchInput, output: BatchOutput, answer: Answer, width: int, on_done: OnDone) -> None:
    """Answer what has no answer yet, `width` requests at a time, in the order of the file; written as they end.

    What an answer or a write raises ends the run: what is not written is not lost, the next run does it.
    """
    waiting = (request for request in requests if request.custom_id not in output.done)
    on_done(len(output.done), len(requests))
    workers = [asyncio.ensure_future(_work(waiting, requests, output, answer, on_done)) for _ in range(width)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _work(
    waiting: Iterator[BatchRequest], requests: BatchInput, output: BatchOutput, answer: Answer, on_done: OnDone
) -> None:
    for request in waiting:  # shared: each takes the next one
        output.write(request.custom_id, await answer(request))
        on_done(len(output.done), len(requests))
