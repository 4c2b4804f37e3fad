"""Checkpoints of the hub (safetensors, config.json, tokenizer.json) to GGUF files.

Step-3.5 and the text of Step-3.7, with their heads. Streams: memory does not grow with the checkpoint.
"""

from stepahead.convert.conversion import TYPES, ConversionReport, convert
from stepahead.convert.plan import Part

__all__ = ["TYPES", "ConversionReport", "Part", "convert"]
