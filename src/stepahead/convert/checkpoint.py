"""The weights of a checkpoint in the hub's format: which file has which tensor, each opened when it is first asked for.

Must not know: what tensors mean, and anything about configurations.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from stepahead.convert.json_file import read_object
from stepahead.convert.weight_file import WeightFile, WeightTensor, clip
from stepahead.errors import ConfigError, ModelFormatError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_INDEX_BYTES = 256 << 20  # forty thousand experts take 6 MB


class Checkpoint:
    """A folder of safetensors files; a context manager.

    num_files: of the checkpoint.     num_opened: of those, how many had to be opened.
    """

    def __init__(self, folder: Path, places: Mapping[str, str]) -> None:
        self.folder = folder
        self._places = places
        self._files: dict[str, WeightFile] = {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the index; without one, the headers of all the files. ConfigError: there is no checkpoint here."""
        if not folder.is_dir():
            raise ConfigError(f"{folder}: {_why_no_folder(folder)}")
        if (folder / INDEX_NAME).exists():
            return cls(folder, _read_index(folder / INDEX_NAME))
        names = (
            [SINGLE_NAME] if (folder / SINGLE_NAME).exists() else sorted(p.name for p in folder.glob("*.safetensors"))
        )
        if not names:
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
            hint = "pickled weights are not read; " if pickled else ""
            raise ConfigError(f"{folder}: has neither {INDEX_NAME} nor any .safetensors file; {hint}download them")
        checkpoint = cls(folder, {})
        checkpoint._index_files(names)
        return checkpoint

    @property
    def names(self) -> Iterator[str]:
        return iter(self._places)

    @property
    def num_files(self) -> int:
        return len(set(self._places.values()))

    @property
    def num_opened(self) -> int:
        return len(self._files)

    def tensor(self, name: str) -> WeightTensor:
        """One of `names`; opens its file."""
        place = self._places[name]
        found = self._file(place).tensors.get(name)
        if found is None:
            raise ModelFormatError(f"{self.folder / place}: lacks tensor {clip(name)}, which {INDEX_NAME} says it has")
        return found

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, name: str) -> WeightFile:
        if name not in self._files:
            self._files[name] = WeightFile.open(self.folder / name)
        return self._files[name]

    def _index_files(self, names: list[str]) -> None:
        places: dict[str, str] = {}
        try:
            for name in names:
                for tensor in self._file(name).tensors:
                    if tensor in places:
                        raise ModelFormatError(
                            f"{self.folder / name}: tensor {clip(tensor)} is in {places[tensor]}, too; "
                            f"{INDEX_NAME} would say which counts, download it"
                        )
                    places[tensor] = name
        except BaseException:
            self.close()
            raise
        self._places = places


def _why_no_folder(path: Path) -> str:
    """And the way out that fits what was given instead."""
    if path.suffix == ".gguf":
        return "is not a folder but a GGUF file; stepahead quantize makes smaller ones of it"
    wanted = "give the one that holds config.json and the weights"
    if path.exists() or path.is_absolute() or len(path.parts) != 2 or path.parts[0] in (".", ".."):
        return f"is not a folder; {wanted}"
    return f"is not a folder; {wanted}; a repository is fetched with: hf download {path} --local-dir {path.name}"


def _read_index(path: Path) -> dict[str, str]:
    places = read_object(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelFormatError(f"{path}: has no weight_map of tensor names and files")
    for tensor, name in places.items():
        if not isinstance(name, str) or not _is_plain_name(name):
            raise ModelFormatError(
                f"{path}: tensor {clip(tensor)} should be in {clip(name)}, which is not the name of a .safetensors file"
            )
    return places


def _is_plain_name(name: str) -> bool:
    """A file beside the index and nowhere else, on every system."""
    return name.endswith(".safetensors") and not name.startswith(".") and not set(name) & set("/\\:\0")
