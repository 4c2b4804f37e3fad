"""Tokens chosen on the device are those that the host's sampler chooses, or left to it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from stepahead.backends.base import SampleRows  # noqa: E402
from stepahead.backends.cuda.device import Device  # noqa: E402
from stepahead.backends.cuda.host_arrays import HostArrays  # noqa: E402
from stepahead.backends.cuda.kernels.sample import LISTED, REACH, TILE, sample  # noqa: E402
from stepahead.backends.cuda.launch import Launcher  # noqa: E402
from stepahead.backends.cuda.sampling import SampleInputs  # noqa: E402
from stepahead.engine.gumbel import GUMBEL_MAX, GUMBEL_MIN  # noqa: E402
from stepahead.engine.params import SamplingParams  # noqa: E402
from stepahead.engine.sampler import Sampled, Sampler, SamplerState, Shortlist  # noqa: E402

DEVICE = Device.open()
NUM_COLUMNS = 2500  # two tiles, the last ragged
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy warns of infinities, a GPU does not


def sampled(logits, settings, seed=3, position=9, ids=None, is_plain=None) -> list[Sampled | None]:
    """One row of `logits` for each of `settings`."""
    params = [SamplingParams(**each) for each in settings]
    count = len(params)
    rows = SampleRows(
        seeds=np.full(count, seed, np.uint64),
        positions=np.full(count, position, np.int64),
        temperatures=np.array([each.temperature for each in params], np.float64),
        top_k=np.array([each.top_k for each in params], np.int32),
        top_p=np.array([each.top_p for each in params], np.float64),
        min_p=np.array([each.min_p for each in params], np.float64),
        is_plain=np.ones(count, np.bool_) if is_plain is None else np.array(is_plain),
    )
    arrays = HostArrays(DEVICE.torch)
    made = sample(
        Launcher(), arrays(np.ascontiguousarray(logits, np.float32)), SampleInputs(rows, arrays),
        None if ids is None else arrays(ids),
    )  # fmt: skip
    tokens, leads = made.ids().tolist(), made.margins().tolist()
    return [Sampled(token, lead) if token >= 0 else None for token, lead in zip(tokens, leads, strict=True)]


def host(logits, setting, seed=3, position=9, ids=None) -> Sampled:
    shortlist = None if ids is None else Shortlist(ids, 10**6)
    return Sampler().sample(logits, SamplerState(SamplingParams(**setting), seed), position, shortlist)


def assert_same(logits, settings, **where) -> None:
    made = sampled(logits, settings, **where)
    for row, setting, found in zip(logits, settings, made, strict=True):
        expected = host(row, setting, **where)
        assert found is not None, f"{setting} was left to the host"
        assert found.token_id == expected.token_id, setting
        assert found.margin == pytest.approx(expected.margin, rel=1e-5, abs=1e-6), setting


SETTINGS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 20},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 2.0, "top_k": NUM_COLUMNS},
]


def test_the_hosts_tokens() -> None:
    logits = (np.random.default_rng(6).standard_normal((len(SETTINGS), NUM_COLUMNS)) * 5).astype(np.float32)
    assert_same(logits, SETTINGS, position=2**33 + 5)


@pytest.mark.parametrize("seed", [2**64 - 1, 2**63])
def test_seeds_have_64_bits(seed) -> None:
    assert_same(np.zeros((1, 300), np.float32), [{"temperature": 1.0}], seed=seed)


def test_a_shortlist_has_the_noise_of_its_ids() -> None:
    random = np.random.default_rng(5)
    ids = random.permutation(100_000)[:300].astype(np.int32)
    logits = random.standard_normal((3, 300)).astype(np.float32) * 4
    settings = [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 9, "top_p": 0.9}]
    assert_same(logits, settings, ids=ids)


def test_columns_without_an_id_have_no_effect() -> None:
    """Nearly all of a tile, and all of the next; they hold what would win, or what would be left to the host."""
    random = np.random.default_rng(4)
    ids = np.full(TILE + 40, -1, np.int32)
    ids[:300] = random.permutation(100_000)[:300]
    settings = [{}, {"temperature": 1.0, "min_p": 0.01}, {"temperature": 1.0, "top_k": 9, "top_p": 0.9}]
    logits = np.tile(np.resize(np.array([50, np.nan, np.inf], np.float32), len(ids)), (3, 1))
    logits[:, :300] = random.standard_normal((3, 300)).astype(np.float32) * 4
    assert_same(logits, settings, ids=ids)


def test_ties_go_to_the_lowest_column() -> None:
    logits = np.zeros((3, NUM_COLUMNS), np.float32)
    logits[:, [2400, 2100, 30]] = 7.0
    logits[1, 30] = logits[2, 30] = logits[2, 2100] = -7.0
    logits[2, 2400] = 0.0
    logits[2, 0] = -0.0  # equals the others
    settings = [{}, {}, {"temperature": 1e-9, "top_k": 1}]
    assert [each.token_id for each in sampled(logits, settings)] == [30, 2100, 0]
    assert_same(logits, settings)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_what_is_no_number_is_left_to_the_host(bad) -> None:
    logits = np.zeros((2, NUM_COLUMNS), np.float32)
    logits[0, 2321] = np.float32(bad)
    logits[1, 77] = 1.0
    first, second = sampled(logits, [{}, {}])
    assert first is None and second.token_id == 77
    assert sampled(np.full((1, 40), -np.inf), [{"temperature": 1.0}]) == [None]


def test_forbidden_columns_never_win() -> None:
    logits = np.full((2, NUM_COLUMNS), -np.inf, np.float32)
    logits[:, 2210] = -5.0
    for found in sampled(logits, [{}, {"temperature": 1.0, "top_p": 0.9}]):
        assert found == Sampled(2210, np.inf)


def test_a_list_that_may_lack_columns_decides_nothing() -> None:
    """A tile names LISTED columns: more of them in the nucleus, or among the best k, and the host has to choose."""
    crowded = np.full((2, TILE), -9.0, np.float32)
    crowded[:, : LISTED + 1] = np.linspace(1.0, 1.1, LISTED + 1)
    settings = [{"temperature": 1.0, "top_k": LISTED + 1}, {"temperature": 1.0, "top_p": 0.97}]
    assert sampled(crowded, settings) == [None, None]
    assert_same(crowded, [{"temperature": 1.0, "top_k": LISTED}, {"temperature": 1.0, "top_p": 0.5}])


def test_rows_do_not_know_each_other() -> None:
    random, settings = np.random.default_rng(8), [{"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0}]
    logits = random.standard_normal((len(settings), 300)).astype(np.float32) * 2
    together = sampled(logits, settings)
    logits[1:] = np.nan
    assert sampled(logits, settings)[0] == together[0]
    assert sampled(logits[:1], settings[:1]) == together[:1]


def test_what_is_not_plain_is_left_to_the_host() -> None:
    logits = np.eye(2, 50, dtype=np.float32)
    assert sampled(logits, [{}, {}], is_plain=[False, True])[0] is None


def test_the_reach_is_that_of_the_noise() -> None:
    assert pytest.approx(GUMBEL_MAX - GUMBEL_MIN + 1e-6, rel=1e-15) == REACH
