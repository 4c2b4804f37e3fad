"""Reads what a compiler made of a kernel: its instructions, its registers, and whether any of these went to memory.

NVIDIA's code is read with the tools inside Triton's wheel, AMD's from the assembly that Triton keeps.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from triton import knobs

SASS = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*)$")
LABEL = re.compile(r"^\s*(\.L_\w+):")
TARGET = re.compile(r"`\((\.L_\w+)\)")
AMD_INSTRUCTION = re.compile(r"^\s+([svdb][a-z0-9]*_[a-z0-9_]+)\b")
LANES = 32


@dataclass(frozen=True, slots=True)
class MachineCode:
    """registers: of a thread; stack_nbytes: what a thread keeps in memory because registers ran out."""

    registers: int
    stack_nbytes: int
    opcodes: Counter[str]
    loop_length: int  # instructions of the longest loop that has no other around it; of all, where there is none

    def count(self, pattern: str) -> int:
        """Instructions whose name is `pattern`, a regular expression, as far as a dot or the end."""
        wanted = re.compile(rf"(?:{pattern})(?:\.|$)")
        return sum(number for opcode, number in self.opcodes.items() if wanted.match(opcode))

    @property
    def num_instructions(self) -> int:
        return self.opcodes.total()


def missing_tools() -> tuple[str, ...]:
    """Of the two that read NVIDIA's code; some builds of Triton come without them."""
    return tuple(name for name in ("cuobjdump", "nvdisasm") if _tool(name) is None)


def of_cubin(cubin: bytes, with_instructions: bool = True) -> MachineCode:
    """Needs both tools. Reading instructions takes a quarter of a second, registers a millisecond."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _run("cuobjdump", "--dump-resource-usage", str(path))
        lines = _run("nvdisasm", "-c", str(path)).splitlines() if with_instructions else []
    registers, stack, local = (int(_found(rf"\b{name}:(\d+)", usage)) for name in ("REG", "STACK", "LOCAL"))
    opcodes, loop_length = _sass(lines)
    return MachineCode(registers, stack + local, opcodes, loop_length)


def of_amdgcn(assembly: str) -> MachineCode:
    """Loops are not measured."""
    spilled = sum(int(number) for number in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", assembly))
    private = int(_found(r"\.private_segment_fixed_size:\s*(\d+)", assembly))
    registers = int(_found(r"\.vgpr_count:\s*(\d+)", assembly))
    opcodes = Counter(found[1] for line in assembly.splitlines() if (found := AMD_INSTRUCTION.match(line)))
    return MachineCode(registers, private + 4 * spilled, opcodes, opcodes.total())


def _sass(lines: list[str]) -> tuple[Counter[str], int]:
    opcodes: Counter[str] = Counter()
    places: dict[str, int] = {}  # of labels, as a number of instructions before them
    jumps: list[tuple[int, str]] = []
    for line in lines:
        if label := LABEL.match(line):
            places[label[1]] = opcodes.total()
        elif (found := SASS.match(line)) and found[2] != "NOP":
            opcodes[found[2]] += 1
            if found[2].startswith("BRA") and (target := TARGET.search(found[3])):
                jumps.append((opcodes.total(), target[1]))
    # A kernel ends in a jump to itself, which is no loop.
    loops = [end - places[label] for end, label in jumps if end - places.get(label, end) > 1]
    return opcodes, max(loops, default=opcodes.total())


@lru_cache  # Triton starts a tool to learn its version, each time that it is asked for it
def _tool(name: str) -> str | None:
    try:
        return str(getattr(knobs.nvidia, name).path)
    except (RuntimeError, AttributeError):
        return None


def _run(name: str, *arguments: str) -> str:
    tool = _tool(name)
    assert tool is not None, f"{name} is missing; ask missing_tools first"
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern} in {text[:200]!r}"
    return found[1]
