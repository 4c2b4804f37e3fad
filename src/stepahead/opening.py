"""The parts that an LLM opens: tokenizer, backend, memory, weights, the prefixes that earlier processes left; each says
what is wrong."""

import json
import logging
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, NUMERICS_VERSION, Backend
from stepahead.backends.cuda.requirements import demand_libraries, is_gpu_there
from stepahead.config import GB, EngineConfig, ResolvedConfig
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.prefix_records import FORMAT_VERSION
from stepahead.engine.prefix_spill import PrefixSpill
from stepahead.engine.runner import ModelRunner
from stepahead.errors import CapacityError, ConfigError, ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile
from stepahead.memory.fitting import Fitted, fit
from stepahead.memory.free import free_memory
from stepahead.memory.planner import Planner
from stepahead.models.layers import expert_tensors
from stepahead.models.model import Model
from stepahead.repack.folders import user_folder
from stepahead.repack.loading import load_repacked
from stepahead.repack.repacked import OnRepack, Repacked
from stepahead.repack.shortlist import shorten_drafts
from stepahead.tokenizer import Tokenizer

log = logging.getLogger("stepahead")

AUTO = "auto"


def decide_device(device: str) -> str:
    """ "cpu", "cuda:N" or "reference": what "auto" and "cuda" mean here. No GPU's library is loaded where there is no
    GPU."""
    if device == AUTO:
        return "cuda:0" if is_gpu_there() else "cpu"
    return "cuda:0" if device == "cuda" else device


def make_backend(config: EngineConfig) -> Backend:
    """Imported late: the reference needs no native library, a CPU no GPU's, and none needs the others. Raises
    ConfigError where a GPU's is missing, BackendError where the GPU is."""
    device = decide_device(config.device)
    if device.startswith("cuda:"):
        demand_libraries(user_folder())
        from stepahead.backends.cuda.ops import CudaBackend  # noqa: PLC0415

        return cast(Backend, CudaBackend(int(device.removeprefix("cuda:")), threads=config.threads))
    if device == "reference":
        from stepahead.backends.reference.ops import ReferenceBackend  # noqa: PLC0415

        return cast(Backend, ReferenceBackend(int8_activations=True))
    from stepahead.backends.cpu.ops import CpuBackend  # noqa: PLC0415

    return cast(Backend, CpuBackend(threads=config.threads))


def open_backend(file: GGUFFile, companion: GGUFFile | None, asked: EngineConfig) -> tuple[Backend, Fitted]:
    """Where the model computes, and its settings, the device decided among them. Raises CapacityError for what fits
    nowhere, or not where it was asked for."""
    device = decide_device(asked.device)
    backend = make_backend(replace(asked, device=device))
    try:
        return backend, fit_memory(file, companion, backend, replace(asked, device=device))
    except CapacityError as error:
        if asked.device != AUTO or device == "cpu":
            raise
        log.warning("%s: computes on the CPU, it does not fit on the GPU: %s", file.path, error)
    return open_backend(file, companion, replace(asked, device="cpu"))


def load_tokenizer(file: GGUFFile) -> Tokenizer:
    """The tokenizer room knows no files; a fault there is a fault of this one."""
    try:
        return Tokenizer.from_metadata(file.metadata)
    except (ModelFormatError, UnsupportedModelError) as error:
        raise type(error)(f"{file.path}: {error}") from None


def memory_limit(asked: EngineConfig, backend: Backend) -> int | None:
    """Bytes that a model may take where it computes; None: nobody knows, or it does not matter."""
    if asked.memory_gb is None:
        place = backend.own_memory
        return free_memory() if place is None or place.free_nbytes is None else place.free_nbytes
    return None if math.isinf(asked.memory_gb) else int(asked.memory_gb * GB)


def fit_memory(file: GGUFFile, companion: GGUFFile | None, backend: Backend, asked: EngineConfig) -> Fitted:
    """What was decided, told to the log. Raises CapacityError for what cannot work."""
    fitted = fit(Planner(file, companion, backend), asked, memory_limit(asked, backend))
    for line in fitted.choices:
        log.info("%s: %s", file.path, line)
    for line in fitted.warnings:
        log.warning("%s: %s", file.path, line)
    return fitted


def load_weights(
    file: GGUFFile,
    heads: GGUFFile | None,
    backend: Backend,
    tokenizer: Tokenizer,
    fitted: Fitted,
    on_repack: OnRepack | None,
) -> tuple[Model, tuple[Repacked, ...]]:
    """The model, and what was repacked of it."""
    config, repack = fitted.config, str(fitted.config.repack)
    on_host = _host_layouts(file, fitted.plan.host_experts)
    model, repacked = load_repacked(file, backend, heads, repack, on_repack, config.draft_type, on_host)
    if tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{file.path}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {model.vocab_size}"
        )
    shorten_drafts(model, backend, tokenizer.frequent_ids, config.draft_vocab, repack, on_repack or _ignore)
    if model.draft_vocab is None:
        model.load_outputs()
    backend.finish_loading()
    return _replayed(model, backend), repacked


def _host_layouts(file: GGUFFile, layers: tuple[int, ...]) -> dict[str, str]:
    """Of the experts that stay in the host's memory: how the CPU multiplies them fastest."""
    if not layers:
        return {}
    from stepahead.backends.cpu.layouts import preferred_layout  # noqa: PLC0415
    from stepahead.backends.cpu.ops import resolve_isa  # noqa: PLC0415

    infos = [file.tensors[name] for layer in layers for name in expert_tensors(layer)]
    return {info.name: preferred_layout(resolve_isa(None), info.type, info.shape) for info in infos}


def _replayed(model: Model, backend: Backend) -> Model:
    """With passes of few rows replayed, where launching them takes longer than running them."""
    if backend.name != "cuda":
        return model
    from stepahead.backends.cuda.ops import CudaBackend  # noqa: PLC0415
    from stepahead.backends.cuda.replayed_model import ReplayedModel  # noqa: PLC0415

    return cast(Model, ReplayedModel(model, cast(CudaBackend, backend)))


def open_spill(config: ResolvedConfig, file: GGUFFile, runner: ModelRunner, cache: PrefixCache) -> PrefixSpill | None:
    """None: prefixes are kept in memory alone. Raises ConfigError for a folder that cannot be used."""
    if config.cache_dir is None:
        return None
    identity = prefix_identity(config, file, runner)
    return PrefixSpill.open(Path(config.cache_dir), config.cache_dir_nbytes, identity, runner, cache)


def prefix_identity(config: ResolvedConfig, file: GGUFFile, runner: ModelRunner) -> str:
    """All that decides the bits of a prefix, so that none is used by what would have computed others.

    No instruction set, threads or layout of weights of a CPU: they give the same bits (docs/numerics.md). A GPU's do
    depend on its architecture and on its compiler (docs/numerics-cuda.md). Nor the file of the heads: their own state
    is computed anew, from hidden rows that are the trunk's.
    """
    model = runner.model
    trunk = [spec for spec in model.kv_specs if not spec.is_draft]
    layers = [model.layers[index] for spec in trunk for index in spec.layers]
    facts: dict[str, object] = {
        "files": [asdict(source) for source in file.identity()],
        "backend": [runner.backend.name, runner.backend.describe().get("numerics", "")],
        "numerics": [NUMERICS_VERSION, np.__version__],  # numpy computes the angles of rotary embeddings
        "format": [FORMAT_VERSION, sys.byteorder, BLOCK_SIZE],
        "kv_type": config.kv_type,
        "groups": [[spec.name, spec.window, spec.layers] for spec in trunk],
        "heads": [[layer.num_kv_heads, layer.head_dim] for layer in layers],
        "hidden": None if model.draft is None else [model.draft.hidden_tap, model.hidden_size],
    }
    if config.cpu_experts:
        facts["cpu_experts"] = config.cpu_experts  # other layers' experts would have other bits
    return json.dumps(facts)


def _ignore(*_: object) -> None:
    pass
