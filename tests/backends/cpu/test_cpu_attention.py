"""KV cache and attention of the CPU backend."""

import resource

import numpy as np
import pytest
from cpu_cases import BEST, assert_same_bits, attention_rows, normal, on_all, rows_alone

from stepahead.backends.base import AttentionRows
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.errors import BackendError
from stepahead.gguf import QuantType, dequantize

REFERENCE = ReferenceBackend(int8_activations=True)
KV_TYPES = ["f32", "f16", "q8_0"]
NUM_BLOCKS = 12
# Two sequences over shuffled blocks; block 11 belongs to nobody.
TABLES = [[3, 0, 7, 1], [10, 2, 9, -1]]


def poisoned_kv(backend: CpuBackend, heads: int, head_dim: int, kv_type: str):
    """A cache whose every unwritten number is NaN."""
    kv = backend.new_kv(NUM_BLOCKS, heads, head_dim, kv_type)
    if hasattr(kv, "numpy"):
        kv.numpy()[:] = 0xFF
    else:
        kv.k[:] = np.nan
        kv.v[:] = np.nan
    return kv


def fill(backend: CpuBackend, kv, rng_seed: int, heads: int, head_dim: int, first: int = 0) -> None:
    """Keys and values at positions from `first` to 199 of sequence 0 and to 149 of sequence 1."""
    rng = np.random.default_rng(rng_seed)
    for sequence, length in ((0, 200), (1, 150)):
        positions = range(first, length)
        n = len(positions)
        rows = attention_rows(positions, [0] * n, [sequence] * n, TABLES)
        k, v = normal(rng, n, heads * head_dim), normal(rng, n, heads * head_dim)
        backend.kv_write(kv, backend.upload(k), backend.upload(v), rows)


def attend(backend, q: np.ndarray, rows: AttentionRows, heads: int, head_dim: int, kv_type: str, first: int = 0):
    kv = poisoned_kv(backend, heads, head_dim, kv_type)
    fill(backend, kv, 1, heads, head_dim, first)
    y = backend.attention(backend.upload(q), kv, rows, head_dim**-0.5)
    return y.numpy() if hasattr(y, "numpy") else y


def some(rows: AttentionRows, part: slice) -> AttentionRows:
    return AttentionRows(
        rows.positions[part].copy(),
        rows.first_keys[part].copy(),
        rows.sequences[part].copy(),
        rows.block_tables,
        rows.slots[part].copy(),
    )


POSITIONS = [0, 1, 7, 8, 62, 63, 64, 65, 127, 128, 130, 199, 149, 149, 66, 191]
FIRSTS = [0, 0, 0, 1, 0, 63, 64, 2, 63, 128, 3, 0, 140, 0, 61, 64]
SEQUENCES = [0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0]
ROWS = attention_rows(POSITIONS, FIRSTS, SEQUENCES, TABLES)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(("heads", "group", "head_dim"), [(2, 3, 64), (1, 12, 128), (3, 1, 32), (8, 8, 96), (2, 5, 64)])
def test_attention_near_the_reference_and_alike_on_all(kv_type: str, heads: int, group: int, head_dim: int) -> None:
    q = 3 * normal(np.random.default_rng(0), len(POSITIONS), heads * group * head_dim)
    y = on_all(lambda b: attend(b, q, ROWS, heads, head_dim, kv_type))
    expected = attend(REFERENCE, q, ROWS, heads, head_dim, kv_type)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    rows_alone(lambda b, part: attend(b, q[part], some(ROWS, part), heads, head_dim, kv_type), len(POSITIONS))


def one_sequence(pairs: list[tuple[int, int]]) -> AttentionRows:
    """Rows of sequence 0 that see keys from the first to the second number of a pair."""
    firsts, positions = zip(*pairs, strict=True)
    return attention_rows(positions, firsts, [0] * len(pairs), TABLES)


SIGHTS = {
    "a prompt chunk": [(0, last) for last in range(50, 70)],
    "a window": [(last - 40, last) for last in range(90, 110)],
    "nothing in common": [(0, 3), (5, 6), (40, 63), (64, 64), (7, 31), (128, 199), (31, 32), (0, 199), (190, 199)],
    "a chunk that nobody sees": [(130, 140), (5, 20), (150, 150), (0, 63)],
    "backwards": [(0, last) for last in range(199, 130, -7)],
}


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("sights", SIGHTS)
@pytest.mark.parametrize(
    ("heads", "group", "head_dim"), [(2, 4, 64), (1, 6, 128), (2, 1, 32), (1, 11, 96), (1, 70, 32)]
)
def test_rows_that_share_keys(kv_type: str, sights: str, heads: int, group: int, head_dim: int) -> None:
    rows = one_sequence(SIGHTS[sights])
    if sights == "a chunk that nobody sees":
        rows.block_tables[0, 1] = -1
    q = normal(np.random.default_rng(0), len(rows.positions), heads * group * head_dim)

    def compute(b, part: slice = slice(None)) -> np.ndarray:
        kv = poisoned_kv(b, heads, head_dim, kv_type)
        fill(b, kv, 1, heads, head_dim)
        y = b.attention(b.upload(q[part]), kv, some(rows, part), head_dim**-0.5)
        return y.numpy() if hasattr(y, "numpy") else y

    np.testing.assert_allclose(on_all(compute), compute(REFERENCE), rtol=0, atol=1e-5)
    rows_alone(compute, len(rows.positions))


@pytest.mark.parametrize("head_dim", [20, 64])
def test_a_value_that_is_no_number_reaches_those_who_see_it(head_dim: int) -> None:
    at = one_sequence([(position, position) for position in range(12)])
    k, v = normal(np.random.default_rng(0), 2, 12, 2 * head_dim)
    v[10] = np.inf
    rows = one_sequence([(0, 9), (0, 10), (0, 11), (11, 11)])
    q = normal(np.random.default_rng(1), 4, 6 * head_dim)

    def compute(b: CpuBackend) -> np.ndarray:
        kv = poisoned_kv(b, 2, head_dim, "f16")
        b.kv_write(kv, b.upload(k), b.upload(v), at)
        return b.attention(b.upload(q), kv, rows, 0.125).numpy()

    assert np.isfinite(on_all(compute)).all(axis=1).tolist() == [True, False, False, True]


@pytest.mark.parametrize("group", [8, 12, 16, 32])
def test_a_group_that_threads_divide(group: int) -> None:
    rows = one_sequence([(0, 199)])
    q = normal(np.random.default_rng(0), 1, group * 64)
    y = on_all(lambda b: attend(b, q, rows, 1, 64, "f16"))
    np.testing.assert_allclose(y, attend(REFERENCE, q, rows, 1, 64, "f16"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
@pytest.mark.parametrize("head_dim", [1, 5, 20, 36, 72])
def test_heads_that_are_not_whole_vectors(kv_type: str, head_dim: int) -> None:
    q = normal(np.random.default_rng(0), len(POSITIONS), 6 * head_dim)
    y = on_all(lambda b: attend(b, q, ROWS, 1, head_dim, kv_type))
    np.testing.assert_allclose(y, attend(REFERENCE, q, ROWS, 1, head_dim, kv_type), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_keys_outside_the_window_are_never_read(kv_type: str) -> None:
    # Positions below 50 were never written: NaN that multiplication by zero would let through.
    positions, firsts = [199, 70, 50, 120], [64, 50, 50, 100]
    rows = attention_rows(positions, firsts, [0, 0, 1, 1], TABLES)
    q = normal(np.random.default_rng(0), 4, 2 * 64)
    assert np.isfinite(on_all(lambda b: attend(b, q, rows, 1, 64, kv_type, first=50))).all()


def test_a_block_that_lies_elsewhere_gives_the_same_bits() -> None:
    rng = np.random.default_rng(3)
    q, k, v = normal(rng, 1, 256), normal(rng, 100, 64), normal(rng, 100, 64)

    def compute(table: list[list[int]]) -> np.ndarray:
        kv = poisoned_kv(BEST, 1, 64, "f16")
        rows = attention_rows(range(100), [0] * 100, [0] * 100, table)
        BEST.kv_write(kv, BEST.upload(k), BEST.upload(v), rows)
        return BEST.attention(BEST.upload(q), kv, attention_rows([99], [0], [0], table), 0.125).numpy()

    assert_same_bits(compute([[0, 1]]), compute([[11, 4]]))


def stored_keys(b: CpuBackend, x: np.ndarray, kv_type: str) -> np.ndarray:
    """Bytes of the first block's keys after x is written to its first positions, (64, bytes of a row)."""
    kv = b.new_kv(1, 1, x.shape[1], kv_type)
    rows = attention_rows(range(len(x)), [0] * len(x), [0] * len(x), [[0]])
    b.kv_write(kv, b.upload(x), b.upload(-x), rows)
    memory = kv.numpy()
    return memory[: len(memory) // 2].reshape(64, -1)[: len(x)].copy()


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_what_is_stored(kv_type: str) -> None:
    x = normal(np.random.default_rng(4), 6, 67) * np.float32([[1], [1e-6], [1e4], [1e-9], [3e37], [0]])
    x[0, 40:44] = [np.nan, np.inf, -np.inf, -np.nan]
    x[1, :3] = [65504, 65519.9, 65520]
    with np.errstate(over="ignore"):
        expected = x.astype({"f16": np.float16, "f32": np.float32}[kv_type])
    stored = on_all(lambda b: stored_keys(b, x, kv_type)).view(expected.dtype)
    assert_same_bits(stored.astype(np.float32), expected.astype(np.float32))


def test_what_is_stored_in_q8_0() -> None:
    sizes = [1, 1e-3, 1e-6, 1e-9, 0, 1e4, 1e6, 1e8, 1, 1]
    x = normal(np.random.default_rng(4), len(sizes), 64) * np.float32(sizes)[:, None]
    x[5, 0] = -x[5].max() * 2
    x[8, 3], x[9, 40] = np.nan, -np.inf
    stored = on_all(lambda b: stored_keys(b, x, "q8_0"))
    decoded = dequantize(stored, QuantType.Q8_0)
    kv = REFERENCE.new_kv(1, 1, 64, "q8_0")
    REFERENCE.kv_write(kv, x[:7], x[:7], attention_rows(range(7), [0] * 7, [0] * 7, [[0]]))
    assert np.array_equal(decoded[:7], kv.k[:7, 0])
    assert np.isnan(decoded[7]).all()  # amax / 127 is beyond binary16
    assert np.isnan(decoded[8, :32]).all()
    assert np.isnan(decoded[9, 32:]).all()
    assert np.isfinite(decoded[8, 32:]).all()


def test_every_float_that_matters_becomes_the_nearest_half() -> None:
    # All halves, the midpoints between them, and the floats beside those.
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
    middle[-1] = 65520.0
    x = np.concatenate([halves, middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(0))])
    x = np.pad(np.concatenate([x, -x]), (0, -2 * len(x) % 64)).reshape(64, -1)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    assert on_all(lambda b: stored_keys(b, x, "f16")).tobytes() == expected.tobytes()


def test_scores_of_any_size() -> None:
    rng = np.random.default_rng(5)
    rows = attention_rows([149], [0], [1], TABLES)
    for size in (0.0, 1e-30, 1e3, 1e18):
        q = np.float32(size) * normal(rng, 1, 64)
        y = on_all(lambda b, q=q: attend(b, q, rows, 1, 64, "f32"))
        np.testing.assert_allclose(y, attend(REFERENCE, q, rows, 1, 64, "f32"), rtol=0, atol=1e-4)
    for bad in (np.nan, np.inf):
        q[0, 3] = bad
        assert np.isnan(on_all(lambda b, q=q: attend(b, q, rows, 1, 64, "f32"))).all()


def test_a_later_write_wins_on_every_thread_count() -> None:
    x = normal(np.random.default_rng(6), 50, 4 * 32)
    rows = attention_rows([5] * 50, [0] * 50, [0] * 50, [[0]])

    def stored(b) -> np.ndarray:
        kv = b.new_kv(1, 4, 32, "f32")
        b.kv_write(kv, b.upload(x), b.upload(x), rows)
        return kv.numpy().view(np.float32).reshape(2, 4, 64, 32)[:, :, 5].copy()

    assert_same_bits(on_all(stored)[0].reshape(-1), x[-1])


def test_untouched_blocks_cost_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kv = BEST.new_kv(4_000, 8, 128, "f32")  # 2 GB of address space
    assert (kv.num_blocks, kv.nbytes) == (4_000, 4_000 * 8 * 64 * 128 * 4 * 2)
    BEST.kv_write(kv, BEST.zeros(1, 1024), BEST.zeros(1, 1024), attention_rows([0], [0], [0], [[3999]]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_what_does_not_fit_is_refused() -> None:
    b, q = BEST, BEST.zeros(1, 128)
    kv = b.new_kv(NUM_BLOCKS, 1, 64, "f16")
    good = {"positions": [70], "first_keys": [0], "sequences": [0], "block_tables": [[3, 11]]}

    def attention(**changes: object) -> None:
        fields = {name: np.array(values, np.int32) for name, values in {**good, **changes}.items()}
        b.attention(q, kv, AttentionRows(**fields, slots=np.zeros(1, np.int32)), 1.0)

    attention()
    bad = {
        "beyond 2 blocks": {"positions": [128]},
        "sees keys -1": {"first_keys": [-1]},
        "sees keys 71 to 70": {"first_keys": [71]},
        "rows of block_tables": {"sequences": [1]},
        "needs block -1": {"block_tables": [[-1, 3]]},
        "needs block 12 of 12": {"block_tables": [[0, 12]]},
        "rows beside": {"positions": [70, 70]},
    }
    for message, changes in bad.items():
        with pytest.raises(BackendError, match=message):
            attention(**changes)
    attention(block_tables=[[-1, 3]], first_keys=[64])  # a block that is not needed may be missing
    rows = attention_rows([0], [0], [0], [[0]])
    for slot in (-1, NUM_BLOCKS * 64):
        rows.slots[0] = slot
        with pytest.raises(BackendError, match="slots"):
            b.kv_write(kv, b.zeros(1, 64), b.zeros(1, 64), rows)
    rows.slots[0] = 0
    with pytest.raises(BackendError, match="heads of 64"):
        b.kv_write(kv, b.zeros(1, 128), b.zeros(1, 128), rows)
    with pytest.raises(BackendError, match="multiple of 1 heads of 64"):
        b.attention(b.zeros(1, 96), kv, rows, 1.0)
    with pytest.raises(BackendError, match="int32"):
        b.attention(q, kv, AttentionRows(*[np.zeros(1)] * 3, np.zeros((1, 1)), np.zeros(1)), 1.0)


def test_caches_that_cannot_be_are_refused() -> None:
    with pytest.raises(BackendError, match="multiple of 32, not 80"):
        BEST.new_kv(1, 1, 80, "q8_0")
    with pytest.raises(BackendError, match="'q4_0' is unknown"):
        BEST.new_kv(1, 1, 64, "q4_0")
    with pytest.raises(BackendError, match="no sensible size"):
        BEST.new_kv(0, 1, 64, "f16")
    with pytest.raises(BackendError, match="more than any memory"):
        BEST.new_kv(2**30, 2**10, 2**10, "f16")


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_block_is_copied_whole(kv_type: str) -> None:
    kv = BEST.new_kv(3, 2, 64, kv_type)
    x = normal(np.random.default_rng(8), 192, 128)
    rows = attention_rows(range(192), [0] * 192, [0] * 192, [[0, 1, 2]])
    BEST.kv_write(kv, BEST.upload(x), BEST.upload(-x), rows)
    before = kv.numpy().reshape(2, 3, -1).copy()
    BEST.copy_block(kv, 2, 0)
    after = kv.numpy().reshape(2, 3, -1)
    assert (after[:, 0] == before[:, 2]).all() and not (before[:, 0] == before[:, 2]).all()
    assert (after[:, 1:] == before[:, 1:]).all()
    with pytest.raises(BackendError, match="copy_block: 0 to 3, there are 3 blocks"):
        BEST.copy_block(kv, 0, 3)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_block_is_read_and_written(kv_type: str) -> None:
    kv, other = (BEST.new_kv(count, 2, 64, kv_type) for count in (3, 5))
    x = normal(np.random.default_rng(8), 192, 128)
    BEST.kv_write(kv, BEST.upload(x), BEST.upload(-x), attention_rows(range(192), [0] * 192, [0] * 192, [[0, 1, 2]]))
    whole, part = BEST.read_block(kv, 1, 64), BEST.read_block(kv, 1, 10)
    assert whole.shape == (kv.nbytes // 3,) and (whole.reshape(2, -1) == kv.numpy().reshape(2, 3, -1)[:, 1]).all()
    by_row = part.reshape(2, 2, 64, -1)
    assert (by_row[:, :, :10] == whole.reshape(2, 2, 64, -1)[:, :, :10]).all() and not by_row[:, :, 10:].any()
    BEST.write_block(other, 4, whole)
    assert (other.numpy().reshape(2, 5, -1)[:, 4] == kv.numpy().reshape(2, 3, -1)[:, 1]).all()
    with pytest.raises(BackendError, match="read_block: 3, there are 3 blocks"):
        BEST.read_block(kv, 3, 64)
    for block, data in ((5, whole), (0, whole[:-2])):
        with pytest.raises(BackendError, match=r"write_block: .* there are 5 blocks of"):
            BEST.write_block(other, block, data)
