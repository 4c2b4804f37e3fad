"""Whether heads were trained with a trunk's vocabulary: its tokens' texts and embeddings, of both files.

Drafts from the wrong heads are rejected, which costs speed and never changes the text: nothing else would tell.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile, QuantType, dequantize
from stepahead.gguf.block_quants import Bytes

EMBEDDINGS = "token_embd.weight"
TOKENS_KEY = "tokenizer.ggml.tokens"
MIN_CORRELATION = 0.5
"""With the exact values: 0.95 at least down to Q2_K, 0.83 of IQ1_S, 0.63 of ternary ones; of unrelated ones about 0."""
NUM_SAMPLED_ROWS = 1024
CHUNK_BYTES = 64 << 20
# Every program that writes these types writes the same bytes; those of a lossier type may have been searched for.
EXACT_TYPES = (QuantType.F32, QuantType.F16, QuantType.BF16, QuantType.Q8_0)
FORCE = "--force joins them all the same, which changes no text but may make drafting useless"


@dataclass(frozen=True, slots=True)
class Likeness:
    """Of two embeddings. Equal: bytes; alike: as two quantisations of one are; unknown: a file has none."""

    verdict: Literal["equal", "alike", "different", "unknown"]
    correlation: float | None  # of sampled rows
    types: tuple[str, str] | None  # trunk's, heads'


def compare_embeddings(trunk: GGUFFile, heads: GGUFFile) -> Likeness:
    """Equal bytes, or the correlation of rows from all of the vocabulary."""
    if EMBEDDINGS not in trunk.tensors or EMBEDDINGS not in heads.tensors:
        return Likeness("unknown", None, None)
    infos = trunk.tensors[EMBEDDINGS], heads.tensors[EMBEDDINGS]
    types = infos[0].type.name, infos[1].type.name
    if infos[0].shape != infos[1].shape:
        return Likeness("different", None, types)
    if infos[0].type is infos[1].type and _have_equal_bytes(trunk, heads):
        return Likeness("equal", 1.0, types)
    correlation = _correlation(trunk, heads)
    must_be_equal = infos[0].type is infos[1].type and infos[0].type in EXACT_TYPES
    is_alike = correlation >= MIN_CORRELATION and not must_be_equal
    return Likeness("alike" if is_alike else "different", correlation, types)


def demand_likeness(likeness: Likeness, trunk: GGUFFile, heads: GGUFFile) -> None:
    """ConfigError unless the embeddings are, for all that is known, the same."""
    if likeness.verdict != "different" or likeness.types is None:
        return
    own, other = likeness.types
    limit = f"at least {MIN_CORRELATION} expected" if own != other else "equal bytes expected"
    raise ConfigError(
        f"{heads.path}: its token embeddings ({other}) are not those of {trunk.path} ({own}): correlation "
        f"{likeness.correlation or 0:.3f}, {limit}; give heads that were trained with this trunk; {FORCE}"
    )


def demand_equal_tokens(trunk: GGUFFile, heads: GGUFFile) -> None:
    """ConfigError where both files have tokens and they differ."""
    own, other = (file.get_array(TOKENS_KEY, None, kind=str) for file in (trunk, heads))
    if own is None or other is None or own == other:
        return
    if len(own) != len(other):
        what = f"{len(other)} tokens, not {len(own)}"
    else:
        differing = [index for index, pair in enumerate(zip(own, other, strict=True)) if pair[0] != pair[1]]
        first = differing[0]
        what = f"{len(differing)} other tokens, the first {first}: {other[first]!r:.40}, not {own[first]!r:.40}"
    raise ConfigError(
        f"{heads.path}: has {what} as {trunk.path} has; give heads that were trained with this vocabulary; {FORCE}"
    )


def _have_equal_bytes(trunk: GGUFFile, heads: GGUFFile) -> bool:
    info = trunk.tensors[EMBEDDINGS]
    step = max(1, CHUNK_BYTES // info.row_bytes)
    first, second = trunk.data(EMBEDDINGS), heads.data(EMBEDDINGS)
    for start in range(0, len(first), step):
        if not np.array_equal(first[start : start + step], second[start : start + step]):
            return False
        for file in (trunk, heads):  # once is enough: these pages are worth more to others
            file.release(EMBEDDINGS, start * info.row_bytes, (start + step) * info.row_bytes)
    return True


def _correlation(trunk: GGUFFile, heads: GGUFFile) -> float:
    num_rows = trunk.tensors[EMBEDDINGS].shape[0]
    rows = np.unique(np.linspace(0, num_rows - 1, NUM_SAMPLED_ROWS).astype(np.int64))
    a, b = (_sample(file.data(EMBEDDINGS), rows, file.tensors[EMBEDDINGS].type) for file in (trunk, heads))
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / size if 0 < size < np.inf else 0.0


def _sample(data: Bytes, rows: npt.NDArray[np.int64], type: QuantType) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.nan_to_num(dequantize(data[rows], type).astype(np.float64), posinf=0, neginf=0)
    found -= found.mean()
    return found
