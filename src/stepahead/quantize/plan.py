"""What becomes of each tensor of a file: its type, and why.

Owns the rules that are no mix's: what is left alone, does not fit or is smaller already, and MTP heads. Must not
know: how numbers are encoded, where the new file is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile, QuantType, TensorInfo
from stepahead.gguf.block_name import block_number, check_blocks
from stepahead.quantize.encoder import ENCODED_TYPES
from stepahead.quantize.importance import ImportanceMatrix, InputSquares
from stepahead.quantize.mix import Mix, Place, fitting, roles
from stepahead.quantize.override import Override, check_all_match, last_match

PLAIN = (QuantType.F32, QuantType.F16, QuantType.BF16)
EH_PROJ = ".nextn.eh_proj.weight"
EH_PROJ_TYPE = QuantType.Q8_0
"""eh_proj joins two inputs of different scales, an embedding and a hidden row, and every draft of its head goes through
it: of a head's bytes it is a small part."""

Reason = Literal["kept", "mix", "asked", "heads", "no fit", "smaller already"]
# Small, and what follows depends on them more than on any other matrix: the choice of experts.
_KEPT = ("_norm.weight", "ffn_gate_inp.weight")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is asked for."""

    mix: Mix
    overrides: tuple[Override, ...] = ()
    heads_type: QuantType | None = None
    is_pure: bool = False
    allow_requantize: bool = False
    importance: ImportanceMatrix | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PlannedTensor:
    info: TensorInfo
    type: QuantType
    wanted: QuantType  # what it would be if its rows were whole blocks
    reason: Reason
    squares: InputSquares | None = None

    @property
    def is_copied(self) -> bool:
        return self.type is self.info.type

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(self.info.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    file: GGUFFile
    request: Request
    tensors: tuple[PlannedTensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def fallbacks(self) -> tuple[PlannedTensor, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.reason == "no fit")


def make_plan(file: GGUFFile, request: Request) -> Plan:
    """Raises ConfigError for what cannot or should not be done, before a byte is read."""
    matrices = [name for name, info in file.tensors.items() if is_matrix(info)]
    if not matrices:
        raise ConfigError(f"{file.path}: has no matrices to quantise")
    check_all_match(request.overrides, matrices)
    model = _Model.of(file)
    tensors = tuple(_planned(info, model, request) for info in file.tensors.values())
    _refuse_requantizing(file, request, tensors)
    for tensor in tensors:
        if not tensor.is_copied and tensor.type not in ENCODED_TYPES:
            raise ConfigError(f"{tensor.info.name} cannot become {tensor.type.name}: that type is read, not written")
    return Plan(file, request, tensors)


def is_matrix(info: TensorInfo) -> bool:
    """Whether a tensor may change its type; vectors, routers and what is no weight may not."""
    rows = 1
    for size in info.shape[:-1]:
        rows *= size
    return rows > 1 and info.name.endswith(".weight") and not info.name.endswith(_KEPT)


@dataclass(frozen=True, slots=True)
class _Model:
    """What is asked of the model as a whole."""

    file: GGUFFile
    num_layers: int  # of the trunk
    is_tied: bool

    @classmethod
    def of(cls, file: GGUFFile) -> "_Model":
        arch = file.get_str("general.architecture")
        num_blocks = file.get_int(f"{arch}.block_count", 0)
        check_blocks(file.path, file.tensors, num_blocks)
        num_layers = num_blocks - file.get_int(f"{arch}.nextn_predict_layers", 0)
        return cls(file, num_layers, "output.weight" not in file.tensors and "token_embd.weight" in file.tensors)

    def place(self, info: TensorInfo, has_importance: bool) -> Place:
        layer = block_number(info.name)
        known = roles(info.name, len(info.shape), self.is_tied)
        queries = self._queries_a_value(f"blk.{layer}.") if "value" in known else 1
        return Place(known, layer, self.num_layers, queries, has_importance)

    def is_head(self, place: Place) -> bool:
        return place.layer >= self.num_layers

    def _queries_a_value(self, block: str) -> int:
        """Query heads a KV head, from the shapes alone: heads differ from layer to layer."""
        tensors = self.file.tensors
        output, values = tensors.get(f"{block}attn_output.weight"), tensors.get(f"{block}attn_v.weight")
        fused = tensors.get(f"{block}attn_qkv.weight")
        if output is None or (values is None and fused is None):
            return 1
        queries = output.shape[-1]
        if values is not None:
            rows = values.shape[0]
        else:
            assert fused is not None
            rows = (fused.shape[0] - queries) // 2
        return queries // max(rows, 1)


def _planned(info: TensorInfo, model: _Model, request: Request) -> PlannedTensor:
    if not is_matrix(info):
        return PlannedTensor(info, info.type, info.type, "kept")
    squares = _squares(info, request.importance)
    wanted, reason = _wanted(info, model, request)
    chosen = fitting(wanted, info.shape[-1])
    if reason != "asked" and info.type not in PLAIN and _bits(info.type) <= _bits(chosen):
        return PlannedTensor(info, info.type, info.type, "smaller already")
    return PlannedTensor(info, chosen, wanted, reason if chosen is wanted else "no fit", squares)


def _wanted(info: TensorInfo, model: _Model, request: Request) -> tuple[QuantType, Reason]:
    asked = last_match(request.overrides, info.name)
    if asked is not None:
        return asked, "asked"
    place = model.place(info, request.importance is not None)
    if model.is_head(place) and request.heads_type is not None:
        wanted = request.heads_type
    elif request.is_pure:
        return request.mix.base, "mix"
    else:
        wanted = request.mix.type_at(place)
    if info.name.endswith(EH_PROJ) and _bits(wanted) < _bits(EH_PROJ_TYPE):
        return EH_PROJ_TYPE, "heads"
    return wanted, "mix"


def _bits(quant_type: QuantType) -> float:
    return 8 * quant_type.block_bytes / quant_type.block_size


def _squares(info: TensorInfo, importance: ImportanceMatrix | None) -> InputSquares | None:
    """Of this matrix, if the importance matrix has it. Raises ConfigError where it has another size."""
    if importance is None or info.name not in importance.squares:
        return None
    squares = importance.squares[info.name]
    num_experts = info.shape[0] if len(info.shape) > 2 else 1
    if squares.sums.shape != (num_experts, info.shape[-1]):
        raise ConfigError(
            f"{importance.path}: {info.name} has importances of shape {list(squares.sums.shape)}, the model "
            f"{[num_experts, info.shape[-1]]}; it was made for another model"
        )
    return squares


def _refuse_requantizing(file: GGUFFile, request: Request, tensors: Sequence[PlannedTensor]) -> None:
    again = [tensor for tensor in tensors if not tensor.is_copied and tensor.info.type not in PLAIN]
    if again and not request.allow_requantize:
        types = ", ".join(sorted({tensor.info.type.name for tensor in again}))
        raise ConfigError(
            f"{file.path}: {len(again)} matrices are quantised already ({types}), and would lose twice; give a file of "
            "BF16, F16 or F32, or --allow-requantize"
        )
