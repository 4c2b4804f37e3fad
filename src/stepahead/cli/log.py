"""STEPAHEAD_LOG: which records of the `stepahead` loggers reach stderr, one line each."""

import logging

from stepahead.cli.console import one_line, stderr
from stepahead.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
DEFAULT = "warning"
STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class OneLineHandler(logging.Handler):
    """`level: message`, never wrapped, never more than a line but for a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console = stderr()
            console.out(f"{record.levelname.lower()}: ", style=STYLES.get(record.levelno, "dim"), end="")
            console.out(one_line(record.getMessage()), highlight=False)
            if record.exc_info and self.level <= logging.DEBUG:
                console.out(logging.Formatter().formatException(record.exc_info), highlight=False)
        except Exception:
            self.handleError(record)


def setup(level: str | None) -> None:
    """Attach the handler. Raises ConfigError for a level that is none."""
    name = level or DEFAULT
    if name not in LEVELS:
        raise ConfigError(f"STEPAHEAD_LOG={level!r} is not a level: give one of {', '.join(LEVELS)}")
    logger = logging.getLogger("stepahead")
    for handler in [handler for handler in logger.handlers if isinstance(handler, OneLineHandler)]:
        logger.removeHandler(handler)
    handler = OneLineHandler(name.upper())
    logger.addHandler(handler)
    logger.setLevel(name.upper())
    logger.propagate = False


def is_debug() -> bool:
    return logging.getLogger("stepahead").getEffectiveLevel() <= logging.DEBUG
