"""A model loaded again with the same cache_dir goes on from what it computed before, with the same text and drafts."""

import random
import stat
from pathlib import Path

import pytest

from stepahead import LLM, ConfigError, SamplingParams, Speculation

DRAFTING = Speculation("mtp", 3, adaptive=False)
PARAMS = SamplingParams(max_tokens=12, temperature=1.0, seed=5, ignore_eos=True)


def prompt_of(length, seed=0):
    return [random.Random(seed * 10_000 + number).randrange(200) for number in range(length)]


TEXT = prompt_of(2600)


@pytest.fixture
def load(model_path, tmp_path):
    def opened(folder="cache", model="f32", **settings):
        cache_dir = None if folder is None else tmp_path / folder
        return LLM(model_path(model), cache_dir=cache_dir, **{"threads": 1, "max_num_seqs": 2, **settings})

    return opened


def answer(llm, prompt):
    completion = llm.generate(prompt, PARAMS, DRAFTING)
    return completion.token_ids, completion.speculation


def cached(llm, prompt):
    """How much of a prompt was found, and what became of it."""
    before = llm.metrics.num_reused_tokens
    told = answer(llm, prompt)
    return llm.metrics.num_reused_tokens - before, told


def files(folder: Path):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix == ".record")


@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0"])
def test_a_restart(load, kv_type):
    with load(kv_type=kv_type) as first:
        expected = answer(first, TEXT)
    with load(kv_type=kv_type) as second:
        assert cached(second, TEXT) == (2599, expected)
    rng = random.Random(3)
    for at in (2048, *(rng.randrange(2560, 2600) for _ in range(2))):
        other = [*TEXT[:at], (TEXT[at] + 1) % 200, *prompt_of(40, 9)]
        with load(kv_type=kv_type) as warm, load(None, kv_type=kv_type) as cold:
            num_cached, told = cached(warm, other)
            assert num_cached == at
            assert told == answer(cold, other)


def test_turns_over_restarts(load):
    """A conversation that goes on, each turn by another process."""
    text, known = TEXT[:700], 0
    with load(None) as cold:
        for turn in range(4):
            with load() as warm:
                num_cached, told = cached(warm, text)
            assert num_cached == known
            assert told[0] == answer(cold, text)[0]
            known = len(text) + 11
            text = [*text, *told[0], *prompt_of(300, turn)]


def test_other_models_and_types_find_nothing(load):
    with load() as first:
        answer(first, TEXT)
    for settings in ({"kv_type": "f32"}, {"model": "q8_0"}, {"device": "reference"}, {"mtp": "off"}):
        with load(**settings) as other:
            speculation = Speculation("off") if settings.get("mtp") else DRAFTING
            other.generate(TEXT[:600], PARAMS, speculation)
            assert other.metrics.num_reused_tokens == 0, settings
    with load() as again:
        assert cached(again, TEXT)[0] == 2599


def test_other_heads_of_the_same_trunk_find_it(model_path, tmp_path):
    trunk, heads, others = model_path("f32", "trunk"), model_path("f32", "heads"), model_path("f32", "heads", seed=7)
    with LLM(trunk, mtp=heads, cache_dir=tmp_path, threads=1) as first:
        answer(first, TEXT)
    with LLM(trunk, mtp=others, cache_dir=tmp_path, threads=1) as second:
        num_cached, told = cached(second, TEXT)
        assert num_cached == 2599
    with LLM(trunk, mtp=others, threads=1) as cold:
        assert told[0] == answer(cold, TEXT)[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_damaged_files_are_computed_again(load, damage):
    with load() as first:
        expected = answer(first, TEXT)
        folder = Path(first.config.cache_dir)
    rng = random.Random(1)
    for path in files(folder):
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif damage == "cut":
            del data[rng.randrange(len(data)) :]
        path.unlink()
        if damage != "gone":
            path.write_bytes(b"" if damage == "empty" else data)
    with load() as second:
        assert cached(second, TEXT) == (0, expected)
    with load() as third:
        assert cached(third, TEXT) == (2599, expected)


def test_the_folder_is_the_owners_and_keeps_its_budget(load):
    with load(cache_dir_gb=0.002) as llm:
        folder = Path(llm.config.cache_dir)
        for seed in range(6):
            answer(llm, prompt_of(600, seed))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert files(folder)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files(folder))
    assert sum(path.stat().st_size for path in files(folder)) <= 0.002 * 1e9


def test_a_folder_that_cannot_be_used(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        load("file")
    with load(), pytest.raises(ConfigError, match="another process"):
        load()


def test_memory_for_the_cache(load):
    with load(None, cache_gb=0) as llm:
        answer(llm, TEXT)
        assert cached(llm, TEXT)[0] == 0
    with load(None, cache_gb=0.001) as small, load(None, cache_gb=0.5, max_num_seqs=1) as large:
        for llm in (small, large):
            for seed in range(4):
                answer(llm, prompt_of(2600, seed))
        assert small.metrics.cache_nbytes <= 0.001 * 1e9
        assert cached(large, TEXT)[0] == 2599  # more texts than one context has blocks for
