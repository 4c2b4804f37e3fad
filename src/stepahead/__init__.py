"""stepahead: local LLM inference with multi-layer multi-token prediction. Exact, never slower, never blind.

import stepahead

llm = stepahead.LLM.demo()
print(llm.generate("def fibonacci(n):", stepahead.SamplingParams(max_tokens=64)).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepahead.completion import Completion, StreamChunk
    from stepahead.engine.params import SamplingParams, Speculation
    from stepahead.engine.request import SpeculationStats
    from stepahead.errors import (
        BackendError,
        CapacityError,
        ConfigError,
        ModelFormatError,
        RequestError,
        StepaheadError,
        UnsupportedModelError,
    )
    from stepahead.llm import LLM

__version__ = "0.1.0"

# Public name -> the module that owns it. Imported on first use, so that `stepahead --help` needs neither numpy
# nor the native library.
_HOMES = {
    "LLM": "stepahead.llm",
    "Completion": "stepahead.completion",
    "StreamChunk": "stepahead.completion",
    "SamplingParams": "stepahead.engine.params",
    "Speculation": "stepahead.engine.params",
    "SpeculationStats": "stepahead.engine.request",
    "StepaheadError": "stepahead.errors",
    "BackendError": "stepahead.errors",
    "CapacityError": "stepahead.errors",
    "ConfigError": "stepahead.errors",
    "ModelFormatError": "stepahead.errors",
    "RequestError": "stepahead.errors",
    "UnsupportedModelError": "stepahead.errors",
}

__all__ = [
    "LLM",
    "BackendError",
    "CapacityError",
    "Completion",
    "ConfigError",
    "ModelFormatError",
    "RequestError",
    "SamplingParams",
    "Speculation",
    "SpeculationStats",
    "StepaheadError",
    "StreamChunk",
    "UnsupportedModelError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stepahead' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
