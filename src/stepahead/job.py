"""A request on its way through the engine, with the clock of its caller. Becomes a completion."""

import time

from stepahead.completion import Completion, Timings
from stepahead.engine.request import Request, RequestOutput, Sequence


class Job:
    """A request on its way through the engine, with the clock of its caller."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sequence: Sequence | None = None
        self.started = self.first_token = self.last_token = time.perf_counter()
        self.is_finished = False

    def take(self, output: RequestOutput, now: float) -> None:
        if output.token_ids_delta:
            if self.first_token == self.started:
                self.first_token = now
            self.last_token = now
        self.is_finished = output.finish_reason is not None

    def completion(self) -> Completion:
        sequence = self.sequence
        assert sequence is not None and sequence.finish_reason is not None
        return Completion(
            prompt_token_ids=list(self.request.prompt_ids),
            token_ids=sequence.output_ids,
            text=sequence.text,
            finish_reason=sequence.finish_reason.value,
            stop_reason=sequence.stop_reason,
            seed=self.request.seed,
            speculation=sequence.stats,
            timings=Timings(
                prompt_tokens=len(self.request.prompt_ids),
                cached_tokens=sequence.num_cached_tokens,
                prompt_seconds=self.first_token - self.started,
                generation_seconds=self.last_token - self.first_token,
                generated_tokens=sequence.num_output_tokens,
                num_steps=sequence.num_passes,
            ),
            logprobs=sequence.logprobs,
        )
