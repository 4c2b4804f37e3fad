"""Which weights are multiplied faster in panels of sixteen interleaved rows, on which instruction set.

In a panel, one load gives a kernel the same dword of sixteen rows, where rows one after the other have to be turned
first. Results have the same bits either way. Must not know: files, where repacked weights are kept.
"""

from collections.abc import Mapping

from stepahead.backends.base import PANEL_ROWS, PLAIN
from stepahead.gguf.quants import QuantType

PANELS = "panels16"
"""The name of the layout: it is written into files, so another order of bytes needs another name."""

FASTER_IN_PANELS: Mapping[str, frozenset[QuantType]] = {
    "avx512": frozenset({QuantType.Q4_0, QuantType.Q4_K, QuantType.Q5_K}),
    "avx2": frozenset({QuantType.Q4_K, QuantType.Q5_K}),
}
"""By instruction set, the types that win whatever the number of rows. 48 MiB from memory, one thread of a Zen 5: the
time in panels over that in rows at 1, 2, 4 and 8 rows, medians of 21:

AVX-512: Q4_K .79 .87 .82 .79, Q5_K .85 .90 .79 .78, Q4_0 1.03 .89 .84 .76; not Q8_0 .94 1.09 1.00 .92, not Q6_K
.97 1.02 1.31 1.31. AVX2: Q4_K .91 .89 .88 .88, Q5_K .78 .83 .90 .91; not Q4_0 .99 1.07 .98 .89, not Q6_K .97 .95 1.00
1.05, and not Q8_0, where one row loses: 1.09 .89 .85 .83. Scalar kernels gain nothing from what lies side by side."""


def preferred_layout(isa: str, type: QuantType, shape: tuple[int, ...]) -> str:
    """PANELS where they win and the rows are whole panels, else PLAIN."""
    is_whole = len(shape) >= 2 and shape[-2] % PANEL_ROWS == 0
    return PANELS if is_whole and type in FASTER_IN_PANELS.get(isa, ()) else PLAIN
