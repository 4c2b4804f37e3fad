"""Segments and blocks as torch's allocator cuts them."""

from itertools import pairwise
from random import Random

from stepahead.memory.torch_pool import MIB, TorchPool


def test_sizes_of_segments():
    for nbytes, taken in ((1, 2), (MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB + 1, 12)):
        pool = TorchPool()
        pool.acquire(nbytes)
        assert pool.peak == taken * MIB


def test_blocks_share_a_segment_and_become_one_again():
    pool = TorchPool()
    blocks = [pool.acquire(4 * MIB) for _ in range(5)]
    assert pool.peak == 20 * MIB == pool.nbytes_in_use
    for block in (blocks[3], blocks[1], blocks[2]):
        pool.release(block)
    pool.release(pool.acquire(12 * MIB))
    assert pool.peak == 20 * MIB
    pool.acquire(12 * MIB + 512)  # a whole segment of that size, for no free block is as large
    assert pool.peak == 34 * MIB


def test_the_smallest_free_block_is_taken():
    pool = TorchPool()
    low, _, high, _ = (pool.acquire(size * MIB) for size in (6, 2, 4, 8))
    pool.release(low)
    pool.release(high)
    assert pool.acquire(4 * MIB) is high


def test_a_large_block_is_not_cut_for_less_than_a_mebibyte():
    pool = TorchPool()
    block = pool.acquire(19 * MIB)
    assert block.nbytes == pool.nbytes_in_use == 20 * MIB


def test_small_and_large_do_not_mix():
    pool = TorchPool()
    pool.release(pool.acquire(16 * MIB))
    pool.acquire(MIB)
    assert pool.peak == 18 * MIB


def test_nothing_is_lost():
    random, pool = Random(1), TorchPool()
    held = []
    for _ in range(3000):
        if held and random.random() < 0.5:
            pool.release(held.pop(random.randrange(len(held))))
        else:
            held.append(pool.acquire(int(2 ** random.uniform(0, 25))))
        assert sum(block.nbytes for block in held) == pool.nbytes_in_use <= pool.peak
        places = sorted((block.start, block.start + block.nbytes) for block in held)
        assert all(one[1] <= other[0] for one, other in pairwise(places))
    for block in held:
        pool.release(block)
    assert pool.nbytes_in_use == 0
    assert sum(nbytes for free in pool._free for nbytes, _ in free) == pool.peak
