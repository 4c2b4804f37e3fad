"""What passes of one loaded model cost here: from an earlier start, or measured when somebody first asks.

Owns which facts tell one cost from another. Must not know: what costs are used for.
"""

import logging
import time
from dataclasses import asdict

from stepahead import __version__
from stepahead.backends.base import Backend
from stepahead.backends.cpu.threads import default_threads
from stepahead.config import ResolvedConfig
from stepahead.gguf import GGUFFile
from stepahead.machine import OtherPrograms, cpu_name
from stepahead.models.model import Model
from stepahead.speculative.cost import CostSeed
from stepahead.speculative.cost_file import CostFile
from stepahead.speculative.probe import SECONDS, measure

log = logging.getLogger("stepahead")

MIN_SECONDS = 0.1
"""What was measured in less is measured again: no file is worth it."""

MAX_EXCESS = 0.5
"""CPUs wanted beyond those that there are: with more, a cost tells of other programs, and is not for later starts."""


class ModelCosts:
    """Reads and measures nothing until asked. The caller sees to it that no pass runs meanwhile."""

    def __init__(
        self,
        model: Model,
        backend: Backend,
        config: ResolvedConfig,
        file: GGUFFile,
        companion: GGUFFile | None,
        is_repacked: bool,
    ) -> None:
        self._model = model
        self._backend = backend
        self._config = config
        self._files = (file,) if companion is None else (file, companion)
        self._is_repacked = is_repacked
        self._known: CostSeed | None = None

    def get(self, anew: bool = False, seconds: float = SECONDS) -> CostSeed:
        """anew: measured now in any case, with more patience. Kept for the next start, unless the machine is busy."""
        if self._known is None or anew:
            kept = CostFile.of(self.facts(), 0 if self._model.draft is None else self._model.draft.num_heads)
            found = None if anew else kept.read()
            self._known = found or self._measure(kept, seconds, is_patient=anew)
        return self._known

    def facts(self) -> dict[str, object]:
        """What costs depend on."""
        return {
            "version": __version__,
            "files": [[asdict(source) for source in file.identity()] for file in self._files],
            "has_heads": self._model.draft is not None,
            "cpu": cpu_name(),
            "backend": self._backend.name,
            "isa": str(self._backend.describe().get("isa", "")),
            "device": str(self._backend.describe().get("device", "")),
            "threads": self._backend.threads,
            "kv_type": self._config.kv_type,
            "is_repacked": self._is_repacked,
            "draft_vocab": self._config.draft_vocab,
            "draft_type": self._config.draft_type,
            "cpu_experts": self._config.cpu_experts,
        }

    def _measure(self, kept: CostFile, seconds: float, is_patient: bool) -> CostSeed:
        others, started = OtherPrograms(), time.perf_counter()
        seed = measure(self._model, self._backend, self._config.kv_type, seconds, is_patient)
        if time.perf_counter() - started < MIN_SECONDS:
            return seed
        if self._backend.threads + others.cpus() > default_threads() + MAX_EXCESS:
            log.info("what passes cost is not kept: other programs used %.1f CPUs", others.cpus())
        else:
            kept.write(seed)
        return seed
