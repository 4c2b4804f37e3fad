"""Write a checkpoint as GGUF in the form of the real Step-3.5 files.

python -m tools.train_demo.export --checkpoint F --tokenizer F --out demo.gguf [--type mixed|F32]
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

import gguf
from gguf import GGMLQuantizationType as Type

from . import checkpoint, quantise, tokenizer
from .config import Shape
from .model import Step

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# First pattern that matches a tensor's name decides its type. Routers, biases and norms stay F32, as in the real files.
MIXED = [
    (r"norm|ffn_gate_inp|exp_probs_b|rope_freqs", Type.F32),
    (r"_exps\.", Type.Q4_K),
    (r"eh_proj|attn_gate|^output\.", Type.Q8_0),
    (r".", Type.Q6_K),
]


def type_of(name: str, plan: str) -> Type:
    table = MIXED if plan == "mixed" else [(r".", Type[plan])]
    return next(kind for pattern, kind in table if re.search(pattern, name))


def tensors(model: Step) -> dict[str, np.ndarray]:
    """GGUF name -> float32 values, global tensors first and then block by block."""
    found = {name: value.float().cpu().numpy() for name, value in model.state_dict().items()}
    first = {n: found.pop(n) for n in ("token_embd.weight", "output_norm.weight", "output.weight")}
    return first | {"rope_freqs.weight": model.rope_factors.float().cpu().numpy()} | found


def add_architecture(w: gguf.GGUFWriter, s: Shape) -> None:
    """The keys of spec section 5: per-layer arrays as long as block_count, rope.dimension_count left out."""
    layers = range(s.layers)
    w.add_type("model")
    w.add_name("stepahead-demo")
    w.add_description("Small Step-3.5 model with three MTP heads, trained on the Python standard library")
    w.add_license("mit")
    w.add_block_count(s.layers)
    w.add_uint32("step35.nextn_predict_layers", s.mtp_layers)
    w.add_context_length(s.context)
    w.add_embedding_length(s.embedding)
    w.add_feed_forward_length(s.dense_width)
    w.add_head_count([s.heads(i) for i in layers])
    w.add_head_count_kv([s.heads_kv for _ in layers])
    w.add_key_length(s.head_dim)
    w.add_value_length(s.head_dim)
    w.add_layer_norm_rms_eps(s.eps)
    w.add_sliding_window(s.window)
    w.add_sliding_window_pattern([s.sliding(i) for i in layers])
    w.add_rope_freq_base(s.theta_full)
    w.add_float32("step35.rope.freq_base_swa", s.theta_sliding)
    w.add_expert_count(s.experts)
    w.add_expert_used_count(s.experts_used)
    w.add_expert_feed_forward_length(s.expert_width)
    w.add_expert_shared_feed_forward_length(s.shared_width)
    w.add_expert_weights_scale(s.expert_scale)
    w.add_expert_weights_norm(True)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_leading_dense_block_count(s.dense_layers)
    w.add_uint32("step35.moe_every_n_layers", 1)
    w.add_array("step35.swiglu_clamp_exp", [0.0] * s.layers)
    w.add_array("step35.swiglu_clamp_shexp", [0.0] * s.layers)
    w.add_vocab_size(s.vocab)


def add_tokenizer(w: gguf.GGUFWriter, path: Path) -> None:
    spec = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = sorted(spec["vocab"], key=spec["vocab"].get)
    ids = spec["vocab"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("deepseek-v3")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL if t in tokenizer.CONTROL else gguf.TokenType.NORMAL for t in tokens])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["merges"]])
    w.add_bos_token_id(ids[tokenizer.BOS])
    w.add_eos_token_id(ids["<|im_end|>"])
    w.add_pad_token_id(ids[tokenizer.EOS_TEXT])
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))


def write(model: Step, tokenizer_path: Path, path: Path, plan: str) -> int:
    """Returns the size in bytes."""
    w = gguf.GGUFWriter(path, "step35")
    add_architecture(w, model.shape)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M if plan == "mixed" else gguf.LlamaFileType.ALL_F32)
    w.add_quantization_version(2)
    add_tokenizer(w, tokenizer_path)
    for name, values in tensors(model).items():
        kind = type_of(name, plan)
        w.add_tensor(name, quantise.quantise(values, kind), raw_dtype=kind if kind != Type.F32 else None)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--type", default="mixed", help="mixed (Q4_K experts, Q6_K and Q8_0 elsewhere) or one type")
    args = parser.parse_args()
    size = write(checkpoint.load_model(args.checkpoint), args.tokenizer, args.out, args.type)
    print(f"{args.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
