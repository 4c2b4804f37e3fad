"""The embedded demo model: a small trained Step-3.5 GGUF with three MTP heads. Its card is MODEL_CARD.md beside it."""

from pathlib import Path

from stepahead.errors import ConfigError


def demo_path() -> Path:
    """The file in the installed package."""
    path = Path(__file__).with_name("demo.gguf")
    if not path.is_file():
        raise ConfigError(f"{path}: the demo model is missing from this installation; give a MODEL, or install again")
    return path
