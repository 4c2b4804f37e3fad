"""A GGUF model on disk, read: metadata, tensor infos and views of the bytes, whether in one file or split.

Owns GGUFFile and the rules by which shards make one model. Must not know: architectures, devices, backends. Trusts
that a file does not shrink while it is mapped.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf.block_quants import Bytes, Floats
from stepahead.gguf.file_range import FileRange
from stepahead.gguf.header import TensorInfo, clip
from stepahead.gguf.metadata import MetadataReader, MetadataValue, TypedValue
from stepahead.gguf.quants import dequantize
from stepahead.gguf.shard import FileIdentity, Shard, parse_shard_path, shard_path


class GGUFFile(MetadataReader):
    """A model opened with GGUFFile.open; a context manager.

    path: of the (first) file.      shards: paths of all files.      version, alignment: of the first file.
    metadata: key -> str, int, float, bool, list[str] or read-only 1-D numpy array; that of the first shard.
    tensors: name -> TensorInfo, in file order, shard after shard.
    """

    def __init__(self, shards: list[Shard]) -> None:
        first = shards[0]
        self.path: Path = first.path
        self.shards: tuple[Path, ...] = tuple(shard.path for shard in shards)
        self.version: int = first.header.version
        self.alignment: int = first.header.alignment
        self.metadata: Mapping[str, MetadataValue] = MappingProxyType(first.header.metadata)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(_join_tensors(shards))
        self._value_types = first.header.value_types
        self._shards: list[Shard] | None = shards

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Map the model at `path`; of a split model, its first shard, beside which the others must lie.

        ConfigError: the path itself is wrong: no such file, a directory, FIFO or device, no permission, a later shard.
        ModelFormatError: the content is: file, place and fault are named. UnsupportedModelError: sound, but of another
        byte order, version, tensor type, or with nested metadata arrays.
        """
        first = Shard.open(Path(path))
        return cls([first, *_open_others(first)])

    def typed_metadata(self) -> dict[str, TypedValue]:
        """The metadata with the types they have on disk, as write_gguf takes it."""
        return {key: TypedValue(self._value_types[key], value) for key, value in self.metadata.items()}

    def data(self, name: str) -> Bytes:
        """The bytes of a tensor: uint8 (rows…, row_bytes), a read-only view of the mapped file."""
        info = self._info(name)
        flat = self._open_shards()[info.shard].data[info.offset : info.offset + info.nbytes]
        return flat.reshape(*info.shape[:-1], info.row_bytes)

    def range(self, name: str) -> FileRange:
        """Where on the disk the bytes of a tensor lie, for a writer that copies them."""
        info = self._info(name)
        shard = self._open_shards()[info.shard]
        return FileRange(shard.path, info.offset, info.nbytes, shard.mtime_ns)

    def array(self, name: str) -> Floats:
        """The numbers of a tensor: a new float32 array of its shape."""
        return dequantize(self.data(name), self._info(name).type)

    def release(self, name: str, start: int, stop: int) -> None:
        """Bytes [start, stop) of a tensor will not be read again soon: their pages leave this process' memory."""
        info = self._info(name)
        self._open_shards()[info.shard].release(info.offset + start, info.offset + stop)

    def identity(self) -> tuple[FileIdentity, ...]:
        """Of each file; equal ones have equal contents, unless someone took pains."""
        return tuple(shard.identity() for shard in self._open_shards())

    def close(self) -> None:
        """Let go of the files. Arrays that data() gave out stay valid: each keeps its mapping alive."""
        self._shards = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_shards(self) -> list[Shard]:
        if self._shards is None:
            raise ConfigError(f"{self.path}: is closed; read tensors before close()")
        return self._shards

    def _info(self, name: str) -> TensorInfo:
        info = self.tensors.get(name)
        if info is None:
            raise ModelFormatError(f"{self.path}: has no tensor {clip(name)} among its {len(self.tensors)}")
        return info


def _open_others(first: Shard) -> list[Shard]:
    """Shards 1, 2, … of the model that `first` begins; [] if it is not split."""
    split = _SplitKeys(first)
    index, count = split.get_int("split.no", 0), split.get_int("split.count", 1)
    if count <= 1:  # llama.cpp's merge tool leaves a 0
        return []
    if not 0 <= index < count:
        raise ModelFormatError(f"{first.path}: metadata says shard {index} of {count} (split.no, split.count)")
    prefix, named_index, named_count = parse_shard_path(first.path) or (Path(), None, None)
    if (named_index, named_count) != (index, count):
        name = shard_path("NAME", index, count)
        raise ModelFormatError(
            f"{first.path}: is shard {index + 1} of {count} by its metadata, but not by its name; rename it {name}"
        )
    if index:
        raise ConfigError(
            f"{first.path}: is shard {index + 1} of {count}; open the first, {shard_path(prefix, 0, count)}"
        )
    paths = [shard_path(prefix, later, count) for later in range(1, count)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ModelFormatError(f"{first.path}: {len(missing)} of {count} shards are missing, first {missing[0]}")
    return [_open_later(first, path, later, count) for later, path in enumerate(paths, 1)]


def _open_later(first: Shard, path: Path, index: int, count: int) -> Shard:
    shard = Shard.open(path, index)
    split = _SplitKeys(shard)
    found = split.get_int("split.no"), split.get_int("split.count")
    if found != (index, count):
        raise ModelFormatError(
            f"{path}: should be shard {index + 1} of {count} of {first.path}, but its metadata says "
            f"shard {found[0] + 1} of {found[1]} (split.no, split.count)"
        )
    return shard


def _join_tensors(shards: list[Shard]) -> dict[str, TensorInfo]:
    joined: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, info in shard.header.tensors.items():
            if name in joined:
                raise ModelFormatError(
                    f"{shard.path}: tensor {clip(name)} is in {shards[joined[name].shard].path}, too"
                )
            joined[name] = info
    for shard in shards if len(shards) > 1 else ():
        promised = _SplitKeys(shard).get_int("split.tensors.count", len(joined))
        if promised != len(joined):
            raise ModelFormatError(
                f"{shard.path}: metadata key 'split.tensors.count' is {promised}, but the {len(shards)} shards "
                f"have {len(joined)} tensors"
            )
    return joined


class _SplitKeys(MetadataReader):
    """The getters, for one shard."""

    def __init__(self, shard: Shard) -> None:
        self.path, self.metadata = shard.path, shard.header.metadata
