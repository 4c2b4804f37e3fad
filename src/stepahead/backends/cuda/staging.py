"""The way of weights from a mapped file to the device: threads fill pinned buffers, a stream of its own copies them.

What is copied straight out of a mapping goes page by page and by one thread. Here a ring of buffers is filled by
several, while the device copies one that is full, and works on the one before. In the interpreter the buffers are all
there is.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.cuda.device import Device

Bytes = npt.NDArray[np.uint8]

NUM_BUFFERS = 3
BUFFER_BYTES = 32 << 20
"""Of each, on the host and on the device. Pinning costs about a second a gigabyte, so it is done once, for these."""

SMALL_BYTES = 4 << 20
"""Pieces below it get a buffer of their own size: after loading, few and small matrices come."""

STRIPE_BYTES = 1 << 20
MAX_THREADS = 8
"""A thread brings about 5 GB/s out of the page cache, and a PCIe 5 slot takes 50."""


@dataclass(slots=True, eq=False)
class _Slot:
    host: torch.Tensor
    device: torch.Tensor  # of the interpreter, the same one
    copied: "torch.cuda.Event | None" = None  # None: never used
    used: "torch.cuda.Event | None" = None


class Staging:
    """One at a time; its memory is there from the first piece to `close`."""

    def __init__(self, device: Device, threads: int, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._device = device
        self._threads = min(threads, MAX_THREADS)
        self._buffer_bytes = buffer_bytes
        self._slots: list[_Slot] = []
        self._next = 0
        self._pool: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None

    def pieces(self, rows: Bytes, unit: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Of (num_rows, row_bytes): the number of a first row, and the bytes of rows from there on, on the device,
        until the next piece is asked for. All but the last have a multiple of `unit` rows."""
        step = max(self._buffer_bytes // rows.shape[1] // unit, 1) * unit
        for first in range(0, len(rows), step):
            piece = rows[first : first + step]
            slot = self._free_slot(piece.nbytes)
            self._fill(slot, piece.reshape(-1))
            yield first, self._sent(slot, piece.nbytes).view(len(piece), -1)
            if not self._device.is_interpreted:
                slot.used = torch.cuda.current_stream(self._device.torch).record_event()

    def close(self) -> None:
        """Let go of the memory once all of it has been used."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._stream is not None:
            # Of the device there may be other streams, and one that is captured must not be waited for.
            self._stream.synchronize()
            torch.cuda.current_stream(self._device.torch).synchronize()
        self._slots = []

    def _free_slot(self, nbytes: int) -> _Slot:
        if len(self._slots) < NUM_BUFFERS:
            self._slots.append(self._new_slot(nbytes))
            return self._slots[-1]
        self._next = (self._next + 1) % NUM_BUFFERS
        slot = self._slots[self._next]
        if slot.copied is not None:
            slot.copied.synchronize()
        if len(slot.host) < nbytes:  # of a row that is longer than a buffer
            slot = self._slots[self._next] = self._new_slot(nbytes)
        return slot

    def _new_slot(self, nbytes: int) -> _Slot:
        size = nbytes if nbytes < SMALL_BYTES else max(nbytes, self._buffer_bytes)
        if self._device.is_interpreted:
            memory = torch.empty(nbytes, dtype=torch.uint8)
            return _Slot(memory, memory)
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return _Slot(host, torch.empty(size, dtype=torch.uint8, device=self._device.torch))

    def _fill(self, slot: _Slot, piece: Bytes) -> None:
        target = slot.host.numpy()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "stage")

        def copy(start: int) -> None:
            target[start : min(start + STRIPE_BYTES, len(piece))] = piece[start : start + STRIPE_BYTES]

        list(self._pool.map(copy, range(0, len(piece), STRIPE_BYTES)))

    def _sent(self, slot: _Slot, nbytes: int) -> torch.Tensor:
        """The device's bytes; what is launched from now on finds them there."""
        if self._device.is_interpreted:
            return slot.device[:nbytes]
        computing = torch.cuda.current_stream(self._device.torch)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device.torch)
        if slot.used is None:
            self._stream.wait_stream(computing)  # the allocator may have given memory that is still being used
        else:
            self._stream.wait_event(slot.used)
        with torch.cuda.stream(self._stream):
            slot.device[:nbytes].copy_(slot.host[:nbytes], non_blocking=True)
            slot.copied = self._stream.record_event()
        computing.wait_event(slot.copied)
        return slot.device[:nbytes]
