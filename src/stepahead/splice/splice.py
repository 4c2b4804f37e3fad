"""Joining, splitting and grafting: which tensors and which metadata the outcome has."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile
from stepahead.gguf.destination import left_over
from stepahead.splice.assembly import Assembly
from stepahead.splice.block_metadata import head_pairs, joined_pairs, trunk_pairs
from stepahead.splice.compatibility import demand_fitting
from stepahead.splice.likeness import Likeness, compare_embeddings, demand_equal_tokens, demand_likeness
from stepahead.splice.output import Output, Progress, check_target, write
from stepahead.splice.parts import FileParts, demand_heads, demand_trunk
from stepahead.splice.report import SplicedFile, SpliceReport, bytes_by_type, note_on_embeddings, notes_on_heads


def join(
    trunk: Path, heads: Path, output: Path, *, force: bool = False, on_progress: Progress | None = None
) -> SpliceReport:
    """Write the trunk with the heads of another file, a companion or a full model.

    Raises ConfigError where the two do not belong together, ModelFormatError where the outcome would not load.
    force: join although tokens or embeddings differ.
    """
    with ExitStack() as files:
        own, other = _open(files, trunk), _open(files, heads)
        _refuse_wrong_order(own, other, "join")
        if own.heads:
            raise ConfigError(
                f"{trunk}: has {own.num_heads} MTP heads already; stepahead graft {heads} {trunk} -o {output} "
                "replaces them"
            )
        return _join(own, other, output, force, on_progress)


def graft(
    source: Path, target: Path, output: Path, *, force: bool = False, on_progress: Progress | None = None
) -> SpliceReport:
    """Write the model `target` with the heads of `source` in place of its own, if it has any. Raises as join does."""
    with ExitStack() as files:
        other, own = _open(files, source), _open(files, target)
        _refuse_wrong_order(own, other, "graft")
        return _join(own, other, output, force, on_progress)


def split(full: Path, trunk: Path | None, heads: Path | None, *, on_progress: Progress | None = None) -> SpliceReport:
    """Write the trunk of a full model, its heads as a companion file, or both.

    Raises ModelFormatError where what is to be written would not load.
    """
    start = time.perf_counter()
    if trunk is None and heads is None:
        raise ConfigError("neither --trunk nor --heads: give one name at least for what is to be written")
    with ExitStack() as files:
        parts = _open(files, full)
        demand_heads(parts)
        demand_trunk(parts)
        paths = [path for path in (trunk, heads) if path is not None]
        for path in paths:
            check_target(path, [parts.file])
        if len({path.resolve() for path in paths}) < len(paths):
            raise ConfigError(f"{trunk}: is the name of both files; give two")
        front, back = _trunk_of(parts), _heads_of(parts)
        front.demand_loadable(back if heads is not None else None)  # a sound trunk may be saved from broken heads
        made = ((trunk, front), (heads, back))
        outputs = [Output(path, model, model.ranges(), parts.file) for path, model in made if path is not None]
        return _written(outputs, parts, None, notes_on_heads(parts), start, on_progress)


def _open(files: ExitStack, path: Path) -> FileParts:
    return FileParts.of(files.enter_context(GGUFFile.open(path)))


def _refuse_wrong_order(own: FileParts, other: FileParts, command: str) -> None:
    """The two files are easily mixed up."""
    if not own.trunk and other.trunk:
        first, second = (other, own) if command == "join" else (own, other)
        raise ConfigError(
            f"{own.file.path}: holds MTP heads only, {other.file.path} holds a trunk; give them the other way round: "
            f"stepahead {command} {first.file.path} {second.file.path}"
        )
    demand_trunk(own)
    demand_heads(other)


def _join(own: FileParts, other: FileParts, path: Path, force: bool, on_progress: Progress | None) -> SpliceReport:
    start = time.perf_counter()
    check_target(path, [own.file, other.file])
    demand_fitting(own, other)
    likeness = compare_embeddings(own.file, other.file)
    if not force:
        demand_equal_tokens(own.file, other.file)
        demand_likeness(likeness, own.file, other.file)
    model = _joined(own, other)
    model.demand_loadable(model.again())
    notes = [*notes_on_heads(other), *note_on_embeddings(likeness)]
    if own.heads:
        notes.append(f"{own.num_heads} MTP heads of {own.file.path} were left out, {other.num_heads} took their place")
    return _written([Output(path, model, model.ranges(), own.file)], other, likeness, notes, start, on_progress)


def _joined(own: FileParts, other: FileParts) -> Assembly:
    """The heads come behind the trunk's last block, wherever that is: where a file had them that was split."""
    left_out = frozenset(own.heads)
    names = [name for name in own.file.tensors if name not in left_out]
    place = names.index(own.trunk[-1]) + 1
    sources = dict.fromkeys(names[:place], own.file)
    sources |= dict.fromkeys(other.heads, other.file)
    sources |= dict.fromkeys(names[place:], own.file)
    pairs = joined_pairs(own.file.typed_metadata(), other.file.typed_metadata(), own.num_trunk_layers, other.num_heads)
    return Assembly(f"{own.file.path} with the heads of {other.file.path}", pairs, sources)


def _trunk_of(parts: FileParts) -> Assembly:
    heads = frozenset(parts.heads)
    sources = {name: parts.file for name in parts.file.tensors if name not in heads}
    pairs = trunk_pairs(parts.file.typed_metadata(), parts.num_trunk_layers)
    return Assembly(f"{parts.file.path}, its trunk", pairs, sources)


def _heads_of(parts: FileParts) -> Assembly:
    """With what llama.cpp asks of such a file, and published ones have: all that belongs to no block."""
    trunk = frozenset(parts.trunk)
    sources = {name: parts.file for name in parts.file.tensors if name not in trunk}
    pairs = head_pairs(parts.file.typed_metadata(), parts.num_trunk_layers, parts.num_heads)
    return Assembly(f"{parts.file.path}, its heads", pairs, sources)


def _written(
    outputs: Sequence[Output],
    heads: FileParts,
    likeness: Likeness | None,
    notes: Sequence[str],
    start: float,
    on_progress: Progress | None,
) -> SpliceReport:
    abandoned = tuple(path for output in outputs for path in left_over(output.path, has_shards=False))
    shared = write(outputs, on_progress)
    return SpliceReport(
        files=tuple(
            SplicedFile(output.path, output.path.stat().st_size, count, len(output.tensors))
            for output, count in zip(outputs, shared, strict=True)
        ),
        num_trunk_layers=heads.num_trunk_layers,
        num_heads=heads.num_heads,
        bytes_by_type=bytes_by_type(heads.file, heads.heads),
        embeddings=likeness,
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
        left_over=abandoned,
    )
