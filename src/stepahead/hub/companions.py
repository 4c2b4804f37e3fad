"""Official repositories that hold the MTP heads of a model in a file of their own.

The only table of names here. A row's source is the repository's own listing.
"""

HEADS_OF = {
    # stepfun-ai/Step-3.7-Flash-GGUF at 0b69336d2fd2: Step3.7-flash-mtp-Q8_0.gguf and -BF16.gguf beside folders of
    # trunks. Step-3.5-Flash has no such file: `stepahead convert --heads-only` makes one of its checkpoint.
    "stepfun-ai/Step-3.7-Flash": "stepfun-ai/Step-3.7-Flash-GGUF",
}
VARIANTS = ("-FP8", "-NVFP4", "-BF16")
"""Endings of checkpoints that differ from the first in the types of their weights alone."""


def companion_of(base: str) -> str | None:
    """The repository with the heads of a model, or of the model that it is a variant of."""
    plain = next((base.removesuffix(ending) for ending in VARIANTS if base.endswith(ending)), base)
    found = {name.lower(): repo for name, repo in HEADS_OF.items()}
    return found.get(plain.lower())
