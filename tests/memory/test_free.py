"""Free memory: what the system says, and what its limits leave of it. All files here are made up."""

from pathlib import Path

import pytest

from stepahead.memory.free import free_memory, linux_memory, vm_stat_memory

MEMINFO = "MemTotal:       24683520 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\nBuffers: 5 kB\n"
AVAILABLE = 8_000_000 * 1024


class Machine:
    """The files of /proc and of the cgroups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("meminfo", MEMINFO)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def free(self) -> int | None:
        return linux_memory(self.folder / "meminfo", self.folder / "self", self.folder / "groups")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_limits_it_is_what_the_system_calls_available(machine):
    assert machine.free() == AVAILABLE
    machine.write("self", "0::/\n4:memory:/\nnonsense\n")
    assert machine.free() == AVAILABLE


@pytest.mark.parametrize("text", ["", "MemFree: 5 kB\n"])
def test_a_system_that_does_not_say_is_unknown(machine, text):
    machine.write("meminfo", text)
    assert machine.free() is None


def test_a_missing_proc_is_unknown(tmp_path):
    assert linux_memory(tmp_path / "a", tmp_path / "b", tmp_path / "c") is None


def test_the_tightest_cgroup_decides_and_cached_files_count_as_free(machine):
    machine.write("self", "0::/user/model\n")
    machine.write("groups/user/memory.max", "4000000000\n")
    machine.write("groups/user/memory.current", "1000000000\n")
    assert machine.free() == 3_000_000_000
    machine.write("groups/user/model/memory.max", "2000000000\n")
    machine.write("groups/user/model/memory.current", "1500000000\n")
    machine.write("groups/user/model/memory.stat", "anon 5\ninactive_file 300000000\nactive_file 100000000\nfile 7\n")
    assert machine.free() == 900_000_000


def test_max_is_no_limit(machine):
    machine.write("self", "0::/model\n")
    machine.write("groups/model/memory.max", "max\n")
    machine.write("groups/model/memory.current", "1500000000\n")
    assert machine.free() == AVAILABLE


def test_version_1_has_its_own_names(machine):
    machine.write("self", "7:cpu,cpuacct:/other\n4:memory:/box\n")
    machine.write("groups/memory/box/memory.limit_in_bytes", "2000000000\n")
    machine.write("groups/memory/box/memory.usage_in_bytes", "1900000000\n")
    machine.write("groups/memory/box/memory.stat", "inactive_file 1\ntotal_inactive_file 500000000\n")
    assert machine.free() == 600_000_000
    machine.write("groups/memory/box/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    assert machine.free() == AVAILABLE


def test_a_limit_that_slows_down_counts_as_one_that_ends(machine):
    machine.write("self", "0::/model\n")
    machine.write("groups/model/memory.max", "max\n")
    machine.write("groups/model/memory.high", "1200000000\n")
    machine.write("groups/model/memory.current", "200000000\n")
    assert machine.free() == 1_000_000_000
    machine.write("groups/model/memory.max", "700000000\n")
    assert machine.free() == 500_000_000


def test_in_a_container_of_version_1_limits_above_it_are_known(machine):
    machine.write("self", "4:memory:/kubepods/pod/box\n")
    machine.write("groups/memory/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    machine.write("groups/memory/memory.usage_in_bytes", "100000000\n")
    machine.write("groups/memory/memory.stat", "hierarchical_memory_limit 900000000\ntotal_active_file 50000000\n")
    assert machine.free() == 850_000_000
    machine.write("groups/memory/memory.stat", f"hierarchical_memory_limit {2**63 - 4096}\n")
    assert machine.free() == AVAILABLE


def test_version_2_beside_version_1_has_no_memory_of_its_own(machine):
    machine.write("self", "4:memory:/box\n1:name=systemd:/box\n0::/box\n")
    machine.write("groups/memory/box/memory.limit_in_bytes", "700000000\n")
    machine.write("groups/memory/box/memory.usage_in_bytes", "200000000\n")
    machine.write("groups/unified/box/cgroup.procs", "1\n")
    assert machine.free() == 500_000_000


@pytest.mark.parametrize("used", ["", "many\n", "-5\n"])
def test_a_group_that_does_not_say_what_it_uses_is_no_limit(machine, used):
    machine.write("self", "0::/\n")
    machine.write("groups/memory.max", "100\n")
    machine.write("groups/memory.current", used)
    assert machine.free() == AVAILABLE


def test_within_a_container_the_root_of_the_mount_counts(machine):
    machine.write("self", "0::/host/path/that/is/not/here\n")
    machine.write("groups/memory.max", "2000000000\n")
    machine.write("groups/memory.current", "500000000\n")
    assert machine.free() == 1_500_000_000


def test_a_group_beyond_its_limit_leaves_nothing(machine):
    machine.write("self", "0::/\n")
    machine.write("groups/memory.max", "100\n")
    machine.write("groups/memory.current", "500\n")
    assert machine.free() == 0


def test_what_macos_prints():
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:                               1000.\n"
        "Pages active:                            500000.\nPages inactive:                             300.\n"
        "Pages speculative:                           20.\nPages purgeable:                              1.\n"
        'Pages wired down:                        100000.\n"Translation faults":                   1234567.\n'
    )
    assert vm_stat_memory(text) == 16384 * 1321
    assert vm_stat_memory("vm_stat: command failed") is None


def test_this_machine_says_something_sensible():
    free = free_memory()
    assert free is None or free > 1 << 20
