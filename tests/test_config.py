"""EngineConfig: what is refused, and what is decided where nothing was asked."""

import pytest

from stepahead.config import EngineConfig
from stepahead.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kv_type": "int3"}, r"kv_type='int3' is unknown: give one of f16, f32, q8_0"),
        ({"device": "tpu"}, r"device='tpu' is unknown: give auto, cpu, cuda, a certain GPU as cuda:0, or reference"),
        ({"threads": 0}, r"threads=0 is out of range: give a value from 1 to 1024"),
        ({"threads": 2.0}, r"threads=2.0 is not an integer"),
        ({"threads": True}, r"threads=True is not an integer"),
        ({"context_length": 1}, r"context_length=1 is out of range: give a value at least 2"),
        ({"max_num_seqs": 0}, r"max_num_seqs=0"),
        ({"max_num_seqs": 257}, r"from 1 to 256"),
        ({"chunk_tokens": 0}, r"chunk_tokens=0"),
        ({"chunk_tokens": 7}, r"chunk_tokens=7 is less than max_num_seqs=8.*raise chunk_tokens or lower max_num_seqs"),
        ({"max_step_ms": 0}, r"max_step_ms=0 is no time: give milliseconds above 0, or None for no limit"),
        ({"max_step_ms": float("nan")}, r"max_step_ms=nan"),
        ({"cache_gb": -1}, r"cache_gb=-1 is no size: give gigabytes, 0 to keep nothing, or None for the default"),
        ({"cache_gb": float("inf")}, r"cache_gb=inf"),
        ({"cache_gb": True}, r"cache_gb=True"),
        ({"cache_dir_gb": 0}, r"cache_dir_gb=0 is no size: give gigabytes above 0"),
        ({"cache_dir": ""}, r"cache_dir='' is not understood: give a folder, or None"),
        ({"cache_dir": 3}, r"cache_dir=3"),
        ({"mtp": ""}, r"mtp='' is not understood"),
        ({"mtp": None}, r"mtp=None is not understood"),
        ({"cpu_experts": "most"}, r"cpu_experts='most' is unknown: give \"auto\" or how many layers"),
        ({"cpu_experts": -1}, r"cpu_experts=-1 is out of range: give a value at least 0"),
        ({"cpu_experts": None}, r"cpu_experts=None is not an integer"),
        ({"gpu_layers": 1.0}, r"gpu_layers=1.0 is not an integer"),
        ({"cpu_experts": 3, "gpu_layers": 5}, r"cpu_experts=3 and gpu_layers=5 both say .*: give one of them"),
        ({"cpu_experts": 3, "device": "cpu"}, r"cpu_experts=3 is about a GPU, and device='cpu' uses none"),
        ({"gpu_layers": 0, "device": "reference"}, r"gpu_layers=0 is about a GPU, and device='reference' uses none"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**settings)


def test_unknown_settings_are_refused():
    with pytest.raises(TypeError):
        EngineConfig(kv_typ="f16")


@pytest.mark.parametrize(
    ("asked", "in_file", "resolved"), [(None, 262144, 32768), (None, 4096, 4096), (8192, 262144, 8192), (64, 64, 64)]
)
def test_context_length(asked, in_file, resolved):
    assert EngineConfig(context_length=asked).resolve(in_file).context_length == resolved


def test_a_context_beyond_the_models_is_refused():
    with pytest.raises(ConfigError, match=r"context_length=8192 is more than the model's 4096"):
        EngineConfig(context_length=8192).resolve(4096)


def test_threads_argument_wins_over_environment_over_machine(monkeypatch):
    monkeypatch.setenv("STEPAHEAD_THREADS", "3")
    assert EngineConfig(threads=5).resolve(64).threads == 5
    assert EngineConfig().resolve(64).threads == 3
    monkeypatch.delenv("STEPAHEAD_THREADS")
    assert EngineConfig().resolve(64).threads >= 1


def test_nothing_is_left_open():
    resolved = EngineConfig().resolve(4096)
    answers = {"cache_nbytes", "cache_dir"}  # None: by the context, nowhere
    assert all(getattr(resolved, name) is not None for name in resolved.__slots__ if name not in answers)
