"""Which weights are multiplied faster in panels of sixteen interleaved rows, on which instruction set.

In a panel, one load gives a kernel the same dword of sixteen rows, where rows one after the other have to be turned
first. Results have the same bits either way. Must not know: files, where repacked weights are kept.
"""

from collections.abc import Mapping

from stepahead.backends.base import PANEL_ROWS, PLAIN
from stepahead.gguf.quants import QuantType

PANELS = "panels16"
"""The name of the layout: it is written into files, so another order of bytes needs another name."""

FASTER_IN_PANELS: Mapping[str, frozenset[QuantType]] = {}
"""By instruction set, the types that win. None do as long as the kernels for panels are scalar: they are about as fast
as the scalar ones for rows."""


def preferred_layout(isa: str, type: QuantType, shape: tuple[int, ...]) -> str:
    """PANELS where they win and the rows are whole panels, else PLAIN."""
    is_whole = len(shape) >= 2 and shape[-2] % PANEL_ROWS == 0
    return PANELS if is_whole and type in FASTER_IN_PANELS.get(isa, ()) else PLAIN
