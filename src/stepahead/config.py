"""Settings: `EngineConfig` is what the user asked, `ResolvedConfig` what was decided. Both frozen.

Owns defaults, limits and the four environment variables, which are read from a mapping that is passed in. "auto" and
None are resolved once, here, into a new object. Knows no model, no file, no device.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepahead.backends.base import KV_TYPES
from stepahead.errors import ConfigError

BACKENDS = ("cpu", "reference")
ISAS = ("auto", "scalar", "avx2", "avx512", "neon")
LOG_LEVELS = ("debug", "info", "warning", "error")

DEFAULT_CONTEXT_LENGTH = 32768
MAX_THREADS = 1024
MAX_NUM_SEQS = 256
MAX_CHUNK_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Environment:
    """What STEPAHEAD_ISA, STEPAHEAD_THREADS, STEPAHEAD_LOG and STEPAHEAD_CACHE say; no other variable is read."""

    isa: str = "auto"
    threads: int | None = None
    log: str = "warning"
    cache: Path | None = None  # None: ~/.cache/stepahead

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Environment":
        """Raises ConfigError, naming the variable, for a value that means nothing. Empty is unset."""
        isa = variables.get("STEPAHEAD_ISA") or "auto"
        log = variables.get("STEPAHEAD_LOG") or "warning"
        cache = variables.get("STEPAHEAD_CACHE")
        _one_of("STEPAHEAD_ISA", isa, ISAS)
        _one_of("STEPAHEAD_LOG", log, LOG_LEVELS)
        return cls(isa, _threads(variables.get("STEPAHEAD_THREADS")), log, Path(cache) if cache else None)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the user asked. None means: decide for me. Raises ConfigError for a value out of range.

    mtp: "auto" takes the heads of the file, "off" loads none, anything else is the path of a companion file.
    """

    kv_type: str = "f16"
    threads: int | None = None
    context_length: int | None = None
    backend: str = "cpu"
    max_num_seqs: int = 8
    chunk_tokens: int = 512
    mtp: str | Path = "auto"

    def __post_init__(self) -> None:
        _one_of("kv_type", self.kv_type, KV_TYPES)
        _one_of("backend", self.backend, BACKENDS)
        if self.threads is not None:
            _integer("threads", self.threads, 1, MAX_THREADS)
        if self.context_length is not None:
            _integer("context_length", self.context_length, 2, None)
        _integer("max_num_seqs", self.max_num_seqs, 1, MAX_NUM_SEQS)
        _integer("chunk_tokens", self.chunk_tokens, 1, MAX_CHUNK_TOKENS)
        if self.chunk_tokens < self.max_num_seqs:
            raise ConfigError(
                f"chunk_tokens={self.chunk_tokens} is less than max_num_seqs={self.max_num_seqs}, and every running "
                "sequence needs a row a step: raise chunk_tokens or lower max_num_seqs"
            )
        if not isinstance(self.mtp, str | Path) or not str(self.mtp):
            raise ConfigError(f'mtp={self.mtp!r} is not understood: give "auto", "off" or the path of a companion file')

    def resolve(
        self, file_context_length: int, environment: Environment | None = None, num_cpus: int | None = None
    ) -> "ResolvedConfig":
        """Decide what was left open, from the model file, the environment and the machine (None: this process')."""
        environment = environment or Environment.read(os.environ)
        if self.context_length is not None and self.context_length > file_context_length:
            raise ConfigError(
                f"context_length={self.context_length} is more than the model's {file_context_length}: give at most "
                "that, or leave it out"
            )
        default_cache = Path.home() / ".cache" / "stepahead"
        return ResolvedConfig(
            kv_type=self.kv_type,
            threads=self.threads or environment.threads or num_cpus or physical_cpus(),
            context_length=self.context_length or min(file_context_length, DEFAULT_CONTEXT_LENGTH),
            backend=self.backend,
            max_num_seqs=self.max_num_seqs,
            chunk_tokens=self.chunk_tokens,
            mtp=str(self.mtp),
            isa=environment.isa,
            log=environment.log,
            cache=environment.cache or default_cache,
        )


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """What was decided: nothing is None, nothing is left to guess but "auto" of the instruction set."""

    kv_type: str
    threads: int
    context_length: int
    backend: str
    max_num_seqs: int
    chunk_tokens: int
    mtp: str  # "auto", "off", or a path
    isa: str
    log: str
    cache: Path


def physical_cpus() -> int:
    """Cores that this process may use: two hardware threads of one core count once, where the system tells."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    return len({_siblings(cpu) for cpu in usable})


def _siblings(cpu: int) -> str:
    """The hardware threads of a CPU's core, as Linux lists them; the CPU itself where it does not."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _threads(text: str | None) -> int | None:
    if not text:
        return None
    if not text.strip().isdecimal():
        raise ConfigError(f"STEPAHEAD_THREADS={text!r} is not a number: give 1 to {MAX_THREADS}, or unset it")
    count = int(text)
    _integer("STEPAHEAD_THREADS", count, 1, MAX_THREADS)
    return count


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is unknown: give one of {', '.join(allowed)}")


def _integer(name: str, value: Any, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not an integer")
    if value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name}={value} is out of range: give a value {limit}")
