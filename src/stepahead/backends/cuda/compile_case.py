"""Compiles kernels for GPUs that need not be there, and holds the machine code to what their authors promise of it.

A kernel that Triton's interpreter finds right may still keep its registers in memory, convert each weight by itself or
load bytes where it could load sixteen: all of that shows in the code, on any machine. Every module of `kernels/` names
its cases in `compile_cases()`. `python -m stepahead.backends.cuda.compile_case [PART OF A NAME ...]` prints a table.
"""

import argparse
import importlib
import os
import pkgutil
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stepahead.backends.cuda import kernels
from stepahead.backends.cuda.launch import MATRIX_SIZE
from stepahead.backends.cuda.machine_code import LANES, MachineCode, missing_tools, of_amdgcn, of_cubin

TARGETS = ("sm_90", "sm_80", "sm_120", "gfx942")
WIDE_LOADS = r"LDG\.E.*\.128|LDGSTS.*\.128|UTMALDG|UBLKCP"
TENSOR_CORES = r"[HIQO]G?MMA|UTC\w*MMA|v_mfma_\w+"
SHARED_NBYTES = {"sm": 99 << 10, "gfx": 64 << 10}
"""That a program may have: on NVIDIA the least of all kinds from 8.0 on, those of consumers."""

ALIGNED = ["tt.divisibility", 16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompileCase:
    """One kernel at one production shape, and what its machine code has to look like.

    types: of the arguments that are no constexpr, by name in the kernel's order: "*fp32", "*fp16", "*i32", "*u8" for
    pointers, "i32", "i64", "fp32" for scalars. Pointers are 16-byte aligned but for those in `unaligned`.
    forbidden, required: regular expressions for names of NVIDIA's instructions, up to a dot.
    max_lane_operations: per unit of work on sm_90, as (lane-operations, units that a CTA does in one turn of its loop).
    Without tensor cores, instructions are read for the first target alone: loads are the same for all of them.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    unaligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 1
    targets: tuple[str, ...] = TARGETS
    uses_tensor_cores: bool = False
    has_wide_loads: bool = False
    max_registers: int | None = None
    max_stack_nbytes: int = 0
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    max_lane_operations: tuple[float, int] | None = None

    def source(self) -> ASTSource:
        names = self.kernel.arg_names
        strangers = {*self.types, *self.constexprs} ^ set(names)
        assert not strangers, f"{self.name}: {self.kernel.__name__} and its case differ in {sorted(strangers)}"
        signature = {name: self.types.get(name, "constexpr") for name in names}
        aligned = {
            (place,): [ALIGNED]
            for place, name in enumerate(names)
            if signature[name].startswith("*") and name not in self.unaligned
        }
        return ASTSource(self.kernel, signature, {(names.index(k),): v for k, v in self.constexprs.items()}, aligned)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a case became for one target. faults: promises that it breaks; code None: it was compiled, and not read."""

    case: str
    target: str
    seconds: float
    shared_nbytes: int
    code: MachineCode | None
    lane_operations: float | None
    faults: tuple[str, ...]

    def __str__(self) -> str:
        if self.code is None:
            figures = "not read"
        else:
            figures = f"{self.code.registers:4} registers {self.shared_nbytes / 1024:6.1f} KiB shared "
            if self.code.opcodes:
                figures += f"{self.code.num_instructions:6} instructions {self.code.loop_length:5} in the loop"
        lanes = "" if self.lane_operations is None else f" {self.lane_operations:5.2f} lane-operations"
        return f"{self.case:44} {self.target:7} {self.seconds:5.1f} s {figures}{lanes}" + "".join(
            f"\n    FAULT: {fault}" for fault in self.faults
        )


def all_cases() -> tuple[CompileCase, ...]:
    """Of every module of kernels, in the order of their names."""
    found: list[CompileCase] = []
    for info in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        module = importlib.import_module(info.name)
        found += getattr(module, "compile_cases", tuple)()
    names = [case.name for case in found]
    assert len(set(names)) == len(names), f"cases of the same name: {sorted({n for n in names if names.count(n) > 1})}"
    return tuple(found)


def examine(case: CompileCase, target: str) -> Finding:
    """Compile and read. A kernel that does not compile is a fault, too."""
    start = time.perf_counter()
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "enable_fp_fusion": False}
    options |= MATRIX_SIZE if target.startswith("gfx") else {}
    try:
        made = triton.compile(case.source(), target=_gpu_target(target), options=options)
    except Exception as error:  # of Triton's many, none of which has a base of its own
        text = " ".join(str(error).split())[-300:]
        fault = f"does not compile: {type(error).__name__}: {text}"
        return Finding(case.name, target, time.perf_counter() - start, 0, None, None, (fault,))
    code = _code(case, made, target)
    lanes = _lane_operations(case, target, code)
    shared, limit = made.metadata.shared, SHARED_NBYTES["sm" if target.startswith("sm_") else "gfx"]
    faults = () if code is None else tuple(_faults(case, target, code, lanes))
    if shared > limit:
        faults += (f"{shared} bytes of shared memory, at most {limit}",)
    return Finding(case.name, target, time.perf_counter() - start, shared, code, lanes, faults)


def examine_all(parts: Iterable[str], processes: int) -> list[Finding]:
    """The cases whose names hold one of `parts` (none: all), for each of their targets."""
    parts = tuple(parts)
    wanted = [
        (place, target)
        for place, case in enumerate(all_cases())
        if not parts or any(part in case.name for part in parts)
        for target in case.targets
    ]
    if processes == 1 or len(wanted) < 2:
        return [_examine_numbered(pair) for pair in wanted]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(_examine_numbered, wanted))


def _examine_numbered(pair: tuple[int, str]) -> Finding:
    """By number, because kernels do not travel between processes."""
    return examine(all_cases()[pair[0]], pair[1])


def _gpu_target(name: str) -> GPUTarget:
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    return GPUTarget("hip", name, 64)


def _code(case: CompileCase, made: Any, target: str) -> MachineCode | None:
    if "amdgcn" in made.asm:
        return of_amdgcn(made.asm["amdgcn"])
    if missing_tools():
        return None
    return of_cubin(made.asm["cubin"], with_instructions=case.uses_tensor_cores or target == case.targets[0])


def _lane_operations(case: CompileCase, target: str, code: MachineCode | None) -> float | None:
    if case.max_lane_operations is None or code is None or not code.opcodes or target != "sm_90":
        return None
    return code.loop_length * LANES * case.num_warps / case.max_lane_operations[1]


def _faults(case: CompileCase, target: str, code: MachineCode, lanes: float | None) -> Iterable[str]:
    if code.stack_nbytes > case.max_stack_nbytes:
        yield f"{code.stack_nbytes} bytes a thread in memory instead of registers"
    if case.uses_tensor_cores and not code.count(TENSOR_CORES):
        yield "no instruction of the tensor cores"
    if not target.startswith("sm_"):
        return
    if case.max_registers is not None and code.registers > case.max_registers:
        yield f"{code.registers} registers, at most {case.max_registers}"
    if not code.opcodes:
        return
    if case.has_wide_loads and not code.count(WIDE_LOADS):
        yield "no load of 16 bytes"
    for pattern in case.forbidden:
        if number := code.count(pattern):
            yield f"{number} times {pattern}, which is forbidden"
    for pattern in case.required:
        if not code.count(pattern):
            yield f"no {pattern}, which is required"
    if lanes is not None and case.max_lane_operations is not None and lanes > case.max_lane_operations[0]:
        yield f"{lanes:.2f} lane-operations a unit, at most {case.max_lane_operations[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the kernels for GPUs that need not be there.")
    parser.add_argument("names", nargs="*", help="parts of names of cases; none: all")
    parser.add_argument("-j", "--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set, and the interpreter compiles nothing: unset it")
    start = time.perf_counter()
    findings = examine_all(asked.names, asked.processes)
    for finding in findings:
        print(finding)
    if missing := missing_tools():
        print(f"NVIDIA's code was not read: this Triton comes without {' and '.join(missing)}")
    num_faults = sum(len(finding.faults) for finding in findings)
    seconds = time.perf_counter() - start
    print(f"{len(findings)} compiled, {num_faults} faults, {seconds:.1f} s (Triton {triton.__version__})")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
