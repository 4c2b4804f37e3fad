"""--trace: while a command generates, each step becomes a line of a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stepahead.cli.loading import isa

if TYPE_CHECKING:
    from stepahead import LLM


@contextmanager
def traced(llm: "LLM", path: Path | None) -> Iterator[None]:
    """Write the steps of `llm` into `path`; nothing without one. Raises ConfigError where that fails: at once for a
    path that cannot be written, at the end for a disk that failed, when all that was generated has been shown."""
    if path is None:
        yield
        return
    from stepahead.machine import cpu_name
    from stepahead.trace_file import TraceHeader, TraceWriter

    header = TraceHeader(llm.info.name, cpu_name(), isa(llm), llm.config.threads)
    with TraceWriter(path, header) as writer:
        llm.on_step = writer
        try:
            yield
        finally:
            llm.on_step = None
