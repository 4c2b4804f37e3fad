"""The metadata of a file whose number of blocks changes: per-layer arrays are cut or extended, all else stays.

Must not know: tensors, files.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead.gguf import TypedValue, ValueType
from stepahead.gguf.metadata import DTYPES
from stepahead.gguf.writer import PADDING_KEY
from stepahead.models.step35_config import ARCH
from stepahead.splice.parts import NEXTN_KEY

BLOCK_COUNT_KEY = f"{ARCH}.block_count"
EXPERT_PREFIX = f"{ARCH}.expert_"
EXPERT_COUNT_KEY = f"{ARCH}.expert_count"
Pairs = dict[str, TypedValue]


def trunk_pairs(pairs: Mapping[str, TypedValue], num_trunk: int) -> Pairs:
    """Of the trunk alone: as published trunks have it, without a word of heads."""
    cut = head_pairs(pairs, num_trunk, 0)
    cut.pop(NEXTN_KEY, None)
    return cut


def head_pairs(pairs: Mapping[str, TypedValue], num_trunk: int, num_heads: int) -> Pairs:
    """Of so many heads and no more. Numbering and arrays are those of a full model, in a companion file, too."""
    num_blocks, wanted = int(pairs[BLOCK_COUNT_KEY].value), num_trunk + num_heads
    cut: Pairs = {}
    for key, value in pairs.items():
        if key.startswith("split.") or key == PADDING_KEY:
            continue  # true of the files at hand only
        is_array = _is_per_layer(key, value, num_blocks)
        cut[key] = TypedValue(value.type, value.value[:wanted]) if is_array else value
    cut[BLOCK_COUNT_KEY] = TypedValue(pairs[BLOCK_COUNT_KEY].type, wanted)
    if NEXTN_KEY in cut:
        cut[NEXTN_KEY] = TypedValue(cut[NEXTN_KEY].type, num_heads)
    return cut


def joined_pairs(
    trunk: Mapping[str, TypedValue], heads: Mapping[str, TypedValue], num_trunk: int, num_heads: int
) -> Pairs:
    """The trunk's own, and of the heads' what describes their blocks."""
    own, other = trunk_pairs(trunk, num_trunk), head_pairs(heads, num_trunk, num_heads)
    joined = dict(own)
    is_dense = EXPERT_COUNT_KEY not in own  # to a trunk with experts, a missing key of theirs says something, too
    for key in dict.fromkeys([*own, *other]):
        front, tail = own.get(key), other.get(key)
        if _is_text(front) or _is_text(tail):
            continue
        if _is_per_layer(key, front, num_trunk) or _is_per_layer(key, tail, num_trunk + num_heads):
            value = _joined_layers(front, tail, num_trunk, num_heads)
            if value is not None:
                joined[key] = value
        elif is_dense and front is None and tail is not None and key.startswith(EXPERT_PREFIX):
            joined[key] = tail
    joined[BLOCK_COUNT_KEY] = TypedValue(own[BLOCK_COUNT_KEY].type, num_trunk + num_heads)
    known = [pairs for pairs in (trunk, heads) if NEXTN_KEY in pairs]
    value_type = known[0][NEXTN_KEY].type if known else ValueType.U32
    return _inserted(joined, NEXTN_KEY, TypedValue(value_type, num_heads), *map(list, known))


def _joined_layers(front: TypedValue | None, tail: TypedValue | None, num_trunk: int, num_heads: int) -> Any:
    """A value for each layer; one for all where that says the same, None where nothing has to be said."""
    first = _of_layers(front, slice(0, num_trunk), num_trunk)
    last = _of_layers(tail, slice(num_trunk, None), num_heads)
    if front is None and not last.any():
        return None
    if front is not None and not isinstance(front.value, np.ndarray) and (last == front.value).all():
        return front
    kind = front or tail
    assert kind is not None
    return TypedValue(kind.type, np.concatenate([first, last]).astype(DTYPES[kind.type]))


def _of_layers(value: TypedValue | None, layers: slice, count: int) -> npt.NDArray[Any]:
    """What is not said of a layer is 0: no clamp, no experts."""
    if value is None:
        return np.zeros(count, np.uint8)
    return value.value[layers] if isinstance(value.value, np.ndarray) else np.full(count, value.value)


def _is_per_layer(key: str, value: TypedValue | None, num_blocks: int) -> bool:
    if value is None or not isinstance(value.value, np.ndarray):
        return False
    return key.startswith(f"{ARCH}.") and len(value.value) == num_blocks


def _is_text(value: TypedValue | None) -> bool:
    return value is not None and value.type is ValueType.STRING


def _inserted(pairs: Pairs, key: str, value: TypedValue, *orders: list[str]) -> Pairs:
    """With one pair more, where the first order that knows it has it: after the key that comes before it there."""
    order = orders[0] if orders else [key]
    before = [other for other in order[: order.index(key)] if other in pairs]
    items = list(pairs.items())
    place = list(pairs).index(before[-1]) + 1 if before else len(items)
    return dict([*items[:place], (key, value), *items[place:]])
