"""Where sums are split over programs: what that takes is part of a memory plan.

Pure: needs neither torch nor triton, nor a GPU.
"""

from stepahead.backends.base import BLOCK_SIZE

SPLIT_KEYS = 8 * BLOCK_SIZE
"""Part of what the bits are, as BLOCK_SIZE is."""

# The rest of attention's chooses where splits are put together, which no bit depends on.
MAX_PARTED_ROWS = 32
MAX_PARTS_NBYTES = 512 << 20
SHORT_WINDOW = 2 * SPLIT_KEYS  # so few splits are not worth a launch


def attention_splits(num_blocks: int) -> int:
    """That keys in so many blocks could be."""
    return -(-num_blocks // (SPLIT_KEYS // BLOCK_SIZE))


def is_parted(num_rows: int, width: int, max_splits: int, window: int | None) -> bool:
    """Whether splits are taken by programs of their own, and put together by another kernel. width: of all heads."""
    if max_splits == 1 or (window is not None and window <= SHORT_WINDOW):
        return False
    return num_rows <= MAX_PARTED_ROWS and 4 * num_rows * width * max_splits <= MAX_PARTS_NBYTES


def num_splits(num_out: int, num_blocks: int) -> int:
    """In how many parts a product sums K. A property of the matrix, as the order of its sums is: few outputs of many
    inputs are too few programs for a GPU, and each has too much to do."""
    return 4 if num_out <= 8192 and num_blocks >= 32 else 1


def num_float_splits(num_out: int, num_in: int) -> int:
    """The same of weights of 16 bits, which are four times the bytes of 4 bits."""
    return 4 if num_out <= 8192 and num_in >= 2048 else 1
