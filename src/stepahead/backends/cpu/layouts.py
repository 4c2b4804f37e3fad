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
    "avx2": frozenset({QuantType.Q4_K, QuantType.Q5_K, QuantType.Q6_K}),
}
"""By instruction set, the types that win. The time in panels over that in rows at 1, 2, 3, 4, 8 and 64 rows of
activations; 48 MiB from memory, one thread of a Zen 5, medians of 15:

AVX-512: Q4_K .79 .87 .80 .79 .82 .98, Q5_K .81 .87 .80 .79 .82 .98, Q4_0 1.06 .96 .82 .80 1.00 .90. Not Q8_0, which
loses (.87 1.04 1.10 1.08 .92 .91), nor Q6_K, which plain decoding loses by (1.05 1.04 .85 .81 1.06 .99).
AVX2: Q4_K .87 .81 .83 .87 .89 1.00, Q5_K .84 .85 .87 .91 .94 .98, Q6_K .83 .86 .86 .92 .92 .99. Not Q4_0, which gains
nothing (1.03 1.05 1.00 .97 .89 .97), nor Q8_0, whose one row loses (1.11 .89 .91 .85 .83 .97).

Scalar kernels gain nothing from what lies side by side, and the types without vector kernels have scalar ones."""


def preferred_layout(isa: str, type: QuantType, shape: tuple[int, ...]) -> str:
    """PANELS where they win and the rows are whole panels, else PLAIN."""
    is_whole = len(shape) >= 2 and shape[-2] % PANEL_ROWS == 0
    return PANELS if is_whole and type in FASTER_IN_PANELS.get(isa, ()) else PLAIN
