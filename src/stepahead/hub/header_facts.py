"""What the headers of a model say about its heads, and whether heads of one file fit the trunk of another.

Reads what has been parsed: of a file here, or of the first bytes of one on a hub.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepahead.gguf import GGUFFile, MetadataValue, TensorInfo
from stepahead.gguf.metadata import MetadataReader

_ORIGIN = re.compile(r"general\.(?:base_model\.\d+|source)\.(?:repo_url|url|huggingface\.repository)")
_ADDRESS = re.compile(r"(?:^|[/.]co/)([\w.-]+/[\w.-]+?)/?$", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """num_heads: blocks that have MTP tensors; has_trunk: False for a file of heads alone.

    bases: what it was made from, OWNER/NAME in small letters."""

    arch: str
    name: str
    num_trunk_layers: int
    num_declared: int
    num_heads: int
    hidden_size: int
    head_dim: int
    window: int
    vocab_size: int
    has_trunk: bool
    bases: frozenset[str] = frozenset()

    @property
    def is_heads_only(self) -> bool:
        return self.num_heads > 0 and not self.has_trunk

    def fault_as_heads_of(self, trunk: "HeaderFacts") -> str | None:
        """Why these heads cannot draft for `trunk`, None if by the headers they can."""
        if self.num_heads == 0:
            return "it holds no heads"
        pairs = {
            "architecture": (self.arch, trunk.arch),
            "layers of the trunk": (self.num_trunk_layers, trunk.num_trunk_layers),
            "width": (self.hidden_size, trunk.hidden_size),
            "head size": (self.head_dim, trunk.head_dim),
            "window": (self.window, trunk.window),
            "vocabulary": (self.vocab_size, trunk.vocab_size),
        }
        wrong = [f"{what} {own} instead of {needed}" for what, (own, needed) in pairs.items() if own != needed]
        return ", ".join(wrong) or None


class _Header(MetadataReader):
    def __init__(self, path: Path, metadata: Mapping[str, MetadataValue]) -> None:
        self.path, self.metadata = path, metadata


def header_facts(
    path: Path, metadata: Mapping[str, MetadataValue], tensors: Iterable[tuple[str, TensorInfo]]
) -> HeaderFacts:
    """Raises ModelFormatError for metadata of wrong types."""
    reader = _Header(path, metadata)
    arch = reader.get_str("general.architecture", "")
    declared = reader.get_int(f"{arch}.nextn_predict_layers", 0)
    by_name = dict(tensors)
    table = by_name.get("token_embd.weight")
    return HeaderFacts(
        arch=arch,
        name=reader.get_str("general.name", ""),
        num_trunk_layers=reader.get_int(f"{arch}.block_count", 0) - declared,
        num_declared=declared,
        num_heads=sum(name.endswith(".nextn.eh_proj.weight") for name in by_name),
        hidden_size=reader.get_int(f"{arch}.embedding_length", 0),
        head_dim=reader.get_int(f"{arch}.attention.key_length", 0),
        window=reader.get_int(f"{arch}.attention.sliding_window", 0),
        vocab_size=_vocab_size(reader) if table is None else table.shape[0],
        has_trunk="blk.0.attn_norm.weight" in by_name,
        bases=_bases(metadata),
    )


def facts_of_file(path: Path) -> HeaderFacts:
    """Of a model here. Raises what GGUFFile.open raises."""
    with GGUFFile.open(path) as file:
        return header_facts(path, file.metadata, file.tensors.items())


def _bases(metadata: Mapping[str, MetadataValue]) -> frozenset[str]:
    """From addresses of repositories, as converters note them; whoever writes anything else says nothing."""
    found = (value for key, value in metadata.items() if _ORIGIN.fullmatch(key) and isinstance(value, str))
    matches = (_ADDRESS.search(value) for value in found)
    return frozenset(match[1].lower() for match in matches if match)


def _vocab_size(reader: MetadataReader) -> int:
    """Of a split model whose first shard, the one with the tokens, holds no tensors."""
    tokens = reader.get_array("tokenizer.ggml.tokens", None, kind=str)
    return 0 if tokens is None else len(tokens)
