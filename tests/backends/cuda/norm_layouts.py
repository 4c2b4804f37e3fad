"""Prints of each target how its compiled norms lay out the squares of a row: that is the order in which they are added.

Whether a norm adds up on its way depends on what it is given, and so no bit may depend on it.
"""

import re
from dataclasses import replace

import triton

from stepahead.backends.cuda.compile_case import CompileCase, _gpu_target
from stepahead.backends.cuda.kernels import moe_combine_norm, rms_norm, sum_splits_norm
from stepahead.backends.cuda.kernels.functions import padded_width, row_block

WIDTHS = (1024, 4096)
TARGETS = ("sm_90", "gfx942")  # among those of one maker it is the same


def layouts(case: CompileCase, target: str) -> list[str]:
    """Of the float32 sums."""
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "enable_fp_fusion": False}
    code = triton.compile(case.source(), target=_gpu_target(target), options=options).asm["ttgir"]
    names = re.findall(r"\(tensor<\d+xf32, (#\w+)>\) -> f32", code)
    return [re.search(rf"^{name} = (.*)$", code, re.MULTILINE)[1] for name in names]  # type: ignore[index]


def main() -> None:
    cases = [case for module in (rms_norm, sum_splits_norm, moe_combine_norm) for case in module.compile_cases()]
    for width in WIDTHS:
        sizes = {"WIDTH": width, "BLOCK": row_block(width), "PADDED": padded_width(width)}
        for target in TARGETS:
            found = [layouts(replace(case, constexprs={**case.constexprs, **sizes}), target) for case in cases]
            assert all(len(sums) == 1 for sums in found), found
            print(width, target, len(cases), *sorted({sums[0] for sums in found}), sep="; ")


if __name__ == "__main__":
    main()
