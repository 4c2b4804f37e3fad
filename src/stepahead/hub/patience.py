"""How often a request is made again, and how long is waited between. Must not know: what is requested."""

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from stepahead.errors import DownloadError
from stepahead.hub.faults import TransientError, transport_error

Answer = TypeVar("Answer")
UNIT = 1.0  # seconds of the first wait, which then doubles
MAX_TRIES = 6  # without a byte between
MAX_ASKED = 4  # tries of a question, while somebody waits for the answer
GO_ON = "what came so far is kept: run the same command again to go on"
CHECK = "check the network, HF_ENDPOINT and the proxy's variables, or try later"
MAX_WAIT = 300.0  # seconds that a server may ask for


class Patience:
    """Counts failures in a row. `stop` ends a wait at once; way_out: what is said in the end."""

    def __init__(
        self, what: str, stop: threading.Event | None = None, tries: int = MAX_TRIES, way_out: str = GO_ON
    ) -> None:
        self._what = what
        self._stop = stop or threading.Event()
        self._tries, self._way_out = tries, way_out
        self._failures = 0

    def progress(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Wait, or raise DownloadError once it was too often."""
        self._failures += 1
        if self._failures >= self._tries:
            detail = f"{type(error).__name__}: {error}" if not isinstance(error, TransientError) else str(error)
            raise DownloadError(
                f"{self._what}: failed {self._tries} times in a row ({detail[:300]}); {self._way_out}"
            ) from error
        asked = error.wait if isinstance(error, TransientError) else None
        doubled = UNIT * 2.0 ** (self._failures - 1) * random.uniform(0.5, 1.0)
        self._stop.wait(min(doubled if asked is None else asked, MAX_WAIT))


def patiently(what: str, ask: Callable[[], Answer]) -> Answer:
    """ask(), again after what is transient. Raises what ask raises otherwise, DownloadError after too many."""
    patience = Patience(what, tries=MAX_ASKED, way_out=CHECK)
    while True:
        try:
            return ask()
        except (TransientError, transport_error()) as error:
            if isinstance(error, TransientError) or getattr(error, "response", None) is None:
                patience.failed(error)
            else:
                raise
