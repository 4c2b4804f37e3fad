"""Coverage-guided fuzzing of the GGUF reader: whatever the bytes, only ModelFormatError or UnsupportedModelError.

    pip install atheris numpy
    PYTHONPATH=src python fuzz/fuzz_gguf.py -max_total_time=60            # finds: leaves a crash-… file behind
    PYTHONPATH=src python fuzz/fuzz_gguf.py crash-0123abcd                # runs that one file again

Arguments are libFuzzer's (-max_total_time, -jobs, -rss_limit_mb, …). The seeds are written by our own writer into a
temporary folder; name folders of your own to keep what is found: the first one grows. Atheris needs Linux or macOS.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["stepahead.gguf"]):
    from stepahead.errors import ModelFormatError, UnsupportedModelError
    from stepahead.gguf import GGUFFile, QuantType, TensorData, TypedValue, ValueType, write_gguf

# Large enough for every seed, small enough to stay quick; the interesting part of a file is its header.
MAX_LENGTH = 4096
# The reader maps files, so every input becomes one: in memory where the system allows it.
SHARED_MEMORY = Path("/dev/shm")
# Tells the child process where its seeds lie.
FOLDER = "FUZZ_GGUF_FOLDER"


def write_seeds(folder: Path) -> None:
    """Small sound files: every value and tensor type, both versions, another alignment, the first of a split."""
    numbers = [t for t in ValueType if t not in (ValueType.BOOL, ValueType.STRING, ValueType.ARRAY)]
    metadata = {
        **{t.name: TypedValue(t, 1) for t in numbers},
        **{f"{t.name}s": TypedValue(t, [1, 2]) for t in numbers},
        "flag": True,
        "flags": [True, False],
        "text": "step35",
        "texts": ["a", "bc", ""],
    }
    write_gguf(folder / "metadata.gguf", metadata, {})
    for quant_type in QuantType:
        row = np.arange(quant_type.block_bytes, dtype=np.uint8)
        tensors = {"w": TensorData(quant_type, (1, quant_type.block_size), row)}
        write_gguf(folder / f"{quant_type.name}.gguf", {}, tensors)
    two = {"a": np.zeros(9, np.float32), "b": np.ones((2, 3, 2), np.float16)}
    write_gguf(folder / "v2.gguf", {"a": 1}, two, version=2)
    write_gguf(folder / "align.gguf", {"a": 1}, two, alignment=64)
    write_gguf(folder / "split.gguf", {"split.no": 0, "split.count": 2, "split.tensors.count": 2}, two)


def read(path: Path) -> None:
    """Open the file, ask for everything."""
    with GGUFFile.open(path) as file:
        for name, info in file.tensors.items():
            assert file.array(name).shape == info.shape


def fuzz(folder: Path) -> None:
    """Run libFuzzer on this process's arguments; it ends the process."""
    mutant = folder / f"mutant-{os.getpid()}.gguf"

    def test_one_input(content: bytes) -> None:
        mutant.write_bytes(content)
        try:
            read(mutant)
        except (ModelFormatError, UnsupportedModelError) as error:
            assert mutant.name in str(error), error
            assert "\n" not in str(error), error

    # libFuzzer takes the first folder as the corpus to grow and the others as seeds.
    arguments = [sys.argv[0], f"-max_len={MAX_LENGTH}", *sys.argv[1:]]
    if not any(Path(argument).is_file() for argument in sys.argv[1:]):
        arguments.append(str(folder / "seeds"))
    atheris.Setup(arguments, test_one_input)
    atheris.Fuzz()


def main() -> int:
    if FOLDER in os.environ:
        fuzz(Path(os.environ[FOLDER]))
    # libFuzzer leaves without tidying up, so it runs in a child and the folder is ours.
    base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-gguf-", dir=base) as folder:
        Path(folder, "seeds").mkdir()
        write_seeds(Path(folder, "seeds"))
        return subprocess.run([sys.executable, *sys.argv], env={**os.environ, FOLDER: folder}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
