"""Where the prompt comes from: -p, a file, standard input, or, for the demo model alone, a built-in one."""

import sys
from pathlib import Path

from stepahead.errors import ConfigError, RequestError

MAX_BYTES = 64 * 1024 * 1024

# The demo model was trained on Python: it continues code.
DEMO_PROMPT = '''def read_config(path):
    """Read a config file and return its values as a dict."""
'''


def read_prompt(text: str | None, file: Path | None, is_demo: bool) -> str:
    """The prompt as text. Raises ConfigError where it cannot be read, RequestError for what is no text."""
    if text is not None and file is not None:
        raise ConfigError(f"--prompt and --file {file} both give a prompt: give one of them")
    if file is not None:
        return read_text(file)
    if text is not None:
        return _checked(text)
    if is_demo:
        return DEMO_PROMPT
    raise ConfigError("there is no prompt: give -p TEXT, or --file PATH, or --file - to read standard input")


def read_text(file: Path) -> str:
    """A UTF-8 file, "-" for standard input; at most MAX_BYTES."""
    is_stdin = str(file) == "-"
    name = "standard input" if is_stdin else str(file)
    try:
        if is_stdin:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}): give a text file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: is larger than {MAX_BYTES} bytes: give a shorter text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise RequestError(
            f"{name}: byte {byte:#04x} at offset {error.start} is not UTF-8: convert the text to UTF-8"
        ) from error


def _checked(text: str) -> str:
    """Bytes of the command line that are no text arrive as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        raise RequestError(
            f"--prompt: byte {byte:#04x} after {error.start} characters is not UTF-8: convert the text to UTF-8"
        ) from error
    return text
