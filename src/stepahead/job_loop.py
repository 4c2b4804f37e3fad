"""The loop of a caller who waits: steps an engine until jobs are done, and tells what each step brought.

Must not know: models, files. One caller at a time, which is for the caller to see to.
"""

import time
from collections.abc import Callable, Iterator

from stepahead.completion import StreamChunk
from stepahead.engine.engine import Engine
from stepahead.engine.request import RequestOutput
from stepahead.job import Job

OnPrompt = Callable[[int, int], None]


class JobLoop:
    """prepare: called before the first request whose drafts are chosen by what passes cost."""

    def __init__(self, engine: Engine, prepare: Callable[[], None]) -> None:
        self._engine = engine
        self._prepare = prepare

    def run(self, jobs: list[Job]) -> Iterator[list[RequestOutput]]:
        """Whatever goes wrong, none of them stays behind."""
        by_id = {job.request.request_id: job for job in jobs}
        if any(job.request.is_priced for job in jobs):
            self._prepare()
        try:
            for job in jobs:
                job.sequence = self._engine.add(job.request)
            while self._engine.has_unfinished:
                outputs = self._engine.step()
                now = time.perf_counter()
                for output in outputs:
                    by_id[output.request_id].take(output, now)
                yield outputs
        finally:
            for job in jobs:
                if not job.is_finished:
                    self._engine.abort(job.request.request_id)
            while self._engine.has_unfinished:
                self._engine.step()

    def stream(self, job: Job, on_prompt: OnPrompt | None) -> Iterator[StreamChunk]:
        """on_prompt(done, total) hears of each chunk of the prompt."""
        for outputs in self.run([job]):
            if on_prompt is not None and not outputs and job.sequence is not None:
                on_prompt(job.sequence.num_computed_tokens, len(job.request.prompt_ids))
            for output in outputs:
                yield StreamChunk(
                    token_ids_delta=list(output.token_ids_delta),
                    text_delta=output.text_delta,
                    pieces=list(output.pieces),
                    num_accepted=output.num_accepted,
                    finish_reason=output.finish_reason.value if output.finish_reason else None,
                    completion=job.completion() if output.finish_reason else None,
                )
