"""Forgetting a pulled model: its name, the files that no other name uses, and the weights that were repacked of it."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stepahead.hub import registry
from stepahead.hub.faults import demand_library
from stepahead.hub.registry import PulledFile, PulledModel
from stepahead.hub_folder import blob_of
from stepahead.repack import head_types, repacked, shortlist
from stepahead.repack.folders import AUTO, cache_paths

SUFFIXES = (repacked.REPACKED.suffix, head_types.KIND.suffix, shortlist.KIND.suffix)


@dataclass(frozen=True, slots=True)
class Removal:
    """files go, kept are used by other names; caches: what was made of the files."""

    model: PulledModel
    files: tuple[PulledFile, ...]
    kept: tuple[PulledFile, ...]
    caches: tuple[Path, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files) + sum(path.stat().st_size for path in self.caches)


def plan_removal(model: PulledModel) -> Removal:
    used = {file.local for other in registry.all_models() if other.name != model.name for file in other.all_files}
    here = [file for file in model.all_files if Path(file.local).exists()]
    going = tuple(file for file in here if file.local not in used)
    kept = tuple(file for file in here if file.local in used)
    # What another program has taken out of the hub's folder has left its repacked weights in ours.
    done_with = (file for file in model.all_files if file.local not in used)
    return Removal(model, going, kept, tuple(dict.fromkeys(_caches(done_with))))


def remove(planned: Removal) -> None:
    """The name goes first: what is interrupted after that leaves files, never a name without them."""
    from stepahead.hub.hub_cache import remove_from_cache  # noqa: PLC0415

    demand_library()
    registry.forget(planned.model)
    for path in planned.caches:
        path.unlink(missing_ok=True)
    remove_from_cache([Path(file.local) for file in planned.files])


def _caches(files: Iterable[PulledFile]) -> Iterable[Path]:
    for file in files:
        path = Path(file.local)
        for suffix, target in itertools.product(SUFFIXES, (None, blob_of(path, file.digest))):
            yield from (cache for cache in cache_paths(path, AUTO, suffix, target) if cache.is_file())
