"""What a model on a hub would take of this machine's memory: by the plan that is made when a model is loaded, where its
header is one that we run, and by the size of its files otherwise."""

from dataclasses import dataclass
from typing import Literal

from stepahead.backends.base import Backend
from stepahead.config import EngineConfig
from stepahead.errors import StepaheadError
from stepahead.hub.unread_model import UnreadModel
from stepahead.memory.fitting import MARGIN
from stepahead.memory.planner import Planner
from stepahead.models.registry import FAMILIES
from stepahead.opening import make_backend

OVERHEAD = 2_000_000_000  # beside files: keys and values of a moderate context, buffers, the rest of the system
REST = 1_000_000_000  # of the system and other programs, where a plan says what the model itself takes

MAX_WIDTH, MAX_ROWS = 1 << 18, 1 << 24  # of a matrix: a plan looks at some rows, and a header may claim anything

Rule = Literal["memory plan", "file size"]
Fit = Literal["yes", "from disk", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Need:
    """nbytes: all that `stepahead run` would take without settings, a prefix cache excepted; has_to_fit: what of it are
    no pages of files, without which it does not run."""

    nbytes: int
    has_to_fit: int
    rule: Rule

    def fit(self, memory: int | None) -> Fit:
        """memory: of the machine; None: unknown."""
        if memory is None:
            return "unknown"
        room = memory - int(max(REST, MARGIN * memory)) if self.rule == "memory plan" else memory
        if self.has_to_fit > room:
            return "no"
        return "yes" if self.nbytes <= room else "from disk"


class Needs:
    """Of the models of one listing."""

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def of(self, file_nbytes: int, model: UnreadModel | None, heads: UnreadModel | None, more_nbytes: int = 0) -> Need:
        """model None: its header was not read. heads: of a companion; more_nbytes: of one whose header was not read."""
        if model is not None and model.metadata.get("general.architecture") in FAMILIES and _is_likely(model):
            try:
                return self._planned(model, heads, more_nbytes)
            except (StepaheadError, ValueError, ArithmeticError, MemoryError):
                pass  # it would not load: what it takes then is a guess like others
        own = 0 if heads is None else sum(info.nbytes for info in heads.tensors.values())
        return Need(file_nbytes + own + more_nbytes + OVERHEAD, 0, "file size")

    def _planned(self, model: UnreadModel, heads: UnreadModel | None, more_nbytes: int) -> Need:
        asked = EngineConfig(max_num_seqs=1)
        if self._backend is None:
            self._backend = make_backend(asked)
        plan = Planner(model, heads, self._backend).plan(asked, max_cache_nbytes=0)
        return Need(plan.nbytes + more_nbytes, plan.anonymous_nbytes, "memory plan")


def _is_likely(model: UnreadModel) -> bool:
    return all(info.shape[-1] <= MAX_WIDTH and max(info.shape) <= MAX_ROWS for info in model.tensors.values())
