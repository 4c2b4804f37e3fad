"""The host's part of a cycle is measured over cycles: a device that answers at once is given them, and no other."""

import pytest

from benchmarks import host_cycle


def test_cycles_are_what_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(host_cycle, "NUM_TOKENS", 40)
    monkeypatch.setattr(host_cycle, "ROUNDS", 1)
    launch, num_launched = host_cycle.IdleDevice.launch, []

    def count(self: host_cycle.IdleDevice, tables: object) -> host_cycle.IdleDevice:
        num_launched.append(self._depth)
        return launch(self, tables)

    monkeypatch.setattr(host_cycle.IdleDevice, "launch", count)
    host_cycle.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"depth {depth}" for depth in host_cycle.DEPTHS]
    assert num_launched.count(0) == 39 and num_launched.count(3) >= 8
