"""Settings: `EngineConfig` is what the user asked, `ResolvedConfig` what was decided. Both frozen.

Owns defaults and limits. None is resolved once, here, into a new object. Knows no model, no file, no device; an
environment variable is read by the one module that it is for.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepahead.backends.base import KV_TYPES
from stepahead.backends.cpu.threads import MAX_THREADS, resolve_threads
from stepahead.errors import ConfigError

DEVICES = re.compile(r"auto|cpu|reference|cuda(:\d{1,4})?")
DRAFT_VOCABS = ("auto", "full")
DRAFT_TYPES = ("file", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0")

AUTO_EXPERTS = "auto"
DEFAULT_CONTEXT_LENGTH = 32768
DEFAULT_MAX_STEP_MS = 200.0
DEFAULT_CACHE_DIR_GB = 16.0
MAX_NUM_SEQS = 256
MAX_CHUNK_TOKENS = 8192
GB = 10**9
AUTO_CONTEXT = "auto"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the user asked. None means: decide for me. Raises ConfigError for a value out of range.

    mtp: "auto" takes the heads of the file, "off" loads none, anything else is the path of a companion file.
    repack: "auto" keeps repacked weights beside the model, "never" makes none, anything else is a folder for them.
    draft_vocab: how many frequent ids a draft may be of, "auto" or "full". draft_type: of the heads' large matrices.
    max_step_ms: what a step may take while text is generated, as far as other prompts can help it; None: no limit.
    context_length: "auto" is decided by stepahead.memory, before this is resolved. memory_gb: what all may take, None:
    what is free, infinite: no matter.
    cpu_experts: of how many layers, the last ones, the routed experts stay in the host's memory beside a GPU; "auto" is
    decided by stepahead.memory, too. gpu_layers says the same the other way round: how many first layers are whole on
    the GPU.
    cache_gb: memory for prefixes that prompts share, None: what two sequences of the whole context take. cache_dir: a
    folder that keeps them, at most cache_dir_gb; None: none does.
    """

    kv_type: str = "f16"
    threads: int | None = None
    context_length: int | str | None = None
    device: str = "auto"
    max_num_seqs: int = 8
    chunk_tokens: int = 512
    max_step_ms: float | None = DEFAULT_MAX_STEP_MS
    mtp: str | Path = "auto"
    repack: str | Path = "auto"
    draft_vocab: str | int = "auto"
    draft_type: str = "file"
    cache_gb: float | None = None
    cache_dir: str | Path | None = None
    cache_dir_gb: float = DEFAULT_CACHE_DIR_GB
    memory_gb: float | None = None
    cpu_experts: int | str = AUTO_EXPERTS
    gpu_layers: int | None = None

    def __post_init__(self) -> None:
        _one_of("kv_type", self.kv_type, KV_TYPES)
        if not isinstance(self.device, str) or not DEVICES.fullmatch(self.device):
            raise ConfigError(
                f"device={self.device!r} is unknown: give auto, cpu, cuda, a certain GPU as cuda:0, or reference"
            )
        if self.threads is not None:
            _integer("threads", self.threads, 1, MAX_THREADS)
        if self.context_length is not None and self.context_length != AUTO_CONTEXT:
            _integer("context_length", self.context_length, 2, None)
        _integer("max_num_seqs", self.max_num_seqs, 1, MAX_NUM_SEQS)
        _integer("chunk_tokens", self.chunk_tokens, 1, MAX_CHUNK_TOKENS)
        if self.chunk_tokens < self.max_num_seqs:
            raise ConfigError(
                f"chunk_tokens={self.chunk_tokens} is less than max_num_seqs={self.max_num_seqs}, and every running "
                "sequence needs a row a step: raise chunk_tokens or lower max_num_seqs"
            )
        if self.max_step_ms is not None:
            _positive("max_step_ms", self.max_step_ms, "time: give milliseconds above 0, or None for no limit")
        if self.cache_gb is not None and self.cache_gb != 0:
            _positive("cache_gb", self.cache_gb, "size: give gigabytes, 0 to keep nothing, or None for the default")
        _positive("cache_dir_gb", self.cache_dir_gb, "size: give gigabytes above 0")
        if self.memory_gb is not None and self.memory_gb != float("inf"):
            _positive(
                "memory_gb", self.memory_gb, "size: give gigabytes above 0, inf for no limit, or None for free ones"
            )
        if self.cache_dir is not None and (not isinstance(self.cache_dir, str | Path) or not str(self.cache_dir)):
            raise ConfigError(f"cache_dir={self.cache_dir!r} is not understood: give a folder, or None")
        if not isinstance(self.mtp, str | Path) or not str(self.mtp):
            raise ConfigError(f'mtp={self.mtp!r} is not understood: give "auto", "off" or the path of a companion file')
        if not isinstance(self.repack, str | Path) or not str(self.repack):
            raise ConfigError(f'repack={self.repack!r} is not understood: give "auto", "never" or a folder')
        _draft_vocab(self.draft_vocab)
        _one_of("draft_type", self.draft_type, DRAFT_TYPES)
        _placement(self)

    def resolve(self, file_context_length: int) -> "ResolvedConfig":
        """Decide what was left open, from the model file and the machine."""
        asked = None if isinstance(self.context_length, str) else self.context_length
        if asked is not None and asked > file_context_length:
            raise ConfigError(
                f"context_length={asked} is more than the model's {file_context_length}: give at most "
                "that, or leave it out"
            )
        return ResolvedConfig(
            kv_type=self.kv_type,
            threads=resolve_threads(self.threads),
            context_length=asked or min(file_context_length, DEFAULT_CONTEXT_LENGTH),
            device=self.device,
            max_num_seqs=self.max_num_seqs,
            chunk_tokens=self.chunk_tokens,
            max_step_ms=self.max_step_ms,
            mtp=str(self.mtp),
            repack=str(self.repack),
            draft_vocab=self.draft_vocab,
            draft_type=self.draft_type,
            cache_nbytes=None if self.cache_gb is None else int(self.cache_gb * GB),
            cache_dir=None if self.cache_dir is None else str(self.cache_dir),
            cache_dir_nbytes=int(self.cache_dir_gb * GB),
            cpu_experts=0 if isinstance(self.cpu_experts, str) else self.cpu_experts,
        )


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """What was decided: None is no longer a question."""

    kv_type: str
    threads: int
    context_length: int
    device: str  # "cpu", "cuda:N" or "reference"
    max_num_seqs: int
    chunk_tokens: int
    max_step_ms: float | None  # None: no limit
    mtp: str  # "auto", "off", or a path
    repack: str  # "auto", "never", or a folder
    draft_vocab: str | int  # "auto", "full", or a number
    draft_type: str  # "file", or the name of a type
    cache_nbytes: int | None = None  # of prefixes in memory; None: by the context
    cache_dir: str | None = None  # where they outlive the process
    cache_dir_nbytes: int = 0
    cpu_experts: int = 0  # layers whose routed experts are on the host, of a model on a GPU


def _placement(config: EngineConfig) -> None:
    experts, layers = config.cpu_experts, config.gpu_layers
    if isinstance(experts, str):
        if experts != AUTO_EXPERTS:
            raise ConfigError(f'cpu_experts={experts!r} is unknown: give "auto" or how many layers')
    else:
        _integer("cpu_experts", experts, 0, None)
        if layers is not None:
            raise ConfigError(
                f"cpu_experts={experts} and gpu_layers={layers} both say where experts lie: give one of them"
            )
    if layers is not None:
        _integer("gpu_layers", layers, 0, None)
    if config.device in ("cpu", "reference") and (layers is not None or experts not in (AUTO_EXPERTS, 0)):
        name, value = ("cpu_experts", experts) if layers is None else ("gpu_layers", layers)
        raise ConfigError(f"{name}={value} is about a GPU, and device={config.device!r} uses none: leave it out")


def _draft_vocab(value: Any) -> None:
    if isinstance(value, str) and value not in DRAFT_VOCABS:
        raise ConfigError(f'draft_vocab={value!r} is unknown: give "auto", "full" or how many ids')
    if not isinstance(value, str):
        _integer("draft_vocab", value, 1, None)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is unknown: give one of {', '.join(allowed)}")


def _positive(name: str, value: Any, what: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConfigError(f"{name}={value!r} is no {what}")


def _integer(name: str, value: Any, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not an integer")
    if value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name}={value} is out of range: give a value {limit}")
