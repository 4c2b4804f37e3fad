"""The machine as a pass sees it: CPU, instruction set, threads, memory, and what others take of it."""

from dataclasses import dataclass

from stepahead.backends.base import Backend
from stepahead.backends.cpu.threads import default_threads
from stepahead.diagnosis.bandwidth import read_bandwidth
from stepahead.machine import OtherPrograms, cpu_name, system_name


@dataclass(frozen=True, slots=True)
class MachineReport:
    cpu: str
    system: str
    backend: str
    isa: str  # "": the backend has none
    best_isa: str  # that this machine can run
    threads: int
    cores: int  # that this process may use
    device: str  # "": the CPU
    bytes_per_second: float | None  # read from memory by these threads; None: of a memory of the device's own
    cpus_of_others: float  # used by other programs meanwhile; 0 where the system does not say


def report_machine(backend: Backend, others: OtherPrograms) -> MachineReport:
    facts = backend.describe()
    available = facts.get("available_isas") or [""]
    return MachineReport(
        cpu=cpu_name(),
        system=system_name(),
        backend=backend.name,
        isa=str(facts.get("isa", "")),
        best_isa=str(available[0]),
        threads=backend.threads,
        cores=default_threads(),
        device=str(facts.get("device", "")),
        bytes_per_second=read_bandwidth(backend.threads) if backend.own_memory is None else None,
        cpus_of_others=others.cpus(),
    )
