"""What a model file has of the two parts: trunk and heads, by the names of its tensors.

Owns FileParts. Must not know: whether two files belong together.
"""

from dataclasses import dataclass

from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_name import block_number
from stepahead.models.step35_config import ARCH, Step35Config

NEXTN_KEY = f"{ARCH}.nextn_predict_layers"


@dataclass(frozen=True, slots=True, eq=False)
class FileParts:
    """Names of tensors, in the order of the file. A block is head k if its number is num_trunk_layers + k."""

    file: GGUFFile
    config: Step35Config
    trunk: tuple[str, ...]
    heads: tuple[str, ...]
    num_heads: int  # those there, from the first on; a file may declare more

    @classmethod
    def of(cls, file: GGUFFile) -> "FileParts":
        """UnsupportedModelError: another architecture. ModelFormatError: its metadata and its tensors disagree."""
        arch = file.get_str("general.architecture")
        if arch != ARCH:
            raise UnsupportedModelError(f"{file.path}: architecture {arch!r}; heads are joined and split for {ARCH!r}")
        config = Step35Config.from_file(file)
        first, numbers = config.num_trunk_layers, {name: block_number(name) for name in file.tensors}
        parts = cls(
            file=file,
            config=config,
            trunk=tuple(name for name, number in numbers.items() if 0 <= number < first),
            heads=tuple(name for name, number in numbers.items() if number >= first),
            num_heads=_count_heads(file, config, set(numbers.values())),
        )
        _refuse_undeclared(parts)
        _refuse_layers_as_heads(parts)
        return parts

    @property
    def num_declared(self) -> int:
        return self.config.num_declared_heads

    @property
    def num_trunk_layers(self) -> int:
        return self.config.num_trunk_layers


def _count_heads(file: GGUFFile, config: Step35Config, blocks: set[int]) -> int:
    first = config.num_trunk_layers
    present = sorted(block for block in blocks if block >= first)
    if present and (present[0] != first or present[-1] - first >= len(present)):
        missing = next(block for block in range(first, present[-1]) if block not in present)
        raise ModelFormatError(
            f"{file.path}: has heads up to blk.{present[-1]}, but no blk.{missing}: each feeds the next, none can be "
            "left out; get a file with all of them"
        )
    return len(present)


def _refuse_undeclared(parts: FileParts) -> None:
    """Heads that the metadata takes for layers of the trunk."""
    found = [name for name in parts.trunk if name.endswith(".nextn.eh_proj.weight")]
    if found:
        raise ModelFormatError(
            f"{parts.file.path}: {found[0]} belongs to a head, but metadata declares block {block_number(found[0])} to "
            f"the trunk ({NEXTN_KEY} is {parts.num_declared}); stepahead doctor FILE says more"
        )


def _refuse_layers_as_heads(parts: FileParts) -> None:
    """Layers of the trunk that the metadata takes for heads."""
    own = {block_number(name) for name in parts.heads if ".nextn." in name}
    layers = sorted({block_number(name) for name in parts.heads} - own)
    if layers:
        raise ModelFormatError(
            f"{parts.file.path}: block {layers[0]} has nothing that only heads have, but metadata declares it to them "
            f"({NEXTN_KEY} is {parts.num_declared}); stepahead doctor FILE says more"
        )


def demand_trunk(parts: FileParts) -> None:
    """A whole one is demanded by the loader; this is for files that have none at all."""
    if not parts.trunk:
        raise ConfigError(
            f"{parts.file.path}: holds MTP heads only (blk.{parts.num_trunk_layers} on), no trunk; give the trunk's "
            "file here, and this one as the heads"
        )


def demand_heads(parts: FileParts) -> None:
    """At least one."""
    if not parts.heads:
        declared = f", although it declares {parts.num_declared}" if parts.num_declared else ""
        raise ConfigError(
            f"{parts.file.path}: has no MTP heads{declared}; give a file with blk.{parts.num_trunk_layers} and on: "
            "a companion file or a full model"
        )
