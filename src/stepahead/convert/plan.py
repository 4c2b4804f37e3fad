"""Which tensors the GGUF file gets, of what shapes and types, and which tensors of the checkpoint each is made of.

Everything that can be wrong with names and shapes is found here, before a byte is written. Must not know: how numbers
are turned, how files are written.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stepahead.convert.checkpoint import Checkpoint
from stepahead.convert.hub_config import HubConfig
from stepahead.convert.tensor_name import Place, place_of
from stepahead.convert.weight_file import WeightTensor
from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError
from stepahead.gguf import QuantType

Part = Literal["all", "heads", "trunk"]
MAX_NAMES = 6  # of a list of names in an error message
SHARED = ("token_embd.weight", "output_norm.weight", "output.weight")  # what a file of heads repeats
_ALWAYS_F32 = ("_norm.weight", "norm.weight", "ffn_gate_inp.weight")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Numbers that come from one tensor of the checkpoint, with the scales of an FP8 one."""

    values: WeightTensor
    shape: tuple[int, ...]  # without dimensions of 1 that the checkpoint has and GGUF has not
    scale: WeightTensor | None
    scale_block: tuple[int, int] | None  # None: a scale for each leading index, or one for all


@dataclass(frozen=True, slots=True, eq=False)
class PlannedTensor:
    """A tensor of the file: its sources lie one behind the other in it."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    sources: tuple[Source, ...]
    adds_one: bool  # norms: the hub's are zero-centred, GGUF's are not

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """tensors: in the order of the file. fallbacks: those whose rows the wanted type cannot hold."""

    tensors: tuple[PlannedTensor, ...]
    num_blocks: int
    num_heads: int
    num_vision: int
    num_unused: int
    fallbacks: tuple[str, ...]
    vocab_size: int
    moe_layers: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


class _Found:
    """The checkpoint's names, by where they belong."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.values: dict[str, dict[int | None, str]] = defaultdict(dict)
        self.scales: dict[tuple[str, int | None], tuple[str, bool]] = {}
        self.layers: dict[str, int] = {}
        self.num_vision = self.num_unused = 0
        unknown = []
        for name in checkpoint.names:
            place = place_of(name)
            if place.kind == "unknown":
                unknown.append(name)
            elif place.kind == "vision":
                self.num_vision += 1
            elif place.kind == "unused":
                self.num_unused += 1
            else:
                self._add(name, place)
        if unknown:
            raise UnsupportedModelError(
                f"{checkpoint.folder}: {len(unknown)} tensors have no place in this architecture: {some(unknown)}"
            )

    def _add(self, name: str, place: Place) -> None:
        self.layers[place.name] = place.layer
        if place.kind == "values":
            before = self.values[place.name].setdefault(place.expert, name)
        else:
            scale = (name, place.kind == "block_scale")
            before = self.scales.setdefault((place.name, place.expert), scale)[0]
        if before != name:
            raise ModelFormatError(f"tensors {before} and {name} are two names of one; only one may be there")


def make_plan(checkpoint: Checkpoint, config: HubConfig, wanted: QuantType, part: Part) -> Plan:
    """ConfigError: there are no such heads; ModelFormatError: missing, misshapen; UnsupportedModelError: unknown."""
    found = _Found(checkpoint)
    num_heads = _num_heads(config, found, part)
    num_blocks = config.num_trunk + num_heads
    blocks = range(config.num_trunk if part == "heads" else 0, num_blocks)
    vocab_size = _vocab_size(checkpoint, found)
    moe_layers = tuple(layer for layer in blocks if f"blk.{layer}.ffn_gate_inp.weight" in found.values)
    _check_moe_layers(config, moe_layers, [layer for layer in blocks if layer < config.num_trunk])
    expected = dict(_expected(config, vocab_size, blocks, frozenset(moe_layers), num_blocks))
    if config.is_tied and "output.weight" not in found.values:
        found.values["output.weight"] = found.values["token_embd.weight"]
    _check_names(checkpoint, found, expected, _optional(config), blocks)
    _check_scales(checkpoint, found)
    tensors, fallbacks = [], []
    for name, shape in expected.items():
        if name in found.values:
            tensor_type = _type_of(name, shape, wanted)
            if tensor_type is None:
                fallbacks.append(name)
            sources = tuple(_sources(checkpoint, config, found, name, shape))
            adds_one = name.endswith("norm.weight")
            tensors.append(PlannedTensor(name, shape, tensor_type or QuantType.F16, sources, adds_one))
    return Plan(
        tuple(tensors),
        num_blocks,
        num_heads,
        found.num_vision,
        found.num_unused,
        tuple(fallbacks),
        vocab_size,
        moe_layers,
    )


def _num_heads(config: HubConfig, found: _Found, part: Part) -> int:
    """How many heads are converted; refuses to lose any without being told to."""
    if part == "trunk":
        return 0
    present = len({layer for layer in found.layers.values() if layer >= config.num_trunk})
    promised = present if config.num_heads is None else config.num_heads
    first = config.num_trunk
    if part == "heads" and present == 0:
        raise ConfigError(f"{config.path.parent}: has no MTP heads: no tensor of layer {first} or later")
    if present != promised:
        ways_out = "--no-heads converts the trunk alone; otherwise download what is missing" + (
            "" if present == 0 else f", or set num_nextn_predict_layers to {present}"
        )
        raise ConfigError(
            f"{config.path}: promises {promised} MTP heads, but the weights have {present} (layers from {first} on); "
            f"{ways_out}"
        )
    return present


def _vocab_size(checkpoint: Checkpoint, found: _Found) -> int:
    """The rows of the embedding: config.json may count the tokens without fillers."""
    name = found.values.get("token_embd.weight", {}).get(None)
    if name is None:
        raise ModelFormatError(f"{checkpoint.folder}: has no tensor model.embed_tokens.weight")
    return checkpoint.tensor(name).shape[0] if checkpoint.tensor(name).shape else 0


def _check_moe_layers(config: HubConfig, found: tuple[int, ...], layers: list[int]) -> None:
    promised = None if config.moe_layers is None else sorted(config.moe_layers & set(layers))
    present = [layer for layer in found if layer < config.num_trunk]
    if promised is not None and promised != present:
        odd = sorted(set(promised) ^ set(present))
        raise ModelFormatError(
            f"{config.path}: layers with experts by config.json and by their tensors differ: {some([*map(str, odd)])}"
        )


def _expected(
    c: HubConfig, vocab_size: int, blocks: range, moe_layers: frozenset[int], num_blocks: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (vocab_size, c.hidden_size)
    yield "output_norm.weight", (c.hidden_size,)
    yield "output.weight", (vocab_size, c.hidden_size)
    is_sliding = c.is_sliding(num_blocks)
    for layer in blocks:
        for name, shape in _block(c, is_sliding[layer], layer in moe_layers):
            yield f"blk.{layer}.{name}.weight" if name != "exp_probs_b" else f"blk.{layer}.{name}.bias", shape
        if layer >= c.num_trunk:
            for name, shape in _head(c, vocab_size):
                yield f"blk.{layer}.nextn.{name}.weight", shape


def _block(c: HubConfig, is_sliding: bool, is_moe: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads = c.hidden_size, c.heads_sliding if is_sliding else c.heads_full
    kv = (c.kv_heads_sliding if is_sliding else c.kv_heads_full) * c.head_dim
    yield "attn_norm", (hidden,)
    yield "attn_q", (heads * c.head_dim, hidden)
    yield "attn_k", (kv, hidden)
    yield "attn_v", (kv, hidden)
    yield "attn_output", (hidden, heads * c.head_dim)
    yield "attn_q_norm", (c.head_dim,)
    yield "attn_k_norm", (c.head_dim,)
    yield "attn_gate", (heads, hidden)
    yield "ffn_norm", (hidden,)
    if not is_moe:
        yield from (("ffn_gate", (c.width, hidden)), ("ffn_up", (c.width, hidden)), ("ffn_down", (hidden, c.width)))
        return
    e = c.experts
    if e is None:
        raise ModelFormatError(f"{c.path}: the weights have experts, the config has no moe_num_experts")
    yield "ffn_gate_inp", (e.num_experts, hidden)
    yield "exp_probs_b", (e.num_experts,)
    yield "ffn_gate_exps", (e.num_experts, e.width, hidden)
    yield "ffn_up_exps", (e.num_experts, e.width, hidden)
    yield "ffn_down_exps", (e.num_experts, hidden, e.width)
    yield "ffn_gate_shexp", (e.shared_width, hidden)
    yield "ffn_up_shexp", (e.shared_width, hidden)
    yield "ffn_down_shexp", (hidden, e.shared_width)


def _head(c: HubConfig, vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "eh_proj", (c.hidden_size, 2 * c.hidden_size)
    yield "enorm", (c.hidden_size,)
    yield "hnorm", (c.hidden_size,)
    yield "shared_head_norm", (c.hidden_size,)
    yield "shared_head_head", (vocab_size, c.hidden_size)
    yield "embed_tokens", (vocab_size, c.hidden_size)


def _optional(c: HubConfig) -> tuple[str, ...]:
    """Ends of names without which a model of this config is whole."""
    ends = ["nextn.embed_tokens.weight"]
    ends += [] if c.has_gate else ["attn_gate.weight"]
    ends += [] if c.has_router_bias else ["exp_probs_b.bias"]
    return tuple(ends)


def _check_names(
    checkpoint: Checkpoint,
    found: _Found,
    expected: dict[str, tuple[int, ...]],
    optional: tuple[str, ...],
    blocks: range,
) -> None:
    missing = [name for name in expected if name not in found.values and not name.endswith(optional)]
    if missing:
        raise ModelFormatError(
            f"{checkpoint.folder}: {len(missing)} tensors are missing, as GGUF names: {some(missing)}"
        )
    odd = [
        hub_name
        for name, by_expert in found.values.items()
        for hub_name in by_expert.values()
        if name not in expected and (found.layers[name] in blocks or found.layers[name] < 0)
    ]
    if odd:
        raise UnsupportedModelError(
            f"{checkpoint.folder}: {len(odd)} tensors have no place where they are: {some(odd)}"
        )


def _check_scales(checkpoint: Checkpoint, found: _Found) -> None:
    """Scales of nothing: of a stack that is there one by one, or of an expert that is not there."""
    lost = [scale for (name, expert), (scale, _) in found.scales.items() if expert not in found.values.get(name, ())]
    if lost:
        raise ModelFormatError(f"{checkpoint.folder}: {len(lost)} scales belong to no tensor: {some(lost)}")


def _sources(
    checkpoint: Checkpoint, config: HubConfig, found: _Found, name: str, shape: tuple[int, ...]
) -> Iterator[Source]:
    by_expert = found.values[name]
    if None in by_expert:
        if len(by_expert) > 1:
            raise ModelFormatError(f"{checkpoint.folder}: {by_expert[None]} is there stacked and one by one")
        yield _source(checkpoint, config, by_expert[None], found.scales.get((name, None)), shape)
        return
    if sorted(expert for expert in by_expert if expert is not None) != list(range(shape[0])):
        raise ModelFormatError(
            f"{checkpoint.folder}: {name} needs experts 0 to {shape[0] - 1}, the weights have {len(by_expert)} of them"
        )
    for expert in range(shape[0]):
        yield _source(checkpoint, config, by_expert[expert], found.scales.get((name, expert)), shape[1:])


def _source(
    checkpoint: Checkpoint, config: HubConfig, hub_name: str, scale: tuple[str, bool] | None, shape: tuple[int, ...]
) -> Source:
    values = checkpoint.tensor(hub_name)
    values.require_numbers()
    if _squeezed(values.shape) != _squeezed(shape):
        raise ModelFormatError(
            f"{values.file.path}: tensor {hub_name} has shape {list(values.shape)}, "
            f"expected {list(shape)} by {config.path.name}"
        )
    if values.dtype != "F8_E4M3":
        if scale is not None:
            raise ModelFormatError(
                f"{values.file.path}: tensor {hub_name} is {values.dtype}, but has scales: {scale[0]}"
            )
        return Source(values, shape, None, None)
    if scale is None:
        raise ModelFormatError(
            f"{values.file.path}: tensor {hub_name} is FP8 and has no scale (weight_scale_inv, weight_scale)"
        )
    factors = checkpoint.tensor(scale[0])
    factors.require_numbers()
    block = config.block_shape if _is_grid(factors.shape, shape, config.block_shape) else None
    if block is None and (scale[1] or not _leads(factors.shape, shape)):
        raise ModelFormatError(
            f"{factors.file.path}: scales {scale[0]} of shape {list(factors.shape)} do not fit {list(shape)} "
            f"in blocks of {list(config.block_shape)}"
        )
    return Source(values, shape, factors, block)


def _is_grid(scale: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int]) -> bool:
    if len(shape) < 2:
        return False
    grid = (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
    return scale == grid


def _leads(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """One for all, one for each expert, or one for each row; dimensions of 1 may follow."""
    while scale and scale[-1] == 1:
        scale = scale[:-1]
    return scale == shape[: len(scale)] and len(scale) < len(shape)


def _type_of(name: str, shape: tuple[int, ...], wanted: QuantType) -> QuantType | None:
    """None: a matrix whose rows are no whole blocks of the wanted type."""
    if len(shape) == 1 or not name.endswith(".weight") or name.endswith(_ALWAYS_F32):
        return QuantType.F32
    return wanted if shape[-1] % wanted.block_size == 0 else None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def some(names: list[str]) -> str:
    """A list of names that fits into an error message."""
    more = f" … and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(name[:120] for name in names[:MAX_NAMES]) + more
