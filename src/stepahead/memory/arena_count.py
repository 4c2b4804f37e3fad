"""How much memory the CPU backend's pool of activations takes, without taking any: native/core/arena.cpp, counted.

A block is as large as its class and resident as far as it was ever written. What is given back stays for the next
request of its class; beyond a limit, what has been idle the longest goes back to the system.
"""

from dataclasses import dataclass

SMALLEST = 256
MAX_IDLE = 256 << 20
"""Idle memory beyond this goes back to the system, as the pool's own limit says."""


@dataclass(slots=True, eq=False)
class Block:
    """Memory of one class."""

    size_class: int
    touched: int = 0


class ArenaCount:
    """A pool that hands out nothing. peak: the most bytes that were resident at one time, idle ones included."""

    def __init__(self) -> None:
        self.peak = 0
        self.nbytes_idle = 0  # of whole blocks, as the pool says it
        self.nbytes_in_use = 0  # resident
        self._resident = 0
        self._idle: dict[int, list[Block]] = {}  # by class, the oldest first
        self._by_age: dict[Block, None] = {}  # all of these, the oldest first

    def acquire(self, nbytes: int) -> Block:
        size_class = class_of(nbytes)
        idle = self._idle.get(size_class)
        if idle:
            block = idle.pop()
            del self._by_age[block]
            self.nbytes_idle -= class_bytes(size_class)
        else:
            block = Block(size_class)
        if nbytes > block.touched:
            self._resident += nbytes - block.touched
            block.touched = nbytes
            self.peak = max(self.peak, self._resident)
        self.nbytes_in_use += block.touched
        return block

    def release(self, block: Block) -> None:
        nbytes = class_bytes(block.size_class)
        self.nbytes_in_use -= block.touched
        if nbytes > MAX_IDLE:
            self._resident -= block.touched
            return
        self._idle.setdefault(block.size_class, []).append(block)
        self._by_age[block] = None
        self.nbytes_idle += nbytes
        while self.nbytes_idle > MAX_IDLE:
            self._drop(next(iter(self._by_age)))

    def _drop(self, oldest: Block) -> None:
        del self._by_age[oldest]
        self._idle[oldest.size_class].remove(oldest)
        self.nbytes_idle -= class_bytes(oldest.size_class)
        self._resident -= oldest.touched


def class_of(nbytes: int) -> int:
    """Four classes an octave."""
    if nbytes <= SMALLEST:
        return 0
    octave = ((nbytes - 1) // SMALLEST).bit_length() - 1
    return 4 * octave + ((nbytes - 1) >> (octave + 6) & 3) + 1


def class_bytes(size_class: int) -> int:
    if size_class == 0:
        return SMALLEST
    octave, quarter = divmod(size_class - 1, 4)
    return (SMALLEST << octave) // 4 * (5 + quarter)
