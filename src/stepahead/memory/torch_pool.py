"""How much memory torch's allocator takes of a GPU, without taking any: segments, and the blocks cut from them.

A pool keeps what it has once taken. Blocks of 1 MiB or less come from segments of 2 MiB, others below 10 MiB from
segments of 20 MiB, and larger ones have segments of their own, of whole 2 MiB; a request gets the smallest free block
that is large enough, its rest stays free, and free neighbours become one. That is how torch does it unless the
variable PYTORCH_CUDA_ALLOC_CONF says otherwise.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

MIB = 1 << 20
GRAIN = 512
SMALL = MIB  # requests up to it
SMALL_SEGMENT, LARGE_SEGMENT, SEGMENT_GRAIN = 2 * MIB, 20 * MIB, 2 * MIB
OWN_SEGMENT = 10 * MIB  # requests from it on


@dataclass(slots=True, eq=False)
class Block:
    nbytes: int
    start: int  # among all segments of the pool, which do not touch
    is_small: bool
    is_free: bool = False
    before: "Block | None" = None  # of the same segment
    after: "Block | None" = None

    @property
    def key(self) -> tuple[int, int]:
        return self.nbytes, self.start


class TorchPool:
    """A pool that hands out nothing. peak: bytes of its segments; nbytes_in_use: of blocks that are handed out."""

    def __init__(self) -> None:
        self.peak = 0
        self.nbytes_in_use = 0
        self._free: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])  # keys: of large blocks, of small
        self._blocks: dict[int, Block] = {}  # by start

    def acquire(self, nbytes: int) -> Block:
        wanted = max(_up(nbytes, GRAIN), GRAIN)
        is_small = wanted <= SMALL
        free = self._free[is_small]
        place = bisect_left(free, (wanted, 0))
        block = self._blocks[free.pop(place)[1]] if place < len(free) else self._segment(wanted, is_small)
        left = block.nbytes - wanted
        if left >= GRAIN if is_small else left > SMALL:
            rest = Block(left, block.start + wanted, is_small, True, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.nbytes, block.after = wanted, rest
            self._blocks[rest.start] = rest
            insort(free, rest.key)
        block.is_free = False
        self.nbytes_in_use += block.nbytes
        return block

    def release(self, block: Block) -> None:
        self.nbytes_in_use -= block.nbytes
        free = self._free[block.is_small]
        if block.after is not None and block.after.is_free:
            free.remove(block.after.key)
            self._join(block, block.after)
        if block.before is not None and block.before.is_free:
            free.remove(block.before.key)
            block = block.before
            assert block.after is not None
            self._join(block, block.after)
        block.is_free = True
        insort(free, block.key)

    def _segment(self, wanted: int, is_small: bool) -> Block:
        large = LARGE_SEGMENT if wanted < OWN_SEGMENT else _up(wanted, SEGMENT_GRAIN)
        block = Block(SMALL_SEGMENT if is_small else large, self.peak, is_small)
        self.peak += block.nbytes
        self._blocks[block.start] = block
        return block

    def _join(self, first: Block, second: Block) -> None:
        first.nbytes += second.nbytes
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        del self._blocks[second.start]


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
