"""The profile of a pass accounts for all of its time."""

from pathlib import Path

from benchmarks.peers.side import some_ids
from benchmarks.profile import ProfiledSide, Spent, table


def test_every_op_is_counted(tiny_model: Path) -> None:
    side = ProfiledSide(str(tiny_model), 1, 64)
    ids = some_ids(side.vocab_size, 24, seed=1)
    spent, total, passes = side.profile(ids[:20], ids[20:], 0.01)
    assert passes >= 1
    assert spent["moe_ffn"].calls == 2 * passes  # layers of experts in the trunk
    assert spent["attention"].calls == 3 * passes
    assert 0 < sum(part.seconds for part in spent.values()) < total
    text = table(spent, total, passes)
    assert "between the ops" in text
    assert "linear Q6_K 512x256" in text  # the output matrix


def test_the_table_gives_shares() -> None:
    text = table({"moe_ffn": Spent(4, 0.3, 3_000_000_000), "add": Spent(8, 0.1, 0)}, 0.5, 2)
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["moe_ffn", "2", "150000.0", "60.0%", "10.0"]
    assert lines[2] == ["add", "4", "50000.0", "20.0%"]
    assert lines[3] == ["between", "the", "ops", "50000.0", "20.0%"]
