"""Which tensor gets which type: the mixes of types that GGUF files usually have, as tables.

A mix is a type for most matrices and rules for others. The names, and which matrices get more bits in which layers,
follow what llama.cpp b11549 does (facts of its quantiser); layers are counted without the MTP heads, so that a trunk
gets the same types with its heads and without. Must not know: files, overrides, how numbers are encoded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stepahead.errors import ConfigError
from stepahead.gguf import QuantType

Q = QuantType
Role = Literal["output", "value", "attn_output", "ffn_down", "experts"]

MANY_QUERIES = 4
"""Query heads a KV head serves from which its values are worth more bits: they are few, and all of these read them."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a mix may ask of a matrix: its block, and the model around it."""

    roles: frozenset[Role]
    layer: int  # of the block, -1 outside of blocks; heads have num_layers and above
    num_layers: int  # of the trunk
    queries_a_value: int  # query heads that share a KV head in this block
    has_importance: bool  # an importance matrix is used


Where = Callable[[Place], bool]


def everywhere(_: Place) -> bool:
    return True


def first(count: int) -> Where:
    return lambda place: place.layer < count


def first_part(parts: int) -> Where:
    return lambda place: place.layer < place.num_layers // parts


def both_ends_and_every_third(place: Place) -> bool:
    """The first eighth of the layers, the last eighth, heads, and every third layer between."""
    layer, eighth = place.layer, place.num_layers // 8
    return layer < eighth or layer >= 7 * place.num_layers // 8 or (layer - eighth) % 3 == 2


def few_values(place: Place) -> bool:
    return place.queries_a_value >= MANY_QUERIES


def with_importance(place: Place) -> bool:
    return place.has_importance and first_part(8)(place)


def without_importance(place: Place) -> bool:
    return not place.has_importance and first_part(8)(place)


@dataclass(frozen=True, slots=True)
class Rule:
    role: Role
    type: QuantType
    where: Where = everywhere


@dataclass(frozen=True, slots=True)
class Mix:
    """A name, the number that general.file_type has for it, the type of most matrices, and what is different."""

    name: str
    file_type: int
    base: QuantType
    rules: tuple[Rule, ...] = ()

    def type_at(self, place: Place) -> QuantType:
        for rule in self.rules:
            if rule.role in place.roles and rule.where(place):
                return rule.type
        return self.base


def _mix(name: str, file_type: int, base: QuantType, *rules: Rule, output: QuantType | None = Q.Q6_K) -> Mix:
    first_of_all = () if output is None else (Rule("output", output),)
    return Mix(name, file_type, base, (*first_of_all, *rules))


_E = Rule
_ALL = (
    _mix("F32", 0, Q.F32, output=None),
    _mix("F16", 1, Q.F16, output=None),
    _mix("BF16", 32, Q.BF16, output=None),
    _mix("Q8_0", 7, Q.Q8_0, output=None),
    _mix("Q6_K", 18, Q.Q6_K),
    _mix(
        "Q5_K_M", 17, Q.Q5_K,
        _E("value", Q.Q6_K, both_ends_and_every_third),
        _E("ffn_down", Q.Q6_K, both_ends_and_every_third),
    ),
    _mix("Q5_K_S", 16, Q.Q5_K),
    _mix("Q5_1", 9, Q.Q5_1),
    _mix("Q5_0", 8, Q.Q5_0, _E("ffn_down", Q.Q5_1, with_importance)),
    _mix(
        "Q4_K_M", 15, Q.Q4_K,
        _E("value", Q.Q6_K, both_ends_and_every_third),
        _E("ffn_down", Q.Q6_K, both_ends_and_every_third),
    ),
    _mix("Q4_K_S", 14, Q.Q4_K, _E("value", Q.Q5_K, first(4)), _E("ffn_down", Q.Q5_K, first_part(8))),
    _mix("Q4_1", 3, Q.Q4_1),
    _mix("Q4_0", 2, Q.Q4_0, _E("ffn_down", Q.Q4_1, with_importance)),
    _mix("IQ4_NL", 25, Q.IQ4_NL, _E("value", Q.Q5_K, few_values), _E("ffn_down", Q.Q5_K, without_importance)),
    _mix("IQ4_XS", 30, Q.IQ4_XS, _E("value", Q.Q5_K, few_values), _E("ffn_down", Q.Q5_K, without_importance)),
    _mix("MXFP4", 38, Q.Q8_0, _E("experts", Q.MXFP4), output=None),
    _mix(
        "Q3_K_L", 13, Q.Q3_K,
        _E("value", Q.Q5_K), _E("attn_output", Q.Q5_K), _E("ffn_down", Q.Q5_K),
    ),
    _mix(
        "Q3_K_M", 12, Q.Q3_K,
        _E("value", Q.Q5_K, first(2)), _E("value", Q.Q4_K), _E("attn_output", Q.Q4_K),
        _E("ffn_down", Q.Q5_K, first_part(16)), _E("ffn_down", Q.Q4_K),
    ),
    _mix("Q3_K_S", 11, Q.Q3_K),
    _mix(
        "Q2_K", 10, Q.Q2_K,
        _E("value", Q.Q4_K, few_values), _E("value", Q.Q3_K), _E("attn_output", Q.Q3_K), _E("ffn_down", Q.Q3_K),
    ),
    _mix("Q2_K_S", 21, Q.Q2_K, _E("value", Q.Q4_K, few_values), _E("ffn_down", Q.Q4_K, first_part(8))),
)  # fmt: skip
MIXES = {mix.name: mix for mix in _ALL}
ALIASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M", "MXFP4_MOE": "MXFP4"}


def find_mix(name: str) -> Mix:
    """By its name, in any case, or by that of its type alone. Raises ConfigError."""
    upper = name.upper()
    mix = MIXES.get(ALIASES.get(upper, upper))
    if mix is None:
        raise ConfigError(f"there is no mix of types {name!r}: give one of {', '.join([*MIXES, *ALIASES])}")
    return mix


def roles(name: str, num_dims: int, is_tied: bool = False) -> frozenset[Role]:
    """What a matrix does, as far as mixes care; is_tied: the embedding is the output matrix, too."""
    found: set[Role] = {"experts"} if num_dims > 2 else set()
    if name == ("token_embd.weight" if is_tied else "output.weight"):
        found.add("output")
    elif name.endswith((".attn_v.weight", ".attn_qkv.weight")):
        found.add("value")
    elif name.endswith(".attn_output.weight"):
        found.add("attn_output")
    elif ".ffn_down" in name:
        found.add("ffn_down")
    return frozenset(found)


FALLBACKS = {
    Q.Q2_K: Q.Q4_0,
    Q.Q3_K: Q.Q4_0,
    Q.Q4_K: Q.Q5_0,
    Q.Q5_K: Q.Q5_1,
    Q.Q6_K: Q.Q8_0,
    Q.IQ4_XS: Q.IQ4_NL,
}
"""The type of 32 numbers a block that stands in for one of 256 where rows are no multiple of 256."""


def fitting(wanted: QuantType, row: int) -> QuantType:
    """The type itself if rows of `row` numbers are whole blocks of it, else its substitute, else F16."""
    for candidate in (wanted, FALLBACKS.get(wanted, wanted)):
        if row % candidate.block_size == 0:
            return candidate
    return QuantType.F16
