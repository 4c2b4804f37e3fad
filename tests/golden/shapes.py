"""The random models whose answers by llama.cpp b11549 are recorded beside this file.

The models are not stored: `write_model` makes the same bytes on every machine, and each record carries their hash.
Recorded through llama.cpp's C API (one thread, F32 KV cache, no flash attention): the top logits of every position,
all logits and the head of the hidden row of the last one, the first chain of drafts after the prompt with every head
caught up on trunk rows, and greedy runs of 40 tokens at each depth (drafts cut to the tokens still wanted minus one).
"""

from stepahead.gguf import QuantType
from support.random_step35 import Shape, quantised

GOLDEN_SHAPES = {
    "f32": Shape(hidden=64, num_experts=6, width=128, vocab=320),
    "f32-variants": Shape(
        seed=2, hidden=64, num_trunk=5, mtp_sliding=False, fused_qkv=True, own_embed=True, own_norm=False, vocab=320,
        num_experts=6, top_k=3, dense_lead=2, window=20,
    ),
    "f32-one-head": Shape(seed=3, hidden=64, num_heads_mtp=1, own_head=False, rope_freqs=False, vocab=320),
    "q8_0": quantised(Shape(seed=4), QuantType.Q8_0),
    "q4_k": quantised(Shape(seed=5, output_type=QuantType.Q6_K), QuantType.Q4_K),
}  # fmt: skip
