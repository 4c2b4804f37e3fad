"""Figures about drafts: counted by position and by source, added over requests, shown in one phrase."""

from stepahead import SpeculationStats
from stepahead.cli.report import draft_figures, total_stats


def counted(*steps: tuple[int, int, str]) -> SpeculationStats:
    stats = SpeculationStats()
    for step in steps:
        stats.count(*step)
    return stats


def test_each_source_has_its_counts():
    stats = counted((3, 2, "mtp"), (8, 8, "copy"), (2, 0, "mtp"), (0, 0, ""))
    assert stats.num_draft_tokens_by_source == {"mtp": 5, "copy": 8}
    assert stats.num_accepted_tokens_by_source == {"mtp": 2, "copy": 8}
    assert stats.num_drafts == 3


def test_requests_add_up_and_stay_as_they_are():
    parts = [counted((3, 2, "mtp")), counted((1, 1, "copy")), counted((2, 2, "mtp"), (4, 0, "copy"))]
    total = total_stats(parts)
    assert total == counted((3, 2, "mtp"), (1, 1, "copy"), (2, 2, "mtp"), (4, 0, "copy"))
    assert parts[0] == counted((3, 2, "mtp"))


def test_the_phrase_names_positions_and_sources_in_a_fixed_order():
    stats = counted((2, 2, "mtp"), (2, 1, "copy"))
    assert draft_figures(stats) == "accepted by position 100 50 % · copy 1/2, mtp 2/2"
    assert draft_figures(counted((0, 0, ""))) == "no drafts"
