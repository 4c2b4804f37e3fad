"""What the host computes for one layer of a recorded pass: two calls of each replay, and memory at addresses that stay.

`begin` follows what gives rows and routing, `finish` stands before what reads the result; what is launched in between
runs meanwhile. Padding is not computed: it repeats the last row, as all of a recorded pass's inputs do.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from stepahead.backends.base import Floats, Ints
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.routing import Routing

Compute = Callable[[Floats, Ints, Floats], Floats]
"""Of rows, and of ids and weights as a router leaves them."""


class Mailbox:
    """Host memory, pinned, that rows and routing are copied to, and the result from.

    Shared by all layers of passes with as many rows: one has been waited for before the next one begins, and its result
    leaves on the stream ahead of the rows that the next result waits for. What an error left with the worker is done
    before anything that is asked of it later, and its result written over.
    """

    def __init__(self, device: Device, num_rows: int, width: int, padded_top_k: int, result_width: int) -> None:
        def memory(width: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros((num_rows, width), dtype=dtype, pin_memory=not device.is_interpreted)

        self.rows = memory(width, torch.float32)
        self.ids = memory(padded_top_k, torch.int32)
        self.weights = memory(padded_top_k, torch.float32)
        self.result = memory(result_width, torch.float32)


class HandOver:
    """One layer's; `result` is on the device."""

    def __init__(
        self, device: Device, mailbox: Mailbox, x: torch.Tensor, routing: Routing, compute: Compute,
        worker: ThreadPoolExecutor, num_real: Callable[[], int],
    ) -> None:  # fmt: skip
        """num_real: how many of the rows are no padding, asked for in each replay."""
        self._device = device
        self._mailbox = mailbox
        # These are kept for as long as the recording, whose launches leave there what `begin` reads.
        self._sources = ((mailbox.rows, x), (mailbox.ids, routing.ids), (mailbox.weights, routing.weights))
        self._compute = compute
        self._worker = worker
        self._num_real = num_real
        self._job: Future[None] | None = None
        self.result = torch.empty(mailbox.result.shape, dtype=torch.float32, device=device.torch)

    def begin(self) -> None:
        """The device is still at work on what was launched before, so that these copies cost no time of its own."""
        mailbox, count = self._mailbox, self._num_real()
        assert count <= len(mailbox.rows), "a pass is padded, not cut"
        self._job = None
        if count == 0:
            return
        for target, source in self._sources:
            target[:count].copy_(source[:count], non_blocking=True)
        copied = None if self._device.is_interpreted else torch.cuda.current_stream(self._device.torch).record_event()
        self._job = self._worker.submit(self._work, copied, count)

    def finish(self) -> None:
        """What the worker raised is raised here."""
        if self._job is None:
            self.result.zero_()  # rows of nobody, but numbers
            return
        self._job.result()
        self.result.copy_(self._mailbox.result, non_blocking=True)

    def _work(self, copied: Any, count: int) -> None:
        """On the worker's thread."""
        if copied is not None:
            copied.synchronize()
        mailbox = self._mailbox
        rows, ids, weights, result = (
            each.numpy() for each in (mailbox.rows, mailbox.ids, mailbox.weights, mailbox.result)
        )
        result[:count] = self._compute(rows[:count], ids[:count], weights[:count])
        result[count:] = result[count - 1]
