"""The loop: propose, schedule, forward, verify, commit, observe. Everything else is a room it calls.

Owns the order of a step and what an abort does to it. Knows nothing about text, files or threads: one thread calls
`add` and `step`; `abort` alone may be called from anywhere, a signal handler included.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

from stepahead.backends.base import Tensor
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.cycle_queue import CycleQueue
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.request import Request, RequestOutput, Sequence, Verdict
from stepahead.engine.runner import ModelRunner, StepInterrupted
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.errors import RequestError
from stepahead.speculative.proposer import Proposer
from stepahead.speculative.verify import verify

Observe = Callable[[ScheduledBatch, Tensor, Seq[Verdict | None]], None]
"""Proposer.observe, or who takes its place."""


class Engine:
    """Runs requests to their end, several at once, each with the bits it would have alone."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        proposer: Proposer,
        sampler: Sampler,
        clock: Callable[[], float] = time.perf_counter,
        cycles: CycleQueue | None = None,
    ) -> None:
        """`scheduler` works on the runner's KV cache and tells the proposer what it drops; clock: seconds; cycles: of a
        device that runs ahead of the host, where it can."""
        self.runner = runner
        self.scheduler = scheduler
        self.proposer = proposer
        self.sampler = sampler
        self.cycles = cycles
        self.metrics = runner.metrics
        self._clock = clock
        self._unfinished: dict[int, Sequence] = {}  # until its last output is returned
        self._outputs: list[RequestOutput] = []  # not yet returned
        runner.checkpoint = self._checkpoint
        scheduler.on_admit = self._begin
        scheduler.copy_block = runner.copy_block

    @property
    def has_unfinished(self) -> bool:
        return bool(self._unfinished)

    def add(self, request: Request) -> Sequence:
        """Queue a request; its sequence may be read between steps. Raises RequestError or CapacityError."""
        if request.request_id in self._unfinished:
            raise RequestError(f"request_id={request.request_id} is running already: give each request its own")
        sequence = self.scheduler.add(request)
        self._unfinished[request.request_id] = sequence
        return sequence

    def abort(self, request_id: int) -> None:
        """End a request soon: a pass that holds it is abandoned between layers. A finished one stays as it is.

        Safe from any thread: it looks up, and sets one flag. The next `step` gives the request's last output.
        """
        sequence = self._unfinished.get(request_id)
        if sequence is not None:
            sequence.is_aborted = True

    def step(self) -> list[RequestOutput]:
        """One pass of the trunk, and what it added to each request. Another one may be on its way when this returns.

        An error leaves every sequence as it was before the pass, and so does an abort, for the others. What was
        committed before an error is returned by the next step: nothing is lost, and the engine goes on.
        """
        self._outputs += self.scheduler.drop_aborted()
        try:
            if not self._cycle():
                self._pass()
        except StepInterrupted:
            self.metrics.num_interruptions += 1
            self._outputs += self.scheduler.drop_aborted()
        outputs, self._outputs = self._outputs, []
        for output in outputs:
            if output.finish_reason is not None:
                del self._unfinished[output.request_id]
        return outputs

    # --8<-- [start:pass]
    def _pass(self) -> None:
        timed, started = self.metrics.timed, self._clock()
        with timed("propose"):
            self.proposer.propose(self.scheduler.running)
        batch = self.scheduler.schedule()
        if not batch.rows:
            self.scheduler.rest()
            return
        with timed("forward"):
            output = self.runner.forward(batch)
        with timed("verify"):
            verdicts = verify(batch, LogitRows.of_pass(self.runner.backend, output), self.sampler)
        self._commit(batch, verdicts, output.hidden, self.proposer.observe)
        self.scheduler.learn(batch, 1e3 * (self._clock() - started))

    def _commit(self, batch: ScheduledBatch, verdicts: Seq[Verdict | None], hidden: Tensor, observe: Observe) -> None:
        with self.metrics.timed("commit"):
            outputs = self.scheduler.commit(batch, verdicts)
            self._outputs += outputs
            self.metrics.count_step(batch, outputs)
            try:
                observe(batch, hidden, verdicts)
            finally:
                # After the proposer has seen the rows: snapshots hold what the heads need of them.
                self.scheduler.retire()
                self.metrics.count_cache(self.scheduler.prefix_cache)

    # --8<-- [end:pass]

    def _cycle(self) -> bool:
        """All of it by the device, and the next one launched before this one is committed. False: it is not for this
        step."""
        if self.cycles is None:
            return False
        with self.metrics.timed("forward"):
            finished = self.cycles.next()
        if finished is None:
            return False
        try:
            self._commit(finished.batch, finished.verdicts, finished.result.hidden, self.cycles.observe)
        except BaseException:
            self.cycles.drop()  # the device went on from what is not committed
            raise
        return True

    def _begin(self, sequence: Sequence) -> None:
        self.metrics.count_admission(sequence)
        self.proposer.begin(sequence)

    def _checkpoint(self) -> None:
        """Between layers: give up a pass that someone no longer waits for."""
        if any(sequence.is_aborted for sequence in self.scheduler.running):
            raise StepInterrupted
