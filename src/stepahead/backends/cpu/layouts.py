"""Which weights are multiplied faster in panels of sixteen interleaved rows, on which instruction set.

In a panel, one load gives a kernel the same dword of sixteen rows, where rows one after the other have to be turned
first. Results have the same bits either way. Must not know: files, where repacked weights are kept.
"""

from collections.abc import Mapping

from stepahead.backends.base import PANEL_ROWS, PLAIN
from stepahead.gguf.quants import QuantType

PANELS = "panels16"
"""The name of the layout: it is written into files, so another order of bytes needs another name."""

_WITH_AVX512 = ("Q4_0", "Q4_1", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_XXS")
_WITH_AVX2 = ("Q4_1", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_XXS")
FASTER_IN_PANELS: Mapping[str, frozenset[QuantType]] = {
    "avx512": frozenset(QuantType[name] for name in _WITH_AVX512),
    "avx2": frozenset(QuantType[name] for name in _WITH_AVX2),
}
"""By instruction set, the types that win. The time in panels over that in rows at 1, 2, 3, 4, 8 and 64 rows of
activations; 48 MiB from memory, one thread of a Zen 5, medians of 15:

AVX-512: Q4_K .79 .87 .80 .79 .82 .98, Q5_K .81 .87 .80 .79 .82 .98, Q4_0 1.06 .96 .82 .80 1.00 .90. Not Q8_0, which
loses (.87 1.04 1.10 1.08 .92 .91; later 1.02 1.10 1.11 1.02 .87 at 1, 2, 3, 4 and 8 rows). Q6_K, on a quiet machine at
1, 2, 3, 4 and 8 rows: .90 .91 .85 .86 1.03.
AVX2: Q4_K .87 .81 .83 .87 .89 1.00, Q5_K .84 .85 .87 .91 .94 .98, Q6_K .83 .86 .86 .92 .92 .99. Not Q4_0, which gains
nothing (1.03 1.05 1.00 .97 .89 .97), nor Q8_0, whose one row loses (1.11 .89 .91 .85 .83 .97).

In another run, at 1, 2, 4, 8 and 64 rows, thread time, medians of 9. AVX-512: Q4_1 .97 .84 .68 .72 .89, Q5_1 .93 .87
.77 .74 .98, Q2_K .87 .74 .78 .87 .97, Q3_K .93 .93 .86 1.08 .95, IQ4_XS .99 .81 .66 .85 .98, IQ3_XXS .85 .89 .90 1.03
.99; one row loses with Q5_0 (1.09), IQ4_NL (1.10) and MXFP4 (1.07). AVX2: Q4_1 .82 .76 .78 .79 .96, IQ4_NL .84 .92 .90
.88 1.04, Q2_K .76 .85 .88 .91 .99, Q3_K .84 .95 .96 .95 .98, IQ4_XS .75 .81 .84 .87 .99, IQ3_XXS .92 .94 .96 .98 .98;
MXFP4 gains nothing (1.04 .95 .89 .90 1.02), and 64 rows lose with Q5_0 (1.23) and Q5_1 (1.18).

Scalar kernels gain nothing from what lies side by side."""


def preferred_layout(isa: str, type: QuantType, shape: tuple[int, ...]) -> str:
    """PANELS where they win and the rows are whole panels, else PLAIN."""
    is_whole = len(shape) >= 2 and shape[-2] % PANEL_ROWS == 0
    return PANELS if is_whole and type in FASTER_IN_PANELS.get(isa, ()) else PLAIN
