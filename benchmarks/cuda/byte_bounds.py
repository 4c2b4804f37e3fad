"""Bytes that passes must read, from shapes alone: what a time is compared with, whatever the kernels do.

A step reads every weight of the trunk once for all of its rows, of the experts those that some row chose; keys and
values once a sequence. Activations stay in caches and are not counted, nor is the row of a table that is looked up.
"""

import math
from collections.abc import Sequence

from benchmarks.peers.models import Shape
from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.formats.format import BLOCK, FORMATS, TILE_ROWS
from stepahead.gguf import QuantType

FLOAT_BYTES = {QuantType.F32: 4, QuantType.F16: 2, QuantType.BF16: 2}
JOIN_TYPE = QuantType.Q8_0
"""Of a head's projection of token and hidden row."""
HEAD_TYPE = QuantType.Q4_K
"""Of a head's own output matrix."""
SLIM_COLUMNS = 32768
"""Of an output matrix of a head that drafts frequent tokens alone."""
KEY_BYTES = 2


def matrix_nbytes(type: QuantType, *shape: int) -> int:
    """As it lies in the GPU's memory: (…, out, in)."""
    count, out, width = math.prod(shape[:-2]), shape[-2], shape[-1]
    if type in FLOAT_BYTES:
        return count * out * width * FLOAT_BYTES[type]
    return count * -(-out // TILE_ROWS) * -(-width // BLOCK) * FORMATS[type].record_words * 4


def projections(shape: Shape, index: int) -> tuple[int, int]:
    """Outputs of the queries, keys, values and gates of a layer together, and the width of its mixed heads."""
    heads = shape.heads_sliding if shape.is_sliding(index) else shape.heads_full
    width = heads * shape.head_dim
    return width + 2 * shape.num_kv_heads * shape.head_dim + heads, width


def kv_nbytes(shape: Shape, index: int, context: int) -> int:
    """A sliding layer reads whole blocks, one more than its window has."""
    seen = min(context, shape.window + BLOCK_SIZE) if shape.is_sliding(index) else context
    return seen * 2 * shape.num_kv_heads * shape.head_dim * KEY_BYTES


def attention_nbytes(shape: Shape, index: int, context: int) -> int:
    inputs, width = projections(shape, index)
    weights = matrix_nbytes(shape.type, inputs, shape.hidden) + matrix_nbytes(shape.type, shape.hidden, width)
    return weights + kv_nbytes(shape, index, context)


def expert_nbytes(shape: Shape) -> int:
    """Gate, up and down of one."""
    to, back = (shape.expert_width, shape.hidden), (shape.hidden, shape.expert_width)
    return 2 * matrix_nbytes(shape.type, *to) + matrix_nbytes(shape.type, *back)


def feed_forward_nbytes(shape: Shape, index: int, num_experts: float) -> float:
    """num_experts: distinct ones that the rows of a pass chose; the shared one is not among them."""
    if not shape.is_moe(index):
        to, back = (shape.width, shape.hidden), (shape.hidden, shape.width)
        return 2 * matrix_nbytes(shape.type, *to) + matrix_nbytes(shape.type, *back)
    router = matrix_nbytes(QuantType.F32, shape.num_experts, shape.hidden)
    return router + (num_experts + 1) * expert_nbytes(shape)


def layer_nbytes(shape: Shape, index: int, context: int, num_experts: float) -> float:
    return attention_nbytes(shape, index, context) + feed_forward_nbytes(shape, index, num_experts)


def step_nbytes(shape: Shape, context: int, num_experts: float) -> float:
    """A pass of the trunk with logits."""
    layers = sum(layer_nbytes(shape, index, context, num_experts) for index in range(shape.num_trunk))
    return layers + matrix_nbytes(shape.output_type, shape.vocab, shape.hidden)


def head_nbytes(shape: Shape, context: int, columns: int | None = None) -> float:
    """A pass of one head that drafts a token; columns: of its output matrix, None: the vocabulary."""
    join = matrix_nbytes(JOIN_TYPE, shape.hidden, 2 * shape.hidden)
    output = matrix_nbytes(HEAD_TYPE, shape.vocab if columns is None else columns, shape.hidden)
    return join + layer_nbytes(shape, shape.num_trunk, context, 0) + output


def cycle_nbytes(shape: Shape, context: int, depth: int, num_experts: float, columns: int | None = None) -> float:
    """`depth` passes of heads and the step that verifies; num_experts: of that step's 1 + depth rows, a layer."""
    return step_nbytes(shape, context, num_experts) + depth * head_nbytes(shape, context, columns)


def distinct_experts(num_experts: int, top_k: int, num_rows: int) -> float:
    """Expected number, where every row chooses at random."""
    return num_experts * (1 - (1 - top_k / num_experts) ** num_rows)


def tokens_per_cycle(rates: Sequence[float], depth: int) -> float:
    """rates[j]: share of drafts whose first j + 1 tokens are right."""
    return 1 + sum(rates[:depth])


def prompt_flops(shape: Shape, num_tokens: int) -> float:
    """Multiplications and additions of the weights with all tokens of a prompt; attention is not counted."""
    total = 0
    for index in range(shape.num_trunk):
        inputs, width = projections(shape, index)
        total += shape.hidden * (inputs + width)
        if shape.is_moe(index):
            total += shape.hidden * (shape.num_experts + 3 * (shape.top_k + 1) * shape.expert_width)
        else:
            total += 3 * shape.hidden * shape.width
    return 2.0 * total * num_tokens
