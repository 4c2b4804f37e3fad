"""Time and error of quantising beside the same with ggml's encoders, at equal threads, on a random BF16 model.

    python -m benchmarks.quantize [--threads N] [--rounds N] [--layers N] [TYPE ...]

A round runs each of the two once, in turns; the least time counts. Both write whole files to the same folder.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.peers import llama_quantize
from benchmarks.peers.llama import BUILD
from stepahead.backends.cpu.threads import resolve_threads
from stepahead.gguf import GGUFFile, QuantType, TensorData, write_gguf
from stepahead.quantize import stream
from stepahead.quantize.mix import find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.quantize.quantization import quantize_file

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "Q4_0", "IQ4_NL", "IQ4_XS")
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCAB = 2048, 16, 4, 128, 5632, 4096


def write_model(path: Path, num_layers: int) -> None:
    """A model of the llama family that need not run: heavy-tailed numbers, as weights have them."""
    random = np.random.default_rng(1)

    def matrix(*shape: int) -> TensorData:
        return TensorData.from_array(random.standard_t(5, shape).astype(np.float32) * np.float32(0.02), QuantType.BF16)

    tensors: dict[str, TensorData] = {
        "token_embd.weight": matrix(VOCAB, HIDDEN),
        "output.weight": matrix(VOCAB, HIDDEN),
    }
    ones = TensorData.from_array(np.ones(HIDDEN, np.float32))
    tensors["output_norm.weight"] = ones
    for layer in range(num_layers):
        block = f"blk.{layer}."
        tensors |= {f"{block}attn_norm.weight": ones, f"{block}ffn_norm.weight": ones}
        tensors[f"{block}attn_q.weight"] = matrix(HEADS * HEAD_DIM, HIDDEN)
        tensors[f"{block}attn_k.weight"] = matrix(KV_HEADS * HEAD_DIM, HIDDEN)
        tensors[f"{block}attn_v.weight"] = matrix(KV_HEADS * HEAD_DIM, HIDDEN)
        tensors[f"{block}attn_output.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        tensors[f"{block}ffn_gate.weight"] = matrix(WIDTH, HIDDEN)
        tensors[f"{block}ffn_up.weight"] = matrix(WIDTH, HIDDEN)
        tensors[f"{block}ffn_down.weight"] = matrix(HIDDEN, WIDTH)
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": num_layers,
        "llama.context_length": 4096,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    write_gguf(path, metadata, tensors)


def squared_error(source: GGUFFile, made: Path) -> float:
    """Sum over all matrices of squared differences, as parts of the squares."""
    differences = squares = 0.0
    with GGUFFile.open(made) as file:
        for name, info in source.tensors.items():
            if len(info.shape) > 1:
                values = source.array(name)
                differences += float(np.square(file.array(name) - values, dtype=np.float64).sum())
                squares += float(np.square(values, dtype=np.float64).sum())
    return differences / squares


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(source: Path, folder: Path, type: str, threads: int, rounds: int) -> dict[str, object]:
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    times: tuple[list[float], list[float]] = ([], [])
    with GGUFFile.open(source) as file:
        plan = make_plan(file, Request(find_mix(type)))
        for _ in range(rounds):
            times[0].append(timed(lambda: quantize_file(plan, ours, threads=threads)))
            with mock.patch.object(stream, "encode", llama_quantize.encode):
                times[1].append(timed(lambda: quantize_file(plan, theirs, threads=threads)))
        errors = squared_error(file, ours), squared_error(file, theirs)
    return {
        "type": type,
        "seconds": min(times[0]),
        "ggml_seconds": min(times[1]),
        "time_ratio": min(times[0]) / min(times[1]),
        "error_ratio": errors[0] / errors[1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize")
    parser.add_argument("types", nargs="*", default=TYPES, metavar="TYPE")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; default: the system's")
    args = parser.parse_args(arguments)
    threads = resolve_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        source = Path(name) / "source.gguf"
        write_model(source, args.layers)
        print(json.dumps({"peer": BUILD, "threads": threads, "source_nbytes": source.stat().st_size}), flush=True)
        for type in args.types:
            print(json.dumps(compare(source, Path(name), type, threads, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
