"""Makes memory plans of one model: from its headers, its norms and a few rows; no other weight is read.

Owns what each part takes. Bytes of weights are those of the tensors, bytes of blocks those that the runner will ask
for, bytes of activations those of a dry run. What the interpreter takes is measured, once and for all machines.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, Backend
from stepahead.backends.cuda.placement import ExpertLayer, Placement, place
from stepahead.config import EngineConfig, ResolvedConfig
from stepahead.engine.kv_cache import SLACK
from stepahead.engine.kv_sizes import KVSizes, block_sizes, size_kv
from stepahead.gguf import GGUFFile, QuantType, TensorInfo
from stepahead.gguf.block_name import block_number
from stepahead.memory.arena_count import MAX_IDLE
from stepahead.memory.device_meter import DeviceMeter
from stepahead.memory.meter import Meter, MeterBase
from stepahead.memory.passes import NUM_SIZES, run_passes, tail_nbytes
from stepahead.memory.plan import CACHE, KV, PROGRAM_CODE, Kind, MemoryPlan, Part
from stepahead.memory.recorded_passes import RecordedPasses
from stepahead.models.draft_vocab import CAPACITY
from stepahead.models.layers import expert_tensors
from stepahead.models.model import Model
from stepahead.models.registry import load_model
from stepahead.repack.cache_file import Index
from stepahead.repack.folders import NEVER
from stepahead.repack.head_types import head_recipes
from stepahead.repack.loading import FILE_TYPE, Layouts, Survey, survey
from stepahead.repack.repacked import MIN_FILE_BYTES
from stepahead.repack.requantised import Recipe, is_made_in_memory, made_nbytes
from stepahead.repack.shortlist import distinct, num_frequent, shortlist_recipes

PROGRAM_NBYTES = 26 << 20
"""Python, numpy, the libraries and ours, beside their code."""

THREAD_NBYTES = 128 << 10
DEVICE_PROGRAM_NBYTES = 512 << 20
"""Of a GPU, and not measured: its driver's context (with torch, others have seen 300 to 500 MB), 96 MiB of buffers that
weights pass through, kernels. Most of the context is taken before anybody asks how much is free, and so counted twice
where no limit is set."""

TOKEN_NBYTES, MERGE_NBYTES = 300, 350  # of a vocabulary: metadata, lists and the tokenizer's own tables
LOGIT_NBYTES = 48  # of an id of the vocabulary, while a token is chosen
TEXT_NBYTES = 200  # of a token of a context: lists of ids, and the index that copies are found by
BLOCK_NBYTES = 48  # of a block of keys and values, free or not
MAX_STEP_ROWS = 17
"""Of a sequence whose text is written: the longest draft and the token before it."""

PAGE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class DryModel:
    """The model's code over a meter, and the layouts that its matrices would get."""

    model: Model
    meter: MeterBase
    wanted: dict[GGUFFile, Layouts]

    @property
    def backend(self) -> Backend:
        return cast(Backend, self.meter)


class Planner:
    """Plans for one file and its companion, with any settings."""

    def __init__(self, file: GGUFFile, companion: GGUFFile | None, backend: Backend) -> None:
        """backend: where the model would run. Nothing of it is used but threads, layouts and sizes of blocks."""
        self.file = file
        self._companion = companion
        self._backend = backend
        self.place = backend.own_memory
        """What the plans are of: a memory of the backend's own; None: the process's."""
        # Plans are made by the dozen where something does not fit: what takes time is found once.
        self._dry: dict[bool, DryModel] = {}
        self._weight_parts: dict[tuple[object, ...], list[Part]] = {}
        self._block_nbytes: dict[tuple[bool, str], tuple[int, ...]] = {}
        self._pass_nbytes: dict[tuple[bool, int, int], int] = {}
        self._tail_nbytes: dict[tuple[int, int], int] = {}
        self._recorded_nbytes: dict[tuple[bool, RecordedPasses], int] = {}

    def model(self, asked: EngineConfig) -> Model:
        """Its sizes; it cannot compute."""
        return self._dry_model(asked.mtp != "off").model

    def plan(self, asked: EngineConfig, max_cache_nbytes: int | None = None) -> MemoryPlan:
        """max_cache_nbytes: of a prefix cache whose size is not asked for. Raises what loading would raise for wrong
        settings and for files that cannot be run."""
        dry = self._dry_model(asked.mtp != "off")
        config = asked.resolve(dry.model.context_length)
        return self._plan(asked, dry, config, max_cache_nbytes, self._passes(dry, config))

    def most_nbytes(self, asked: EngineConfig) -> int:
        """What no plan with these settings is beyond, in little time: beside what the largest passes take, the
        pool is taken to be full. Raises what `plan` raises."""
        dry = self._dry_model(asked.mtp != "off")
        config = asked.resolve(dry.model.context_length)
        if self.place is not None:  # whose pool has no limit
            return self._plan(asked, dry, config, None, self._passes(dry, config)).nbytes
        return self._plan(asked, dry, config, None, self._passes(dry, config, num_sizes=1) + MAX_IDLE).nbytes

    def _plan(
        self,
        asked: EngineConfig,
        dry: DryModel,
        config: ResolvedConfig,
        max_cache_nbytes: int | None,
        pass_nbytes: int,
    ) -> MemoryPlan:
        sizes = self._kv_sizes(dry.model, config, max_cache_nbytes)
        placement = self.placement(asked, 0)
        parts = (
            *self._weights(dry, config, placement),
            *self._program(dry, config, sizes),
            *self._recorded(dry, config, placement),
            *self._contexts(dry, config, sizes, pass_nbytes),
        )
        return MemoryPlan(
            tuple(part for part in parts if part.nbytes),
            config.context_length,
            config.max_num_seqs,
            config.kv_type,
            dry.model.step_nbytes,
            host_experts=placement.layers,
            host_nbytes=placement.host_nbytes,
        )

    def placement(self, asked: EngineConfig, lacking: int) -> Placement:
        """The layers whose experts are on the host, as asked; if that is left open, as few as give so many bytes."""
        if self.place is None:
            return Placement()
        count = None if isinstance(asked.cpu_experts, str) else asked.cpu_experts
        dry = self._dry_model(asked.mtp != "off")
        experts, given = self._expert_layers(dry.model), 0
        if lacking > 0:  # the first layer makes room where cycles were, and each keeps what it hands over
            config = asked.resolve(dry.model.context_length)
            cycles, without = (self._recorded_passes(dry, config, has_cycles) for has_cycles in (True, False))
            lacking -= self._nbytes_of(dry, cycles) - self._nbytes_of(dry, without)
            lacking, given = max(lacking, 1), without.hand_over_nbytes(dry.model)
        gained = [replace(layer, device_nbytes=layer.device_nbytes - given) for layer in experts]
        found = place(gained, dry.model.num_trunk_layers, count, asked.gpu_layers, lacking)
        return Placement.of_last(experts, len(found.layers))

    def _expert_layers(self, model: Model) -> list[ExpertLayer]:
        layers = []
        for spec in model.layers[: model.num_trunk_layers]:
            if spec.is_moe:
                infos = [self.file.tensors[name] for name in expert_tensors(spec.index)]
                nbytes = sum(info.nbytes for info in infos)
                layers.append(ExpertLayer(spec.index, self._loaded_nbytes(infos), nbytes))
        return layers

    def _dry_model(self, has_heads: bool) -> DryModel:
        if has_heads not in self._dry:
            heads = (self._companion or self.file) if has_heads else None
            meter = (Meter if self.place is None else DeviceMeter)(self._backend)
            noted = Survey(cast(Backend, meter))
            model = load_model(self.file, cast(Backend, meter), heads, noted)
            # Without its heads, a file is repacked as if it were to have them some day.
            wanted = noted.wanted if has_heads else survey(self.file, cast(Backend, Meter(self._backend)), None)
            self._dry[has_heads] = DryModel(model, meter, wanted)
        return self._dry[has_heads]

    # --- weights ---
    def _weights(self, dry: DryModel, config: ResolvedConfig, placement: Placement) -> list[Part]:
        key = dry.model.draft is not None, config.repack, config.draft_type, config.draft_vocab, placement
        if key not in self._weight_parts:
            if self.place is not None:
                self._weight_parts[key] = self._copied_weights(dry, config, placement)
            else:
                is_reference = config.device == "reference"
                self._weight_parts[key] = (self._decoded_weights if is_reference else self._used_weights)(dry, config)
        return self._weight_parts[key]

    def _used_weights(self, dry: DryModel, config: ResolvedConfig) -> list[Part]:
        """Repacked or not, they are mapped, unless they are so small that they are repacked in memory."""
        made, in_memory = self._repacked_in_memory(dry, config)
        parts = [Part("weights repacked in memory", in_memory, "memory")] if in_memory else []
        heads = self._heads(dry)
        if heads is not None and config.draft_type != FILE_TYPE:
            recipes = head_recipes(heads, QuantType[config.draft_type], self._backend)
            made |= {(heads, recipe.tensor) for recipe in recipes}
            choice = None if config.repack == NEVER else config.repack
            parts.append(_made_part(f"heads in {config.draft_type}", heads, recipes, choice))
        shortlist = self._shortlist(dry, config, made)
        if shortlist:
            made |= _own_outputs(dry.model)
        parts += shortlist
        return [
            Part("weights", _nbytes_left(self.file, self._trunk(dry), made), "file"),
            Part("heads", 0 if heads is None else _nbytes_left(heads, self._blocks(dry), made), "file"),
            *parts,
        ]

    def _repacked_in_memory(self, dry: DryModel, config: ResolvedConfig) -> tuple[set[tuple[GGUFFile, str]], int]:
        names: set[tuple[GGUFFile, str]] = set()
        nbytes = 0
        for source, layouts in dry.wanted.items() if config.repack != NEVER else ():
            index = Index.plan((), ((source.tensors[name], layout) for name, layout in layouts.items()))
            if index.nbytes < MIN_FILE_BYTES:
                names |= {(source, name) for name in layouts}
                nbytes += index.nbytes
        return names, nbytes

    def _shortlist(self, dry: DryModel, config: ResolvedConfig, made: set[tuple[GGUFFile, str]]) -> list[Part]:
        """Rows of frequent ids in a small type, room for ids seen lately, and the pages that those are read from."""
        model = dry.model
        count = num_frequent(model, config.draft_vocab)
        if count is None:
            return []
        parts, ids = [], np.arange(count, dtype=np.int32)
        sources, _ = distinct(model.draft_outputs)
        for source in dict.fromkeys(source for source, _ in sources):
            names = [name for other, name in sources if other is source]
            recipes = shortlist_recipes(source, names, ids, self._backend, config.repack)
            parts.append(_made_part("draft shortlist", source, recipes, config.repack))
            infos = [source.tensors[name] for name in names]
            seen = min(CAPACITY, model.vocab_size - count)
            rows = [self._backend.matrix_nbytes(info.type, (seen, info.shape[-1])) for info in infos]
            parts.append(Part("draft shortlist", sum(rows), "touched"))
            again = [info for info in infos if (source, info.name) in made or block_number(info.name) >= 0]
            reread = sum(min(info.nbytes, (count + seen) * (info.row_bytes + PAGE)) for info in again)
            parts.append(Part("draft shortlist", reread, "file"))
        return parts

    def _decoded_weights(self, dry: DryModel, config: ResolvedConfig) -> list[Part]:
        """The reference decodes a matrix when it first needs it, and keeps the numbers."""
        infos = self._used(dry)
        elements = sum(int(np.prod(info.shape)) for info in infos)
        return [
            Part("weights", sum(info.nbytes for info in infos), "file"),
            Part("weights decoded", 4 * elements, "touched"),
        ]

    def _copied_weights(self, dry: DryModel, config: ResolvedConfig, placement: Placement) -> list[Part]:
        """Into a memory of the backend's own: all that is loaded, used or not, but for what stays on the host, and for
        heads' output matrices that a shortlist stands for."""
        shortlist = [
            replace(part, kind="memory") for part in self._shortlist(dry, config, set()) if part.kind != "file"
        ]
        blocks = [] if dry.model.draft is None else self._blocks(dry)
        if shortlist:
            names = {name for _, name in _own_outputs(dry.model)}
            blocks = [info for info in blocks if info.name not in names]
        return [
            Part("weights", self._loaded_nbytes(self._trunk(dry)) - placement.device_nbytes, "memory"),
            Part("heads", self._loaded_nbytes(blocks), "memory"),
            *shortlist,
        ]

    def _loaded_nbytes(self, infos: list[TensorInfo]) -> int:
        matrices = [info for info in infos if len(info.shape) > 1]
        vectors = sum(4 * info.shape[0] for info in infos if len(info.shape) == 1)
        return vectors + sum(self._backend.matrix_nbytes(info.type, info.shape) for info in matrices)

    def _heads(self, dry: DryModel) -> GGUFFile | None:
        return None if dry.model.draft is None else self._companion or self.file

    def _used(self, dry: DryModel) -> list[TensorInfo]:
        return [*self._trunk(dry), *(() if dry.model.draft is None else self._blocks(dry))]

    def _trunk(self, dry: DryModel) -> list[TensorInfo]:
        limit = dry.model.num_trunk_layers
        return [info for info in self.file.tensors.values() if block_number(info.name) < limit]

    def _blocks(self, dry: DryModel) -> list[TensorInfo]:
        limit, file = dry.model.num_trunk_layers, self._companion or self.file
        return [info for info in file.tensors.values() if block_number(info.name) >= limit]

    # --- the rest ---
    def _program(self, dry: DryModel, config: ResolvedConfig, sizes: KVSizes) -> list[Part]:
        if self.place is not None:
            return [Part("program", DEVICE_PROGRAM_NBYTES, "memory")]
        metadata = self.file.metadata
        tokens, merges = (metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
        vocabulary = TOKEN_NBYTES * _length(tokens) + MERGE_NBYTES * _length(merges)
        tables = BLOCK_NBYTES * sum(sizes.num_blocks)
        vectors = sum(4 * info.shape[0] for info in self._used(dry) if len(info.shape) == 1)
        return [
            PROGRAM_CODE,
            Part("program", PROGRAM_NBYTES + THREAD_NBYTES * config.threads, "memory"),
            Part("tokenizer", vocabulary, "memory"),
            Part("norms and tables", vectors + tables + LOGIT_NBYTES * dry.model.vocab_size, "memory"),
        ]

    def _recorded(self, dry: DryModel, config: ResolvedConfig, placement: Placement) -> list[Part]:
        if self.place is None:
            return []
        wanted = self._recorded_passes(dry, config, not placement.layers)
        handed = len(placement.layers) * wanted.hand_over_nbytes(dry.model)
        return [Part("replayed passes", self._nbytes_of(dry, wanted) + handed, "memory")]

    def _recorded_passes(self, dry: DryModel, config: ResolvedConfig, has_cycles: bool) -> RecordedPasses:
        shortlist = num_frequent(dry.model, config.draft_vocab)
        return RecordedPasses.of(config.context_length, config.max_num_seqs, shortlist, has_cycles)

    def _nbytes_of(self, dry: DryModel, wanted: RecordedPasses) -> int:
        assert isinstance(dry.meter, DeviceMeter)
        key = dry.model.draft is not None, wanted
        if key not in self._recorded_nbytes:
            self._recorded_nbytes[key] = wanted.nbytes(dry.model, dry.meter)
        return self._recorded_nbytes[key]

    def _contexts(self, dry: DryModel, config: ResolvedConfig, sizes: KVSizes, pass_nbytes: int) -> list[Part]:
        model, seqs = dry.model, config.max_num_seqs
        groups = zip(model.kv_specs, sizes.used_nbytes, strict=True)
        logit_rows = min(seqs * MAX_STEP_ROWS, config.chunk_tokens)
        return [
            *(Part(f"{KV} {spec.name}", nbytes, "touched") for spec, nbytes in groups),
            Part(CACHE, _cache_nbytes(model, sizes, is_asked=config.cache_nbytes is not None), "touched"),
            Part("hidden rows for heads", seqs * self._tail(dry, config), "touched"),
            Part("activations", pass_nbytes, "touched"),
            Part("logits", 4 * logit_rows * model.vocab_size, "touched"),
            Part("texts", 0 if self.place is not None else TEXT_NBYTES * seqs * config.context_length, "touched"),
        ]

    def _kv_sizes(self, model: Model, config: ResolvedConfig, max_cache_nbytes: int | None) -> KVSizes:
        key = model.draft is not None, config.kv_type
        if key not in self._block_nbytes:
            self._block_nbytes[key] = block_sizes(model, self._backend, config.kv_type)
        return size_kv(
            model.kv_specs,
            self._block_nbytes[key],
            config.context_length,
            config.max_num_seqs,
            config.chunk_tokens,
            SLACK,
            config.cache_nbytes,
            max_cache_nbytes,
        )

    def _passes(self, dry: DryModel, config: ResolvedConfig, num_sizes: int = NUM_SIZES) -> int:
        """What is left when passes of so many sizes have run, from the largest down."""
        key = dry.model.draft is not None, config.chunk_tokens, num_sizes
        if key not in self._pass_nbytes:
            dry.meter.new_pool()
            for _ in run_passes(dry.model, dry.backend, config.chunk_tokens, num_sizes):
                pass
            self._pass_nbytes[key] = dry.meter.arena.peak
        return self._pass_nbytes[key]

    def _tail(self, dry: DryModel, config: ResolvedConfig) -> int:
        draft = dry.model.draft
        if draft is None:
            return 0
        # A level keeps some windows at most.
        most = config.context_length if draft.window is None else (draft.num_heads + 2) * draft.window + 1024
        key = min(config.context_length, most), config.chunk_tokens
        if key not in self._tail_nbytes:
            dry.meter.new_pool()
            self._tail_nbytes[key] = tail_nbytes(dry.model, dry.meter, *key)
        return self._tail_nbytes[key]


def _own_outputs(model: Model) -> set[tuple[GGUFFile, str]]:
    """Output matrices of heads alone: beside a shortlist they are not multiplied with, some of their rows are."""
    return {(source, name) for source, name in model.draft_outputs if block_number(name) >= 0}


def _nbytes_left(file: GGUFFile, infos: list[TensorInfo], made: set[tuple[GGUFFile, str]]) -> int:
    """Of the tensors that are used as they lie in the file."""
    return sum(info.nbytes for info in infos if (file, info.name) not in made)


def _made_part(name: str, file: GGUFFile, recipes: list[Recipe], choice: str | None) -> Part:
    kind: Kind = "memory" if is_made_in_memory(file, recipes, choice) else "file"
    return Part(name, made_nbytes(file, recipes), kind)


def _cache_nbytes(model: Model, sizes: KVSizes, is_asked: bool) -> int:
    """Beyond the sequences' own blocks. A cache that nobody asked for has its blocks of full attention among those:
    what it takes itself are windows' blocks and hidden rows, for as many blocks of text as it finds there."""
    if is_asked:
        return sizes.cache_nbytes
    trunk = [group for group, spec in enumerate(model.kv_specs) if not spec.is_draft]
    full = [group for group in trunk if model.kv_specs[group].window is None]
    hidden = 4 * BLOCK_SIZE * model.hidden_size if model.draft is not None else 0
    extra = hidden + sum(sizes.block_nbytes[group] for group in trunk if group not in full)
    all_nbytes = extra + sum(sizes.block_nbytes[group] for group in full)
    most = min((sizes.sequence_blocks[group] for group in full), default=sizes.cache_nbytes)
    return min(sizes.cache_nbytes * extra // all_nbytes, most * extra)


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0
