"""GGUF model files: reading (mapped, bounds-checked, split or not), the tensor types in numpy, writing.

A leaf room: it imports numpy, `stepahead.errors` and `stepahead.mapped_files`, and knows no architecture, backend or
tokenizer.
"""

from stepahead.gguf.file_range import FileRange
from stepahead.gguf.header import TensorInfo
from stepahead.gguf.metadata import MetadataValue, TypedValue, ValueType
from stepahead.gguf.quantize import quantize
from stepahead.gguf.quants import QuantType, dequantize
from stepahead.gguf.reader import GGUFFile
from stepahead.gguf.shard import FileIdentity
from stepahead.gguf.writer import TensorData, write_gguf, write_split_gguf

__all__ = [
    "FileIdentity",
    "FileRange",
    "GGUFFile",
    "MetadataValue",
    "QuantType",
    "TensorData",
    "TensorInfo",
    "TypedValue",
    "ValueType",
    "dequantize",
    "quantize",
    "write_gguf",
    "write_split_gguf",
]
